"""What a report shows of each query: texts, gold documents with their ranks, the first hits.

Texts are read again from where the results say they came from. Invariant: hits stand in the order that was scored.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.progress import Progress
from reasonir.eval.report.page import Passages, cut, short_score
from reasonir.eval.report.runs import METRIC, MeasuredRun, Shared
from reasonir.retrieval.fusion import in_order
from reasonir.retrieval.metrics import score_run

# Hits shown of a query; its metric is nDCG@10.
HITS = 10
# (document, score), best first.
Ranking = Sequence[tuple[str, float]]


@dataclass(slots=True)
class Texts:
    """What is known of a task's texts: nothing, where they cannot be read any more."""

    documents: dict[str, str] = field(default_factory=dict)
    queries: dict[str, str] = field(default_factory=dict)
    gold: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(slots=True)
class QueryItems:
    """The queries of a report. listed, opened: what the list shows of each, and what it shows when opened.

    words: length of every query, by task and id. notes: what could not be shown.
    """

    passages: Passages
    query_characters: int
    listed: list[dict[str, Any]] = field(default_factory=list)
    opened: list[dict[str, Any]] = field(default_factory=list)
    words: dict[tuple[str, str], int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def collect_queries(
    shared: Shared, *, data_dir: str | None, snippet_characters: int, query_characters: int
) -> QueryItems:
    """Gather what is shown of every shared query, one task at a time.

    Args:
        shared: the runs and their common queries.
        data_dir: BRIGHT or BEIR folder of the texts; None reads them from where each run says.
        snippet_characters: kept of a document.
        query_characters: kept of a query.
    """
    items = QueryItems(Passages(snippet_characters), query_characters)
    progress = Progress("report", len(shared.queries), "tasks")
    # By failure, so that twelve tasks of one missing folder make one note.
    unreadable: dict[tuple[str, str], list[str]] = {}
    for number, (task, queries) in enumerate(shared.queries.items()):
        texts: list[Texts] = []
        for run in shared.runs:
            # Two runs over the same data share its texts, so that a corpus is read once.
            if texts and run.source == shared.runs[0].source:
                texts.append(texts[0])
                continue
            known, failure = _read_texts(run, task, data_dir)
            texts.append(known)
            if failure:
                unreadable.setdefault((run.letter, failure), []).append(task)
        rankings = [_read_rankings(run, task) for run in shared.runs]
        for query in queries:
            hits = [ranking.get(query, []) for ranking in rankings]
            scores = [run.scores[task][query] for run in shared.runs]
            _add_query(items, query, (number, task), scores, texts, hits)
        for run, known, ranking in zip(shared.runs, texts, rankings, strict=True):
            items.notes += [
                f"{run.letter}, {task}: {note}" for note in _changes_since(run, task, queries, known, ranking)
            ]
        progress.update(1)
    progress.close()
    for (letter, failure), tasks in unreadable.items():
        items.notes.append(
            f"Texts and gold documents of run {letter} could not be read ({failure}): "
            f"for {', '.join(tasks)}, ids stand alone and hits are not marked."
        )
    return items


def _read_texts(run: MeasuredRun, task: str, data_dir: str | None) -> tuple[Texts, str]:
    """Read a task's texts from where its run says, or from `data_dir`; return them, or none and why.

    Raises:
        UserError: a `data_dir` that cannot be read.
    """
    source = replace(run.source, dir=data_dir, hub=None) if data_dir is not None else run.source
    try:
        if source.dir is not None and not Path(source.dir).is_dir():
            raise UserError(f"data.dir={source.dir}: no such folder; give data.dir=FOLDER")
        collection = next(source.collections([task]))
    except UserError as error:
        # A folder that the user names must be readable; one that a config.yaml names may be gone by now.
        if data_dir is not None:
            raise
        return Texts(), str(error)
    known = Texts(
        {document.id: document.text for document in collection.documents},
        {query.id: query.text for query in collection.queries},
        {query.id: dict(query.gold) for query in collection.queries},
    )
    return known, ""


def _read_rankings(run: MeasuredRun, task: str) -> dict[str, Ranking]:
    """Return every query's hits in the order that was scored."""
    rankings = run.tasks[task].run()
    return {query: [(document, hits[document]) for document in in_order(hits)] for query, hits in rankings.items()}


def _add_query(
    items: QueryItems,
    query: str,
    task: tuple[int, str],
    scores: Sequence[float],
    texts: Sequence[Texts],
    hits: Sequence[Ranking],
) -> None:
    """Add one query: its task by place and name; scores, texts and hits of each run."""
    # Ranks count over the whole ranking, not over the hits that are shown.
    rank_of = [{document: rank for rank, (document, _) in enumerate(found, start=1)} for found in hits]
    written = [known.queries.get(query) for known in texts]
    if written[0] is not None:
        items.words[task[1], query] = len(written[0].split())
    items.listed.append(
        {
            "id": query,
            # Two runs that asked the same show the query once.
            "texts": [None if text is None else cut(text, items.query_characters) for text in dict.fromkeys(written)],
            "parts": [task[0]],
            "scores": [round(100 * score, 3) for score in scores],
        }
    )
    # Gold is shown as the first run that has its data says.
    judged = next((known for known in texts if known.queries), texts[0])
    place, shown = items.passages.place, []
    for side, found in enumerate(hits):
        # -1 - side is the other of two runs, and the run itself where there is one.
        other, known = rank_of[-1 - side], texts[side]
        marked = known.gold.get(query, {})
        shown.append(
            [
                [place(i, known.documents.get(i)), short_score(score), int(i in marked), other.get(i, 0)]
                for i, score in found[:HITS]
            ]
        )
    gold = judged.gold.get(query, {})
    ranks = [[place(i, judged.documents.get(i)), [known.get(i, 0) for known in rank_of]] for i in gold]
    items.opened.append({"gold": ranks, "hits": shown})


def _changes_since(
    run: MeasuredRun, task: str, queries: Iterable[str], texts: Texts, rankings: Mapping[str, Ranking]
) -> list[str]:
    """Say what the data lacks that was ranked, and which scores are not those of the hits and gold shown."""
    if not texts.queries:
        return []
    # Scored again from what is shown: data that changed since the run would mark the wrong documents.
    first = {query: dict(rankings.get(query, [])[:HITS]) for query in queries}
    unread = sum(query not in texts.queries for query in first)
    unknown = {document for hits in first.values() for document in hits if document not in texts.documents}
    scored = score_run(first, {query: texts.gold.get(query, {}) for query in first}).per_query
    # 1e-6: per_query.jsonl holds all digits; hits after the tenth cannot move nDCG@10.
    other = sum(abs(run.scores[task][query] - row[METRIC]) > 1e-6 for query, row in scored.items())
    changed = "queries have another nDCG@10 than the hits and gold documents shown give: the data changed since"
    counts = (
        (unread, "queries are not in the data any more"),
        (len(unknown), "documents among the first hits are not in the data any more"),
        (other, changed),
    )
    return [f"{count:,} {what}." for count, what in counts if count]
