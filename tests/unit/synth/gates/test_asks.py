"""A query asks for something, leaves the answer to others, and does not name the idea that solves it."""

from dataclasses import replace

import pytest

from reasonir.synth.gates.checks import Gates
from reasonir.synth.gates.text import asks, own_answer

GATES = Gates(
    language=False, refusals=False, boilerplate=False, echo_words=0, mixed_scripts=False, max_gibberish=1.0,
    max_repetition=1.0, self_contained=False, no_content=False, headings=False, questions=True, names_idea=True,
    task_talk=False, task_lines=False, duplicates=False, copied_words=0, near_duplicate=0.0, min_words=1,
    max_words=None, length_ratio=0.0,
)  # fmt: skip


@pytest.mark.parametrize(
    "query",
    [
        "Why do leaves turn red?",
        "A ball is thrown at 3 m/s from a cliff of 20 m. Find the time until it hits the sea.",
        "Prove that every tree with two vertices or more has two leaves.",
        "My bread collapses as soon as I take it out. I want to know which step went wrong.",
        "The build fails with error 23 on one machine only. Any help is welcome.",
        "We are looking for a way to keep two caches in step without a lock.",
    ],
)
def test_questions_and_requests_pass(query: str) -> None:
    assert asks(query) and GATES.check_asks(query) is None


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("The human body is composed of cells, which are made up of proteins.", "no_question"),
        ("Carbon dioxide moves into the leaf and water moves out of it.", "no_question"),
        ("What makes bread rise? The answer is that yeast makes gas.", "answers_itself"),
        ("Why is the sea salty? The answer lies in the rivers.", "answers_itself"),
    ],
)
def test_statements_and_answered_questions_are_refused(query: str, reason: str) -> None:
    rejection = GATES.check_asks(query)
    assert rejection is not None and rejection.reason == reason
    assert replace(GATES, questions=False).check_asks(query) is None


def test_words_about_an_answer_are_no_answer() -> None:
    assert own_answer("My teacher says that the answer is 42, but I get 41. Where is my mistake?") is None


@pytest.mark.parametrize(
    ("query", "idea", "named"),
    [
        (
            "Why does it last, when microbes that make it sour keep others away?",
            "Microbes that make it sour",
            True,
        ),
        ("Is it osmosis that makes my cherries burst in the rain?", "osmosis", True),
        ("Why do my cherries burst in the rain?", "osmosis", False),
        ("Why does the cabbage in my crock last all winter?", "Acid keeps other microbes away from food.", False),
        ("Why does the cabbage in my crock last all winter?", "", False),
    ],
)
def test_a_query_does_not_name_its_idea(query: str, idea: str, named: bool) -> None:
    rejection = GATES.check_idea(query, idea)
    assert (rejection is not None and rejection.reason == "names_idea") is named
