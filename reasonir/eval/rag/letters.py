"""Does a reader prefer a letter, whatever stands behind it? Shares of letters beside those of a reader that does not.

A reader without a preference takes the right letter when it knows the answer, and each of the others equally often when
it does not. Invariant: only answers that could be read count; a question is one trial, however many samples it has.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reasonir.eval.rag.reader import Answer
from reasonir.eval.rag.records import LETTERS, Question
from reasonir.eval.scores.significance import wilson_interval

# A p-value of 0.05 has a standard error of 0.0015 then.
SIMULATIONS = 20_000


def count_letters(
    answers: Sequence[Answer], known: Mapping[str, Question], confidence: float, seed: int
) -> dict[str, Any] | None:
    """Return how often each letter was chosen under one condition, and how often without a preference.

    chosen, gold, unbiased, chance: shares by letter, over the questions of which an answer could be read. p_value: of
    the sum over letters of (chosen - unbiased)^2 / unbiased, against simulated readers without a preference that are
    right as often.

    Args:
        answers: All of the condition.
        known: The questions by id.
        confidence: Level of the intervals.
        seed: Of the simulation.
    Returns:
        The figures; None where no answer could be read.
    """
    read: dict[str, list[str]] = {}
    for answer in answers:
        if answer.letter:
            read.setdefault(answer.id, []).append(answer.letter)
    if not read:
        return None
    questions = [known[name] for name in read]
    # Several samples of one question are one trial: they depend on each other.
    chosen = np.array([[given.count(letter) / len(given) for letter in LETTERS] for given in read.values()]).sum(axis=0)
    right = sum(given.count(known[name].answer) / len(given) for name, given in read.items()) / len(read)
    kinds = Counter((question.answer, len(question.options)) for question in questions)
    unbiased, gold, chance = np.zeros((3, len(LETTERS)))
    for (right_letter, options), count in kinds.items():
        unbiased += count * _without_preference(right, right_letter, options)
        chance += count * _without_preference(1 / options, right_letter, options)
        gold[LETTERS.index(right_letter)] += count
    letters = max((question.letters for question in questions), key=len)
    counts = {"chosen": chosen, "gold": gold, "unbiased": unbiased, "chance": chance}
    shares = {name: (values[: len(letters)] / len(read)).tolist() for name, values in counts.items()}
    return {
        "letters": letters,
        "questions": len(read),
        **shares,
        "intervals": [wilson_interval(share, len(read), confidence) for share in shares["chosen"]],
        "p_value": _p_value(chosen, unbiased, right, kinds, seed),
    }


def _without_preference(right: float, answer: str, options: int) -> np.ndarray:
    """Return the probability of each letter for a reader that is right so often and prefers none."""
    found = np.zeros(len(LETTERS))
    found[:options] = (1 - right) / max(options - 1, 1)
    found[LETTERS.index(answer)] = right
    return found


def _p_value(
    chosen: np.ndarray, unbiased: np.ndarray, right: float, kinds: Mapping[tuple[str, int], int], seed: int
) -> float:
    """Return how often a reader without a preference is as far from the expected counts as this one."""
    generator = np.random.default_rng(seed)
    drawn = np.zeros((SIMULATIONS, len(LETTERS)))
    # In a fixed order: equal seeds must draw equal numbers, in whatever order the answers came.
    for kind, count in sorted(kinds.items()):
        drawn += generator.multinomial(count, _without_preference(right, *kind), size=SIMULATIONS)
    possible = unbiased > 0
    distances, own = (
        np.sum((counts[..., possible] - unbiased[possible]) ** 2 / unbiased[possible], axis=-1)
        for counts in (drawn, chosen)
    )
    # The observed counts are one draw too: p is never 0. Rounding must not separate equal distances.
    return float((np.count_nonzero(distances >= own - 1e-9) + 1) / (SIMULATIONS + 1))
