"""What training rows share with an evaluation, top to bottom: `measure_contamination` is the main path.

The evaluation's n-grams are held as a sorted set of hashes, the rows stream past it and leave marks; then evaluation
and rows are read once more, for the share of each text that is marked and for who shares it. Invariant: counts do not
depend on the order or number of the row files. Memory: 24 bytes an n-gram of the evaluation while the set is built, 9
after that; rows are never held. Leaves hashing to `ngrams.py`, pairs to `contamination_matches.py`, the page to
`contamination_page.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reasonir.core.errors import UserError
from reasonir.core.files import write_json, write_jsonl
from reasonir.core.progress import Progress
from reasonir.core.run_folder import RunFolder
from reasonir.data.beir import read_beir
from reasonir.data.bright import list_bright_tasks, read_bright
from reasonir.data.collections import Collection, merge_lookups, read_lookup
from reasonir.data.rows import Lookup
from reasonir.eval.audit.config import MAY_DIFFER, ContaminationConfig, output_folder
from reasonir.eval.audit.contamination_page import render
from reasonir.eval.audit.matches import Flagged, find_matches
from reasonir.eval.audit.training_texts import ROW_SIDES, RowBatch, stream_rows
from reasonir.text.ngrams import NO_WORDS, HashedTexts, MarkedHashes, TextHasher, in_batches

EVALUATION_SIDES = ("query", "gold", "other")
"""A query, a document that is gold for one, any other document. Their numbers are their places."""


@dataclass(slots=True)
class JudgedTask:
    """One task: its queries, then its documents.

    sides: place in EVALUATION_SIDES. exact: hashes of whole texts. counts: n-grams. shares: float64 (row sides + 1,
    texts), the marked share of the n-grams, by side and by any. equal: the same for whole texts. seeds: named by a row.
    """

    name: str
    ids: list[str]
    sides: np.ndarray
    exact: np.ndarray
    counts: np.ndarray
    shares: np.ndarray
    equal: np.ndarray
    seeds: np.ndarray
    number_of_document: dict[str, int]


@dataclass(slots=True)
class Evaluation:
    """All tasks, and the sets of their n-grams and whole texts with the marks that rows leave."""

    tasks: list[JudgedTask]
    ngrams: MarkedHashes
    exact: MarkedHashes


@dataclass(slots=True)
class RowCounts:
    """What was read of the rows.

    naming_documents: rows that name a document of the evaluation. other_texts: pairs of a row and a document whose id
    it names, but with another text: not the document that was meant, or another revision of it.
    """

    rows: int = 0
    texts: int = 0
    naming_documents: int = 0
    other_texts: int = 0
    by_source: dict[str, int] = field(default_factory=dict)


def measure_contamination(config: ContaminationConfig) -> None:
    """Hash the evaluation, stream the rows past it, count, list the matches, print the table and the statement."""
    run = RunFolder(output_folder(config, "contamination"), config, resume=True, ignored=MAY_DIFFER)
    for source in config.rows:
        if not source.startswith("hub:") and not Path(source).is_file():
            raise UserError(f"rows: {source}: no such file (a hub data set is hub:owner/name)")
    lookup = read_documents_of_rows(config)
    hasher = TextHasher(config.ngram)
    evaluation = read_evaluation(config, hasher)
    counts = mark_rows(config, lookup, hasher, evaluation)
    flagged = judge_texts(config, hasher, evaluation)
    run.start()
    left_out: dict[str, int] = {}
    again = config.rows if flagged.places else []  # where nothing is flagged, the rows need not be read once more
    batches = with_progress("matches", stream_rows(again, lookup, hasher))
    matches = find_matches(flagged, batches, config, left_out)
    written = write_jsonl(run.path / "matches.jsonl", matches)
    report = {
        "rows": {"sources": config.rows, "rows": counts.rows, "by_source": counts.by_source, "texts": counts.texts,
                 "naming_documents": counts.naming_documents},
        "evaluation": config.data.dir or config.data.hub or config.data.beir,
        "ngram": config.ngram,
        "threshold": config.threshold,
        "tasks": {task.name: count_task(task, config) for task in evaluation.tasks},
        "same_id_other_text": counts.other_texts,
        "distinct_ngrams": len(evaluation.ngrams.keys),
        "matches": {"written": written, "not_written": left_out.get("matches", 0)},
    }  # fmt: skip
    page, statement = render(report)
    report["statement"] = statement
    write_json(run.path / "contamination.json", report)
    (run.path / "contamination.md").write_text(page, encoding="utf-8")
    print(page)
    places = [*config.rows, *(config.documents or ()), config.data.dir, config.data.beir]
    inputs = [place for place in places if place is not None and not place.startswith("hub:")]
    run.finish(inputs=inputs, counts={"rows": report["rows"], "matches": report["matches"]})
    print(f"report: {run.path}")


def read_documents_of_rows(config: ContaminationConfig) -> Lookup | None:
    """Return the texts of the ids in the rows; None where rows are taken as texts."""
    if not config.documents:
        return None
    return merge_lookups([(path, read_lookup(path)) for path in config.documents])


def read_collections(config: ContaminationConfig) -> Iterator[Collection]:
    """Yield one collection a task."""
    if config.data.beir is not None:
        yield read_beir(config.data.beir, config.data.split)
        return
    root = config.data.dir or f"hub:{config.data.hub}"
    tasks = config.tasks or list_bright_tasks(root, config.long)
    yield from read_bright(root, tasks, long=config.long)


def texts_of(collection: Collection) -> list[str]:
    """Return the texts of a task in the order of `JudgedTask`."""
    return [*(query.text for query in collection.queries), *(document.text for document in collection.documents)]


def read_evaluation(config: ContaminationConfig, hasher: TextHasher) -> Evaluation:
    """Hash every text of the evaluation."""
    tasks: list[JudgedTask] = []
    parts: list[np.ndarray] = []
    for collection in read_collections(config):
        hashed = []
        progress = Progress(f"hash {collection.name}", len(collection.queries) + len(collection.documents), "texts")
        for _, texts in in_batches(texts_of(collection)):
            batch = hasher.hash(texts)
            parts.append(np.unique(batch.ngrams))
            hashed.append((batch.exact, batch.counts))
            progress.update(len(texts))
        progress.close()
        exact, counts = (np.concatenate([batch[i] for batch in hashed]) for i in (0, 1))
        tasks.append(open_task(collection, exact, counts))
    exact = np.concatenate([task.exact for task in tasks])
    return Evaluation(tasks, MarkedHashes(parts), MarkedHashes([exact[exact != NO_WORDS]]))


def open_task(collection: Collection, exact: np.ndarray, counts: np.ndarray) -> JudgedTask:
    """Return a task of which nothing is marked yet."""
    gold = {identifier for query in collection.queries for identifier in query.gold}
    queries = len(collection.queries)
    documents = [document.id for document in collection.documents]
    sides = np.array([0] * queries + [1 if identifier in gold else 2 for identifier in documents], np.uint8)
    return JudgedTask(
        name=collection.name,
        ids=[*(query.id for query in collection.queries), *documents],
        sides=sides,
        exact=exact,
        counts=counts,
        shares=np.zeros((len(ROW_SIDES) + 1, len(sides)), np.float64),
        equal=np.zeros((len(ROW_SIDES) + 1, len(sides)), dtype=bool),
        seeds=np.zeros(len(sides), dtype=bool),
        number_of_document={identifier: queries + i for i, identifier in enumerate(documents)},
    )


def with_progress(label: str, batches: Iterator[RowBatch]) -> Iterator[RowBatch]:
    """Pass batches on and say how far they are."""
    progress = Progress(label, 0, "rows")
    for batch in batches:
        yield batch
        progress.update(batch.rows)
    progress.close()


def mark_rows(
    config: ContaminationConfig, lookup: Lookup | None, hasher: TextHasher, evaluation: Evaluation
) -> RowCounts:
    """Stream the rows, mark what they share with the evaluation, and find the documents that they name."""
    counts = RowCounts(by_source=dict.fromkeys(config.rows, 0))
    for batch in with_progress("rows", stream_rows(config.rows, lookup, hasher)):
        counts.rows += batch.rows
        counts.by_source[batch.source] += batch.rows
        counts.texts += len(batch.texts)
        sides = np.array([text.side for text in batch.texts])
        for side in range(len(ROW_SIDES)):
            evaluation.exact.mark(batch.hashed.exact[sides == side], 1 << side)
            evaluation.ngrams.mark(batch.hashed.ngrams[sides[batch.hashed.owners] == side], 1 << side)
        naming = set()
        for named in batch.named:
            holders = [(task, task.number_of_document.get(named.id)) for task in evaluation.tasks]
            for task, number in ((task, number) for task, number in holders if number is not None):
                if named.fits(task.exact[number]):
                    task.seeds[number] = True
                    naming.add(named.where)
                else:
                    counts.other_texts += 1
        counts.naming_documents += len(naming)
    return counts


def judge_texts(config: ContaminationConfig, hasher: TextHasher, evaluation: Evaluation) -> Flagged:
    """Read the evaluation again: set each text's shares, and keep those texts that are flagged or named."""
    flagged = Flagged()
    for task, collection in zip(evaluation.tasks, read_collections(config), strict=True):
        progress = Progress(f"judge {task.name}", len(task.ids), "texts")
        for start, texts in in_batches(texts_of(collection)):
            hashed = hasher.hash(texts)
            part = slice(start, start + len(texts))
            task.shares[:, part], task.equal[:, part] = shares_of(hashed, evaluation)
            chosen = task.equal[-1, part] | (task.shares[-1, part] >= config.threshold) | task.seeds[part]
            pieces = hashed.of_text()
            for i in map(int, np.flatnonzero(chosen)):
                number, side = start + i, EVALUATION_SIDES[task.sides[start + i]]
                place = (task.name, side, task.ids[number])
                share, exact = float(task.shares[-1, number]), int(task.exact[number])
                flagged.add(place, texts[i], pieces[i], exact, share, is_seed=bool(task.seeds[number]))
            progress.update(len(texts))
        progress.close()
    flagged.index()
    return flagged


