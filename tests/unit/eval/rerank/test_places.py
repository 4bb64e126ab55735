"""What a reranker gives each place of a list: ranks, correlations, and the table's line of what to expect."""

import random
from collections.abc import Callable, Sequence

import pytest

from reasonir.eval.rerank.places import Shown, describe_places, ranks_of, render_places

Rank = Callable[[list[str], random.Random], list[float]]
QUERIES, WINDOW = 60, 10
GOLD = {f"q{n}": [f"gold{n}"] for n in range(QUERIES)}


def by_worth(names: list[str], draw: random.Random) -> list[float]:
    """The gold document first, the others in an order that owes nothing to places."""
    keys = [(not name.startswith("gold"), draw.random()) for name in names]
    return [float(sorted(keys).index(key) + 1) for key in keys]


def as_listed(names: list[str], draw: random.Random) -> list[float]:
    return [float(rank) for rank in range(1, len(names) + 1)]


def shown_by(rank: Rank) -> dict[str, Sequence[Shown]]:
    """Two windows a query; gold stands in the first place as a good retriever puts it."""
    draw, found = random.Random(0), {}
    for number, query in enumerate(GOLD):
        lists = [[f"gold{number}", *(f"d{i}" for i in range(WINDOW - 1))], [f"d{i}" for i in range(20, 26)]]
        found[query] = [list(zip(names, rank(names, draw), strict=True)) for names in lists]
    return found


def test_relevance_is_no_preference() -> None:
    found = describe_places(shown_by(by_worth), GOLD, "rank")
    assert found is not None and found["questions"] == 2 * QUERIES
    low, high = found["interval"]
    assert low < 0 < high and abs(found["correlation"]) < 0.1
    assert found["mean"][0] < 3 < found["mean_not_gold"][0], "the gold document is good, not the place"
    # Places 2 to 10 of long windows share the ranks 2 to 10, those of short ones the ranks 1 to 6.
    assert all(5 < mean < 7 for mean in found["mean_not_gold"][6:])


def test_a_repeated_list_shows() -> None:
    found = describe_places(shown_by(as_listed), GOLD, "rank")
    assert found is not None and found["correlation"] == pytest.approx(1) and found["interval"] == pytest.approx((1, 1))
    assert found["mean"] == pytest.approx(range(1, WINDOW + 1))


def test_documents_without_a_name_share_their_ranks() -> None:
    assert ranks_of([2, 0, 1, 3], 4) == [2, 3, 1, 4]
    assert ranks_of([2, 0, 1, 3], 1) == [3, 3, 1, 3] and ranks_of([0, 1], 0) == [1.5, 1.5]


def test_what_cannot_be_told_is_left_out() -> None:
    assert describe_places({"q0": []}, GOLD, "rank") is None
    alone = describe_places({"q0": [[("gold0", 1.0), ("x", 2.0)]]}, GOLD, "grade")
    assert alone is not None and alone["correlation"] is None and alone["mean_not_gold"] == [None, 2.0]
    equal = describe_places({"q0": [[("x", 5.0), ("y", 5.0)]]}, GOLD, "grade")
    assert equal is not None and equal["correlation"] == 0.0
    text = render_places({"kitchen": alone, "pony": equal})
    assert "| 1 " in text and "mean grade in every place" in text and text.count("\n") == 6, text
