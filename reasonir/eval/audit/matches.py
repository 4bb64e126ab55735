"""Which row shares what with which flagged text of the evaluation: the pairs behind the counts.

Invariant: every flagged text has a pair at least; where no single row reaches the threshold (several do together),
that is the row that shares most. Holds the n-grams of flagged texts only.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from reasonir.eval.audit.config import ContaminationConfig
from reasonir.eval.audit.training_texts import ROW_SIDES, RowBatch, RowText
from reasonir.text.ngrams import NO_WORDS
from reasonir.text.words import words_of_prose

SNIPPET_CHARACTERS = 160
Place = tuple[str, str, str]
"""Task, side and id of a text of the evaluation."""


@dataclass(frozen=True, slots=True)
class Overlaps:
    """What a text shares with flagged ones. numbers: theirs; shares: of their n-grams; places: words before the first.

    All three (flagged texts that share an n-gram,).
    """

    numbers: np.ndarray
    shares: np.ndarray
    places: np.ndarray


@dataclass(slots=True)
class Flagged:
    """The flagged texts. After `index`: keys, sorted n-grams; from starts[k] on, the owners of each and how often."""

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
        """Take a text; `share` is what all rows together share of it."""
        number = len(self.places)
        self.places.append(place)
        self.snippets.append(" ".join(text[: 2 * SNIPPET_CHARACTERS].split())[:SNIPPET_CHARACTERS])
        self.shares.append(share)
        self.hashes.append(exact)
        if is_seed:
            self.seeds.setdefault(place[2], []).append(number)
        if exact != NO_WORDS:
            self.exact.setdefault(exact, []).append(number)
        self.parts.append(ngrams.copy())  # a view would keep its whole batch

    def index(self) -> None:
        """Order the n-grams for looking up."""
        self.counts = np.array([len(part) for part in self.parts], np.int64)
        if not self.counts.sum():
            return
        ngrams = np.concatenate(self.parts)
        self.parts.clear()
        owners = np.repeat(np.arange(len(self.counts), dtype=np.int32), self.counts)
        order = np.lexsort((owners, ngrams))
        ngrams, owners = ngrams[order], owners[order]
        new_key = np.r_[True, ngrams[1:] != ngrams[:-1]]
        new_pair = np.flatnonzero(new_key | np.r_[True, owners[1:] != owners[:-1]])
        self.owners = owners[new_pair]
        self.weights = np.diff(np.r_[new_pair, len(ngrams)]).astype(np.int32)
        self.keys = ngrams[new_key]
        self.starts = np.r_[np.flatnonzero(new_key[new_pair]), len(new_pair)]

    def overlaps(self, ngrams: np.ndarray) -> Overlaps | None:
        """Return what one text of a row shares with the flagged texts; None for nothing."""
        if not len(self.keys) or not len(ngrams):
            return None
        found = np.minimum(np.searchsorted(self.keys, ngrams), len(self.keys) - 1)
        places = np.flatnonzero(self.keys[found] == ngrams)
        keys, first = np.unique(found[places], return_index=True)
        if not len(keys):
            return None
        backwards = np.argsort(-first)
        keys, places = keys[backwards], places[first[backwards]]
        lengths = self.starts[keys + 1] - self.starts[keys]
        ends = np.cumsum(lengths)
        postings = np.arange(ends[-1]) + np.repeat(self.starts[keys] - ends + lengths, lengths)
        owners = self.owners[postings]
        shared = np.bincount(owners, weights=self.weights[postings], minlength=len(self.counts))
        numbers = np.flatnonzero(shared)
        earliest = np.zeros(len(self.counts), np.int64)
        earliest[owners] = np.repeat(places, lengths)  # the last value of an owner stays: the first place
        return Overlaps(numbers, shared[numbers] / self.counts[numbers], earliest[numbers])


@dataclass(frozen=True, slots=True)
class Pair:
    """A text of a row and a flagged text. overlap: share of the latter's n-grams; place: of the first in the former."""

    text: RowText
    number: int
    kind: str
    overlap: float | None
    place: int = 0


@dataclass(slots=True)
class Tally:
    """Pairs so far. written: (row sides and ids, flagged texts). best, closest: of pairs below the threshold."""

    written: np.ndarray
    best: np.ndarray
    closest: dict[int, Pair]


def find_matches(
    flagged: Flagged, batches: Iterable[RowBatch], config: ContaminationConfig, left_out: dict[str, int]
) -> Iterator[dict[str, Any]]:
    """Yield a row for every pair that is equal, shares `threshold` of the evaluation's text, or is named by id.

    Args:
        left_out: its `matches` is set to the pairs beyond `matches_per_text`, which are not yielded.
    """
    size = len(flagged.places)
    tally = Tally(np.zeros((len(ROW_SIDES) + 1, size), np.int64), np.zeros(size), {})
    for batch in batches:
        for pair in chain(_equal_and_named(flagged, batch), _overlapping(flagged, batch, config, tally)):
            side = len(ROW_SIDES) if pair.kind == "id" else pair.text.side
            tally.written[side, pair.number] += 1
            if tally.written[side, pair.number] <= config.matches_per_text:
                yield _match(flagged, pair, config.ngram)
    for number, pair in sorted(tally.closest.items()):
        if not tally.written[: len(ROW_SIDES), number].any() and flagged.shares[number] >= config.threshold:
            yield _match(flagged, pair, config.ngram)
    left_out["matches"] = int(np.maximum(tally.written - config.matches_per_text, 0).sum())


def _equal_and_named(flagged: Flagged, batch: RowBatch) -> Iterator[Pair]:
    for text, exact in zip(batch.texts, batch.hashed.exact.tolist(), strict=True):
        for number in flagged.exact.get(exact, []):
            yield Pair(text, number, "exact", 1.0)
    for named in batch.named:
        for number in flagged.seeds.get(named.id, []):
            if named.fits(flagged.hashes[number]):
                text = RowText(named.row, named.where, ROW_SIDES.index("positive"), "")
                yield Pair(text, number, "id", None)


def _overlapping(flagged: Flagged, batch: RowBatch, config: ContaminationConfig, tally: Tally) -> Iterator[Pair]:
    """Yield pairs of texts that are not equal but share enough, and remember the closest of the others.

    A common phrase leads to thousands of texts, so that pairs beyond the quota are counted without being made.
    """
    hashes = np.array(flagged.hashes, np.uint64)
    for text, exact, ngrams in zip(batch.texts, batch.hashed.exact, batch.hashed.of_text(), strict=True):
        overlaps = flagged.overlaps(ngrams)
        if overlaps is None:
            continue
        other = hashes[overlaps.numbers] != exact
        enough = other & (overlaps.shares >= config.threshold)
        full = tally.written[text.side, overlaps.numbers] >= config.matches_per_text
        tally.written[text.side, overlaps.numbers[enough & full]] += 1
        better = other & ~enough & (overlaps.shares > tally.best[overlaps.numbers])
        for i in np.flatnonzero(enough & ~full | better):
            number, share = int(overlaps.numbers[i]), float(overlaps.shares[i])
            pair = Pair(text, number, "ngram", share, int(overlaps.places[i]))
            if enough[i]:
                yield pair
            else:
                tally.best[number], tally.closest[number] = share, pair


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
