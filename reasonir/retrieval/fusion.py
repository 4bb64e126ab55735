"""Joins several rankings of the same queries: the arithmetic of `fuse` and of `retriever=hybrid`.

A document's fused score is the sum over the lists of weight times what the list gives it:

    method   a document of the list                        a document that the list lacks
    linear   its score                                     0, or the list's lowest score where that is below 0
    minmax   (score - lowest) / (highest - lowest);        0: what the list's lowest has
             1 where all scores are equal
    zscore   (score - mean) / standard deviation;          the list's lowest z
             0 where all scores are equal
    rrf      1 / (rrf_k + place), places from 1            0

Lowest, highest, mean, deviation (of the list as a population) and place are of one query's list in one run. So nothing
is ranked higher for being unlisted. A query that a run lacks altogether gets nothing from it; such queries are counted.
Sums do not hang on the order of the runs (`math.fsum`) and are rounded to float32, as trec_eval reads them; equal
scores stand by document id, descending. `linear` with weights [100, 1] of a rerank run and a BM25 run, and [0.5, 0.5]
of a rerank run and a dense one, are arXiv 2504.20595's interpolations. Owns no files; `fuse.py` does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reasonir.data.trec import Run
from reasonir.retrieval.config import FusionMethod

Hits = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Fused:
    """A fused run. missing: for each list, how many of the run's queries it has no hit for."""

    run: dict[str, dict[str, float]]
    missing: list[int]


def fuse_runs(
    runs: Sequence[Run], method: FusionMethod, weights: Sequence[float], top: int, rrf_k: float = 60.0
) -> Fused:
    """Fuse runs query by query; queries in the order in which they first appear.

    Args:
        runs: Each may lack queries and documents that others have.
        method: What a list gives its documents.
        weights: One for each run.
        top: Documents kept a query.
        rrf_k: The constant of method rrf.
    """
    # Only queries with a hit somewhere: one without any would be a line of nothing in the run.
    queries = list(dict.fromkeys(query for run in runs for query, hits in run.items() if hits))
    missing = [sum(not run.get(query) for query in queries) for run in runs]
    fused = {}
    for query in queries:
        lists = [run.get(query, {}) for run in runs]
        scores = fuse_hits(lists, method, weights, rrf_k)
        fused[query] = {document: scores[document] for document in in_order(scores)[:top]}
    return Fused(fused, missing)


def fuse_hits(
    lists: Sequence[Hits], method: FusionMethod, weights: Sequence[float], rrf_k: float = 60.0
) -> dict[str, float]:
    """Return one query's fused scores of every document that a list has (see the module's table).

    Args:
        lists: Scores by document, of one query.
        method: What a list gives its documents.
        weights: One for each list.
        rrf_k: The constant of method rrf.
    """
    parts = [(weight, *_contributions(hits, method, rrf_k)) for weight, hits in zip(weights, lists, strict=True)]
    documents = dict.fromkeys(document for hits in lists for document in hits)
    # fsum, so that the order of the runs changes no bit; float32, so that ties are those that trec_eval sees.
    return {
        document: float(np.float32(math.fsum(weight * given.get(document, absent) for weight, given, absent in parts)))
        for document in documents
    }


def _contributions(hits: Hits, method: FusionMethod, rrf_k: float) -> tuple[dict[str, float], float]:
    """Return what one list gives each of its documents, and what it gives those that it lacks."""
    if not hits:
        return {}, 0.0
    # Equal scores have different places, by id, as trec_eval would list them.
    if method is FusionMethod.rrf:
        return {document: 1 / (rrf_k + place) for place, document in enumerate(in_order(hits), start=1)}, 0.0
    values = np.fromiter(hits.values(), dtype=np.float64, count=len(hits))
    low, high = values.min(), values.max()
    # Inner products may lie below 0: a plain 0 would rank a document higher for being unlisted.
    if method is FusionMethod.linear:
        return dict(hits), min(0.0, float(low))
    if method is FusionMethod.minmax:
        values = (values - low) / (high - low) if high > low else np.ones_like(values)
        return dict(zip(hits, values.tolist(), strict=True)), 0.0
    # high > low, not the deviation: rounding gives equal values a deviation above 0.
    # Absent documents get the lowest z, because 0 is the mean of the list.
    values = (values - values.mean()) / values.std() if high > low else np.zeros_like(values)
    return dict(zip(hits, values.tolist(), strict=True)), float(values.min())


def in_order(scores: Hits) -> list[str]:
    """Return documents best first, as trec_eval orders them: score at float32, then id, both descending."""
    return sorted(scores, key=lambda document: (np.float32(scores[document]), document), reverse=True)


def describe_fusion(method: FusionMethod, weights: Sequence[float]) -> str:
    """Return what a table calls a fusion."""
    return f"{method.value} {'/'.join(f'{weight:.3g}' for weight in weights)}"
