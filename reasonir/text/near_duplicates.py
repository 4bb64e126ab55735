"""Texts that say the same twice: word shingles of a pair, and an index of millions of texts in bounded memory.

Invariant: nothing here depends on the process (no built-in `hash`), so the same texts in the same order give the same
verdicts. Case, punctuation and white space do not count; operators of formulas do. Imports neither torch nor numpy.
"""

import random
from array import array
from collections.abc import Iterable
from operator import eq
from zlib import crc32

from reasonir.text.words import one_spelling, words_and_operators

# Two texts of one subject share many shorter runs by chance; a changed word breaks a longer run.
SHINGLE_WORDS = 3
# Shingles that a text must have for lying within a longer one to count: a short name occurs in many texts.
SMALLEST_CONTAINED = 8


def shingles(text: str) -> set[tuple[str, ...]]:
    """Return the runs of three words of a text; all its words where it has fewer."""
    parts = words_and_operators(text)
    if len(parts) < SHINGLE_WORDS:
        return {tuple(parts)} if parts else set()
    return set(zip(parts, parts[1:], parts[2:], strict=False))


def overlap(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    """Return how much two texts share, 0 to 1: Jaccard's index, or how much of the smaller lies in the larger.

    The second counts only where the smaller has `SMALLEST_CONTAINED` shingles or more.
    """
    common = len(a & b)
    smaller = min(len(a), len(b))
    if not common:
        return 0.0
    return common / (smaller if smaller >= SMALLEST_CONTAINED else len(a) + len(b) - common)


def near_duplicate(a: str, b: str, threshold: float = 0.8) -> bool:
    """Return whether two texts share enough of their shingles, or one lies within the other.

    Two texts without any word are duplicates where they are equal but for case and white space.

    Args:
        a: A text.
        b: Another one; the order does not matter.
        threshold: The share of shingles that is enough, as `overlap` counts it.
    """
    left, right = shingles(a), shingles(b)
    if not left or not right:
        return one_spelling(a) == one_spelling(b)
    return overlap(left, right) >= threshold


BINS = 64
# 64 bytes in 16 bands of 4: a pair of similarity 0.8 shares a band in 99.98 % of cases, one of 0.1 in 0.16 %.
BANDS, BAND_BYTES = 16, 4
# Of a shingle's 64-bit hash the upper 6 bits choose the bin, the 26 bits below them are the value to minimise.
BIN_SHIFT, VALUE_SHIFT, VALUE_MASK = 58, 32, (1 << 26) - 1
WORD_MASK = (1 << 64) - 1
EMPTY = 1 << 26
FACTORS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)
# Texts that one value of a band leads to at most: a shared opening would otherwise lead to all.
HOLDERS_PER_BAND = 16
# Open addressing: a fuller table would make lookups long.
FULLEST = 2 / 3
SMALLEST_TABLE = 1 << 10
# Two unrelated signatures agree in one of 256 bytes; `_similarity` takes this share out.
CHANCE = 1 / 256


def _donor_order() -> list[list[int]]:
    orders = []
    for number in range(BINS):
        order = [other for other in range(BINS) if other != number]
        random.Random(number).shuffle(order)
        orders.append(order)
    return orders


DONORS = _donor_order()


def signature(text: str) -> bytes:
    """Return 64 bytes of which two texts share as large a part as of their shingles (Jaccard's index), up to chance.

    One-permutation MinHash: a shingle falls into one of 64 bins, the smallest of each bin stays (its low 8 bits), an
    empty bin borrows from the first filled one in a fixed order of its own. The standard error is
    sqrt(J (1 - J) / 64), 0.05 at J = 0.8. Sources: Li, Owen, Zhang 2012; Shrivastava 2017 (densification).
    """
    codes = [crc32(word.encode("utf-8", "surrogatepass")) for word in words_and_operators(text) or [one_spelling(text)]]
    # A text of one or two words has a shingle too.
    codes += [0] * (SHINGLE_WORDS - len(codes))
    first, second, third = FACTORS
    minima = [EMPTY] * BINS
    for a, b, c in zip(codes, codes[1:], codes[2:], strict=False):
        mixed = (a * first + b * second + c * third) & WORD_MASK
        value = mixed >> VALUE_SHIFT & VALUE_MASK
        if value < minima[mixed >> BIN_SHIFT]:
            minima[mixed >> BIN_SHIFT] = value
    if EMPTY in minima:
        minima = [
            value if value != EMPTY else minima[next(d for d in DONORS[number] if minima[d] != EMPTY)]
            for number, value in enumerate(minima)
        ]
    return bytes(value & 255 for value in minima)


