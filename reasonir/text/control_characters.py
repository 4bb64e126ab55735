"""Control characters of a written text: LaTeX that lost its backslashes, and what no text holds.

A model that writes "\\frac" into a JSON string and does not double the backslash has written a form feed and "rac":
JSON knows \\b, \\f, \\n, \\r and \\t. Invariant: a text that holds tabs and line ends only where people put them stays
as it is.
"""

import re
from pathlib import Path

import yaml

COMMANDS = yaml.safe_load((Path(__file__).parent / "latex_commands.yaml").read_text(encoding="utf-8"))
SURE, UNSURE = (frozenset(COMMANDS[kind].split()) for kind in ("sure", "unsure"))
LETTER_OF = {"\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
# Backspace and form feed stand before a letter in no text. The others need the name of a command.
EATEN = re.compile(r"[\b\f](?=[A-Za-z])|([\n\r\t])([A-Za-z]+)")
CLOSING_DOLLAR = re.compile(r"\S\$(?!\d)")
# A carriage return ends a line together with a newline only; C1 controls are a wrong decoding of other characters.
STRAY = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd-\uffff]|\r(?![\r\n]|\Z)")


def restore_backslashes(text: str) -> str:
    """Return a text with the backslashes that JSON took from its LaTeX: form feed and "rac" become "\\frac" again."""
    # Most texts hold none of the five, and need no pattern.
    if text.isprintable():
        return text
    return EATEN.sub(lambda found: _restored(found, text), text)


def _restored(found: re.Match[str], text: str) -> str:
    control, rest = found[0][0], found[0][1:]
    if found[1] and not _is_command(control, rest, text, found.start()):
        return found[0]
    return f"\\{LETTER_OF[control]}{rest}"


def _is_command(control: str, rest: str, text: str, place: int) -> bool:
    """Return whether a newline, carriage return or tab and the letters behind it were a command of LaTeX."""
    name = LETTER_OF[control] + rest
    if name in SURE:
        return True
    if name not in UNSURE:
        return False
    # From here on the letters are a word too: "\nu" or a line that begins with "u", "\tan" or a column that says "an".
    if control == "\r":
        return True
    line = text[:place].rpartition("\n")[2]
    after = text[place + 1 + len(rest) :][:1]
    # One space in front: people do not end lines with one (Markdown's break has two), nor put one before a tab.
    spaced = line.endswith(" ") and not line.endswith("  ") and bool(line.strip())
    called = control == "\t" and after in tuple("{(^_") and bool(line.strip())
    return spaced or called or _in_formula(text, place)


def _in_formula(text: str, place: int) -> bool:
    """Return whether a formula is open at a place: after an odd number of dollars, \\( or \\[ of its paragraph."""
    before = text[:place].rpartition("\n\n")[2]
    if max(before.rfind("\\("), before.rfind("\\[")) > max(before.rfind("\\)"), before.rfind("\\]")):
        return True
    # Prices have dollars as well: the formula must end, and soon.
    return before.count("$") % 2 == 1 and CLOSING_DOLLAR.search(text, place, place + 200) is not None


def stray_character(text: str) -> str | None:
    """Return the name of a character that no written text holds, such as "U+0000"; None for a text without.

    These are control characters other than tab and line end, U+FFFD, which stands for broken bytes, and U+FFFE, U+FFFF.
    """
    found = STRAY.search(text)
    return f"U+{ord(found[0]):04X}" if found else None
