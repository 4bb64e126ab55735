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


def test_a_reranker_reads_thoughts_that_never_end() -> None:
    assert without_thoughts("<think>Relevance score: 4", keep_unfinished=True) == "<think>Relevance score: 4"
    assert without_thoughts("<think>5</think>3</think> 2", keep_unfinished=True) == "2"
