"""How language models say which option they choose (`phrases.yaml`), and the cleaning of a text before it is read.

`SAY` holds a compiled pattern under each name of phrases.yaml. English only.
"""

import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import yaml

CASE = "case"
"""The entry of phrases.yaml that lists the patterns in which capitals count."""


def _compile_phrases() -> Mapping[str, re.Pattern[str]]:
    """Compile phrases.yaml; %name% is replaced by the pattern of that name, which stands above."""
    content = yaml.safe_load(Path(__file__).with_name("phrases.yaml").read_text(encoding="utf-8"))
    with_case = set(content.pop(CASE))
    sources: dict[str, str] = {}
    for name, pattern in content.items():
        joined = "".join(pattern.splitlines())
        sources[name] = re.sub(r"%(\w+)%", lambda found: sources[found[1]], joined)
    # The character ranges of `glue` are no pattern by themselves, but harmless as one.
    return {name: re.compile(source, 0 if name in with_case else re.IGNORECASE) for name, source in sources.items()}


SAY = _compile_phrases()

_SIGNS = str.maketrans({
    "‘": "'", "’": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "「": '"', "」": '"',
    "–": "-", "—": "-", "−": "-", "‐": "-", "‑": "-", "\u2044": "/", "\u00a0": " ", "\r": "\n",
})  # fmt: skip
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_BOLD_LETTER = re.compile(r"\*\*[ ]?\(?([A-J])[).:]{0,2}[ ]?\*\*(?!\w)")
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|mathbf|mathrm|mathsf|mathit|bf|rm|boldsymbol|operatorname|emph|mbox)"
    r"\s{0,2}\{([^{}]{0,2000})\}"
)
_LATEX = re.compile(
    r"\\[()\[\]]|\\?\$|(?<![A-Za-z0-9)])\*{1,3}(?=\S)|(?<=\S)\*{1,3}(?![A-Za-z0-9(])|`|__|~~"
    r"|\\(?:left|right|displaystyle|large|Large|boldsymbol)(?![A-Za-z])"
)


def plain(text: str) -> str:
    """Return a text without what Markdown and LaTeX add to it; two spellings of one formula become the same.

    Bold lone letters stand in brackets afterwards. Lines stay lines; other white space is one space.
    """
    # NFKC would make "10²" the number 102.
    text = _SUPERSCRIPTS.sub(lambda found: "^" + unicodedata.normalize("NFKC", found[0]), text.replace("\r\n", "\n"))
    text = unicodedata.normalize("NFKC", text).translate(_SIGNS)
    # A bold letter is set apart on purpose: brackets keep this when the asterisks go.
    text = _BOLD_LETTER.sub(r"(\1)", text)
    # Models nest three commands at most, as in \boxed{\textbf{\text{C}}}.
    for _ in range(3):
        text = _WRAPPER.sub(r"\1", text)
    # Spaces of formulas, delimiters, and two spellings of fractions and exponents.
    text = re.sub(r"\\[,;:! ]", " ", _LATEX.sub("", text))
    text = re.sub(r"\\[dt]frac", r"\\frac", re.sub(r"\^\{([^{}]{0,40})\}", r"^\1", text))
    text = re.sub(r"[ \t]+", " ", text)
    return re.sub(r" ?\n ?", "\n", re.sub(r"(?m)^[#>]{1,6} ?", "", text)).strip()
