"""What the queries of a set are like as a whole: how they begin, which say nearly the same, what the average one is.

Letters: Q queries, D dimension of their vectors.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reasonir.retrieval.bm25 import BM25Index
from reasonir.text.near_duplicates import DuplicateTexts

OPENING_WORDS = 3
# Half of the word triples: less than the gates' 0.8, above which a query is not accepted at all.
NEAR_DUPLICATE = 0.5


@dataclass(frozen=True, slots=True)
class Cluster:
    """Queries that share half of their word triples with the first of them."""

    size: int
    first: str
    last: str


def opening(query: str) -> str:
    """Return a query's first three words, as it writes them."""
    return " ".join(query.split()[:OPENING_WORDS])


def count_openings(queries: Sequence[str]) -> Counter[str]:
    """Return how many queries begin with the same words; letter case does not count, the first spelling is shown."""
    spelling: dict[str, str] = {}
    return Counter(spelling.setdefault(opening(query).casefold(), opening(query)) for query in queries)


def find_clusters(queries: Sequence[str]) -> list[Cluster]:
    """Return the clusters of two or more near duplicates, the largest first.

    Hashing finds a pair that shares half of its triples in two of three cases, and closer ones nearly always.
    """
    known, leaders = DuplicateTexts(NEAR_DUPLICATE), []
    followers: dict[int, list[str]] = {}
    for query in queries:
        match = known.match_or_add(query)
        if match is None:
            leaders.append(query)
        else:
            followers.setdefault(match[0], []).append(query)
    clusters = [Cluster(1 + len(found), leaders[number], found[-1]) for number, found in followers.items()]
    return sorted(clusters, key=lambda cluster: -cluster.size)


def word_vectors(texts: Sequence[str]) -> np.ndarray:
    """Return BM25's weights of the texts' words (a form of TF-IDF) as unit rows (Q, D), D words; zeros for no word."""
    index = BM25Index([str(number) for number in range(len(texts))], texts)
    return _unit(index.weights.toarray().T)


def likeness_to_average(vectors_QD: np.ndarray) -> np.ndarray:
    """Return the cosine of each vector with the average of all (Q)."""
    if not len(vectors_QD):
        return np.zeros(0)
    return np.asarray(vectors_QD @ _unit(vectors_QD.mean(axis=0, keepdims=True))[0])


def likeness_to_nearest(vectors_QD: np.ndarray) -> np.ndarray:
    """Return the cosine of each vector with the nearest of the others (Q); 0 for a single one."""
    if not len(vectors_QD):
        return np.zeros(0)
    cosines_QQ = vectors_QD @ vectors_QD.T
    np.fill_diagonal(cosines_QQ, 0.0)
    return np.asarray(cosines_QQ.max(axis=1))


def _unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9))
