"""Retrieval metrics of trec_eval, computed by pytrec_eval, which only this file imports.

Invariant: a value is what pytrec_eval gives for the same hits and judgements. Reads and writes nothing. Metrics over
aspects: `aspect_metrics.py`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pytrec_eval

from reasonir.data.aspects import Aspect
from reasonir.retrieval.aspect_metrics import aspect_metric_names, aspect_metrics
from reasonir.retrieval.fusion import in_order

# 10 is the cut of BRIGHT's nDCG, 1 that of its recall on whole pages, 25 Bright-Pro's.
CUTS = (1, 5, 10, 25, 50, 100)
FAMILIES = {"ndcg_cut": "ndcg_at", "map_cut": "map_at", "recall": "recall_at", "P": "precision_at"}
METRIC_OF_MEASURE = {
    **{f"{theirs}_{cut}": f"{ours}_{cut}" for theirs, ours in FAMILIES.items() for cut in CUTS},
    "recip_rank": "mrr",
}
"""Our name of each measure of trec_eval."""


@dataclass(frozen=True, slots=True)
class RunMetrics:
    """The metrics of a run, and which queries they are about.

    mean: Every metric's mean over the queries of `per_query`, a fraction of 1 (0 without a query), and `num_queries`.
    per_query: Query id to metrics, in the order of the qrels.
    queries_without_gold: Number of queries of the qrels without a relevant document. They are left out.
    missing_queries: Number of queries with a relevant document for which the run has no hit. They count as 0.
    unknown_queries: Number of queries of the run that the qrels lack. They are left out.
    """

    mean: dict[str, float]
    per_query: dict[str, dict[str, float]]
    queries_without_gold: int
    missing_queries: int
    unknown_queries: int


def score_run(
    run: Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Mapping[str, int]],
    excluded: Mapping[str, Collection[str]] | None = None,
    aspects: Mapping[str, Sequence[Aspect]] | None = None,
) -> RunMetrics:
    """Score a run against relevance judgements.

    Args:
        run: Query id to {document id: score}; a higher score is better.
        qrels: Query id to {document id: grade}; a document is relevant from grade 1 on.
        excluded: Query id to the documents that are taken out of the run before anything is counted.
        aspects: Query id to aspects, of every query with a relevant document; adds `alpha_ndcg_at_k` and
            `aspect_recall_at_k`.
    """
    # A query without a relevant document has no nDCG and is left out, as trec_eval does.
    gold = {query: judged for query, judged in qrels.items() if any(grade > 0 for grade in judged.values())}
    hits = {query: _remove(run[query], (excluded or {}).get(query, ())) for query in gold if query in run}
    # A query whose every hit is excluded has no hit any more: it counts as missing, not as scored.
    hits = {query: scores for query, scores in hits.items() if scores}
    # pytrec_eval takes the cuts of one measure as one name, "ndcg_cut.1,5,10".
    measures = {f"{family}.{','.join(map(str, CUTS))}" for family in FAMILIES} | {"recip_rank"}
    judged = {query: dict(gold[query]) for query in hits}
    values = pytrec_eval.RelevanceEvaluator(judged, measures).evaluate(hits) if hits else {}
    # A query with a relevant document but without a hit counts as 0, as BRIGHT averages (trec_eval -c). pytrec_eval
    # alone would leave the query out, and the mean would rise.
    nothing = dict.fromkeys(METRIC_OF_MEASURE, 0.0)
    per_query = {
        query: {ours: values.get(query, nothing)[theirs] for theirs, ours in METRIC_OF_MEASURE.items()}
        for query in gold
    }
    names = list(METRIC_OF_MEASURE.values())
    if aspects:
        names += aspect_metric_names(CUTS)
        for query, row in per_query.items():
            row |= aspect_metrics(in_order(hits.get(query, {})), aspects[query], CUTS)
    mean = {name: sum(row[name] for row in per_query.values()) / max(len(per_query), 1) for name in names}
    return RunMetrics(
        mean={**mean, "num_queries": len(per_query)},
        per_query=per_query,
        queries_without_gold=len(qrels) - len(gold),
        missing_queries=len(gold) - len(hits),
        unknown_queries=sum(query not in qrels for query in run),
    )


def _remove(scores: Mapping[str, float], excluded: Collection[str]) -> dict[str, float]:
    """Return a query's hits without the excluded documents; pytrec_eval takes no score but a `float`."""
    kept = dict(scores)
    # One look at the types is cheaper than converting every score of every query.
    if set(map(type, kept.values())) - {float}:
        kept = dict(zip(kept, map(float, kept.values()), strict=True))
    for document in excluded:
        kept.pop(document, None)
    return kept
