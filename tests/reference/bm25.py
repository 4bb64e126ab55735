"""Slow BM25 in float64 with plain loops, and an analyser of its own (Latin text only)."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache

from tests.reference import porter

# Short function words, as Lucene lists them, by kind.
ARTICLES_AND_PRONOUNS = "a an the it their there these they this that such"
VERBS = "are be is was will"
PREPOSITIONS = "as at by for in into of on to with"
OTHERS = "and but if no not or then"
STOP_WORDS = set(f"{ARTICLES_AND_PRONOUNS} {VERBS} {PREPOSITIONS} {OTHERS}".split())
JOINED = re.compile(
    r"[^\W_]+(?:(?:(?<=[^\W\d])[.:'’·](?=[^\W\d])|(?<=\d)[.,;'’](?=\d)|_+)[^\W_]+)*"  # UAX #29 on Latin text
)
SIMPLE = re.compile(r"\w+(?:['’.]\w+)*")  # not Lucene's: no comma joins digits, any dot joins

stem = cache(porter.stem)


def split(text: str, words: re.Pattern[str]) -> list[str]:
    """Return the terms: words, possessives and stop words dropped, lower-cased, stemmed."""
    lowered = (re.sub(r"['’][sS]$", "", word).lower() for word in words.findall(text))
    return [stem(word) for word in lowered if word not in STOP_WORDS]


@cache
def analyse(text: str) -> list[str]:
    """Analyse as Lucene does, on Latin text."""
    return split(text, JOINED)


def analyse_simply(text: str) -> list[str]:
    """Analyse as the figures in the data folder's README were made."""
    return split(text, SIMPLE)


def rank(
    documents: Sequence[str],
    queries: Sequence[str],
    variant: str,
    k1: float = 0.9,
    b: float = 0.4,
) -> list[dict[int, float]]:
    """Return each query's documents with a positive score: {position: score}."""
    bags = [Counter(analyse(text)) for text in documents]
    average = sum(sum(bag.values()) for bag in bags) / len(bags)
    frequency = Counter(term for bag in bags for term in bag)
    idf = {term: math.log(1 + (len(bags) - df + 0.5) / (df + 0.5)) for term, df in frequency.items()}

    def weigh(bag: Counter[str]) -> dict[str, float]:
        norm = k1 * (1 - b + b * sum(bag.values()) / average)
        return {term: idf[term] * count / (count + norm) for term, count in bag.items()}

    postings: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for position, bag in enumerate(bags):
        for term, weight in weigh(bag).items():
            postings[term].append((position, weight))
    ranked = []
    for query in queries:
        counts = Counter(term for term in analyse(query) if term in postings)
        factors = dict(counts) if variant == "bm25" else weigh(counts)
        scores: dict[int, float] = defaultdict(float)
        for term, factor in factors.items():
            for position, weight in postings[term]:
                scores[position] += factor * weight
        ranked.append(dict(scores))
    return ranked
