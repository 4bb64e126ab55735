"""Letters that are no words, and loops; the table of whole answers is tests/unit/synth/gates/answers.yaml."""

import random
import string
import time

import pytest

from reasonir.text.noise import gibberish, mixed_scripts, repetition
from tests.kit.texts import SENTENCES


def test_letters_at_random_are_gibberish_and_prose_is_none() -> None:
    draw = random.Random(4)
    words = ["".join(draw.choices(string.ascii_lowercase, k=draw.randrange(4, 9))) for _ in range(200)]
    assert gibberish(" ".join(words)) > 0.4
    assert gibberish(" ".join(SENTENCES)) == 0.0


def test_names_and_code_are_no_gibberish() -> None:
    assert gibberish("Brzezinski met Mstislav") == 0.0
    assert gibberish("`xqzv fzzkq jwqt qqwx` is how he named them, and foo_xqzv(wq), /xqzv/fzzkq, x.jwqt") == 0.0


@pytest.mark.parametrize(
    ("text", "given", "word"),
    [
        ("the рroof", [], "рroof"),
        ("proof 証明 of", [], "証明"),
        ("proof 証明 of", ["what 証明 means"], None),
        ("`証明` in code", [], None),
        ("photo合成synthesis", ["光"], "photo合成synthesis"),
        ("使用Python编程", ["编程"], None),
        ("Δx of αβγ-globin in kΩ", [], None),
        ("naïve Żółć", [], None),
    ],
)
def test_mixed_scripts(text: str, given: list[str], word: str | None) -> None:
    assert mixed_scripts(text, given) == word


def test_blanks_to_fill_in_are_no_loop_and_long_posts_may_repeat_phrases() -> None:
    assert repetition("The heart is ________________.") == 0.0
    assert repetition("x" + "ab" * 40) > 0.9
    log = " ".join(f"error in line {n} of main loop reached state {n * n}" for n in range(40))
    assert repetition(log) < 0.1
    assert repetition("the rope is the rope of " * 40) > 0.9


def test_the_measures_are_linear() -> None:
    texts = ["a" * 400_000, "xq " * 100_000, "光a" * 100_000, "{}" * 200_000]
    started = time.process_time()
    for text in texts:
        gibberish(text), mixed_scripts(text)
    assert time.process_time() - started < 5
