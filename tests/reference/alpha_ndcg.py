"""Slow alpha-nDCG and aspect recall: plain loops that count again at every rank. Clarke et al. 2008."""

import math
from collections.abc import Mapping, Sequence

ALPHA = 0.5


def gain(ranking: Sequence[str], rank: int, aspects: Mapping[str, tuple[float, Sequence[str]]]) -> float:
    """Return what the document at `rank` (from 1) gains behind those before it. aspects: {id: (weight, documents)}."""
    total = 0.0
    for weight, documents in aspects.values():
        if ranking[rank - 1] in documents:
            before = sum(1 for document in ranking[: rank - 1] if document in documents)
            total += weight * (1 - ALPHA) ** before
    return total


def alpha_dcg(ranking: Sequence[str], aspects: Mapping[str, tuple[float, Sequence[str]]], cut: int) -> float:
    """Return the discounted sum of gains of the first `cut` documents."""
    ranks = range(1, min(cut, len(ranking)) + 1)
    return sum(gain(ranking, rank, aspects) / math.log2(rank + 1) for rank in ranks)


def alpha_ndcg(ranking: Sequence[str], aspects: Mapping[str, tuple[float, Sequence[str]]], cut: int) -> float:
    """Return alpha-DCG over that of a ranking that takes the document of the largest gain each time."""
    pool = sorted({document for _, documents in aspects.values() for document in documents})
    ideal: list[str] = []
    while pool:
        best = max(pool, key=lambda document: gain([*ideal, document], len(ideal) + 1, aspects))
        pool.remove(best)
        ideal.append(best)
    return alpha_dcg(ranking, aspects, cut) / alpha_dcg(ideal, aspects, cut)


def aspect_recall(ranking: Sequence[str], aspects: Mapping[str, tuple[float, Sequence[str]]], cut: int) -> float:
    """Return the weight of the aspects that the first `cut` documents cover, as a fraction of all."""
    covered = sum(weight for weight, documents in aspects.values() if set(documents) & set(ranking[:cut]))
    return covered / sum(weight for weight, _ in aspects.values())
