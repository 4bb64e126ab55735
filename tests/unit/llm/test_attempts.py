"""One question until an answer passes: what is shown again, what is counted, what ends it."""

from dataclasses import replace

import pytest

from reasonir.llm.attempts import SERVER_ERROR, Rejection, Trail, ask_until_accepted
from reasonir.llm.conversations import Conversation
from reasonir.llm.prompts import REWRITE_VARIABLES, load_prompt
from reasonir.llm.records import Completion, Message, Request

# A number and its attempt.
Result = tuple[int, int] | Rejection
OPENING = (Message("user", "A number?"),)
OPENING_TEMPERATURE = 0.7


def converse(trail: Trail) -> Conversation[Result]:
    def read(completion: Completion, attempt: int) -> Result:
        text = completion.text
        return (int(text), attempt) if text.isdigit() else Rejection("no_number", f"{text!r} is no number.")

    prompt = load_prompt("rewrite", None, REWRITE_VARIABLES, "text")
    return ask_until_accepted(
        prompt,
        Request(id="", messages=OPENING, temperature=OPENING_TEMPERATURE),
        lambda attempt: attempt,
        read,
        3,
        0.4,
        trail,
    )


def answered(*completions: Completion) -> tuple[Result, list[Request], Trail]:
    trail, asked, turn = Trail(), [], None
    conversation = converse(trail)
    for completion in (*completions, None):
        try:
            (request,) = conversation.send(turn)  # type: ignore[arg-type]
        except StopIteration as end:
            return end.value, asked, trail
        asked.append(request)
        assert completion is not None
        turn = [completion]
    raise AssertionError


GOOD = Completion(id="", text="7", finish="stop", input_tokens=5, output_tokens=2)
BAD = replace(GOOD, text="x")


def test_the_first_answer_that_passes_ends_it() -> None:
    result, asked, trail = answered(BAD, GOOD)
    assert result == (7, 2) and [request.seed for request in asked] == [1, 2]
    assert asked[0].messages == OPENING == asked[1].messages[:1]
    assert asked[1].messages[1] == Message("assistant", "x") and "'x' is no number." in asked[1].messages[2].content
    assert (trail.input_tokens, trail.output_tokens) == (10, 4)
    assert trail.rejected == [
        {"reason": "no_number", "detail": "'x' is no number.", "stage": "rewrite", "attempt": 1, "text": "x"}
    ]


def test_the_last_rejection_is_the_result_and_only_the_last_answer_is_shown() -> None:
    result, asked, trail = answered(BAD, replace(BAD, text="y"), replace(BAD, text="z"))
    assert result == Rejection("no_number", "'z' is no number.") and len(trail.rejected) == 3
    assert [len(request.messages) for request in asked] == [1, 3, 3] and asked[2].messages[1].content == "y"


def test_each_attempt_is_warmer_up_to_one_or_the_runs_own_temperature() -> None:
    _, asked, _ = answered(BAD, replace(BAD, text="y"), replace(BAD, text="z"))
    assert [request.temperature for request in asked] == [OPENING_TEMPERATURE, 1.0, 1.0]


def test_an_answer_that_comes_again_is_not_shown_a_second_time() -> None:
    _, asked, _ = answered(BAD, BAD, BAD)
    assert [len(request.messages) for request in asked] == [1, 3, 1]
    assert asked[2].messages[0].content.startswith(OPENING[0].content + "\n\n")


def test_a_late_check_waits_for_the_items_before_and_may_ask_again() -> None:
    trail, known = Trail(), {7}
    prompt = load_prompt("rewrite", None, REWRITE_VARIABLES, "text")
    conversation = ask_until_accepted(
        prompt, Request(id="", messages=OPENING), lambda attempt: attempt, lambda c, _: int(c.text), 2, 0.0, trail,
        lambda number: Rejection("duplicate", "Known.") if number in known else None,
    )  # fmt: skip
    assert len(next(conversation)) == 1
    assert conversation.send([GOOD]) == []  # waits for its turn
    (again,) = conversation.send(None)  # type: ignore[arg-type]
    assert "Known." in again.messages[-1].content and [line["reason"] for line in trail.rejected] == ["duplicate"]
    assert conversation.send([replace(GOOD, text="8")]) == []
    with pytest.raises(StopIteration) as end:
        conversation.send(None)  # type: ignore[arg-type]
    assert end.value.value == 8


def test_a_failed_request_is_not_asked_again() -> None:
    result, asked, trail = answered(replace(GOOD, text="", finish="error", error="status 503"))
    assert result == Rejection(SERVER_ERROR, "status 503") and len(asked) == len(trail.rejected) == 1
