"""From answers to figures: accuracy, intervals, paired differences, hit rates. Reads and writes nothing.

An answer that cannot be read is wrong in `accuracy`; `accuracy_with_guesses` takes a drawn letter for it, as the paper
does for MMLU. Invariant: every mean is over questions (the micro average), each the mean of its samples; a difference
is over the questions that both conditions hold.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from reasonir.eval.rag.letters import count_letters
from reasonir.eval.rag.reader import Answer
from reasonir.eval.rag.records import Question
from reasonir.eval.scores.significance import mcnemar, randomisation_test, t_interval, wilson_interval

DEPTHS = (1, 3, 5, 10)
# A p-value of 0.05 has a standard error of 0.0007 then.
PERMUTATIONS = 100_000
Shares = Mapping[str, float]
"""Question id to the share of its samples that are right."""


def judge(questions: Sequence[Question], answers: Sequence[Answer], confidence: float, seed: int) -> dict[str, Any]:
    """Return the figures of all conditions, and of every pair of them.

    Args:
        questions: all that were asked.
        answers: all that were given, under any condition.
        confidence: level of the intervals.
        seed: of the randomisation test, which compares conditions of several samples, and of the test of the letters.
    """
    by_condition: dict[str, list[Answer]] = {}
    for answer in answers:
        by_condition.setdefault(answer.condition, []).append(answer)
    known = {question.id: question for question in questions}
    report: dict[str, Any] = {"questions": len(questions), "confidence": confidence, "conditions": {}}
    for condition, given in by_condition.items():
        letters = count_letters(given, known, confidence, seed)
        report["conditions"][condition] = {**_describe(given, known, confidence), "letters": letters}
    shares = {condition: _shares_right(given) for condition, given in by_condition.items()}
    report["differences"] = [
        _compare(a, b, by_condition, shares, known, seed) for a, b in combinations(by_condition, 2)
    ]
    return report


def _describe(answers: Sequence[Answer], known: Mapping[str, Question], confidence: float) -> dict[str, Any]:
    """Return one condition's figures: of all questions, by group and by subject, and of every sample."""
    samples = sorted({answer.sample for answer in answers})
    by_sample = [float(np.mean([a.correct for a in answers if a.sample == sample])) for sample in samples]
    spread = t_interval(by_sample, confidence)
    return {
        "all": _figures(answers, known, confidence),
        "samples": by_sample,
        # Student's interval of a share may pass its ends.
        "samples_interval": spread and (max(0.0, spread[0]), min(1.0, spread[1])),
        "groups": _by(answers, known, confidence, "group"),
        "subjects": _by(answers, known, confidence, "subject"),
    }


def _by(
    answers: Sequence[Answer], known: Mapping[str, Question], confidence: float, attribute: str
) -> dict[str, dict[str, Any]]:
    parts: dict[str, list[Answer]] = {}
    for answer in answers:
        parts.setdefault(getattr(known[answer.id], attribute), []).append(answer)
    return {name: _figures(part, known, confidence) for name, part in sorted(parts.items()) if name}


def _figures(answers: Sequence[Answer], known: Mapping[str, Question], confidence: float) -> dict[str, Any]:
    """Return accuracy, its interval (Wilson's over the questions), and how many answers could not be read."""
    shares = _shares_right(answers)
    accuracy = float(np.mean(list(shares.values())))
    # The paper scores an unreadable answer to MMLU as a random letter.
    guessed = [(answer.letter or answer.guess) == known[answer.id].answer for answer in answers]
    return {
        "questions": len(shares),
        "answers": len(answers),
        "correct": sum(answer.correct for answer in answers),
        "accuracy": accuracy,
        "interval": wilson_interval(accuracy, len(shares), confidence),
        "unreadable": sum(not answer.letter for answer in answers),
        "accuracy_with_guesses": float(np.mean(guessed)),
        "interval_with_guesses": wilson_interval(float(np.mean(guessed)), len(shares), confidence),
    }


def _shares_right(answers: Sequence[Answer]) -> dict[str, float]:
    """Return the share of right answers to each question."""
    right: dict[str, list[bool]] = {}
    for answer in answers:
        right.setdefault(answer.id, []).append(answer.correct)
    return {name: sum(values) / len(values) for name, values in right.items()}


def _compare(
    a: str,
    b: str,
    by_condition: Mapping[str, Sequence[Answer]],
    shares: Mapping[str, Shares],
    known: Mapping[str, Question],
    seed: int,
) -> dict[str, Any]:
    """Return b's accuracy minus a's, the questions that it gains and loses, and p-values.

    p_value: the exact McNemar test; of several samples the paired randomisation test over the questions' shares, which
    is the same test where each has one sample. samples_p_values: McNemar's of every sample.
    """
    # The gold condition lacks questions without gold: a difference is over what both have.
    common = [name for name in shares[a] if name in shares[b]]
    differences = np.array([shares[b][name] - shares[a][name] for name in common])
    gained, lost = int(np.sum(differences > 0)), int(np.sum(differences < 0))
    p_values = [
        mcnemar(*_moves(sample, by_condition[a], by_condition[b], set(common)))
        for sample in sorted({answer.sample for answer in by_condition[a]})
    ]
    # Several samples of one question are not independent: the question is the unit that is permuted.
    p_value = p_values[0]
    if len(p_values) > 1:
        p_value = randomisation_test([differences], PERMUTATIONS, np.random.default_rng(seed)).p_value
    groups: dict[str, list[float]] = {}
    for name, difference in zip(common, differences.tolist(), strict=True):
        groups.setdefault(known[name].group, []).append(difference)
    return {
        "a": a,
        "b": b,
        "questions": len(common),
        "difference": float(differences.mean()) if len(common) else 0.0,
        "gained": gained,
        "lost": lost,
        "p_value": p_value,
        "samples_p_values": p_values,
        "groups": {name: float(np.mean(values)) for name, values in sorted(groups.items()) if name},
    }


def _moves(sample: int, before: Sequence[Answer], after: Sequence[Answer], common: set[str]) -> tuple[int, int]:
    """Return how many questions one sample gains and loses."""
    first, second = (
        {answer.id: answer.correct for answer in answers if answer.sample == sample and answer.id in common}
        for answers in (before, after)
    )
    gained = sum(second[name] and not first[name] for name in first)
    return gained, sum(first[name] and not second[name] for name in first)


def hit_rates(
    ranked: Mapping[str, Sequence[str]], gold: Mapping[str, Sequence[str]], top: int, confidence: float
) -> dict[str, Any]:
    """Return for several depths how many questions have a gold passage that high.

    Args:
        ranked: question id to passage ids, best first.
        gold: question id to its gold passages, of the questions that have any in the datastore.
        top: a further depth: the passages that the reader gets.
        confidence: level of the intervals.
    """
    found: dict[str, Any] = {}
    for depth in sorted({*DEPTHS, top}):
        hits = sum(not set(gold[name]).isdisjoint(ranked[name][:depth]) for name in gold)
        share = hits / len(gold)
        found[str(depth)] = {"hits": hits, "rate": share, "interval": wilson_interval(share, len(gold), confidence)}
    return {"questions": len(gold), "at": found}
