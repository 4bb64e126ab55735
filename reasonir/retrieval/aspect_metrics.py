"""Metrics over aspects: does a ranking cover all that a query asks for?

Legend: w is an aspect's weight, c the number of earlier documents that cover the aspect, k the cut. A document gains
the sum over its aspects of w * (1 - alpha) ** c, discounted by log2(rank + 1). This is the alpha-nDCG of Clarke et al.
2008 with the weights of Bright-Pro (arXiv 2605.04018); equal weights give Clarke's. Invariant: values do not depend on
the scale of the weights. Reads and writes nothing; `reasonir.data.aspects` reads aspects.
"""

import math
from collections.abc import Sequence

from reasonir.data.aspects import Aspect

# Bright-Pro's alpha (arXiv 2605.04018): each further document on the same aspect gains half as much.
ALPHA = 0.5


def aspect_metrics(ranking: Sequence[str], aspects: Sequence[Aspect], cuts: Sequence[int]) -> dict[str, float]:
    """Return alpha-nDCG and aspect recall of one query's ranking at every cut.

    Aspect recall is the weight of the aspects that the first k documents cover, as a fraction of all weights. The ideal
    ranking of alpha-nDCG is the greedy one, because finding the best one is NP-complete (Clarke et al.). With one
    aspect a document, as in Bright-Pro, the greedy ranking is the best. With several aspects a document another ranking
    can be better, so that a value may exceed 1 a little.

    Args:
        ranking: Document ids, best first.
        aspects: The query's aspects, at least one.
        cuts: The numbers k of first documents to measure at.
    """
    # One pass serves all cuts: the greedy ranking up to a smaller cut is the beginning of a deeper one's.
    depth = max(cuts)
    gained, covered = _measure(ranking[:depth], aspects, depth)
    best, _ = _measure(ideal_ranking(aspects, depth), aspects, depth)
    whole = sum(aspect.weight for aspect in aspects)
    return {
        **{f"alpha_ndcg_at_{cut}": gained[cut - 1] / best[cut - 1] for cut in cuts},
        **{f"aspect_recall_at_{cut}": covered[cut - 1] / whole for cut in cuts},
    }


def aspect_metric_names(cuts: Sequence[int]) -> list[str]:
    """Return the names of the metrics that `aspect_metrics` gives."""
    return [f"{family}_at_{cut}" for family in ("alpha_ndcg", "aspect_recall") for cut in cuts]


def ideal_ranking(aspects: Sequence[Aspect], depth: int) -> list[str]:
    """Return the documents in greedy order: the one that gains most comes next, the first listed among equals."""
    # A dictionary as an ordered set: `max` takes the first of equals, so that the listed order decides.
    remaining = {document: None for aspect in aspects for document in aspect.gold_ids}
    covering = _aspects_of(aspects)
    seen = [0] * len(aspects)
    ranking: list[str] = []
    while remaining and len(ranking) < depth:
        chosen = max(remaining, key=lambda document: _gain(covering[document], aspects, seen))
        del remaining[chosen]
        ranking.append(chosen)
        for index in covering[chosen]:
            seen[index] += 1
    return ranking


def _measure(ranking: Sequence[str], aspects: Sequence[Aspect], depth: int) -> tuple[list[float], list[float]]:
    """Return the discounted gain and the covered weight up to every rank from 1 to depth."""
    covering = _aspects_of(aspects)
    seen = [0] * len(aspects)
    gained, covered = [0.0], [0.0]
    for rank in range(1, depth + 1):
        # A ranking that is shorter than the cut gains nothing further; the metrics at deeper cuts still exist.
        hit = covering.get(ranking[rank - 1], []) if rank <= len(ranking) else []
        # The gain comes before `seen` is raised: a document's own aspects count as not covered by itself.
        gained.append(gained[-1] + _gain(hit, aspects, seen) / math.log2(rank + 1))
        for index in hit:
            seen[index] += 1
        covered.append(sum(aspect.weight for aspect, count in zip(aspects, seen, strict=True) if count))
    return gained[1:], covered[1:]


def _aspects_of(aspects: Sequence[Aspect]) -> dict[str, list[int]]:
    covering: dict[str, list[int]] = {}
    for index, aspect in enumerate(aspects):
        for document in aspect.gold_ids:
            covering.setdefault(document, []).append(index)
    return covering


def _gain(hit: Sequence[int], aspects: Sequence[Aspect], seen: Sequence[int]) -> float:
    return sum(aspects[index].weight * (1 - ALPHA) ** seen[index] for index in hit)
