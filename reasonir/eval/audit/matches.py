"""The pairs behind the counts of a contamination report: which row shares what with which flagged text.

Invariant: every flagged text has at least one pair. Where no single row reaches the threshold, but several do together,
the row that shares most makes the pair. Holds the n-grams of flagged texts only.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from reasonir.eval.audit.training_texts import ROW_SIDES, RowBatch, RowText
from reasonir.text.ngrams import NO_WORDS
from reasonir.text.words import words_of_prose

SNIPPET_CHARACTERS = 160
Place = tuple[str, str, str]
"""Task, side and id of a text of the evaluation."""


@dataclass(frozen=True, slots=True)
class Overlaps:
    """The flagged texts that share an n-gram with one text of a row, F of them.

    numbers: (F,), which flagged texts. shares: (F,), the share of each one's n-grams. places: (F,), number of words
    before the first shared n-gram in the row's text.
    """

    numbers: np.ndarray
    shares: np.ndarray
    places: np.ndarray


@dataclass(slots=True)
class Flagged:
    """The flagged texts, one entry a text in the lists, and after `index` their n-grams for looking up.

    shares: of a text's n-grams in all rows together. seeds, exact: the texts' numbers by document id and by hash.
    hashes: of whole texts. counts: n-grams of each text. keys: all n-grams, sorted; the texts that hold key k are
    owners[starts[k]:starts[k + 1]], as often as `weights` says.
    """

    places: list[Place] = field(default_factory=list)
    snippets: list[str] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    seeds: dict[str, list[int]] = field(default_factory=dict)
    exact: dict[int, list[int]] = field(default_factory=dict)
    hashes: list[int] = field(default_factory=list)
    parts: list[np.ndarray] = field(default_factory=list)
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    keys: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    starts: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    owners: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    weights: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))

    def add(self, place: Place, text: str, ngrams: np.ndarray, exact: int, share: float, *, is_seed: bool) -> None:
        """Take a text.

        Args:
            place: Task, side and id.
            text: For the snippet.
            ngrams: Hashes of its n-grams.
            exact: Hash of the whole text.
            share: Share of its n-grams in all rows together.
            is_seed: Whether a row names the document.
        """
        number = len(self.places)
        self.places.append(place)
        # Cut twice: joining white space shortens a text, and a whole page need not be split for 160 characters.
        self.snippets.append(" ".join(text[: 2 * SNIPPET_CHARACTERS].split())[:SNIPPET_CHARACTERS])
        self.shares.append(share)
        self.hashes.append(exact)
        if is_seed:
            self.seeds.setdefault(place[2], []).append(number)
        if exact != NO_WORDS:
            self.exact.setdefault(exact, []).append(number)
        # A view would keep the n-grams of its whole batch in memory.
        self.parts.append(ngrams.copy())

    def index(self) -> None:
        """Sort the n-grams for looking up."""
        self.counts = np.array([len(part) for part in self.parts], np.int64)
        if not self.counts.sum():
            return
        ngrams = np.concatenate(self.parts)
        self.parts.clear()
        owners = np.repeat(np.arange(len(self.counts), dtype=np.int32), self.counts)
        # lexsort's last key counts first: by n-gram, then by text.
        order = np.lexsort((owners, ngrams))
        ngrams, owners = ngrams[order], owners[order]
        new_key = np.r_[True, ngrams[1:] != ngrams[:-1]]
        new_pair = np.flatnonzero(new_key | np.r_[True, owners[1:] != owners[:-1]])
        self.owners = owners[new_pair]
        # An n-gram that a text repeats counts as often as it stands there, as in the shares of `flag_texts`.
        self.weights = np.diff(np.r_[new_pair, len(ngrams)]).astype(np.int32)
        self.keys = ngrams[new_key]
        self.starts = np.r_[np.flatnonzero(new_key[new_pair]), len(new_pair)]

    def overlaps(self, ngrams: np.ndarray) -> Overlaps | None:
        """Return what one text of a row shares with the flagged texts; None where it shares nothing."""
        if not len(self.keys) or not len(ngrams):
            return None
        # searchsorted answers len(keys) for an n-gram above all keys.
        found = np.minimum(np.searchsorted(self.keys, ngrams), len(self.keys) - 1)
        places = np.flatnonzero(self.keys[found] == ngrams)
        keys, first = np.unique(found[places], return_index=True)
        if not len(keys):
            return None
        # Backwards through the row's text: of several assignments to one index numpy keeps the last, which is then the
        # first place.
        backwards = np.argsort(-first)
        keys, places = keys[backwards], places[first[backwards]]
        lengths = self.starts[keys + 1] - self.starts[keys]
        ends = np.cumsum(lengths)
        # One range starts[k] to starts[k + 1] after another, without a Python loop over keys.
        postings = np.arange(ends[-1]) + np.repeat(self.starts[keys] - ends + lengths, lengths)
        owners = self.owners[postings]
        shared = np.bincount(owners, weights=self.weights[postings], minlength=len(self.counts))
        numbers = np.flatnonzero(shared)
        earliest = np.zeros(len(self.counts), np.int64)
        earliest[owners] = np.repeat(places, lengths)
        return Overlaps(numbers, shared[numbers] / self.counts[numbers], earliest[numbers])


@dataclass(frozen=True, slots=True)
class Pair:
    """A text of a row and a flagged text.

    kind: exact, ngram or id. overlap: share of the flagged text's n-grams; None for a pair by id. place: number of
    words before the first shared n-gram in the row's text.
    """

    text: RowText
    number: int
    kind: str
    overlap: float | None
    place: int = 0


class Matches:
    """The pairs of texts of rows and flagged texts.

    left_out: pairs beyond `per_text`, which were counted but not made.
    """

    def __init__(self, flagged: Flagged, ngram: int, threshold: float, per_text: int) -> None:
        """Look for pairs of some flagged texts.

        Args:
            flagged: The texts of the evaluation, indexed.
            ngram: Words of an n-gram.
            threshold: Share of a flagged text's n-grams from which a row's text makes a pair with it.
            per_text: Most pairs of a flagged text and a side of the rows.
        """
        self._flagged, self._ngram, self._threshold, self._per_text = flagged, ngram, threshold, per_text
        size = len(flagged.places)
        # Pairs so far, (row sides and ids, flagged texts), those beyond `per_text` included.
        self._pairs = np.zeros((len(ROW_SIDES) + 1, size), np.int64)
        # Of each flagged text the closest pair below the threshold, and its share.
        self._closest: dict[int, Pair] = {}
        self._best = np.zeros(size)
        self.left_out = 0

    def find(self, batches: Iterable[RowBatch]) -> Iterator[dict[str, Any]]:
        """Yield a row for every pair that is equal, shares `threshold` of the evaluation's text, or is named by id."""
        for batch in batches:
            for pair in chain(_equal_and_named(self._flagged, batch), self._overlapping(batch)):
                side = len(ROW_SIDES) if pair.kind == "id" else pair.text.side
                self._pairs[side, pair.number] += 1
                if self._pairs[side, pair.number] <= self._per_text:
                    yield _match(self._flagged, pair, self._ngram)
        # Several rows together can share enough of a text where no single row does: the closest one stands for them.
        for number, pair in sorted(self._closest.items()):
            alone = self._pairs[: len(ROW_SIDES), number].any()
            if not alone and self._flagged.shares[number] >= self._threshold:
                yield _match(self._flagged, pair, self._ngram)
        self.left_out = int(np.maximum(self._pairs - self._per_text, 0).sum())

    def _overlapping(self, batch: RowBatch) -> Iterator[Pair]:
        """Yield pairs of texts that are not equal but share enough; remember the closest of the others."""
        hashes = np.array(self._flagged.hashes, np.uint64)
        for text, exact, ngrams in zip(batch.texts, batch.hashed.exact, batch.hashed.of_text(), strict=True):
            overlaps = self._flagged.overlaps(ngrams)
            if overlaps is None:
                continue
            # Equal texts are pairs of `_equal_and_named` already.
            other = hashes[overlaps.numbers] != exact
            enough = other & (overlaps.shares >= self._threshold)
            # A common phrase leads to thousands of texts: pairs beyond `per_text` are counted without being made.
            full = self._pairs[text.side, overlaps.numbers] >= self._per_text
            self._pairs[text.side, overlaps.numbers[enough & full]] += 1
            better = other & ~enough & (overlaps.shares > self._best[overlaps.numbers])
            for i in np.flatnonzero(enough & ~full | better):
                number, share = int(overlaps.numbers[i]), float(overlaps.shares[i])
                pair = Pair(text, number, "ngram", share, int(overlaps.places[i]))
                if enough[i]:
                    yield pair
                else:
                    self._best[number], self._closest[number] = share, pair


