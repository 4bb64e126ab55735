"""The gates' limits: each rejection has its reason, and switching a gate off lets its text pass."""

from dataclasses import replace

import pytest

from tests.unit.synth.gates.limits import GATES

ON = replace(GATES, copied_words=4, min_words=3, max_words=40)
DOCUMENT = "Warm water rises in a vessel because it grows lighter than the colder water above it."


@pytest.mark.parametrize(
    ("query", "reason", "off"),
    [
        ("", "empty", {}),
        ("why so?", "too_short", {"min_words": 1, "no_content": False}),
        ("why does it rise " * 20, "repetition", {"max_repetition": 1.0, "max_words": None}),
        ("I'm sorry, but I can't assist with that request.", "refusal", {"refusals": False}),
        ("Dear [insert name], why does the heated liquid rise?", "boilerplate", {"boilerplate": False}),
        ("Wie funktioniert die Photosynthese in den Pflanzen und im Wasser?", "language", {"language": False}),
        ("According to the passage, why does it rise?", "not_self_contained", {"self_contained": False}),
        ("the question", "prompt_echo", {"echo_words": 0, "min_words": 1, "no_content": False, "headings": False}),
        ("Why рrоteins fold when they are cold", "mixed_scripts", {"mixed_scripts": False}),
        ("Why xqzv do bwtrk plants grow fzzkq?", "gibberish", {"max_gibberish": 1.0}),
        ("What is the main idea?", "no_content", {"no_content": False}),
        ("The Heat of Fusion", "heading", {"headings": False}),
        ("What does the searcher want with fish?", "talks_about_task", {"task_talk": False}),
        ("Why is it that it grows lighter than anything else?", "copied_span", {"copied_words": 0}),
    ],
)
def test_a_query_is_rejected_with_its_reason(query: str, reason: str, off: dict) -> None:
    rejection = ON.check_query(query, DOCUMENT)
    assert rejection is not None and rejection.reason == reason and rejection.detail.endswith(".")
    if off:
        assert replace(ON, **off).check_query(query, DOCUMENT) is None


def test_lengths_and_pairs() -> None:
    long = " ".join(f"word{number}" for number in range(41))
    found = ON.check_length(long, "negative")
    assert found is not None and found.reason == "too_long" and "has 41 words; it must have at most 40" in found.detail
    assert ON.check_length("one two", "query", least=2) is None
    line = ON.check_task("1. Find a proof that fits.")
    assert line is not None and line.reason == "task_line"
    assert replace(ON, task_lines=False).check_task("1. Find a proof that fits.") is None
    same = ON.check_different(DOCUMENT, "negative", DOCUMENT.upper(), "positive")
    assert same is not None and same.reason == "negative_like_positive"
    assert replace(ON, near_duplicate=0.0).check_different(DOCUMENT, "negative", DOCUMENT, "positive") is None
