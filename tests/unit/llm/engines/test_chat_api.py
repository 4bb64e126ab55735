"""One answer of a server, in the forms that servers give it: text, parts, reasons of its end, fields beside it."""

from typing import Any

import pytest

from reasonir.llm import Completion
from reasonir.llm.engines.chat_api import BadAnswer, read_completion
from reasonir.llm.engines.verdicts import THOUGHTS_ONLY


def read(content: Any, finish: Any = "stop", warned: list[str] | None = None, **fields: Any) -> Completion:
    choice = {"message": {"role": "assistant", "content": content, **fields}, "finish_reason": finish}
    return read_completion("a", {"choices": [choice]}, 8, False, ([] if warned is None else warned).append)


def test_parts_are_joined_and_thoughts_among_them_are_left_out() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "is it yeast?"}]}
    assert read([thinking, {"type": "text", "text": "Yes, "}, {"type": "text", "text": "yeast."}]).text == "Yes, yeast."
    assert read({"type": "output_text", "text": "one part"}).text == "one part"
    assert read([]).text == read(None).text == ""
    for content in (["a", "b"], 7, [{"text": "no type"}], [{"type": "text"}], [{"type": "text", "text": None}]):
        with pytest.raises(BadAnswer, match="content"):
            read(content)


@pytest.mark.parametrize(
    ("reasons", "finish"),
    [
        (("stop", "end_turn", "eos_token", "STOP", None), "stop"),
        (("length", "model_length", "max_tokens", "MAX_TOKENS", "model_context_window_exceeded"), "length"),
        (("content_filter", "sensitive", "SAFETY", "refusal"), "refusal"),
    ],
)
def test_reasons_of_an_end_are_known_in_many_words(reasons: tuple[str | None, ...], finish: str) -> None:
    warned: list[str] = []
    for reason in reasons:
        assert read("text", reason, warned).finish == finish, reason
    assert warned == []


@pytest.mark.parametrize("reason", ["error", "abort", "insufficient_system_resource", "network_error"])
def test_an_answer_that_the_server_broke_off_is_none(reason: str) -> None:
    with pytest.raises(BadAnswer, match=f"broke the answer off .{reason}"):
        read("half a sen", reason)


@pytest.mark.parametrize("reason", ["banana", 7, ["stop"]])
def test_an_unknown_reason_is_taken_with_a_warning(reason: Any) -> None:
    warned: list[str] = []
    assert read("text", reason, warned).finish == "stop" and len(warned) == 1 and "finish_reason" in warned[0]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_a_text_in_another_field_is_named(field: str) -> None:
    found = read(None, **{field: "the answer, in the wrong place"})
    assert found.finish == THOUGHTS_ONLY and not found.answered
    assert f"stands in {field}: start the server without its reasoning parser" in found.error
    assert "enable_thinking: true" in found.error and "{{" not in found.error
    assert read("text", **{field: "thoughts"}).finish == "stop"
    # The limit ended it within its thoughts: an answer that was cut, as everywhere.
    assert read(None, "length", **{field: "thoughts and"}).finish == "length"
