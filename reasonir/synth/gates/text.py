"""Checks on a generated text, without a model. Each returns the words that are wrong, or a number.

Invariant: a check sees texts only and gives the same result in every process. A text passes where a check cannot tell.
The patterns (patterns.yaml) are for English. `checks.py` applies the limits of the options.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from reasonir.text.words import words_and_operators


def word_count(text: str) -> int:
    """Return the number of words, separated by white space."""
    return len(text.split())


def shares_run(text: str, source: str, count: int) -> bool:
    """Return whether two texts share a run of words: `longest_copied_span(text, source) >= count`, but faster.

    Args:
        text: The written text.
        source: The text it may have been copied from.
        count: Words of the run.
    """
    ours, theirs = words_and_operators(text), words_and_operators(source)
    if min(len(ours), len(theirs)) < count:
        return False
    runs = set(zip(*(ours[shift:] for shift in range(count)), strict=False))
    return any(run in runs for run in zip(*(theirs[shift:] for shift in range(count)), strict=False))


def longest_copied_span(text: str, source: str) -> int:
    """Return the words of the longest run of `text` that `source` contains; punctuation and case are ignored."""
    # A suffix automaton of the source (Blumer et al. 1985) is walked along the text. Time and memory stay linear, also
    # for texts of a model in a loop, on which difflib's longest match is quadratic.
    moves: list[dict[str, int]] = [{}]
    link, length = [-1], [0]
    last = 0
    for word in words_and_operators(source):
        state = len(moves)
        moves.append({})
        link.append(0)
        length.append(length[last] + 1)
        here = last
        while here >= 0 and word not in moves[here]:
            moves[here][word] = state
            here = link[here]
        if here >= 0:
            there = moves[here][word]
            if length[there] != length[here] + 1:
                # Longer runs of that state end at fewer places than this one, which therefore gets a state of its own.
                clone = len(moves)
                moves.append(moves[there].copy())
                link.append(link[there])
                length.append(length[here] + 1)
                while here >= 0 and moves[here].get(word) == there:
                    moves[here][word] = clone
                    here = link[here]
                link[there] = clone
                there = clone
            link[state] = there
        last = state
    # matched: words of the longest run that ends at the current word and stands in the source.
    longest = matched = here = 0
    for word in words_and_operators(text):
        while here and word not in moves[here]:
            here = link[here]
            matched = length[here]
        if word in moves[here]:
            here, matched = moves[here][word], matched + 1
        longest = max(longest, matched)
    return longest


PATTERNS: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("patterns.yaml").read_text(encoding="utf-8"))


def _compile(pattern: str) -> re.Pattern[str]:
    spelled_out = re.sub(r"<(\w+)>", lambda name: PATTERNS["parts"].get(name[1], name[0]), pattern)
    return re.compile(spelled_out, re.IGNORECASE)


MENTIONS = [_compile(pattern) for pattern in PATTERNS["mentions"]]
INTRODUCED = _compile(PATTERNS["introduced"])
BOILERPLATE = [_compile(pattern) for pattern in PATTERNS["boilerplate"]]
# Words of a run whose repetition counts.
REPEATED_WORDS = 4
# A group of one to eight characters, eight times or more in a row.
CHARACTER_LOOP = re.compile(r"(\S{1,8}?)\1{7,}")


def source_mention(text: str) -> str | None:
    """Return the words by which a query refers to a text that its reader does not have; None for a query without.

    Found are "according to the passage", "the author argues" or "described in this document". Not found are sources
    that the query introduces itself ("I read a paper ... the author claims") and other things of the same name: a
    legal document, a text editor, the passage of time, the author of a named book.
    """
    # Most queries contain none of these words, and need no pattern.
    folded = text.casefold()
    if not any(name in folded for name in PATTERNS["named"]):
        return None
    matches = [found for pattern in MENTIONS if (found := pattern.search(text))]
    for found in sorted(matches, key=lambda match: match.start()):
        # Only what stands before the mention can have introduced its source.
        if not INTRODUCED.search(text[: found.start()]):
            return found[0]
    return None


def boilerplate(text: str) -> str | None:
    """Return an unfilled placeholder or talk around the text ("[insert name]", "Sure, here is"), or None."""
    return next((found[0] for pattern in BOILERPLATE if (found := pattern.search(text))), None)


def repetition(text: str) -> float:
    """Return the share of a text that repeats itself, 0 to 1.

    It is the larger of two shares: runs of four words that occurred before, and characters in loops of eight or more
    turns ("ahahahahahahahahah"). Prose lies below 0.05, code and tables below 0.3, a model in a loop near 1.
    """
    looped = sum(len(found[0]) for found in CHARACTER_LOOP.finditer(text)) / max(len(text), 1)
    parts = words_and_operators(text)
    # In a text of fewer than eight words one repeated run would be a large share.
    if len(parts) < 2 * REPEATED_WORDS:
        return looped
    runs = list(zip(parts, parts[1:], parts[2:], parts[3:], strict=False))
    return max(looped, 1 - len(set(runs)) / len(runs))
