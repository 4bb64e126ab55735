"""OpenAI's chat format: the body of an answer as a completion. No network here; requests are in `dialect.py`.

Invariant: a completion that `read_completion` returns is whole and well-typed, or a `BadAnswer` says what is wrong.
"""

import json
from collections.abc import Callable
from typing import Any

from reasonir.llm.engines.verdicts import THOUGHTS_ONLY
from reasonir.llm.records import Completion, Request
from reasonir.text.lengths import COUNTED_CHARACTERS, estimate_tokens

# Why an answer ended, in the words of OpenAI, Anthropic, Gemini, Mistral, DeepSeek, Zhipu, vLLM and gateways.
WHOLE = {"stop", "end_turn", "stop_sequence", "eos", "eos_token", "end", "complete", "completed", "done", "tool_calls",
         "function_call"}  # fmt: skip
CUT = {"length", "model_length", "max_tokens", "max_output_tokens", "model_context_window_exceeded"}
DECLINED = {"content_filter", "sensitive", "safety", "refusal", "recitation", "blocklist", "prohibited_content", "spii",
            "guardrail_intervened"}  # fmt: skip
BROKEN_OFF = {"error", "abort", "aborted", "cancelled", "insufficient_system_resource", "network_error"}
# A server that counts more has not counted: one wrong number would spend the budget of a run.
MOST_TOKENS = 1_000_000_000
TEXT_PARTS = {"text", "output_text"}
# Where servers put what their reasoning parser took for thoughts.
THOUGHT_FIELDS = ("reasoning_content", "reasoning")
ONLY_IN_FIELD = (
    "the content of an answer is empty and its text stands in {field}: start the server without its reasoning parser, "
    "or turn thinking on (generator.chat_template_kwargs={{enable_thinking: true}})"
)
NO_LOGPROBS = "the answer has no log-probabilities, though they were asked for"


class BadAnswer(ValueError):
    """The server's success holds no answer."""


class NoLogprobs(BadAnswer):
    """The server's answer lacks the log-probabilities that were asked for: no further attempt brings them."""


def characters(request: Request) -> int:
    """Return the length of a prompt."""
    return sum(len(message.content) for message in request.messages)


def read_completion(
    request_id: str, row: Any, prompt_characters: int, want_logprobs: bool, warn: Callable[[str], None]
) -> Completion:
    """Return the completion that a server's answer (parsed JSON) holds.

    Args:
        request_id: The completion's id.
        row: The answer's body.
        prompt_characters: Length of the prompt, from which its tokens are estimated where the server does not count.
        want_logprobs: Whether log-probabilities were asked for.
        warn: Takes what is odd about an answer that is accepted all the same.
    Raises:
        BadAnswer: a part is missing or of the wrong type, or the server broke the answer off.
        NoLogprobs: they are missing, and the answer is no refusal.
    """
    if isinstance(row, dict) and row.get("error"):
        raise BadAnswer(f"the server answers with an error: {json.dumps(row['error'])[:300]}")
    try:
        choice = row["choices"][0]
        message = choice["message"]
        text, refusal = _text_of(message.get("content")), message.get("refusal")
        reason = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise BadAnswer(f"the answer has no choices[0].message: {json.dumps(row)[:200]}") from error
    if not (refusal is None or isinstance(refusal, str)):
        raise BadAnswer(f"the answer's refusal is a {type(refusal).__name__}, not a text")
    finish = "refusal" if refusal else _finish_of(reason, choice.get("error"), warn)
    text = refusal or text
    if not text.strip() and finish == "stop" and (field := _field_of_thoughts(message)):
        finish = THOUGHTS_ONLY
    text = text.encode("utf-8", "replace").decode("utf-8")  # JSON may spell half of a surrogate pair
    usage = row.get("usage") if isinstance(row.get("usage"), dict) else {}
    return Completion(
        id=request_id,
        text=text,
        finish=finish,
        input_tokens=_count(usage.get("prompt_tokens"), prompt_characters),
        output_tokens=_count(usage.get("completion_tokens"), len(text)),
        error=ONLY_IN_FIELD.format(field=field) if finish == THOUGHTS_ONLY else "",
        logprobs=_logprobs(choice) if want_logprobs and finish in ("stop", "length") else (),
    )


def _text_of(content: Any) -> str:
    """Return a message's content: a text, or the texts among its parts; parts that hold thoughts are left out."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list) else [content]
    if not all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in parts):
        raise BadAnswer(f"the answer's content is a {type(content).__name__}, neither a text nor parts")
    texts = [part.get("text") for part in parts if part["type"] in TEXT_PARTS]
    if not all(isinstance(text, str) for text in texts):
        raise BadAnswer("a part of the answer's content has no text")
    return "".join(texts)


def _finish_of(reason: Any, error: Any, warn: Callable[[str], None]) -> str:
    """Return how an answer ended: stop, length or refusal."""
    word = str(reason or "stop").lower()
    if word in BROKEN_OFF:
        raise BadAnswer(f"the server broke the answer off ({reason}{f': {json.dumps(error)[:200]}' if error else ''})")
    if word in CUT:
        return "length"
    if word in DECLINED:
        return "refusal"
    if word not in WHOLE:
        warn(f"unknown finish_reason {reason!r}: answers that end so are taken for whole")
    return "stop"


def _field_of_thoughts(message: dict[str, Any]) -> str:
    """Return the field beside the content that holds a text, "" for none."""
    return next((f for f in THOUGHT_FIELDS if isinstance(message.get(f), str) and message[f].strip()), "")


def _count(tokens: Any, characters: int) -> int:
    whole = isinstance(tokens, int) and not isinstance(tokens, bool) and 0 <= tokens < MOST_TOKENS
    return tokens if whole else estimate_tokens(characters, COUNTED_CHARACTERS)


def _logprobs(choice: dict[str, Any]) -> tuple[tuple[tuple[str, float], ...], ...]:
    try:
        tokens = choice["logprobs"]["content"]
        return tuple(
            tuple(sorted(((top["token"], float(top["logprob"])) for top in token["top_logprobs"]), key=lambda t: -t[1]))
            for token in tokens
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NoLogprobs(NO_LOGPROBS) from error
