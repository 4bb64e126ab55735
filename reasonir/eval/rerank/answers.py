"""What a reranker's answers say: a score, a permutation, grades. Tolerant in form, strict in counting.

Invariant: every answer, whatever it holds, comes back as something to rank by, and what was wrong with it is counted.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

PHRASE = "Relevance score:"
"""What stands before the integer of a pointwise answer (prompt variable `phrase`)."""
LARGEST_SCORE, LARGEST_GRADE = 5, 10
DIGITS = ("0", "1", "2", "3", "4", "5")
UNPARSABLE_SCORE, NO_PHRASE_SCORE = -1.0, 0.0
"""The paper's: arXiv 2504.20595, release 0aac962."""

_PHRASE = re.compile(r"relevance[\s_-]*score", re.IGNORECASE)
# Marks, a scale in parentheses and a small word may stand between; a hyphen before a space separates, before a digit it
# is a minus. What goes on as a range, a larger number or a word is no integer.
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


def after_thinking(text: str) -> str:
    """Return what a reasoning model says after its thoughts."""
    return text.rsplit("</think>", 1)[-1]


def read_score(text: str, counts: Counter[str]) -> float:
    """Return the score of a pointwise answer, in [0, 1] or one of the two fallbacks; the last readable one counts."""
    text = after_thinking(text)
    places = [found.end() for found in _PHRASE.finditer(text)]
    if not places:
        counts["phrase_missing"] += 1
        return NO_PHRASE_SCORE
    for place in reversed(places):
        number = _NUMBER.match(text, place)
        if number is not None and 0 <= float(number[1]) <= LARGEST_SCORE:
            return float(number[1]) / LARGEST_SCORE
    counts["unparsable"] += 1
    return UNPARSABLE_SCORE


def expected_score(alternatives: Sequence[tuple[str, float]]) -> tuple[float | None, float]:
    """Return the mean score under the probabilities of the digits, and the probability of everything else.

    sum_d d * p(d) / sum_d p(d), divided by 5: with the log-probabilities of all six digits it is the softmax over their
    logits. Digits that are not among the alternatives have no mass; a token that is a digit but for white space counts.

    Args:
        alternatives: (token, log-probability) of the first answer token.
    Returns:
        Score in [0, 1], None where no digit is among them; missing mass in [0, 1].
    """
    mass = dict.fromkeys(DIGITS, 0.0)
    for token, logprob in alternatives:
        if token.strip() in mass:
            mass[token.strip()] += math.exp(logprob)
    total = math.fsum(mass.values())
    missing = min(max(1.0 - total, 0.0), 1.0)
    if total == 0.0:
        return None, missing
    return math.fsum(int(digit) * share for digit, share in mass.items()) / total / LARGEST_SCORE, missing


def read_permutation(text: str, count: int, counts: Counter[str]) -> list[int]:
    """Return the order (indices from 0) that a listwise answer gives to documents 1 to `count`.

    The longest chain "[3] > [1]" or JSON list counts, the last among equals, else all numbers in brackets. Repeats and
    numbers that no document has are dropped, documents that are not named follow in their old order; each is counted.
    """
    text = after_thinking(text)
    found = [*_CHAIN.finditer(text), *_LIST.finditer(text)]
    numbers = [re.findall(r"[0-9]+", match[0]) for match in sorted(found, key=lambda match: match.start())]
    named = max(reversed(numbers), key=len) if numbers else []
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

    A JSON object, "number: grade" lines, objects of id and score, or a plain list of `count` numbers. The last grade of
    a document counts; documents without one and grades outside 0 to 10 are counted and not returned.
    """
    text = after_thinking(text)
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
