"""LaTeX that JSON has eaten, beside tabs and line ends that people meant."""

import json

import pytest

from reasonir.text.control_characters import restore_backslashes, stray_character

EATEN = [
    (r"the slope is \frac{h}{t}", r"the slope is \frac{h}{t}"),
    (r"the angle \theta is small", r"the angle \theta is small"),
    (r"\beta-decay and \bar{x}", r"\beta-decay and \bar{x}"),
    (r"a \forall b", r"a \forall b"),
    (r"of frequency \nu, say", r"of frequency \nu, say"),
    (r"$E = h\nu$ holds", r"$E = h\nu$ holds"),
    (r"\(h\nu\) holds", r"\(h\nu\) holds"),
    (r"x \neq 0 and y\neq 1", r"x \neq 0 and y\neq 1"),
    (r"\nabla f = 0", r"\nabla f = 0"),
    (r"a \notin B", r"a \notin B"),
    (r"\rho v^2 and \right) and |\psi\rangle", r"\rho v^2 and \right) and |\psi\rangle"),
    (r"3 \times 4", r"3 \times 4"),
    (r"$\text{ if } x$ and \textbf{no}", r"$\text{ if } x$ and \textbf{no}"),
    (r"$\tan x$, \tan(x) and f: X \to Y", r"$\tan x$, \tan(x) and f: X \to Y"),
    (r"$\tau$ and \tilde{x} \triangle ABC", r"$\tau$ and \tilde{x} \triangle ABC"),
]
MEANT = [
    "first line\nunder it a second one",
    "We measured\nu and v, then\nno more.",
    "a list:\n- one\n- two\n\nnu is a letter\nexists as well",
    "What should I do\ni asked\ne.g. this",
    "a break in Markdown  \nnext line",
    "name\tan\nto\tin",
    "word\text\ttag",
    "func f() {\n\tan := 3\n\tto := 4\n\ttop(an)\n}",
    "def f():\n\treturn x\n\n\ttext = 3",
    "line\r\nright after a line end of Windows\r\n",
    "It costs $5.\nExists in two sizes at $7",
    "price $3\nu pay $4 less",
]


@pytest.mark.parametrize(("written", "meant"), EATEN)
def test_a_backslash_that_json_took_comes_back(written: str, meant: str) -> None:
    # Single backslashes within a JSON string, as models write them; what JSON does not know as an escape is doubled.
    source = "".join(f"\\{c}" if c == "\\" and written[i + 1] not in "bfnrt" else c for i, c in enumerate(written))
    eaten = json.loads(f'"{source}"', strict=False)
    assert eaten != meant and restore_backslashes(eaten) == meant
    assert restore_backslashes(meant) == meant and stray_character(meant) is None


@pytest.mark.parametrize("text", MEANT)
def test_tabs_and_line_ends_that_were_meant_stay(text: str) -> None:
    assert restore_backslashes(text) == text and stray_character(text) is None


@pytest.mark.parametrize(
    ("text", "name"),
    [("a\0b", "U+0000"), ("a\x07", "U+0007"), ("broken � bytes", "U+FFFD"), ("a\x1b[1m", "U+001B"),
     ("it\x92s", "U+0092"),
     ("one\rtwo", "U+000D"), ("\x0c 12", "U+000C"), ("two words\b\b", "U+0008"), ("a\x7fb", "U+007F")],
)  # fmt: skip
def test_other_control_characters_are_named(text: str, name: str) -> None:
    assert stray_character(restore_backslashes(text)) == name


def test_letters_of_any_script_are_no_control_characters() -> None:
    assert stray_character("naïve Ωμέγα 光合成 ‍👩‍🔬 −½ \u00a0 \u200b") is None
