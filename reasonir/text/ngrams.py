"""Texts as numbers: hashes of whole texts and of their word n-grams, and sorted sets of hashes that carry marks.

Invariant: case, white space and punctuation do not count. Equal word sequences have equal hashes; two different ones
have the same hash with a probability of about 2^-64. Reads and writes nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from reasonir.text.digests import text_digest
from reasonir.text.words import words_of_prose

# 4 million characters give 6 MB of n-grams at once, whatever the number of texts.
BATCH_CHARACTERS = 1 << 22
CACHED_WORDS = 1 << 20
# The hash of a text without any word; it equals no other text's.
NO_WORDS = 0


class WordDigests(dict[str, int]):
    """Remembers the hashes of words; emptied where it grows too large."""

    def __missing__(self, word: str) -> int:
        if len(self) >= CACHED_WORDS:
            self.clear()
        self[word] = value = text_digest(word)
        return value


@dataclass(frozen=True, slots=True)
class HashedTexts:
    """Several texts. exact: uint64 (texts,). counts: n-grams of each. ngrams: uint64, theirs one after another."""

    exact: np.ndarray
    counts: np.ndarray
    ngrams: np.ndarray

    @property
    def owners(self) -> np.ndarray:
        """Return the number of the text that each n-gram belongs to."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def of_text(self) -> list[np.ndarray]:
        """Return the n-grams of each text."""
        return np.split(self.ngrams, np.cumsum(self.counts)[:-1])


class TextHasher:
    """Hashes texts and their runs of `ngram` words; a shorter text has none."""

    def __init__(self, ngram: int) -> None:
        self.ngram = ngram
        self._digests = WordDigests()
        # A run's hash is the sum of its words' hashes, each times an odd factor of its place, modulo 2^64.
        self._factors = np.random.default_rng(0).integers(0, 1 << 63, size=ngram, dtype=np.uint64) * 2 + 1

    def hash(self, texts: Iterable[str]) -> HashedTexts:
        """Return the hashes of some texts."""
        exact, lengths, numbers = [], [], []
        digests = self._digests
        for text in texts:
            found = words_of_prose(text)
            exact.append(text_digest(" ".join(found)) if found else NO_WORDS)
            lengths.append(len(found))
            numbers.append(np.fromiter(map(digests.__getitem__, found), np.uint64, len(found)))
        tokens = np.concatenate(numbers) if numbers else np.zeros(0, np.uint64)
        length = np.array(lengths, dtype=np.int64)
        return HashedTexts(np.array(exact, dtype=np.uint64), self._counts(length), self._runs(tokens, length))

    def _counts(self, lengths: np.ndarray) -> np.ndarray:
        return np.maximum(lengths - self.ngram + 1, 0)

    def _runs(self, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        windows = len(tokens) - self.ngram + 1
        if windows <= 0:
            return np.zeros(0, np.uint64)
        sums = np.zeros(windows, np.uint64)
        for place, factor in enumerate(self._factors):
            sums += tokens[place : place + windows] * factor
        # How many words of its text stand from each word on: a run that reaches into the next text is left out.
        left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(tokens))
        return sums[left[:windows] >= self.ngram]


def in_batches(texts: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """Yield (number of the first, texts) of some million characters each."""
    start = size = 0
    for number, text in enumerate(texts):
        size += len(text)
        if size >= BATCH_CHARACTERS:
            yield start, texts[start : number + 1]
            start, size = number + 1, 0
    if start < len(texts):
        yield start, texts[start:]


class MarkedHashes:
    """A set of hashes, sorted, each with a byte of marks: 9 bytes a hash; up to 24 while it is built."""

    def __init__(self, parts: list[np.ndarray]) -> None:
        """Join the parts, which are emptied on the way."""
        keys = np.concatenate([*parts, np.zeros(0, np.uint64)])
        parts.clear()
        # In place, where np.unique would sort a copy.
        keys.sort()
        first = np.ones(len(keys), dtype=bool)
        np.not_equal(keys[1:], keys[:-1], out=first[1:])
        self.keys = keys[first]
        self.marks = np.zeros(len(self.keys), np.uint8)

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the place of each hash in the set, and whether it is in it."""
        if not len(self.keys):
            return np.zeros(len(hashes), np.int64), np.zeros(len(hashes), dtype=bool)
        places = np.searchsorted(self.keys, hashes)
        places[places == len(self.keys)] = 0
        return places, self.keys[places] == hashes

    def mark(self, hashes: np.ndarray, bit: int) -> None:
        """Set a mark on those hashes that are in the set."""
        places, known = self.find(np.unique(hashes))  # neighbours in memory are looked up one after another
        self.marks[places[known]] |= bit

    def marks_of(self, hashes: np.ndarray) -> np.ndarray:
        """Return the marks of hashes, 0 of those that the set lacks."""
        places, known = self.find(hashes)
        marks = np.zeros(len(hashes), np.uint8)
        marks[known] = self.marks[places[known]]
        return marks
