"""Tests and intervals against slow references, scipy, and what must hold whatever the scores."""

import numpy as np
import pytest
from scipy import stats

from reasonir.eval.scores.significance import (
    bootstrap_interval,
    holm,
    mcnemar,
    query_shares,
    randomisation_test,
    t_interval,
    wilson_interval,
)
from tests.reference import randomisation as reference


def fresh(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def draw(seed: int, sizes: tuple[int, ...], shift: float = 0.0) -> list[np.ndarray]:
    """Skewed differences with ties and zeros, as nDCG has them."""
    numbers = fresh(seed)
    return [np.round(numbers.gamma(0.7, 0.3, n) * numbers.choice([-1, 1], n) + shift, 1) for n in sizes]


@pytest.mark.parametrize("sizes", [(1,), (2,), (7,), (11,), (3, 5), (1, 2, 6), (4, 4, 3)])
@pytest.mark.parametrize("shift", [0.0, 0.15])
def test_exact_p_value_is_the_references(sizes: tuple[int, ...], shift: float) -> None:
    tasks = draw(sum(sizes), sizes, shift)
    chance = randomisation_test(tasks, 100_000, fresh())
    assert chance.exact
    assert chance.p_value == pytest.approx(reference.exact_p_value([task.tolist() for task in tasks]), abs=1e-12)


def test_reference_tells_macro_from_pooled() -> None:
    # Not vacuous: pooling the queries of unequal tasks gives another p-value.
    tasks = [[0.5, 0.4], [-0.1, -0.2, -0.1, -0.3, 0.1, -0.2]]
    pooled = reference.exact_p_value([tasks[0] + tasks[1]])
    assert abs(pooled - reference.exact_p_value(tasks)) > 0.05


@pytest.mark.parametrize("size", [4, 9, 11])
def test_exact_p_value_is_scipys(size: int) -> None:
    (task,) = draw(size, (size,), 0.1)
    scipys = stats.permutation_test(
        (task,), lambda x, axis: x.mean(axis), permutation_type="samples", n_resamples=1 << size, vectorized=True
    )
    ours = randomisation_test([task], 1 << size, fresh())
    assert ours.exact and ours.p_value == pytest.approx(scipys.pvalue, abs=1e-12)


@pytest.mark.parametrize("sizes", [(14,), (5, 9), (2, 3, 9)])
def test_drawn_p_value_is_the_exact_one_within_its_error(sizes: tuple[int, ...]) -> None:
    tasks = draw(5, sizes, 0.05)
    permutations = 16_000  # just below 2^14, so that they are drawn
    tasks = [np.where(task == 0, 0.01, task) for task in tasks]
    exact = randomisation_test(tasks, 1 << 14, fresh())
    drawn = randomisation_test(tasks, permutations, fresh(3))
    assert exact.exact and not drawn.exact
    error = np.sqrt(exact.p_value * (1 - exact.p_value) / permutations)
    assert 0.02 < exact.p_value < 0.98  # an error of 0 would compare nothing
    assert abs(drawn.p_value - exact.p_value) < 4 * error + 1 / permutations


def test_what_must_not_change_a_p_value() -> None:
    tasks = draw(8, (30, 50), 0.05)
    p = randomisation_test(tasks, 5_000, fresh()).p_value
    assert 1 / 5_001 < p < 1
    assert randomisation_test([-task for task in tasks], 5_000, fresh()).p_value == p
    assert randomisation_test([7.3 * task for task in tasks], 5_000, fresh()).p_value == p
    padded = [np.concatenate([task, task * 0]) for task in tasks]  # ties halve the mean and every other mean
    assert randomisation_test(padded, 5_000, fresh()).p_value == p
    small = draw(9, (6, 6), 0.1)
    shuffled = [fresh(1).permutation(task) for task in small]
    exact = [randomisation_test(each, 1 << 12, fresh()) for each in (small, shuffled, small[::-1])]
    assert all(chance.exact for chance in exact) and len({round(chance.p_value, 12) for chance in exact}) == 1


def test_ends_of_the_scale() -> None:
    assert randomisation_test([np.zeros(50)], 1_000, fresh()).p_value == 1
    assert randomisation_test([np.array([0.3])], 1_000, fresh()).p_value == 1
    alike = randomisation_test([np.full(40, 0.2)], 999, fresh())
    assert alike.p_value == 1 / 1_000  # never zero
    # 0.1 + 0.2 + 0.3 in any order and any grouping: all 2 of 8 patterns that reach it, in spite of rounding.
    assert randomisation_test([np.array([0.1, 0.2, 0.3])], 1_000, fresh()).p_value == 0.25


NULLS, PERMUTATIONS = 4_000, 19


def null_p_values(test: str) -> np.ndarray:
    """P-values over simulated nulls: skewed magnitudes, signs by a fair coin, two tasks of unlike size."""
    values = []
    numbers = fresh(11)
    for _ in range(NULLS):
        tasks = [numbers.gamma(0.7, 0.3, n) * numbers.choice([-1, 1], n) for n in (8, 17)]
        if test == "ours":
            values.append(randomisation_test(tasks, PERMUTATIONS, numbers).p_value)
            continue
        parts = query_shares(tasks)
        signs = numbers.choice([-1.0, 1.0], (PERMUTATIONS, len(parts)))
        one_sided = test == "one-sided in the direction observed"
        reached = (
            np.sum((signs @ parts) * np.sign(parts.sum()) >= abs(parts.sum()))
            if one_sided
            else np.sum(np.abs(signs @ parts) >= abs(parts.sum()))
        )
        values.append((reached + 1) / (PERMUTATIONS + 1) if one_sided else reached / PERMUTATIONS)
    return np.array(values)


def test_p_values_are_uniform_under_the_null() -> None:
    p = null_p_values("ours")
    counts = np.bincount(np.rint(p * (PERMUTATIONS + 1)).astype(int), minlength=PERMUTATIONS + 2)[1:]
    assert len(counts) == PERMUTATIONS + 1 and counts.sum() == NULLS
    assert stats.chisquare(counts).pvalue > 0.01
    assert stats.kstest(p, "uniform", alternative="greater").pvalue > 0.01


@pytest.mark.parametrize("wrong", ["count / n", "one-sided in the direction observed"])
def test_the_check_of_the_null_fails_for_tests_that_promise_too_much(wrong: str) -> None:
    assert stats.kstest(null_p_values(wrong), "uniform", alternative="greater").pvalue < 1e-6


@pytest.mark.parametrize("sizes", [(25,), (12, 40)])
def test_percentile_interval_is_the_references(sizes: tuple[int, ...]) -> None:
    tasks = draw(3, sizes, 0.1)
    ours = bootstrap_interval(tasks, 0.9, 20_000, False, fresh())
    means = reference.resampled_means([task.tolist() for task in tasks], 20_000, 1)
    error = 4 * np.std(means) * np.sqrt(0.05 * 0.95 / 20_000) / 0.103  # of a 5 % quantile of a normal
    assert ours == pytest.approx(np.quantile(means, [0.05, 0.95]), abs=error)
    assert ours[1] - ours[0] > 20 * error


def test_bca_interval_is_scipys() -> None:
    task = fresh(4).gamma(0.5, 1.0, 20)  # skewed, so that BCa and percentile differ
    found = stats.bootstrap((task,), np.mean, n_resamples=40_000, method="BCa", rng=fresh(1)).confidence_interval
    ours = bootstrap_interval([task], 0.95, 40_000, True, fresh(2))
    plain = bootstrap_interval([task], 0.95, 40_000, False, fresh(2))
    assert ours == pytest.approx((found.low, found.high), abs=0.012)
    assert ours[1] - plain[1] > 0.03


def test_bca_interval_of_several_tasks_is_scipys() -> None:
    tasks = [fresh(4).gamma(0.5, 1.0, 20), fresh(5).gamma(0.7, 0.5, 45)]

    def macro_mean(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return (a.mean(axis) + b.mean(axis)) / 2

    found = stats.bootstrap(tasks, macro_mean, n_resamples=40_000, method="BCa", rng=fresh(1)).confidence_interval
    ours = bootstrap_interval(tasks, 0.95, 40_000, True, fresh(2))
    plain = bootstrap_interval(tasks, 0.95, 40_000, False, fresh(2))
    assert ours == pytest.approx((found.low, found.high), abs=0.006)
    assert ours[1] - plain[1] > 0.012


def test_intervals_cover_as_often_as_they_say() -> None:
    numbers = fresh(7)
    covered = [0, 0]
    for _ in range(400):
        tasks = [numbers.gamma(1.0, 0.3, n) - 0.3 for n in (30, 60)]
        for i, bca in enumerate((True, False)):
            low, high = bootstrap_interval(tasks, 0.9, 400, bca, numbers)
            covered[i] += low <= 0 <= high
    assert all(0.85 < count / 400 < 0.94 for count in covered), covered


def test_interval_without_spread_or_without_queries_to_draw() -> None:
    assert bootstrap_interval([np.full(9, 0.25)], 0.95, 200, True, fresh()) == (0.25, 0.25)
    assert bootstrap_interval([np.array([0.25])], 0.95, 200, True, fresh()) is None
    low, high = bootstrap_interval([np.array([0.25]), np.array([0.0, 1.0])], 0.95, 200, True, fresh())
    assert low < high


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_its_definition(seed: int) -> None:
    p = np.round(fresh(seed).beta(0.4, 2.0, 9), 2).tolist()
    assert holm(p) == pytest.approx(reference.holm(p), abs=1e-15)
    assert holm([0.02]) == [0.02] and holm([]) == []


def test_t_interval_is_scipys() -> None:
    values = [0.31, 0.29, 0.33, 0.30]
    scipys = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert t_interval(values, 0.95) == pytest.approx((scipys.low, scipys.high))
    assert t_interval([0.3], 0.95) is None


@pytest.mark.parametrize(("right", "count"), [(0, 10), (62, 198), (76, 198), (10, 10), (1, 1)])
def test_wilson_interval_is_scipys(right: int, count: int) -> None:
    scipys = stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right / count, count, 0.95) == pytest.approx((scipys.low, scipys.high), abs=1e-12)


@pytest.mark.parametrize(("gained", "lost"), [(7, 3), (0, 5), (4, 4), (0, 0), (12, 1)])
def test_mcnemar_is_the_randomisation_test_of_rights_and_wrongs(gained: int, lost: int) -> None:
    differences = np.array([1.0] * gained + [-1.0] * lost + [0.0] * 9)
    assert mcnemar(gained, lost) == pytest.approx(randomisation_test([differences], 100_000, fresh()).p_value)
