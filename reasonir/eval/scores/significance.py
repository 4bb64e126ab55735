"""Is a difference between two systems more than the luck of the queries? Paired tests, intervals, corrections.

Unless it says otherwise a function takes differences by query, float64, one array a task. The average that is judged is
macro: the mean of the tasks' means, so that query i of task t carries 1 / (T n_t); one task alone is the case T = 1.
Invariant: the same differences in another order, or with all signs turned, give the same exact p-value. Reads and
writes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

BLOCK_VALUES = 1 << 22
"""Values drawn at once: 32 MiB of float64."""
ROUNDING = 1e-12
"""Sums that differ by less, relative to the sum of magnitudes, are equal: only the order of adding differs."""


@dataclass(frozen=True, slots=True)
class Chance:
    """Result of a randomisation test. arrangements: sign patterns looked at; all there are, where exact."""

    p_value: float
    exact: bool
    arrangements: int


def query_shares(differences: Sequence[np.ndarray]) -> np.ndarray:
    """Return each query's part of the macro-averaged difference: the parts sum to it."""
    return np.concatenate([task / (len(task) * len(differences)) for task in differences])


def randomisation_test(differences: Sequence[np.ndarray], permutations: int, generator: np.random.Generator) -> Chance:
    """Test whether the macro-averaged difference is zero, by swapping the two systems query by query.

    Null hypothesis: a query's two scores could as well have been the other way round. p is the share of sign patterns
    whose |average| reaches the observed one. Queries without a difference change no average and are left out. Drawn
    patterns: p = (count + 1) / (permutations + 1), which never falls below the true level (Phipson, Smyth 2010,
    arXiv 1603.05766); all of them, where there are no more than `permutations`. Source: Fisher 1935; Smucker, Allan,
    Carterette, CIKM 2007.
    """
    parts = query_shares(differences)
    parts = parts[parts != 0]
    reached = abs(parts.sum()) - ROUNDING * np.abs(parts).sum()
    if 2 ** len(parts) <= permutations:
        sums = np.zeros(1)
        for part in parts:
            sums = np.concatenate([sums + part, sums - part])
        return Chance(float(np.mean(np.abs(sums) >= reached)), True, len(sums))
    count = 0
    rows = max(1, BLOCK_VALUES * 8 // len(parts))
    for start in range(0, permutations, rows):
        sums = _random_sums(parts, min(rows, permutations - start), generator)
        count += int(np.count_nonzero(np.abs(sums) >= reached))
    return Chance((count + 1) / (permutations + 1), False, permutations)


def _random_sums(parts: np.ndarray, rows: int, generator: np.random.Generator) -> np.ndarray:
    """Return `rows` sums of the parts under random signs; eight signs are one random byte that looks up their sum."""
    groups = np.pad(parts, (0, -len(parts) % 8)).reshape(-1, 8)
    patterns = 1.0 - 2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    sums_by_byte = groups @ patterns.T
    sums = np.zeros(rows)
    for table in sums_by_byte:
        sums += table[np.frombuffer(generator.bytes(rows), dtype=np.uint8)]
    return sums


def bootstrap_interval(
    differences: Sequence[np.ndarray], confidence: float, resamples: int, bca: bool, generator: np.random.Generator
) -> tuple[float, float] | None:
    """Return an interval for the macro-averaged difference; None where no task has two queries.

    Queries are drawn again within their task, the tasks stay. Percentile, or BCa: levels corrected by the bias z0 of
    the resamples and the acceleration a = sum(e^3) / (6 sum(e^2)^1.5), e the deviations of a query's part from its
    task's mean part. Source: Efron 1987; Davison, Hinkley 1997, section 5.3, for several samples.
    """
    if all(len(task) < 2 for task in differences):
        return None
    estimate = float(query_shares(differences).sum())
    means = _resampled_means(differences, resamples, generator)
    levels = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    deviations = query_shares([task - task.mean() for task in differences])
    spread = float(np.sum(deviations**2))
    if spread == 0:
        return estimate, estimate
    if bca:
        rounding = ROUNDING * np.abs(query_shares(differences)).sum()
        below = np.mean(means < estimate - rounding) + np.mean(np.abs(means - estimate) <= rounding) / 2
        z0 = stats.norm.ppf(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples))
        acceleration = float(np.sum(deviations**3)) / (6 * spread**1.5)
        z = z0 + stats.norm.ppf(levels)
        levels = stats.norm.cdf(z0 + z / (1 - acceleration * z))
    low, high = np.quantile(means, levels)
    return float(low), float(high)


def _resampled_means(differences: Sequence[np.ndarray], resamples: int, generator: np.random.Generator) -> np.ndarray:
    means = np.zeros(resamples)
    for task in differences:
        rows = max(1, BLOCK_VALUES // len(task))
        for start in range(0, resamples, rows):
            size = (min(rows, resamples - start), len(task))
            drawn = task[generator.integers(0, len(task), size=size, dtype=np.int32)]
            means[start : start + rows] += drawn.mean(axis=1) / len(differences)
    return means


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected so that any false alarm among them has at most their level. Source: Holm 1979."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def wilson_interval(share: float, count: int, confidence: float) -> tuple[float, float]:
    """Return Wilson's score interval for a share of `count` independent trials. Source: Wilson 1927.

    Where the share is a mean over repeats of the same trials, it is the interval of one repeat: on the wide side.
    """
    z = stats.norm.ppf((1 + confidence) / 2)
    middle = share + z * z / (2 * count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, float((middle - half) / scale)), min(1.0, float((middle + half) / scale))


def mcnemar(gained: int, lost: int) -> float:
    """Return McNemar's exact p-value, two-sided, that gains and losses are equally likely. Source: McNemar 1947.

    Args:
        gained: questions that only the second system answers rightly.
        lost: those that only the first does.
    """
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def t_interval(values: Sequence[float], confidence: float) -> tuple[float, float] | None:
    """Return Student's interval for the mean of independent repeats; None for one."""
    if len(values) < 2:
        return None
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values) - half), float(np.mean(values) + half)
