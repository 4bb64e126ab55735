"""What a finished task of an evaluation was made of, so that the same command does not compute it twice.

    <task>/fingerprint.json      fingerprint, counts, and the sha256 of the task's files; written last of all

Invariant: a task counts as finished only where its fingerprint (data, model, settings) is the one asked for and its
files are, byte for byte, what was written with it.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonir.core.files import file_sha256, write_json
from reasonir.data.collections import Document, Query
from reasonir.eval.scores.results import METRICS_FILE, QUERIES_FILE, RUN_FILE

FINGERPRINT_FILE = "fingerprint.json"
REVISION = 1
"""Of everything between the data and the metrics; a change that gives other results raises it."""


@dataclass(frozen=True, slots=True)
class FinishedTask:
    """mean: the task's metrics. counts: what its run counted."""

    mean: dict[str, float]
    counts: dict[str, Any]


def fingerprint(documents: Iterable[Document], queries: Iterable[Query], settings: Sequence[object]) -> str:
    """Return a name for a task's data and everything else that its results depend on."""
    digest = hashlib.sha256(repr((REVISION, *settings)).encode())
    for document in documents:
        digest.update(repr((document.id, len(document.text))).encode())
        digest.update(document.text.encode("utf-8", "surrogatepass"))
    for query in queries:
        parts = (query.id, query.text, sorted(query.gold.items()), sorted(query.excluded_ids), query.aspects)
        digest.update(repr(parts).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def read_finished(folder: Path, fingerprint: str) -> FinishedTask | None:
    """Return a finished task; None where it must be computed."""
    try:
        stored = json.loads((folder / FINGERPRINT_FILE).read_text(encoding="utf-8"))
        if stored["fingerprint"] != fingerprint:
            return None
        if any(file_sha256(folder / name) != checksum for name, checksum in stored["files"].items()):
            return None
        mean = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
        return FinishedTask(mean, stored["counts"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def mark_unfinished(folder: Path) -> None:
    """Forget what a task was made of, before its files are written anew."""
    (folder / FINGERPRINT_FILE).unlink(missing_ok=True)


def mark_finished(folder: Path, fingerprint: str, counts: dict[str, Any], more_files: Sequence[str] = ()) -> None:
    """Write down what a task was made of, once all its files are there."""
    files = {name: file_sha256(folder / name) for name in (METRICS_FILE, RUN_FILE, QUERIES_FILE, *more_files)}
    write_json(folder / FINGERPRINT_FILE, {"fingerprint": fingerprint, "files": files, "counts": counts})
