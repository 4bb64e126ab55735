"""What counts as a word of a text: one rule for prose, one that also keeps the operators of formulas.

Both rules put a text into one spelling first: compatible Unicode forms joined, lower case, apostrophes and soft hyphens
removed. Han, Hiragana and Katakana put no spaces between words, so each of their characters is a word.
"""

import re
import unicodedata
from functools import lru_cache

JOINED_SCRIPTS = "\u3040-\u30ff\u3400-\u9fff"
PROSE_WORD = re.compile(rf"[{JOINED_SCRIPTS}]|[^\W_{JOINED_SCRIPTS}]+")
# A hyphen is an operator unless it joins letters.
FORMULA_WORD = re.compile(
    rf"[{JOINED_SCRIPTS}]|(?:(?![{JOINED_SCRIPTS}])[^\W_])+|[+*/^=<>±×÷≤≥≠∈∂∇∫∑∏√]|(?<![^\W\d_])-|-(?![^\W\d_])"
)
APOSTROPHES = str.maketrans("", "", "'\u2019\u00ad")
# What an ASCII character becomes: itself in lower case, or a space. Three times as fast as the pattern.
ASCII_WORDS = bytes(c if chr(c).isalnum() else ord(" ") for c in bytes(range(128)).lower()) + bytes(128)


def words_of_prose(text: str) -> list[str]:
    """Return runs of letters and digits: punctuation and operators do not count.

    For contamination: a copy is found whatever marks a website or a parser put between its words.
    """
    if text.isascii():
        return text.encode().translate(ASCII_WORDS, b"'").decode().split()
    return PROSE_WORD.findall(unicodedata.normalize("NFKC", text).casefold().translate(APOSTROPHES))


def words_and_operators(text: str) -> list[str]:
    """Return runs of letters and digits, and each operator of a formula as a word of its own.

    For near duplicates: two exercises that differ in a sign alone ask different things.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return FORMULA_WORD.findall(text.casefold().translate(APOSTROPHES))


@lru_cache(maxsize=32)
def words_kept(text: str) -> tuple[str, ...]:
    """Return `words_and_operators`, kept for the texts looked at last: several gates look at one answer."""
    return tuple(words_and_operators(text))


def one_spelling(text: str) -> str:
    """Return a text for comparing exactly: Unicode form, case and white space made even, punctuation kept."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
