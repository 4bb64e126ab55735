"""Remembers what a finished task of an evaluation was made from, so that the same command does not compute it twice.

    <task>/fingerprint.json      fingerprint, counts, and the sha256 of the task's files; written last of all

Invariant: a task counts as finished only where its fingerprint (data, model, settings) is the one asked for, and its
files are byte for byte the files that were written with it.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonir.core.stamp import checksums, digest_of, read_stamp, remove_stamp, unchanged, write_stamp
from reasonir.data.collections import Document, Query
from reasonir.eval.scores.results import METRICS_FILE, QUERIES_FILE, RUN_FILE

FINGERPRINT_FILE = "fingerprint.json"
# Raise it with a change between data and metrics that gives other results: tasks of older versions are made anew.
REVISION = 1


@dataclass(frozen=True, slots=True)
class FinishedTask:
    """A task that needs no computing. mean: its metrics. counts: what the manifest says of it."""

    mean: dict[str, float]
    counts: dict[str, Any]


def fingerprint(documents: Iterable[Document], queries: Iterable[Query], settings: Sequence[object]) -> str:
    """Return a hash of all that a task's results depend on.

    Args:
        documents: The corpus.
        queries: The judged queries, with their gold and excluded documents.
        settings: Everything else: retriever, model, limits. Their `repr` is hashed.
    """

    # A generator, so that no second copy of the corpus is in memory while it is hashed.
    def parts() -> Iterator[str]:
        yield repr((REVISION, *settings))
        for document in documents:
            # The length keeps two documents apart from two others that read the same end to end.
            yield repr((document.id, len(document.text)))
            yield document.text
        for query in queries:
            # Sorted: the order of gold and excluded ids in a file changes no result.
            yield repr((query.id, query.text, sorted(query.gold.items()), sorted(query.excluded_ids), query.aspects))

    return digest_of(parts())


def read_finished(folder: Path, fingerprint: str) -> FinishedTask | None:
    """Return a finished task; None where it must be computed."""
    stamp = read_stamp(folder / FINGERPRINT_FILE, fingerprint=fingerprint)
    # The files are checked too: a person may have edited or removed one since.
    if stamp is None or not unchanged(folder, stamp["files"]):
        return None
    return FinishedTask(json.loads((folder / METRICS_FILE).read_text(encoding="utf-8")), stamp["counts"])


def mark_unfinished(folder: Path) -> None:
    """Say that a task is unfinished, before its files are written anew."""
    remove_stamp(folder / FINGERPRINT_FILE)


def mark_finished(folder: Path, fingerprint: str, counts: dict[str, Any], more_files: Sequence[str] = ()) -> None:
    """Say that a task is finished, once all its files are there.

    Args:
        folder: The task's folder.
        fingerprint: What the task was made from.
        counts: What the manifest says of the task.
        more_files: Names of files beside run, metrics and per-query rows.
    """
    files = checksums(folder, (METRICS_FILE, RUN_FILE, QUERIES_FILE, *more_files))
    write_stamp(folder / FINGERPRINT_FILE, fingerprint=fingerprint, files=files, counts=counts)
