"""Plain answers: thoughts taken off, ended or not (refusals: tests/unit/synth/test_gates.py)."""

import time

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
        # nested, opened twice, closed twice, thoughts about the marks, thoughts behind the answer
        ("<think>one <think>two</think> three</think>Four.", "Four."),
        ("<think>\n<think>once more</think>Answer.", "Answer."),
        ("<think>5</think>3</think> 2", "2"),
        ("I use <think> and </think> for this</think>Answer.", "Answer."),
        ("<think>a</think>Answer.<think>was that right?</think>", "Answer."),
        ("<think>a<think>b</think>c</think>", ""),
        ("all of it was thought</think>\n", ""),
        # other spellings
        ("<Thinking>hm</Thinking> Answer.", "Answer."),
        ("<reasoning>hm</reasoning>\nAnswer.", "Answer."),
        ("<seed:think>hm</seed:think>Answer.", "Answer."),
        ("[THINK]hm[/THINK]Answer.", "Answer."),
        ("◁think▷hm◁/think▷Answer.", "Answer."),
        ("[THINK]never done", ""),
        # the channels of gpt-oss, with their marks and without
        (
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Answer.<|return|>",
            "Answer.",
        ),
        (
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>{}",
            "{}",
        ),
        ("<|channel|>analysis<|message|>hm<|end|>", ""),
        ("analysisShe asks for bread.assistantfinalUse yeast.", "Use yeast."),
        ("analysisShe asks.assistantcommentaryMore.assistantfinalUse yeast.", "Use yeast."),
        ("analysisShe asks for bread and I", ""),
        ('final{"query": "why?"}', '{"query": "why?"}'),
        ("analysis of the dough shows yeast", "analysis of the dough shows yeast"),
        ("final answer: yeast", "final answer: yeast"),
    ],
)
def test_thoughts_are_no_answer(text: str, expected: str) -> None:
    assert without_thoughts(text) == expected


@pytest.mark.parametrize("mark", ["<think>", "</think>", "<think></think>", "analysis ", "<|channel|>analysis"])
def test_a_loop_of_marks_takes_time_in_proportion_to_its_length(mark: str) -> None:
    without_thoughts(mark)  # compiled
    begun = time.process_time()
    without_thoughts(mark * 50_000)
    assert time.process_time() - begun < 2.0