class DuplicateTexts:
    """Texts seen so far, as signatures and 16 hash tables: exact and near duplicates in one pass.

    Memory for n texts, whatever their length: 64 n bytes of signatures + 16 * 4 bytes * slots, slots = the power of
    two from 1.5 n up; 1,000,000 texts are 61 + 128 = 189 MiB. A text joins the index only where nothing matches it.
    """

    def __init__(self, threshold: float = 0.8) -> None:
        """Start empty; `threshold` is the share of equal signature bytes, freed from chance, from which texts match."""
        self.threshold = threshold
        self._signatures = bytearray()
        self._count = 0
        self._bits = SMALLEST_TABLE.bit_length() - 1
        self._tables = self._empty_tables()

    def __len__(self) -> int:
        return self._count

    def seen(self, text: str) -> bool:
        """Say whether a text like this one came before; if not, remember it."""
        return self.match_or_add(text) is not None

    def knows(self, text: str) -> bool:
        """Say whether a text like this one came before, without remembering it."""
        return self._match(signature(text))[0] is not None

    def match_or_add(self, text: str) -> tuple[int, float] | None:
        """Return (number of the most similar text added before, similarity), the first one of equals; else add it."""
        mine = signature(text)
        match, free = self._match(mine)
        if match is not None:
            return match
        self._signatures += mine
        self._count += 1
        if self._count > FULLEST * (1 << self._bits):
            # The tables hold numbers only, so a larger one is filled again from the signatures.
            self._bits += 1
            self._tables = self._empty_tables()
            self._insert(range(self._count))
        else:
            for table, slot in zip(self._tables, free, strict=True):
                if slot is not None:
                    table[slot] = self._count  # the number plus 1: 0 is an empty slot
        return None

    def _match(self, mine: bytes) -> tuple[tuple[int, float] | None, list[int | None]]:
        """Return what `match_or_add` does, and the slot of each table where the text would go."""
        holders, free = [], []
        for band in range(BANDS):
            found, slot = self._look_up(band, mine[band * BAND_BYTES : (band + 1) * BAND_BYTES])
            holders += found
            free.append(slot)
        matches = [(self._similarity(mine, number), -number) for number in set(holders)]
        similarity, number = max(matches, default=(0.0, 0))
        return ((-number, similarity) if matches and similarity >= self.threshold else None), free

    def _empty_tables(self) -> list[array]:
        return [array("I", bytes(4 << self._bits)) for _ in range(BANDS)]

    def _similarity(self, mine: bytes, number: int) -> float:
        equal = sum(map(eq, mine, self._signatures[number * BINS : (number + 1) * BINS]))
        return (equal / BINS - CHANCE) / (1 - CHANCE)

    def _look_up(self, band: int, key: bytes) -> tuple[list[int], int | None]:
        """Return the texts whose band is `key`, and the slot where one more goes (None where there are enough)."""
        table, signatures, mask = self._tables[band], self._signatures, (1 << self._bits) - 1
        slot = (int.from_bytes(key, "little") * 0x9E3779B1 & 0xFFFFFFFF) >> (32 - self._bits)
        offset = band * BAND_BYTES
        found: list[int] = []
        while entry := table[slot]:
            start = (entry - 1) * BINS + offset
            if signatures[start : start + BAND_BYTES] == key:
                found.append(entry - 1)
                if len(found) == HOLDERS_PER_BAND:
                    return found, None
            slot = (slot + 1) & mask
        return found, slot

    def _insert(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            for band in range(BANDS):
                start = number * BINS + band * BAND_BYTES
                _, slot = self._look_up(band, bytes(self._signatures[start : start + BAND_BYTES]))
                if slot is not None:
                    self._tables[band][slot] = number + 1