def shares_of(hashed: HashedTexts, evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """Return the marked share of each text's n-grams and whether the whole text is, by side of the rows and by any."""
    marks, owners, size = evaluation.ngrams.marks_of(hashed.ngrams), hashed.owners, len(hashed.counts)
    equal_marks = evaluation.exact.marks_of(hashed.exact)
    masks = [*(1 << side for side in range(len(ROW_SIDES))), (1 << len(ROW_SIDES)) - 1]
    shares = [np.bincount(owners[(marks & m) != 0], minlength=size) / np.maximum(hashed.counts, 1) for m in masks]
    return np.array(shares), np.array([(equal_marks & mask) != 0 for mask in masks])


def count_task(task: JudgedTask, config: ContaminationConfig) -> dict[str, Any]:
    """Return the counts of a task by side of the evaluation and side of the rows."""
    counted = {}
    for place, side in enumerate(EVALUATION_SIDES):
        own = task.sides == place
        row: dict[str, Any] = {
            "texts": int(own.sum()),
            "without_words": int(np.sum(task.exact[own] == NO_WORDS)),
            "shorter_than_ngram": int(np.sum((task.counts[own] == 0) & (task.exact[own] != NO_WORDS))),
            "seeds_by_id": int(task.seeds[own].sum()),
        }
        for number, name in enumerate((*ROW_SIDES, "any")):
            shares, equal = task.shares[number, own], task.equal[number, own]
            row[name] = {
                "flagged": int(np.sum(equal | (shares >= config.threshold))),
                "exact": int(equal.sum()),
                "sharing_an_ngram": int(np.sum(shares > 0)),
                "largest_share": float(shares.max(initial=0.0)),
            }
        counted[side] = row
    return counted
