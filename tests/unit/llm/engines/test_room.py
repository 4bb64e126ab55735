"""What servers say about lengths, each in its own words, and the answer's limit that follows."""

import pytest

from reasonir.llm.engines.room import LEAST_ANSWER, Room, is_about_length, read_context, shorter_answer

# What a server says after 8,192 tokens were asked for behind a prompt that is estimated at 650, and what is asked next;
# None: the prompt alone does not fit.
SAID = [
    # vLLM and OpenAI, over the years
    ("This model's maximum context length is 4096 tokens. However, you requested 8892 tokens (700 in the messages, "
     "8192 in the completion). Please reduce the length of the messages or completion.", 3396),
    ("'max_tokens' or 'max_completion_tokens' is too large: 8192. This model's maximum context length is 4096 tokens "
     "and your request has 700 input tokens (8192 > 4096 - 700).", 3396),
    ("This model's maximum context length is 4096 tokens. However, you requested 8192 output tokens and your prompt "
     "contains 700 input tokens, for a total of 8892 tokens.", 3396),
    ("This model's maximum context length is 4096 tokens. However, your prompt contains at least 4097 input tokens, "
     "which exceeds this limit even without any output tokens.", None),
    ("Input length (5000) exceeds model's maximum context length (4096).", None),
    ("max_tokens is too large: 8192. This model supports at most 4096 completion tokens, whereas you provided 8192.",
     4096),
    # llama.cpp, LM Studio
    ("request (4390 tokens) exceeds the available context size (4096 tokens), try increasing it", None),
    ("Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with context "
     "length of only 4096 tokens, which is not enough.", None),
    # TGI, SGLang, TensorRT-LLM
    ("Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 700 `inputs` tokens and 8192 "
     "`max_new_tokens`", 3396),
    ("Input validation error: `inputs` must have less than 1024 tokens. Given: 1200", None),
    ("Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total of 8892 "
     "tokens: 700 tokens from the input messages and 8192 tokens for the completion.", 3396),
    ("The input (5000 tokens) is longer than the model's context length (4096 tokens).", None),
    ("Prompt length (5000) exceeds maximum input length (4096).", None),
    # hosted APIs
    ("input length and `max_tokens` exceed context limit: 190000 + 8192 > 195000, decrease `max_tokens`", 5000),
    ("prompt is too long: 210000 tokens > 200000 maximum", None),
    ("max_tokens: 8192 > 4096, which is the maximum allowed number of output tokens for this model", 4096),
    ("The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).", None),
    ("Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length", None),
    ("Invalid max_tokens value, the valid range of max_tokens is [1, 4096]", 4096),
    ("Range of max_tokens should be [1, 2000]", 2000),
    ("Range of input length should be [1, 30720]", None),
    ("`max_tokens` must be less than or equal to `1024`, the maximum value for this model's `context_window`", 1024),
    ("too many tokens: max tokens must be less than or equal to 4096", 4096),
    # without the prompt's count, and without any number
    ("maximum context length is 4096", 3446),
    ("Context size has been exceeded.", 2048),
]  # fmt: skip


@pytest.mark.parametrize(("words", "expected"), SAID, ids=range(len(SAID)))
def test_a_refusal_about_length_says_what_to_ask_for(words: str, expected: int | None) -> None:
    assert is_about_length(words)
    assert shorter_answer(words, 8192, 650) == expected


@pytest.mark.parametrize("words", ["Unrecognized request argument: seed", "Content Exists Risk", "bad request", "no"])
def test_other_refusals_are_not_about_length(words: str) -> None:
    assert not is_about_length(words)


def test_a_server_that_never_says_how_much_is_asked_for_less_and_less_and_then_no_more() -> None:
    asked, sent = [], 8192
    while (shorter := shorter_answer("too long", sent, 650)) is not None:
        assert shorter < sent
        asked.append(sent := shorter)
    assert asked == [2048, 512, 128, 32, LEAST_ANSWER]
    assert shorter_answer("too long", 1, 650) is None


def test_the_limit_of_an_answer_is_fitted_behind_its_prompt() -> None:
    assert Room().fit(1536, 5000) == 1536
    room = Room().learn(SAID[0][0])
    assert room == Room(context=4096)
    assert room.fit(1536, 700) == 1536 and room.fit(8192, 700) == 3396
    # The estimate leaves nothing, but the server decides.
    assert room.fit(8192, 5000) == LEAST_ANSWER and room.fit(1, 5000) == 1
    assert room.learn("supports at most 100 completion tokens") == Room(context=4096, answer=100)
    assert Room(answer=100).fit(1536, 1) == 100


def test_the_list_of_models_states_the_context() -> None:
    def models(*entries: object) -> dict[str, object]:
        return {"object": "list", "data": list(entries)}

    assert read_context(models({"id": "x", "max_model_len": 1}, {"id": "m", "max_model_len": 4096}), "m") == 4096
    assert read_context(models({"id": "another name", "meta": {"n_ctx_train": 8192}}), "m") == 8192
    assert read_context(models({"id": "m", "context_length": 32768, "meta": None}), "m") == 32768
    for row in (models({"id": "x"}, {"id": "y"}), models({"id": "m"}), models({"id": "m", "max_model_len": "long"}),
                None, models("m"), {"data": None}, []):  # fmt: skip
        assert read_context(row, "m") is None
