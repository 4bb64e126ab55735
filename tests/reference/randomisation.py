"""Paired randomisation test and bootstrap of a macro average, one pattern at a time."""

import itertools
import random
from collections.abc import Iterable, Sequence


def macro_mean(tasks: Sequence[Sequence[float]]) -> float:
    return sum(sum(task) / len(task) for task in tasks) / len(tasks)


def flipped(tasks: Sequence[Sequence[float]], signs: Iterable[int]) -> list[list[float]]:
    signs = iter(signs)
    return [[value * next(signs) for value in task] for task in tasks]


def exact_p_value(tasks: Sequence[Sequence[float]]) -> float:
    """Every pattern of signs over all queries, those without a difference included."""
    observed = abs(macro_mean(tasks))
    patterns = list(itertools.product((1, -1), repeat=sum(map(len, tasks))))
    reached = sum(abs(macro_mean(flipped(tasks, signs))) >= observed - 1e-12 for signs in patterns)
    return reached / len(patterns)


def resampled_means(tasks: Sequence[Sequence[float]], resamples: int, seed: int) -> list[float]:
    draw = random.Random(seed)
    return [macro_mean([draw.choices(task, k=len(task)) for task in tasks]) for _ in range(resamples)]


def holm(p_values: Sequence[float]) -> list[float]:
    """By its definition: the largest of (m - rank) p over all p-values that are not larger."""
    ordered = sorted(p_values)
    return [
        min(1.0, max((len(ordered) - rank) * other for rank, other in enumerate(ordered) if other <= p))
        for p in p_values
    ]
