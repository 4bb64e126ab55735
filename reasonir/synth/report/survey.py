"""One pass over the files of a finished run: counts of all lines, and samples of them that the run's seed draws.

Memory holds counts and the samples, however many rows there are.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from reasonir.data.training_rows import query_text
from reasonir.llm.prompts import draw_number
from reasonir.synth.config import DATA_FILE, REJECTIONS_FILE
from reasonir.text.language import ENGLISH
from reasonir.text.words import words_and_operators

SIDES = ("query", "positive", "negative")
# Rows that are ranked, embedded and looked at for risks. A share of 300 is known within 6 points (95 %).
SAMPLED_ROWS = 300
# Queries whose openings and near duplicates are counted: half a minute where each has 2,000 words.
SAMPLED_QUERIES = 10_000
# Positives that stand in for the corpus of a recipe that has none.
SAMPLED_POSITIVES = 2_000
Value = TypeVar("Value")


class Drawn(Generic[Value]):
    """A uniform sample of a stream: the values with the smallest draws, the same for the same seed and names."""

    def __init__(self, size: int, seed: int, purpose: str) -> None:
        """Start empty.

        Args:
            size: Values that are kept.
            seed: The run's.
            purpose: Tells samples of one stream apart.
        """
        self._size, self._seed, self._purpose = size, seed, purpose
        self._kept: list[tuple[int, Value]] = []

    def add(self, name: str, value: Value) -> None:
        """Offer a value; `name` fixes its draw."""
        self._kept.append((draw_number(self._seed, self._purpose, name), value))
        # Sorting at twice the size bounds memory and time.
        if len(self._kept) >= 2 * self._size:
            self._trim()

    def values(self) -> list[Value]:
        """Return the sample, in the order of the draws."""
        self._trim()
        return [value for _, value in self._kept]

    def _trim(self) -> None:
        # By the draw alone: of equal draws the earlier value stays in front.
        self._kept.sort(key=lambda entry: entry[0])
        del self._kept[self._size :]


@dataclass(slots=True)
class Reason:
    """Rejected answers of one reason: those that another attempt followed, those that ended an item, one of both."""

    again: int
    final: int
    example: Drawn[dict[str, Any]]


@dataclass(slots=True)
class Survey:
    """What one pass found. Lengths in words; overlaps as shares of a query's content words, in %.

    positives: empty where the corpus gives the documents to search in.
    """

    sample: Drawn[dict[str, Any]]
    queries: Drawn[str]
    positives: Drawn[str]
    rows: int = 0
    lengths: dict[str, Counter[int]] = field(default_factory=lambda: {side: Counter() for side in SIDES})
    overlaps: dict[str, Counter[int]] = field(default_factory=lambda: {side: Counter() for side in SIDES[1:]})
    ratios: Counter[int] = field(default_factory=Counter)
    """Words obtained per word drawn (varied length), in %."""
    reasons: dict[str, Reason] = field(default_factory=dict)


def survey(folder: Path, seed: int, *, ids: bool) -> Survey:
    """Read the rows and the rejections once.

    Args:
        folder: The run's.
        seed: Draws the samples.
        ids: Whether positives are known to be ids of a corpus; rows of hq and eq tell by themselves.
    """
    found = Survey(
        Drawn(SAMPLED_ROWS, seed, "sample"),
        Drawn(SAMPLED_QUERIES, seed, "query"),
        Drawn(SAMPLED_POSITIVES, seed, "positive"),
    )
    for row in _lines(folder / DATA_FILE):
        _count_row(found, row, ids or positive_is_id(row))
    for line in _lines(folder / REJECTIONS_FILE):
        reason = found.reasons.setdefault(line["reason"], Reason(0, 0, Drawn(1, seed, "rejection")))
        reason.final += bool(line["final"])
        reason.again += not line["final"]
        reason.example.add(f"{line['id']}:{line['attempt']}", line)
    return found


def _count_row(found: Survey, row: dict[str, Any], ids: bool) -> None:
    found.rows += 1
    query = query_text(row)
    found.lengths["query"][len(query.split())] += 1
    # An id has no words of its document.
    for side, entries in (("positive", [] if ids else row.get("pos", [])), ("negative", row.get("neg", []))):
        for text in map(entry_text, entries):
            found.lengths[side][len(text.split())] += 1
            if (share := word_overlap(query, text)) is not None:
                found.overlaps[side][share] += 1
    for name in ("query_words", "positive_words"):
        if name in row["provenance"]:
            drawn, obtained = row["provenance"][name]
            found.ratios[round(100 * obtained / drawn)] += 1
    found.sample.add(row["id"], row)
    found.queries.add(row["id"], query)
    if not ids and row.get("pos"):
        found.positives.add(row["id"], entry_text(row["pos"][0]))


def positive_is_id(row: Mapping[str, Any]) -> bool:
    """Return whether a row of hq or eq names its document by id, also after a further recipe."""
    origin = row["provenance"]
    while isinstance(origin.get("from"), dict):
        origin = origin["from"]
    document = origin.get("document")
    return document is not None and any(entry_text(entry) == document for entry in row.get("pos", []))


def quantile(counts: Counter[int], share: float) -> int:
    """Return the smallest value that at least `share` of the counted values do not exceed."""
    passed, total = 0, counts.total()
    for value in sorted(counts):
        passed += counts[value]
        if passed >= share * total:
            return value
    raise AssertionError("nothing was counted")


def content_words(query: str) -> set[str]:
    """Return a query's words that are no function words."""
    return set(words_and_operators(query)) - ENGLISH


def word_overlap(query: str, text: str) -> int | None:
    """Return the share of a query's content words that a text holds, in %; None for a query of function words alone."""
    content = content_words(query)
    return round(100 * len(content & set(words_and_operators(text))) / len(content)) if content else None


def entry_text(entry: Any) -> str:
    """Return the text of a positive or negative, or the id that stands for it."""
    return entry if isinstance(entry, str) else str(entry[1])


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        with path.open("rb") as stream:
            yield from map(json.loads, stream)
