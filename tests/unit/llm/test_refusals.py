"""Plain answers: thoughts taken off, ended or not (refusals: tests/unit/synth/test_gates.py)."""

import pytest

from reasonir.llm.refusals import without_thoughts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a\nb</think>\n\nAnswer. ", "Answer."),
        ("begun in the template</think>Answer.", "Answer."),
        ("<think>cut off in the middle", ""),
        ("<think>a</think>Answer <think>and more", "Answer"),
        ("Answer with a < b and no thoughts", "Answer with a < b and no thoughts"),
    ],
)
def test_thoughts_are_no_answer(text: str, expected: str) -> None:
    assert without_thoughts(text) == expected
