"""Does a reranker prefer places of the list that it is shown? What it gives each place, to documents that are not gold.

Documents that are not gold are equally irrelevant as far as the judgements know, so that a model without a preference
gives them the same rank or grade in every place. Reads and writes nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from reasonir.eval.scores.significance import t_interval
from reasonir.text.markdown import markdown_table

CONFIDENCE = 0.95
UNBIASED = {
    "rank": "A model that prefers no place gives documents that are not gold the same mean rank in every place, with "
    "correlation 0; one that repeats the list gives place 1 the rank 1, place 2 the rank 2, with correlation 1.",
    "grade": "A model that prefers no place gives documents that are not gold the same mean grade in every place, with "
    "correlation 0.",
}  # fmt: skip
Shown = Sequence[tuple[str, float]]
"""The documents of one question in the order shown, each with the rank (1 is best) or grade (0 to 10) it was given."""


def ranks_of(order: Sequence[int], named: int) -> list[float]:
    """Return the rank of each document shown, from 1; those that the answer does not name share the mean of the rest.

    Args:
        order: Places of the documents, best first.
        named: How many of them the answer names; the others stand behind these.
    """
    ranks = [0.0] * len(order)
    for rank, place in enumerate(order, start=1):
        ranks[place] = float(rank) if rank <= named else (named + 1 + len(order)) / 2
    return ranks


def describe_places(
    shown: Mapping[str, Sequence[Shown]], gold: Mapping[str, Collection[str]], kind: str
) -> dict[str, Any] | None:
    """Return what each place was given; None where no answer could be read.

    mean, mean_not_gold: by place, of all documents and of those that are not gold. correlation: of place and what was
    given, over documents that are not gold, the mean over queries; interval: Student's, over queries.

    Args:
        shown: The questions by query.
        gold: The gold documents by query.
        kind: "rank" or "grade".
    """
    lists = [entries for questions in shown.values() for entries in questions]
    if not lists:
        return None
    others = {
        query: [[(place, given) for place, (name, given) in enumerate(entries) if name not in gold[query]]
                for entries in questions]
        for query, questions in shown.items()
    }  # fmt: skip
    values = [value for questions in others.values() if (value := _correlation(questions)) is not None]
    return {
        "kind": kind,
        "questions": len(lists),
        "mean": _means([list(enumerate(given for _, given in entries)) for entries in lists]),
        "mean_not_gold": _means([pairs for questions in others.values() for pairs in questions]),
        "correlation": float(np.mean(values)) if values else None,
        "interval": t_interval(values, CONFIDENCE),
    }


def _means(lists: Sequence[Sequence[tuple[int, float]]]) -> list[float | None]:
    by_place: dict[int, list[float]] = {}
    for pairs in lists:
        for place, given in pairs:
            by_place.setdefault(place, []).append(given)
    return [
        float(np.mean(by_place[place])) if place in by_place else None for place in range(max(by_place, default=-1) + 1)
    ]


def _correlation(questions: Sequence[Sequence[tuple[int, float]]]) -> float | None:
    """Return Pearson's correlation of place and value within the questions of a query; None where nothing varies."""
    # Centred question by question: windows of one query hold other documents and may be of other lengths.
    parts = [np.array(pairs) - np.mean(pairs, axis=0) for pairs in questions if len(pairs) > 1]
    if not parts:
        return None
    places, given = np.concatenate(parts).T
    spread = float(np.sum(places**2) * np.sum(given**2))
    # All grades equal: nothing is preferred.
    return float(np.sum(places * given)) / spread**0.5 if spread > 0 else 0.0


def render_places(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of what each place was given, a column a task, under the line that says what to expect."""
    kind = next(iter(found.values()))["kind"]
    columns = [entry["mean_not_gold"] for entry in found.values()]
    rows = [
        [
            str(place + 1),
            *("" if place >= len(means) or means[place] is None else f"{means[place]:.1f}" for means in columns),
        ]
        for place in range(max(map(len, columns)))
    ]
    rows.append(["correlation", *(_correlation_cell(entry) for entry in found.values())])
    table = markdown_table([f"place shown: mean {kind}, not gold", *found], rows)
    return f"{table}\n\n{UNBIASED[kind]}"


def _correlation_cell(entry: Mapping[str, Any]) -> str:
    if entry["correlation"] is None:
        return ""
    low, high = entry["interval"] or (None, None)
    return f"{entry['correlation']:.2f}" + (f" ({low:.2f} to {high:.2f})" if low is not None else "")
