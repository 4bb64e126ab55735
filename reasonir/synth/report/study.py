"""The sampled rows of a run: searched for by BM25 and an encoder, compared with each other, sorted by risk."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reasonir.core.errors import UserError
from reasonir.data.training_rows import query_text
from reasonir.synth.report.likeness import (
    Cluster,
    count_openings,
    find_clusters,
    likeness_to_average,
    likeness_to_nearest,
    word_vectors,
)
from reasonir.synth.report.ranks import (
    DENSE_POOL,
    LEXICAL_POOL,
    Pool,
    dense_ranks,
    embed,
    gather_pool,
    lexical_ranks,
)
from reasonir.synth.report.risks import Case, find_risks, found
from reasonir.synth.report.survey import Survey, entry_text, positive_is_id, word_overlap

# Cosine from which two queries are nearly the same: of sentence embeddings, and of word weights.
ALIKE_DENSE, ALIKE_WORDS = 0.9, 0.8


@dataclass(frozen=True, slots=True)
class Study:
    """What was found out about a run's queries.

    pool: the documents searched. cases: the sampled rows, in the order of their draws. risky: those with a sign of
    risk, the riskiest first. alike: cosine from which two queries count as nearly the same. dense: whether an encoder
    took part. trouble: why one that was asked for did not. likeness_of_positives: mean cosine of the cases' positives
    with their average; None without an encoder. openings, clusters: of the `counted` queries.
    """

    pool: Pool
    cases: list[Case]
    risky: list[Case]
    alike: float
    dense: bool
    trouble: str
    likeness_of_positives: float | None
    counted: int
    openings: Counter[str]
    clusters: list[Cluster]

    @property
    def ranked(self) -> list[Case]:
        """The rows whose source is known."""
        return [case for case in self.cases if case.source is not None]

    @property
    def ranks(self) -> dict[str, list[int | None]]:
        """Ranks of the source by retriever; empty where no source is known."""
        ranks = {"BM25": [case.lexical for case in self.ranked], "encoder": [case.dense for case in self.ranked]}
        return {name: values for name, values in ranks.items() if values and (name == "BM25" or self.dense)}

    def found_by(self) -> Counter[tuple[bool, bool]]:
        """Count the rows by (found by BM25, found by the encoder)."""
        limit = self.pool.found_rank
        return Counter((found(case.lexical, limit), found(case.dense, limit)) for case in self.ranked)


def study_rows(surveyed: Survey, corpus: str | None, seed: int, model: str | None, *, ids: bool) -> Study:
    """Rank, embed and compare the sampled rows.

    Args:
        surveyed: Of the run's files.
        corpus: Where documents come from; None takes the rows' own.
        seed: Draws the documents.
        model: Encoder, folder or hub id. None is none; one that does not load is left out.
        ids: As in `survey`.
    """
    rows, counted = surveyed.sample.values(), surveyed.queries.values()
    # 1 the documents to search in
    entries = [_first_positive(row, corpus, ids) for row in rows]
    negatives = [entry_text(entry) for row in rows for entry in row.get("neg", [])[:1]]
    size = LEXICAL_POOL if model is None else DENSE_POOL
    pool = gather_pool(entries, negatives, corpus, surveyed.positives.values(), size, seed)
    cases = [_open_case(row, place, pool.texts) for row, place in zip(rows, pool.sources, strict=True)]
    queries = [case.query for case in cases]
    # 2 vectors of the queries, ranks of their sources
    embedded, trouble = _embed(model, queries, pool.texts)
    likeness = None
    for case, rank in zip(cases, lexical_ranks(queries, pool), strict=True):
        case.lexical = rank
    if embedded is not None:
        for case, rank in zip(cases, dense_ranks(*embedded, pool.sources), strict=True):
            case.dense = rank
        places = [place for place in pool.sources if place is not None]
        likeness = float(likeness_to_average(embedded[1][places]).mean()) if places else None
    # 3 what the queries are like
    vectors, alike = (word_vectors(queries), ALIKE_WORDS) if embedded is None else (embedded[0], ALIKE_DENSE)
    for case, nearest, average in zip(cases, likeness_to_nearest(vectors), likeness_to_average(vectors), strict=True):
        case.nearest, case.average = float(nearest), float(average)
    openings, dense = count_openings(counted), embedded is not None
    risky = find_risks(cases, pool.found_rank, alike, openings, dense=dense)
    clusters = find_clusters(counted)
    return Study(pool, cases, risky, alike, dense, trouble, likeness, len(counted), openings, clusters)


def _first_positive(row: dict[str, Any], corpus: str | None, ids: bool) -> str | None:
    # Without its corpus an id leads to no text.
    known = row.get("pos") and (corpus is not None or not (ids or positive_is_id(row)))
    return entry_text(row["pos"][0]) if known else None


def _embed(
    model: str | None, queries: Sequence[str], documents: Sequence[str]
) -> tuple[tuple[np.ndarray, np.ndarray] | None, str]:
    """Return the embeddings of both, or why there are none."""
    if model is None or not queries:
        return None, ""
    try:
        return embed(model, queries, documents), ""
    except UserError as error:  # the rest of the report is worth having
        return None, str(error)


def _open_case(row: dict[str, Any], place: int | None, texts: Sequence[str]) -> Case:
    query, source = query_text(row), None if place is None else texts[place]
    return Case(row, query, source, None if source is None else word_overlap(query, source))
