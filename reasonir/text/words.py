"""Words of a text, as the checks for near duplicates count them."""

import re
import unicodedata

# A Han, Hiragana or Katakana character is a word; elsewhere letters and digits run together. Operators tell formulas
# apart; a hyphen is one unless it joins letters.
WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff]|(?:(?![\u3040-\u30ff\u3400-\u9fff])[^\W_])+|[+*/^=<>±×÷≤≥≠∈∂∇∫∑∏√]"
    r"|(?<![^\W\d_])-|-(?![^\W\d_])"
)
APOSTROPHES = str.maketrans("", "", "'\u2019\u00ad")


def words(text: str) -> list[str]:
    """Return the words of a text in one spelling: compatible Unicode forms joined, lower case, no apostrophes."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return WORD.findall(text.casefold().translate(APOSTROPHES))


def one_spelling(text: str) -> str:
    """Return a text for comparing exactly: Unicode form, case and white space made even, punctuation kept."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
