"""Fusion by hand-computed values, and properties that hold for any lists."""

import numpy as np
import pytest

from reasonir.retrieval.config import FusionMethod
from reasonir.retrieval.fusion import fuse_hits, fuse_runs, in_order

A = {"x": 4.0, "y": 2.0, "z": 0.0}
B = {"y": 9.0, "w": 3.0}
HALF = (0.5, 0.5)
DEVIATION = (8 / 3) ** 0.5  # of 4, 2, 0

HAND = {
    "linear": {"x": 2.0, "y": 5.5, "z": 0.0, "w": 1.5},
    "minmax": {"x": 0.5, "y": 0.75, "z": 0.0, "w": 0.0},
    "zscore": {"x": 1 / DEVIATION - 0.5, "y": 0.5, "z": -1 / DEVIATION - 0.5, "w": -1 / DEVIATION - 0.5},
    "rrf": {"x": 0.5 / 61, "y": 0.5 / 62 + 0.5 / 61, "z": 0.5 / 63, "w": 0.5 / 62},
}


@pytest.mark.parametrize("method", HAND)
def test_values_by_hand(method: str) -> None:
    fused = fuse_hits([A, B], FusionMethod(method), HALF)
    assert fused == {name: float(np.float32(value)) for name, value in HAND[method].items()}


def test_rrf_constant_and_places_with_ties() -> None:
    """Equal at float32: the later id comes first, as trec_eval has it."""
    tied = {"a": 1.0, "b": 1.0 + 1e-9, "c": 2.0}
    assert in_order(tied) == ["c", "b", "a"]
    fused = fuse_hits([tied, {}], FusionMethod.rrf, (1.0, 1.0), 0.0)
    assert fused == {"c": 1.0, "b": 0.5, "a": float(np.float32(1 / 3))}


@pytest.mark.parametrize(
    ("method", "listed", "unlisted"),
    [("linear", -3.0, -3.0), ("minmax", 1.0, 0.0), ("zscore", 0.0, 0.0), ("rrf", 1 / 61, 0.0)],
)
def test_a_list_of_one_value_and_what_it_gives_others(method: str, listed: float, unlisted: float) -> None:
    fused = fuse_hits([{"x": -3.0}, {"y": 0.0}], FusionMethod(method), (1.0, 0.0))
    assert fused == {"x": float(np.float32(listed)), "y": float(np.float32(unlisted))}


def test_the_papers_interpolations() -> None:
    rerank, bm25, cosine = (
        {"x": 0.8, "y": 0.8, "z": 0.2},
        {"x": 7.0, "y": 9.0, "z": 30.0, "w": 6.0},
        {"x": 0.5, "y": 0.25},
    )
    assert fuse_hits([rerank, bm25], FusionMethod.linear, (100, 1)) == {"x": 87.0, "y": 89.0, "z": 50.0, "w": 6.0}
    fused = fuse_hits([rerank, cosine], FusionMethod.linear, HALF)
    assert fused == {d: float(np.float32(v)) for d, v in {"x": 0.65, "y": 0.525, "z": 0.1}.items()}


def draw(seed: int) -> list[dict[str, float]]:
    random = np.random.default_rng(seed)
    return [
        {f"d{d}": float(random.integers(-5, 6)) / 4 for d in random.choice(12, random.integers(1, 9), replace=False)}
        for _ in range(3)
    ]


@pytest.mark.parametrize("method", list(FusionMethod))
@pytest.mark.parametrize("seed", range(6))
def test_unlisted_never_beats_listed_and_order_of_runs_is_nothing(method: FusionMethod, seed: int) -> None:
    lists, weights = draw(seed), (0.2, 0.3, 0.5)
    fused = fuse_hits(lists, method, weights)
    for hits in lists:
        alone = fuse_hits([hits, dict.fromkeys(fused, 0.0)], method, (1.0, 0.0))
        outside = [alone[document] for document in alone if document not in hits]
        assert not outside or max(outside) <= min(alone[document] for document in hits)
    assert fuse_hits(lists[::-1], method, weights[::-1]) == fused
    if method in (FusionMethod.minmax, FusionMethod.zscore):  # neither scale nor offset of a list count
        moved = [{d: 8 * s + 3 for d, s in hits.items()} for hits in lists]
        assert fuse_hits(moved, method, weights) == pytest.approx(fused, abs=1e-6)


def test_queries_that_a_run_lacks_are_counted_and_ties_fall_to_the_later_id() -> None:
    first = {"q1": {"x": 1.0, "y": 1.0}, "q2": {"x": 1.0}, "q3": {}}
    second = {"q3": {"z": 2.0}, "q1": {"x": 1.0, "y": 1.0}}
    fused = fuse_runs([first, second], FusionMethod.linear, HALF, top=1)
    assert fused.run == {"q1": {"y": 1.0}, "q2": {"x": 0.5}, "q3": {"z": 1.0}}
    assert list(fused.run) == ["q1", "q2", "q3"]
    assert fused.missing == [1, 1]
