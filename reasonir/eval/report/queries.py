"""What a report shows of each query: texts, gold documents with their ranks, the first hits.

Texts are read again from where the results say they came from; a text is stored once, however many queries hit its
document. Invariant: hits stand in the order that was scored. Leaves the page to `report.py`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reasonir.core.errors import UserError
from reasonir.core.progress import Progress
from reasonir.data.beir import read_beir
from reasonir.data.bright import read_bright
from reasonir.data.collections import Collection
from reasonir.eval.report.runs import METRIC, MeasuredRun, Shared
from reasonir.eval.scores.metrics import score_run

HITS = 10
"""Hits shown of a query; its metric is nDCG@10."""


@dataclass(slots=True)
class Texts:
    """What is known of a task's texts: nothing, where they cannot be read any more."""

    documents: dict[str, str] = field(default_factory=dict)
    queries: dict[str, str] = field(default_factory=dict)
    gold: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(slots=True)
class QueryPages:
    """What the page embeds, and what its charts need.

    ids, texts: every document named, once (None: its text is not known). queries: one mapping a query. words: length
    of every query, by task and id. notes: what could not be shown.
    """

    snippet_characters: int
    query_characters: int
    ids: list[str] = field(default_factory=list)
    texts: list[str | None] = field(default_factory=list)
    queries: list[dict[str, Any]] = field(default_factory=list)
    words: dict[tuple[str, str], int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _places: dict[tuple[str, str | None], int] = field(default_factory=dict)

    def document(self, identifier: str, text: str | None) -> int:
        """Return the place of a document with this text, adding it where it is new."""
        snippet = None if text is None else cut(text, self.snippet_characters)
        place = self._places.setdefault((identifier, snippet), len(self.ids))
        if place == len(self.ids):
            self.ids.append(identifier)
            self.texts.append(snippet)
        return place


def collect_queries(shared: Shared, data_dir: str | None, snippet_characters: int, query_characters: int) -> QueryPages:
    """Gather what is shown of every shared query, one task at a time."""
    pages = QueryPages(snippet_characters, query_characters)
    progress = Progress("report", len(shared.queries), "tasks")
    unreadable: dict[tuple[str, str], list[str]] = {}
    for number, task in enumerate(shared.queries):
        texts: list[Texts] = []
        for run in shared.runs:
            if texts and run.source == shared.runs[0].source:
                texts.append(texts[0])
                continue
            known, failure = read_texts(run, task, data_dir)
            texts.append(known)
            if failure:
                unreadable.setdefault((run.letter, failure), []).append(task)
        rankings = [_read_rankings(run, task) for run in shared.runs]
        for query in shared.queries[task]:
            pages.queries.append({"task": number, **_describe(query, task, shared, texts, rankings, pages)})
        for run, known, hits in zip(shared.runs, texts, rankings, strict=True):
            _check(run, task, shared.queries[task], known, hits, pages.notes)
        progress.update(1)
    progress.close()
    for (letter, failure), tasks in unreadable.items():
        pages.notes.append(
            f"Texts and gold documents of run {letter} could not be read ({failure}): "
            f"for {', '.join(tasks)}, ids stand alone and hits are not marked."
        )
    return pages


def read_texts(run: MeasuredRun, task: str, data_dir: str | None) -> tuple[Texts, str]:
    """Read a task's texts from where its run says, or from `data_dir`; return them, or none and why.

    Raises:
        UserError: a `data_dir` that cannot be read.
    """
    try:
        collection = read_collection(run.source, task, data_dir)
    except UserError as error:
        if data_dir is not None:
            raise
        return Texts(), str(error)
    known = Texts(
        {document.id: document.text for document in collection.documents},
        {query.id: query.text for query in collection.queries},
        {query.id: dict(query.gold) for query in collection.queries},
    )
    return known, ""


def read_collection(source: Mapping[str, Any], task: str, data_dir: str | None) -> Collection:
    """Read the collection that a run with this source ranked."""
    data = source.get("data") or {}
    root = data_dir or data.get("dir") or (f"hub:{data['hub']}" if data.get("hub") else None)
    if root is None:
        raise UserError("its config.yaml names no data; give data.dir=FOLDER")
    if not root.startswith("hub:") and not Path(root).is_dir():
        raise UserError(f"data.dir={root}: no such folder; give data.dir=FOLDER")
    if source.get("split") or any(Path(root).glob("corpus.jsonl*")):
        return read_beir(root, str(source.get("split") or "test"))
    queries, long = str(source.get("queries") or "original"), bool(source.get("long"))
    return next(iter(read_bright(root, [task], queries, long)))


def _read_rankings(run: MeasuredRun, task: str) -> dict[str, list[tuple[str, float]]]:
    return {query: order_hits(hits) for query, hits in run.tasks[task].run().items()}


def order_hits(hits: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return (document, score), best first, as trec_eval orders: scores as float32, equal ones by id, descending."""
    scores = np.fromiter(hits.values(), dtype=np.float32, count=len(hits)).tolist()
    ordered = sorted(zip(scores, hits, strict=True), reverse=True)
    return [(document, score) for score, document in ordered]


def _describe(
    query: str,
    task: str,
    shared: Shared,
    texts: list[Texts],
    rankings: list[dict[str, list[tuple[str, float]]]],
    pages: QueryPages,
) -> dict[str, Any]:
    """Return what the page shows of one query, documents by their place."""
    hits = [ranking.get(query, []) for ranking in rankings]
    rank_of = [{document: rank for rank, (document, _) in enumerate(found, start=1)} for found in hits]
    written = [known.queries.get(query) for known in texts]
    if written[0] is not None:
        pages.words[task, query] = len(written[0].split())
    judged = next((known for known in texts if known.queries), texts[0])
    gold = judged.gold.get(query, {})
    shown: dict[str, Any] = {
        "id": query,
        "texts": [None if text is None else cut(text, pages.query_characters) for text in dict.fromkeys(written)],
        "scores": [round(100 * run.scores[task][query], 3) for run in shared.runs],
        "gold": [pages.document(i, judged.documents.get(i)) for i in gold],
        "goldRanks": [[ranks.get(i, 0) for ranks in rank_of] for i in gold],
        "hits": [],
    }
    for side, found in enumerate(hits):
        other, known = rank_of[-1 - side], texts[side]
        marks = known.gold.get(query, {})
        shown["hits"].append(
            [
                [pages.document(i, known.documents.get(i)), _short(score), int(i in marks), other.get(i, 0)]
                for i, score in found[:HITS]
            ]
        )
    return shown


def _short(score: float) -> float:
    """Return a score with the digits that a reader can use."""
    return float(f"{score:.5g}")


def cut(text: str, characters: int) -> str:
    """Return the first characters of a text, an ellipsis behind them where something is left out."""
    text = text.strip()
    return text if len(text) <= characters else f"{text[:characters].rstrip()} …"


def _check(
    run: MeasuredRun,
    task: str,
    queries: Iterable[str],
    texts: Texts,
    rankings: Mapping[str, list[tuple[str, float]]],
    notes: list[str],
) -> None:
    """Note queries and documents that the data lacks, and scores that are not those of the hits and gold shown."""
    if not texts.queries:
        return
    ids = list(queries)
    first = {query: dict(rankings.get(query, [])[:HITS]) for query in ids}
    unread = sum(query not in texts.queries for query in ids)
    unknown = {document for hits in first.values() for document in hits if document not in texts.documents}
    scored = score_run(first, {query: texts.gold.get(query, {}) for query in ids}).per_query
    other = sum(abs(run.scores[task][query] - row[METRIC]) > 1e-6 for query, row in scored.items())
    changed = "queries have another nDCG@10 than the hits and gold documents shown give: the data changed since"
    for count, what in (
        (unread, "queries are not in the data any more"),
        (len(unknown), "documents among the first hits are not in the data any more"),
        (other, changed),
    ):
        if count:
            notes.append(f"{run.letter}, {task}: {count:,} {what}.")
