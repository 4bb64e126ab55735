"""Scores, permutations and grades, read from a reranker's answers. Tolerant in form, strict in counting.

Invariant: every answer, whatever it holds, gives something to rank by, and whatever was wrong with it is counted.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from reasonir.llm.refusals import without_thoughts

# Words before the integer of a pointwise answer (prompt variable `phrase`).
PHRASE = "Relevance score:"
LARGEST_SCORE, LARGEST_GRADE = 5, 10
DIGITS = ("0", "1", "2", "3", "4", "5")
# Scores of an answer without a readable integer, and of one without the phrase, as in the paper (arXiv 2504.20595,
# release 0aac962).
UNPARSABLE_SCORE, NO_PHRASE_SCORE = -1.0, 0.0

_PHRASE = re.compile(r"relevance[\s_-]*score", re.IGNORECASE)
# Between the phrase and the integer may stand marks, a scale in parentheses and a small word. A hyphen before a space
# separates; before a digit it is a minus. Digits that continue as a range, a larger number or a word are no integer.
_NUMBER = re.compile(
    r"(?:[^\w\n]*\([^)\n]*\))?[^\w-]*(?:-+\s+)?(?:(?:is|of|equals)\b)?[^\w-]*(?:-+\s+)?[^\w-]*"
    r"(-?[0-9]+(?:\.[0-9]+)?)(?!\w|\s*(?:[-–—~]|to\b|or\b)\s*[0-9])",
    re.IGNORECASE,
)  # fmt: skip
_CHAIN = re.compile(r"\[?\(?[0-9]+\]?\)?(?:\s*>+\s*\[?\(?[0-9]+\]?\)?)+")
_LIST = re.compile(r"\[\s*\[?\"?'?\[?[0-9]+\]?\"?'?\]?(?:\s*,\s*\[?\"?'?\[?[0-9]+\]?\"?'?\]?)*\s*,?\s*\]")
_MARKED = re.compile(r"\[([0-9]+)\]")
_PAIR = re.compile(
    r"[\"'\[(#]*\b([0-9]+)[\"'\])]*\s*(?:[:=]|->|→)\s*[\"'*\[]*([0-9]+(?:\.[0-9]+)?)(?!\w|\.[0-9])",
)
_OBJECTS = re.compile(
    r"\"(?:id|document|number|doc)\"\s*:\s*\"?\[?([0-9]+)\]?\"?\s*,\s*\"(?:score|grade|relevance)\"\s*:\s*\"?"
    r"([0-9]+(?:\.[0-9]+)?)",
    re.IGNORECASE,
)


def read_score(text: str, counts: Counter[str]) -> float:
    """Return the score of a pointwise answer, in [0, 1] or a fallback; the last readable integer counts."""
    answer = without_thoughts(text)
    # It ended within its thoughts: a score that they weigh is no verdict.
    if text.strip() and not answer:
        counts["unparsable"] += 1
        return UNPARSABLE_SCORE
    places = [found.end() for found in _PHRASE.finditer(answer)]
    if not places:
        counts["phrase_missing"] += 1
        return NO_PHRASE_SCORE
    # From the end: models restate the scale before they answer (docs/deviations.md).
    for place in reversed(places):
        number = _NUMBER.match(answer, place)
        if number is not None and 0 <= float(number[1]) <= LARGEST_SCORE:
            return float(number[1]) / LARGEST_SCORE
    counts["unparsable"] += 1
    return UNPARSABLE_SCORE


class Expected(NamedTuple):
    """A mean score under the probabilities of the digits.

    score: in [0, 1]; None where no digit is among the alternatives. missing: the probability of everything but the
    digits seen, in [0, 1]. absent: digits that are not among the alternatives.
    """

    score: float | None
    missing: float
    absent: int


def expected_score(alternatives: Sequence[tuple[str, float]]) -> Expected:
    """Return the mean score under the probabilities of the digits, and the probability of everything else.

    The score is sum_d d * p(d) / sum_d p(d), divided by 5. With the log-probabilities of all six digits the weights are
    the softmax over their logits. A digit that is not among the alternatives has probability 0. A digit with white
    space around it counts as that digit.

    Args:
        alternatives: (token, log-probability) of the first answer token.
    """
    mass = dict.fromkeys(DIGITS, 0.0)
    absent = len(set(DIGITS) - {token.strip() for token, _ in alternatives})
    for token, logprob in alternatives:
        if token.strip() in mass:
            # "5" and " 5" are two tokens of one digit.
            mass[token.strip()] += math.exp(logprob)
    total = math.fsum(mass.values())
    missing = min(max(1.0 - total, 0.0), 1.0)
    if total == 0.0:
        return Expected(None, missing, absent)
    score = math.fsum(int(digit) * share for digit, share in mass.items()) / total / LARGEST_SCORE
    return Expected(score, missing, absent)


def read_permutation(text: str, count: int, counts: Counter[str]) -> list[int]:
    """Return the order (indices from 0) that a listwise answer gives to documents 1 to `count`.

    The longest chain "[3] > [1]" or JSON list counts (the last one among equally long ones), or all numbers in brackets
    where these name more documents. Repeated and unknown numbers are dropped. Documents that the answer does not name
    follow in their old order. Each of these is counted.

    Args:
        text: The answer.
        count: Documents that were shown.
        counts: Takes what was wrong.
    """
    text = without_thoughts(text)
    found = [*_CHAIN.finditer(text), *_LIST.finditer(text)]
    numbers = [re.findall(r"[0-9]+", match[0]) for match in sorted(found, key=lambda match: match.start())]
    named = max(reversed(numbers), key=len) if numbers else []
    # An answer in sentences ("I prefer [2], then [1]") holds no chain.
    marked = _MARKED.findall(text)
    named = marked if len(set(marked)) > len(set(named)) else named
    if not named:
        counts["unparsable"] += 1
        return list(range(count))
    order: dict[int, None] = {}
    for number in map(int, named):
        if not 1 <= number <= count:
            counts["unknown_documents"] += 1
        elif number - 1 in order:
            counts["repeated_documents"] += 1
        else:
            order[number - 1] = None
    missing = [index for index in range(count) if index not in order]
    counts["missing_documents"] += len(missing)
    return [*order, *missing]


def read_grades(text: str, count: int, counts: Counter[str]) -> dict[int, float]:
    """Return the grades (by index from 0, in [0, 1]) that a groupwise answer gives to documents 1 to `count`.

    Forms: a JSON object, "number: grade" lines, objects of id and score, or a plain list of `count` numbers. The last
    grade of a document counts. Documents without a grade and grades outside 0 to 10 are counted and not returned.

    Args:
        text: The answer.
        count: Documents that were shown.
        counts: Takes what was wrong.
    """
    text = without_thoughts(text)
    pairs = [*_OBJECTS.findall(text)] or _PAIR.findall(text)
    if not pairs:
        for found in _LIST.findall(text):
            numbers = re.findall(r"[0-9]+", found)
            pairs = list(enumerate(numbers, start=1)) if len(numbers) == count else pairs
    if not pairs:
        counts["unparsable"] += 1
        return {}
    grades = {}
    for number, grade in ((int(number), float(grade)) for number, grade in pairs):
        if not 1 <= number <= count or not 0 <= grade <= LARGEST_GRADE:
            counts["unknown_documents" if not 1 <= number <= count else "grades_out_of_range"] += 1
        else:
            grades[number - 1] = grade / LARGEST_GRADE
    counts["missing_documents"] += count - len(grades)
    return grades
