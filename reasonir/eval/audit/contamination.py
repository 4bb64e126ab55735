"""What training rows share with an evaluation: `measure_contamination`, top to bottom, is the main path.

The evaluation's n-grams are held as a sorted set of hashes. The rows stream past the set and leave marks. Then the
evaluation is read once more, for the marked share of each text, and the rows, for the pairs behind the shares.
Invariant: counts do not depend on the order or number of the row files. Memory: 24 bytes an n-gram of the evaluation
while the set is built, 9 after that; neither texts nor rows are held. Leaves hashing to `text/ngrams.py`, pairs to
`matches.py`, the page to `contamination_page.py`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reasonir.core.errors import UserError
from reasonir.core.files import write_json, write_jsonl, write_text
from reasonir.core.progress import Progress
from reasonir.core.run_folder import RunFolder
from reasonir.data.collections import Collection, merge_lookups, read_lookup
from reasonir.data.open_source import open_source
from reasonir.data.rows import Lookup
from reasonir.eval.audit.config import MAY_DIFFER, ContaminationConfig
from reasonir.eval.audit.contamination_page import render
from reasonir.eval.audit.matches import Flagged, Matches
from reasonir.eval.audit.training_texts import ROW_SIDES, RowBatch, stream_rows
from reasonir.eval.benchmarks.config import with_output_dir
from reasonir.text.ngrams import NO_WORDS, HashedTexts, MarkedHashes, TextHasher, in_batches

EVALUATION_SIDES = ("query", "gold", "other")
"""A query, a document that is gold for some query, any other document. A side's number is its place here."""


