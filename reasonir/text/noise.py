"""Signs that a text is no prose: loops, words of two scripts, letters that spell no word.

Invariant: pure, and linear in the text. A text passes where a check cannot tell. Code, formulas, links, names and
chemical formulas are no noise; callers' limits are measured on real texts (docs/log/synthesis.md).
"""

import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from reasonir.text.language import NOT_PROSE, OTHER_SCRIPT
from reasonir.text.words import words_of_prose

NOISE = yaml.safe_load((Path(__file__).parent / "noise.yaml").read_text(encoding="utf-8"))
# Words of a run whose repetition counts, in short and in long texts. Posts with code and logs repeat runs of four.
SHORT_RUN, LONG_RUN, LONG_TEXT = 4, 8, 100
# A group of one to eight characters, eight times or more in a row, which takes eight characters without a space.
LONG_WORD = re.compile(r"\S{8,}")
CHARACTER_LOOP = re.compile(r"(\S{1,8}?)\1{7,}")


def repetition(text: str) -> float:
    """Return the share of a text that repeats itself, 0 to 1.

    It is the larger of two shares: runs of words that occurred before (four words; eight in texts of a hundred or
    more), and characters in loops of eight or more turns ("ahahahahahahahahah"; lines and blanks to fill in, which have
    no letters, do not count). Prose lies below 0.05, code and tables below 0.3, a model in a loop near 1.
    """
    found = (loop for word in LONG_WORD.findall(text) for loop in CHARACTER_LOOP.finditer(word))
    loops = (loop[0] for loop in found if any(map(str.isalnum, loop[1])))
    looped = sum(map(len, loops)) / max(len(text), 1)
    words = words_of_prose(text)
    count = LONG_RUN if len(words) >= LONG_TEXT else SHORT_RUN
    # In a text of fewer than eight words one repeated run would be a large share.
    if len(words) < 2 * count:
        return looped
    runs = list(zip(*(words[shift:] for shift in range(count)), strict=False))
    return max(looped, 1 - len(set(runs)) / len(runs))


LATIN = "A-Za-z\u00c0-\u024f"
GREEK = "\u0370-\u03ff"
# Cyrillic, Armenian, Hebrew, Arabic, the scripts of India and South East Asia, Georgian: not joined to Latin letters.
APART = "\u0400-\u06ff\u0900-\u11ff"
JOINED = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
# Greek letters stand beside Latin ones in formulas, so that it takes three of each. Chinese, Japanese and Korean write
# a Latin word without a space, so that only Latin letters on both sides count.
MIXED_WORD = re.compile(
    rf"[{LATIN}]+[{APART}][{LATIN}{APART}]*|[{APART}]+[{LATIN}][{LATIN}{APART}]*"
    rf"|[{LATIN}]{{3,}}[{GREEK}]{{3,}}\w*|[{GREEK}]{{3,}}[{LATIN}]{{3,}}\w*"
    rf"|[{LATIN}]{{2,}}[{JOINED}]+[{LATIN}]{{2,}}\w*"
)
NOT_LATIN = re.compile(f"[{GREEK}{APART}{JOINED}]")
OTHER_SCRIPT_WORD = re.compile(f"{OTHER_SCRIPT.pattern}+")


def mixed_scripts(text: str, given: Iterable[str] = ()) -> str | None:
    """Return the first word in two scripts, or in one that neither English nor the given texts have; None for none.

    Args:
        text: The written text. Code and formulas do not count.
        given: What it was made of: a text on Japanese words may hold some.
    """
    # Accents and typographic quotes are what most texts have beside ASCII.
    if text.isascii() or not NOT_LATIN.search(text):
        return None
    prose = NOT_PROSE.sub(" ", text)
    found = MIXED_WORD.search(prose)
    if found is None and not any(OTHER_SCRIPT.search(source) for source in given):
        found = OTHER_SCRIPT_WORD.search(prose)
    return found[0] if found else None


# Lower-case words of four letters or more that are no part of an identifier, a path or a call.
PLAIN_WORD = re.compile(r"(?<![\w.\-/\\@=:<#&$%_])[A-Za-z][a-z]{3,}(?![\w(\[=./\\@:_])")
UNSEEN_PAIRS = "|".join(f"{first}[{seconds}]" for first, seconds in NOISE["unseen_pairs"].items())
ODD_WORD = re.compile(rf"{UNSEEN_PAIRS}|(?<!\S)[^aeiouy\s]+(?!\S)|[bcdfghjklmnpqrstvwxz]{{7,}}")
# The longest word of an English dictionary has 45 letters. Genes are longer and have four or five letters.
ENDLESS_WORD = re.compile(r"(?<![\w/+=.-])(?![acgtun]+\b)[A-Za-z]?[a-z]{45,}", re.ASCII)
# Formulas without dollars and tables of contents have up to 0.54; measured in texts of this length or more.
MOST_SIGNS, SIGNS_FROM = 0.6, 30
# Odd words below this number are names and abbreviations, however short the text.
FEWEST_ODD = 3


def gibberish(text: str) -> float:
    """Return the share of different words that cannot be English: 0 for prose, over 0.5 for letters drawn at random.

    Such a word has no vowel, seven consonants in a row, or a pair of letters that English does not have ("zq"). Fewer
    than three odd words count as none: they are names. The share is 1 for a text with a word of 46 letters or more, and
    for one that is mostly signs.
    """
    prose = NOT_PROSE.sub(" ", text)
    if ENDLESS_WORD.search(prose) or _is_mostly_signs(prose):
        return 1.0
    # Each word once: a name that cannot be English is written many times.
    words = {word.lower() for word in PLAIN_WORD.findall(prose)}
    # In one text first, because most texts have no odd word.
    odd = sum(map(_is_odd, words)) if ODD_WORD.search(" ".join(words)) else 0
    return odd / len(words) if odd >= FEWEST_ODD else 0.0


def _is_mostly_signs(text: str) -> bool:
    marks = "".join(text.split())
    return len(marks) >= SIGNS_FROM and sum(map(str.isalnum, marks)) < (1 - MOST_SIGNS) * len(marks)


def _is_odd(word: str) -> bool:
    return ODD_WORD.search(word) is not None
