"""What a language model writes in place of the text that it was asked for: talk, placeholders, words of the prompt.

Invariant: pure; a text that cannot be told from a good answer passes. The patterns (talk.yaml) are for English.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from reasonir.text.words import words_and_operators, words_kept, words_of_prose

TALK: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "talk.yaml").read_text(encoding="utf-8"))
BOILERPLATE = [re.compile(pattern) for pattern in TALK["boilerplate"]]
# YAML joins the lines of the pattern with a space.
PLACEHOLDER = re.compile(re.sub(r"(\)\*?) \(", r"\1(", TALK["placeholder"]))
# The longest placeholder is "a concrete problem of the passage goes here"; a longer text needs no look.
PLACEHOLDER_CHARACTERS = 200
# Words that an answer may have besides the query: "Here is the query: ..." adds four.
ADDED_WORDS = 5
Run = tuple[str, ...]


def boilerplate(text: str) -> str | None:
    """Return an unfilled placeholder or talk around the text ("[insert name]", "Sure, here is"), or None."""
    text = text.lower()
    return next((found[0] for pattern in BOILERPLATE if (found := pattern.search(text))), None)


def is_placeholder(text: str) -> bool:
    """Return whether a whole answer only names what should stand there: "the problem", "your query here", "..."."""
    if len(text) > PLACEHOLDER_CHARACTERS:
        return False
    words = words_of_prose(text)
    return not words or PLACEHOLDER.fullmatch(" ".join(words)) is not None


def echoed_words(text: str, prompt: Sequence[str], given: Sequence[str], count: int) -> str | None:
    """Return words that an answer has from its prompt and not from the texts of the item; None for none.

    Args:
        text: The answer.
        prompt: The prompt's own texts, without those that were put into it for the item (`Prompt.own_texts`).
        given: The texts that were put into it.
        count: Words of a run that is an echo. A shorter answer is an echo where the prompt holds all of it.
    """
    words = words_kept(text)
    if not words:
        return None
    length = min(count, len(words))
    echoed = _runs(words, length) & _runs_of(tuple(prompt), length)
    # Only a few answers get here, so that the runs of a long document are seldom made.
    for source in given if echoed else ():
        echoed -= _runs(words_kept(source), length)
    return (
        " ".join(next(run for run in zip(*_shifted(words, length), strict=False) if run in echoed)) if echoed else None
    )


def _shifted(words: Sequence[str], length: int) -> list[Sequence[str]]:
    return [words[shift:] for shift in range(length)]


def _runs(words: Sequence[str], length: int) -> set[Run]:
    return set(zip(*_shifted(words, length), strict=False))


@lru_cache(maxsize=256)
def _runs_of(texts: tuple[str, ...], length: int) -> frozenset[Run]:
    """Return the runs of all texts; a run does not go on from one text to the next."""
    return frozenset().union(*(_runs(words_and_operators(text), length) for text in texts))


def only_repeats(text: str, query: str) -> bool:
    """Return whether a rewrite is the query again, once or many times, with a handful of words around it."""
    # Two spaces between words, so that each of two queries in a row has one of its own at either end.
    words, own = ("  ".join(words_and_operators(part)) for part in (text, query))
    if not own:
        return text.split() == query.split()
    rest = f" {words} ".replace(f" {own} ", " ")
    return rest != f" {words} " and len(rest.split()) <= ADDED_WORDS
