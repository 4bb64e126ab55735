"""Comparisons from Python: names of systems, common queries, and what a task's numbers may not depend on."""

from pathlib import Path

import numpy as np
import pytest

from reasonir.core.errors import UserError
from reasonir.eval.audit.compare import Grid, PairedTest, System, common_grid, compare_pair, name_systems

TEST = PairedTest(confidence=0.9, bca=True, permutations=500, bootstrap=500, seed=3)


def scores(seed: int, tasks: dict[str, int]) -> dict[str, np.ndarray]:
    return {name: np.random.default_rng([seed, n]).random(n) for name, n in tasks.items()}


def compare(tasks: dict[str, int]) -> dict:
    grid = Grid({name: [str(i) for i in range(n)] for name, n in tasks.items()}, {})
    return compare_pair(("a", "b"), (scores(1, tasks), scores(2, tasks)), grid, TEST, largest=3)


def test_a_tasks_numbers_do_not_depend_on_other_tasks() -> None:
    alone, both = compare({"x": 30}), compare({"x": 30, "y": 25})
    assert alone["tasks"]["x"] == both["tasks"]["x"] and not alone["tasks"]["x"]["exact"]
    assert alone["average"] == alone["tasks"]["x"] and both["average"]["queries"] == 55
    assert both["average"]["difference"] == pytest.approx(
        (both["tasks"]["x"]["difference"] + both["tasks"]["y"]["difference"]) / 2, abs=1e-15
    )


def test_largest_moves_come_first() -> None:
    moves = [abs(move["difference"]) for move in compare({"x": 30})["largest_moves"]]
    assert len(moves) == 3 and moves == sorted(moves, reverse=True) and moves[0] > 0


def test_names_are_the_shortest_ends_that_differ() -> None:
    assert name_systems(["runs/a/bm25", "runs/b/bm25"]) == ["a/bm25", "b/bm25"]
    assert name_systems(["runs/a", "other/b"]) == ["a", "b"]
    assert name_systems(["runs/a", "runs/a"]) == ["a (1)", "a (2)"]


def test_common_queries_are_counted_or_a_difference_is_refused() -> None:
    first = System("a", ["A"], [{"x": {"1": 0.5, "2": 0.5}, "y": {"1": 1.0}}], [Path("A")])
    second = System("b", ["B"], [{"x": {"2": 0.5, "3": 0.5}}], [Path("B")])
    grid = common_grid([first, second], common_only=True)
    assert grid.queries == {"x": ["2"]}
    assert grid.left_out == {
        "A": {"tasks": 1, "queries_of_common_tasks": 1},
        "B": {"tasks": 0, "queries_of_common_tasks": 1},
    }
    with pytest.raises(UserError, match="task 'y' is in A but not in B; common_only=true"):
        common_grid([first, second], common_only=False)
