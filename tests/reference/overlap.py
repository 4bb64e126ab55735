"""Shared n-grams of training texts and evaluation texts, with Python sets."""

import re
import unicodedata
from collections.abc import Iterable


def words_of(text: str) -> list[str]:
    text = unicodedata.normalize("NFKC", text).casefold()
    text = "".join(f" {c} " if "\u3040" <= c <= "\u30ff" or "\u3400" <= c <= "\u9fff" else c for c in text)
    return re.sub(r"[\W_]+", " ", re.sub("['\u2019\u00ad]", "", text)).split()


def ngrams_of(text: str, n: int) -> list[tuple[str, ...]]:
    words = words_of(text)
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def shared(text: str, others: Iterable[str], n: int) -> tuple[float, bool]:
    """Return the share of a text's n-grams that stand in any of the others, and whether it equals one."""
    others = list(others)
    found = {gram for other in others for gram in ngrams_of(other, n)}
    grams = ngrams_of(text, n)
    equal = bool(words_of(text)) and any(words_of(text) == words_of(other) for other in others)
    return sum(gram in found for gram in grams) / max(len(grams), 1), equal
