"""Is a text English prose, and in which script is it written?"""

import re
import unicodedata
from collections import Counter
from pathlib import Path

import yaml

WORD_LISTS = yaml.safe_load((Path(__file__).parent / "function_words.yaml").read_text(encoding="utf-8"))
ENGLISH = frozenset(WORD_LISTS["english"].split())
# A word that English has too speaks for neither language. "die" is kept: it is rare in English and German's article.
FOREIGN_WORDS = {name: frozenset(row.split()) - (ENGLISH - {"die"}) for name, row in WORD_LISTS["foreign"].items()}
NOT_PROSE = re.compile(r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]{0,400}\$|\\[a-zA-Z]+|https?://\S+", re.DOTALL)
# Single letters are names of variables more often than words, and letters beside digits belong to formulas.
LETTERS_WORD = re.compile(r"(?<!\w)[^\W\d_]{2,}(?:['\u2019][^\W\d_]+)?(?!\w)")
OTHER_SCRIPT = re.compile(r"[\u0400-\u06ff\u0900-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
GREEK_WORD = re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]{4,}")  # shorter runs are formulas
LATIN_LETTER = re.compile(r"[A-Za-z\u00c0-\u024f]")
# In fewer words no share of function words means anything.
SHORT_WORDS = 6


def looks_english(text: str) -> bool:
    """Return whether a text is English prose, or too short or too formal to tell.

    Code, formulas and links are left out first. A text is not English where over 30 % of its letters are of another
    script, where another language's function words outnumber the English ones, or where many words are accented and
    hardly any is an English function word. Fewer than six words of Latin letters pass. Limits: a language outside the
    list of ten without accents passes (romanised Hindi, Swahili), and so does a text of names and numbers alone.
    """
    other = 0 if text.isascii() else len(OTHER_SCRIPT.findall(text)) + sum(map(len, GREEK_WORD.findall(text)))
    if other and other > 0.3 * (other + len(LATIN_LETTER.findall(text))):
        return False
    found = [word.casefold() for word in LETTERS_WORD.findall(NOT_PROSE.sub(" ", text))]
    if len(found) < SHORT_WORDS:
        return True
    english = sum(word in ENGLISH or "'" in word or "\u2019" in word for word in found) / len(found)
    counts = Counter(found)
    foreign = max(sum(counts[word] for word in known & counts.keys()) for known in FOREIGN_WORDS.values()) / len(found)
    accented = sum(not word.isascii() for word in found if len(word) > 2) / len(found)
    return not ((foreign > english and foreign >= 0.12) or (english < 0.05 and accented >= 0.12))


# Japanese is written in three scripts at once.
SAME_SCRIPT = {"HIRAGANA": "CJK", "KATAKANA": "CJK"}
# Letters that are looked at: the beginning of a text is in its script.
LETTERS_OF_SCRIPT = 2_000


def script_of(text: str) -> str:
    """Return the script of most letters of a text, such as "LATIN", "CYRILLIC" or "CJK"; "" for one without letters."""
    if text.isascii():
        return "LATIN" if any(map(str.isalpha, text)) else ""
    letters = filter(str.isalpha, text[:LETTERS_OF_SCRIPT])
    names = Counter(unicodedata.name(letter, "?").split()[0] for letter in letters)
    scripts: Counter[str] = Counter()
    for name, count in names.items():
        scripts[SAME_SCRIPT.get(name, name)] += count
    return max(scripts, key=scripts.__getitem__, default="")
