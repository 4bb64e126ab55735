"""Which letters a reader takes: shares, what no preference would give, and the test of the distance."""

import random
from collections.abc import Callable, Sequence

import pytest

from reasonir.eval.rag.letters import count_letters
from reasonir.eval.rag.reader import Answer
from reasonir.eval.rag.records import LETTERS, Question

Choose = Callable[[Question, random.Random], str]


def given(question: Question, letter: str, sample: int = 1) -> Answer:
    return Answer(
        id=question.id, condition="closed_book", sample=sample, letter=letter, stage="letter", guess="",
        correct=letter == question.answer, passages=(), dropped=0, finish="stop", error="", input_tokens=0,
        output_tokens=0, text=letter,
    )  # fmt: skip


def ask(choose: Choose, count: int = 400, gold: str = "ABCD", options: int = 4, seed: int = 0) -> dict:
    draw = random.Random(seed)
    questions = [Question(f"q{n}", "?", ("x",) * options, gold[n % len(gold)]) for n in range(count)]
    found = count_letters([given(q, choose(q, draw)) for q in questions], {q.id: q for q in questions}, 0.95, 0)
    assert found is not None
    return found


def knows_half(question: Question, draw: random.Random) -> str:
    return (
        question.answer if draw.random() < 0.5 else draw.choice([x for x in question.letters if x != question.answer])
    )


def always_a(question: Question, draw: random.Random) -> str:
    return "A"


def leans_to_a(question: Question, draw: random.Random) -> str:
    return "A" if draw.random() < 0.2 else knows_half(question, draw)


@pytest.mark.parametrize("gold", ["ABCD", "AAAB"], ids=["even", "uneven"])
def test_a_reader_without_a_preference_is_as_expected(gold: str) -> None:
    found = [ask(knows_half, gold=gold, seed=seed) for seed in range(20)]
    # By the level of the test: about one of 20 falls below 0.05, whatever letters are gold.
    assert sum(entry["p_value"] < 0.05 for entry in found) <= 4
    # Where gold letters are uneven the test is conservative: how often the reader is right is estimated from them.
    assert sum(entry["p_value"] < 0.5 for entry in found) in range(4 if gold == "ABCD" else 0, 17)
    one = found[0]
    assert one["gold"] == ([0.25] * 4 if gold == "ABCD" else [0.75, 0.25, 0, 0]) and one["chance"] == [0.25] * 4
    assert sum(one["chosen"]) == pytest.approx(1) == pytest.approx(sum(one["unbiased"]))
    for chosen, expected in zip(one["chosen"], one["unbiased"], strict=True):
        assert chosen == pytest.approx(expected, abs=0.07)


@pytest.mark.parametrize(("choose", "gold"), [(always_a, "ABCD"), (leans_to_a, "ABCD"), (leans_to_a, "BCD")])
def test_a_preferred_letter_shows(choose: Choose, gold: str) -> None:
    found = ask(choose, gold=gold)
    assert found["p_value"] < 0.001 and found["chosen"][0] > found["unbiased"][0] + 0.05
    low, high = found["intervals"][0]
    assert low < found["chosen"][0] <= high + 1e-9 and found["unbiased"][0] < low


def test_a_reader_that_is_always_right_prefers_nothing() -> None:
    found = ask(lambda question, draw: question.answer, gold="AAB")
    assert found["p_value"] == 1.0 and found["chosen"] == found["gold"] == found["unbiased"]


def test_unread_answers_are_left_out_and_samples_are_one_trial() -> None:
    questions = [
        Question("two", "?", ("x", "y"), "B"),
        Question("ten", "?", ("x",) * 10, "J"),
        Question("no", "?", ("x",) * 4, "A"),
    ]
    answers: Sequence[Answer] = [
        given(questions[0], "A"), given(questions[0], "B", 2), given(questions[1], "J"), given(questions[2], "")
    ]  # fmt: skip
    found = count_letters(answers, {q.id: q for q in questions}, 0.95, 0)
    assert found is not None and found["letters"] == LETTERS and found["questions"] == 2
    assert found["chosen"] == [0.25, 0.25, *[0.0] * 7, 0.5]
    assert found["gold"] == [0, 0.5, *[0.0] * 7, 0.5]
    assert found["chance"] == pytest.approx([0.3, 0.3, *[0.05] * 8])
    # Right three times of four: 0.75 on the gold letter, the rest on the others of each question.
    assert found["unbiased"][0] == pytest.approx((0.25 + 0.25 / 9) / 2)
    assert count_letters(answers[3:], {q.id: q for q in questions}, 0.95, 0) is None