def _equal_and_named(flagged: Flagged, batch: RowBatch) -> Iterator[Pair]:
    for text, exact in zip(batch.texts, batch.hashed.exact.tolist(), strict=True):
        for number in flagged.exact.get(exact, []):
            yield Pair(text, number, "exact", 1.0)
    for named in batch.named:
        for number in flagged.seeds.get(named.id, []):
            if named.fits(flagged.hashes[number]):
                # The seed of a row is its positive. The pair stands for the id, so that no text is quoted.
                text = RowText(named.row, named.where, ROW_SIDES.index("positive"), "")
                yield Pair(text, number, "id", None)


def _match(flagged: Flagged, pair: Pair, ngram: int) -> dict[str, Any]:
    task, side, identifier = flagged.places[pair.number]
    shared = words_of_prose(pair.text.text)[pair.place : pair.place + ngram] if pair.kind == "ngram" else []
    return {
        "row": pair.text.row,
        "where": pair.text.where,
        "row_side": ROW_SIDES[pair.text.side],
        "task": task,
        "evaluation_side": side,
        "evaluation_id": identifier,
        "kind": pair.kind,
        "overlap": pair.overlap,
        "overlap_with_all_rows": 1.0 if pair.kind == "exact" else flagged.shares[pair.number],
        "shared": " ".join(shared),
        "snippet": flagged.snippets[pair.number],
    }