@dataclass(slots=True)
class JudgedTask:
    """The texts of one task: its queries, then its documents. All arrays have one column a text.

    sides: its place in EVALUATION_SIDES. exact: hash of the whole text. counts: number of its n-grams. shares: float64
    (row sides + 1, texts), the share of its n-grams in texts of each side of the rows, then of any. equal: the same for
    whole texts. seeds: whether a row names the document as its seed.
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
    """All tasks, and the sets of their n-grams and of their whole texts, with the marks that rows leave."""

    tasks: list[JudgedTask]
    ngrams: MarkedHashes
    exact: MarkedHashes


def measure_contamination(config: ContaminationConfig) -> None:
    """Hash the evaluation, stream the rows past it, count, list the matches, print the table and the statement."""
    config = with_output_dir(config, "contamination")
    run = RunFolder(str(config.output_dir), config, resume=True, ignored=MAY_DIFFER)
    _require_files(config.rows)
    documents = [(path, read_lookup(path)) for path in config.documents or ()]
    lookup = merge_lookups(documents) if documents else None
    place = config.data.beir or config.data.dir or f"hub:{config.data.hub}"
    source = open_source(place, config.data.split if config.data.beir else None)

    # 1 hash the evaluation
    hasher = TextHasher(config.ngram)
    evaluation = _hash_evaluation(source.collections(config.tasks or None, long=config.long), hasher)
    # 2 rows leave marks
    rows, other_texts = _mark_rows(config.rows, lookup, hasher, evaluation)
    # 3 read the evaluation again, for each text's marked share: its texts would take as much memory as the hashes
    again = source.collections(config.tasks or None, long=config.long)
    flagged = flag_texts(again, hasher, evaluation, config.threshold)
    # 4 read the rows again, for the pairs; not where nothing is flagged
    run.start()
    batches = _with_progress("matches", stream_rows(config.rows if flagged.places else [], lookup, hasher))
    matches = Matches(flagged, config.ngram, config.threshold, config.matches_per_text)
    written = write_jsonl(run.path / "matches.jsonl", matches.find(batches))

    # 5 the report
    report = {
        "rows": {"sources": config.rows, **rows},
        "evaluation": config.data.dir or config.data.hub or config.data.beir,
        "ngram": config.ngram,
        "threshold": config.threshold,
        "tasks": {task.name: _count_task(task, config.threshold) for task in evaluation.tasks},
        "same_id_other_text": other_texts,
        "distinct_ngrams": len(evaluation.ngrams.keys),
        "matches": {"written": written, "not_written": matches.left_out},
    }
    page, statement = render(report)
    report["statement"] = statement
    write_json(run.path / "contamination.json", report)
    write_text(run.path / "contamination.md", page)
    print(page)
    places = [*config.rows, *(config.documents or ()), config.data.dir, config.data.beir]
    # The manifest holds checksums, and a hub data set has no file here to take one of.
    inputs = [place for place in places if place is not None and not place.startswith("hub:")]
    run.finish(inputs=inputs, counts={"rows": report["rows"], "matches": report["matches"]})
    print(f"report: {run.path}")


def _require_files(rows: list[str]) -> None:
    """Refuse local files that are missing, before the evaluation is hashed, which can take minutes."""
    for file in rows:
        if not file.startswith("hub:") and not Path(file).is_file():
            raise UserError(f"rows: {file}: no such file (a hub data set is hub:owner/name)")


def _texts_of(collection: Collection) -> list[str]:
    """Return the texts of a task in the order of `JudgedTask`."""
    return [*(query.text for query in collection.queries), *(document.text for document in collection.documents)]


def _hash_evaluation(collections: Iterable[Collection], hasher: TextHasher) -> Evaluation:
    """Hash every text of the evaluation."""
    tasks: list[JudgedTask] = []
    parts: list[np.ndarray] = []
    for collection in collections:
        hashed = []
        progress = Progress(f"hash {collection.name}", len(collection.queries) + len(collection.documents), "texts")
        for _, texts in in_batches(_texts_of(collection)):
            batch = hasher.hash(texts)
            # Each n-gram once a batch: the set is largest while it is built, and repeats would lengthen that peak.
            parts.append(np.unique(batch.ngrams))
            hashed.append((batch.exact, batch.counts))
            progress.update(len(texts))
        progress.close()
        exact, counts = (np.concatenate([batch[i] for batch in hashed]) for i in (0, 1))
        tasks.append(_open_task(collection, exact, counts))
    exact = np.concatenate([task.exact for task in tasks])
    # Texts without a word share the hash NO_WORDS and are equal to nothing.
    return Evaluation(tasks, MarkedHashes(parts), MarkedHashes([exact[exact != NO_WORDS]]))


def _open_task(collection: Collection, exact: np.ndarray, counts: np.ndarray) -> JudgedTask:
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


def _with_progress(label: str, batches: Iterator[RowBatch]) -> Iterator[RowBatch]:
    """Yield the batches and show how many rows went by."""
    # The total is unknown: rows stream, and counting them would read every file once more.
    progress = Progress(label, 0, "rows")
    for batch in batches:
        yield batch
        progress.update(batch.rows)
    progress.close()


def _mark_rows(
    sources: list[str], lookup: Lookup | None, hasher: TextHasher, evaluation: Evaluation
) -> tuple[dict[str, Any], int]:
    """Stream the rows, mark what they share with the evaluation (side i of the rows sets bit i), find what they name.

    Returns:
        What contamination.json says of the rows; the pairs of a row and a document whose id the row names with another
        text, which means another document, or another revision of it.
    """
    by_source = dict.fromkeys(sources, 0)
    texts = naming_documents = other_texts = 0
    for batch in _with_progress("rows", stream_rows(sources, lookup, hasher)):
        by_source[batch.source] += batch.rows
        texts += len(batch.texts)
        sides = np.array([text.side for text in batch.texts])
        for side in range(len(ROW_SIDES)):
            evaluation.exact.mark(batch.hashed.exact[sides == side], 1 << side)
            evaluation.ngrams.mark(batch.hashed.ngrams[sides[batch.hashed.owners] == side], 1 << side)
        # A set of places: a row that names several documents, or one that several tasks hold, counts once.
        naming = set()
        for named in batch.named:
            holders = [(task, task.number_of_document.get(named.id)) for task in evaluation.tasks]
            for task, number in ((task, number) for task, number in holders if number is not None):
                if named.fits(task.exact[number]):
                    task.seeds[number] = True
                    naming.add(named.where)
                else:
                    other_texts += 1
        naming_documents += len(naming)
    rows = sum(by_source.values())
    return {"rows": rows, "by_source": by_source, "texts": texts, "naming_documents": naming_documents}, other_texts


def flag_texts(
    collections: Iterable[Collection], hasher: TextHasher, evaluation: Evaluation, threshold: float
) -> Flagged:
    """Set each text's shares; return the texts that are flagged, or that a row names.

    Args:
        collections: The evaluation, read once more.
        hasher: The one that hashed the evaluation.
        evaluation: With the rows' marks; its tasks get the shares.
        threshold: Share of a text's n-grams from which it is flagged.
    """
    flagged = Flagged()
    for task, collection in zip(evaluation.tasks, collections, strict=True):
        progress = Progress(f"judge {task.name}", len(task.ids), "texts")
        for start, texts in in_batches(_texts_of(collection)):
            hashed = hasher.hash(texts)
            part = slice(start, start + len(texts))
            task.shares[:, part], task.equal[:, part] = _shares_of(hashed, evaluation)
            # Texts shorter than an n-gram have the share 0: equality alone can flag them.
            chosen = task.equal[-1, part] | (task.shares[-1, part] >= threshold) | task.seeds[part]
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


def _shares_of(hashed: HashedTexts, evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """Return the marked share of each text's n-grams, and whether the whole text is marked: by side of rows, by any."""
    marks, owners, size = evaluation.ngrams.marks_of(hashed.ngrams), hashed.owners, len(hashed.counts)
    equal_marks = evaluation.exact.marks_of(hashed.exact)
    # The last mask takes all sides together: the shares of two sides may overlap, so no sum or maximum gives it.
    masks = [*(1 << side for side in range(len(ROW_SIDES))), (1 << len(ROW_SIDES)) - 1]
    # max(counts, 1): a text shorter than an n-gram has none.
    shares = [np.bincount(owners[(marks & m) != 0], minlength=size) / np.maximum(hashed.counts, 1) for m in masks]
    return np.array(shares), np.array([(equal_marks & mask) != 0 for mask in masks])


def _count_task(task: JudgedTask, threshold: float) -> dict[str, Any]:
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
                "flagged": int(np.sum(equal | (shares >= threshold))),
                "exact": int(equal.sum()),
                "sharing_an_ngram": int(np.sum(shares > 0)),
                "largest_share": float(shares.max(initial=0.0)),
            }
        counted[side] = row
    return counted
