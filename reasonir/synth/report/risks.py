"""Signs that a row may be worthless: they say which rows to read first, and are no verdict."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from reasonir.synth.report.likeness import opening
from reasonir.synth.report.survey import content_words
from reasonir.text.words import one_spelling

# A query that holds so much of its document's words is found by them alone; in %.
HIGH_OVERLAP = 80
# A long document holds any two or three words.
FEWEST_CONTENT_WORDS = 5
FEWEST_WORDS = 5
# Times the median, and its inverse. Lengths of varied-length rows are drawn, seldom further apart than this.
FAR_FROM_MEDIAN = 4
# Share of queries from which an opening is a habit of the model; in a set of 20, two may begin alike by chance.
COMMON_OPENING, FEWEST_OPENINGS = 0.1, 3


@dataclass(slots=True)
class Case:
    """A sampled row and what was found out about it.

    source: text of its positive, None where it is not known. overlap: content words of the query in the source, in %.
    lexical, dense: rank of the source. nearest: cosine with the most similar other query. average: with the average of
    all. risks: (strength, sign).
    """

    row: dict[str, Any]
    query: str
    source: str | None
    overlap: int | None = None
    lexical: int | None = None
    dense: int | None = None
    nearest: float = 0.0
    average: float = 0.0
    risks: list[tuple[float, str]] = field(default_factory=list)

    @property
    def risk(self) -> float:
        """Sum of the strengths, each 0 to 1."""
        return sum(strength for strength, _ in self.risks)


def find_risks(
    cases: Sequence[Case], found_rank: int, alike: float, openings: Counter[str], *, dense: bool
) -> list[Case]:
    """Fill in the risks of all cases; return those that have any, the riskiest first.

    Args:
        cases: All sampled rows.
        found_rank: The last rank at which a source counts as found.
        alike: Cosine from which two queries are nearly the same.
        openings: As `count_openings` returns them.
        dense: Whether an encoder ranked too.
    """
    typical = median(len(case.query.split()) for case in cases) if cases else 0
    total = openings.total()
    habits = {
        words.casefold(): count / total
        for words, count in openings.items()
        if count >= FEWEST_OPENINGS and count >= COMMON_OPENING * total
    }
    for case in cases:
        case.risks = [
            *_lost(case, found_rank, dense),
            *_copied(case),
            *_odd_length(case, typical),
            *_habitual(case, habits),
            *_repeated(case, alike),
        ]
    # Stable: rows of equal risk stay in the order of their draws.
    return sorted((case for case in cases if case.risks), key=lambda case: -case.risk)


def distinct(cases: Iterable[Case]) -> list[tuple[Case, int]]:
    """Return the first case of each query, in order, and how many cases have that query."""
    # A query that stands a hundred times in the set would fill a list of ten.
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(one_spelling(case.query), []).append(case)
    return [(group[0], len(group)) for group in groups.values()]


def show_rank(rank: int | None) -> str:
    """Return a rank for the page."""
    return "none" if rank is None else f"{rank:,}"


def found(rank: int | None, found_rank: int) -> bool:
    """Return whether a rank counts as found."""
    return rank is not None and rank <= found_rank


def _lost(case: Case, found_rank: int, dense: bool) -> list[tuple[float, str]]:
    if case.source is None or found(case.lexical, found_rank) or found(case.dense, found_rank):
        return []
    # BM25 alone cannot tell hard from worthless: a weaker sign.
    if not dense:
        return [(0.5, "source not found by BM25")]
    return [(1.0, "source found neither by BM25 nor by the encoder")]


def _copied(case: Case) -> list[tuple[float, str]]:
    if case.overlap is None or case.overlap < HIGH_OVERLAP or len(content_words(case.query)) < FEWEST_CONTENT_WORDS:
        return []
    return [(case.overlap / 100, f"{case.overlap} % of its content words stand in the source")]


def _odd_length(case: Case, typical: float) -> list[tuple[float, str]]:
    words = len(case.query.split())
    if words < FEWEST_WORDS or words * FAR_FROM_MEDIAN < typical:
        return [(1.0, f"very short: length {words}, median {typical:g} words")]
    if words > FAR_FROM_MEDIAN * typical:
        return [(1.0, f"very long: {words} words, median {typical:g}")]
    return []


def _habitual(case: Case, habits: dict[str, float]) -> list[tuple[float, str]]:
    share = habits.get(opening(case.query).casefold())
    return [] if share is None else [(share, f"begins as {100 * share:.0f} % of the queries: '{opening(case.query)}'")]


def _repeated(case: Case, alike: float) -> list[tuple[float, str]]:
    return (
        [(case.nearest, f"another query is nearly the same (cosine {case.nearest:.2f})")]
        if case.nearest >= alike
        else []
    )
