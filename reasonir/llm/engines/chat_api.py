"""OpenAI's chat format: a request as the body of a call, the body of an answer as a completion. No network here.

Invariant: a completion that `read_completion` returns is whole and well-typed, or a `BadAnswer` says what is wrong.
"""

import json
from dataclasses import dataclass, replace
from typing import Any

from reasonir.llm.config import Structured
from reasonir.llm.records import Completion, Message, Request
from reasonir.text.lengths import COUNTED_CHARACTERS, estimate_tokens

SCHEMA_WORDS = "Answer with one JSON object that obeys this JSON schema, and with nothing else:"


# Alternatives that OpenAI's chat API reports at most.
MOST_LOGPROBS = 20
NO_LOGPROBS = "the answer has no log-probabilities, though they were asked for"


class BadAnswer(ValueError):
    """The server's success holds no answer."""


class NoLogprobs(BadAnswer):
    """The server's answer lacks the log-probabilities that were asked for: no further attempt brings them."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """The form of request that a server understands; learned from its refusals."""

    structured: Structured
    tokens_field: str = "max_tokens"

    def body(self, model: str, request: Request) -> dict[str, Any]:
        """Return the arguments of a chat completion."""
        messages = request.messages
        body: dict[str, Any] = {"model": model, "temperature": request.temperature}
        body[self.tokens_field] = request.max_new_tokens
        # Only what differs from the API's default is sent: some servers refuse fields that they do not know.
        if request.top_p < 1:
            body["top_p"] = request.top_p
        if request.seed is not None:
            body["seed"] = request.seed
        if request.stop:
            body["stop"] = list(request.stop)
        if logprobs := wanted_logprobs(request):
            body |= {"logprobs": True, "top_logprobs": logprobs}
        if request.schema is not None:
            if self.structured is Structured.json_schema:
                schema = {"name": "answer", "schema": request.schema, "strict": True}
                body["response_format"] = {"type": "json_schema", "json_schema": schema}
            else:
                messages = with_schema_in_words(messages, request.schema)
                if self.structured is Structured.json_object:
                    body["response_format"] = {"type": "json_object"}
        body["messages"] = [{"role": message.role, "content": message.content} for message in messages]
        return body

    def step_down(self, request: Request, message: str, formats: bool) -> "Dialect | None":
        """Return a simpler dialect where a server's refusal says that it does not know this one; else None.

        Args:
            request: The refused request.
            message: What the server said.
            formats: Whether the schema may be asked for in another way (structured=auto).
        """
        words = message.lower()
        if self.tokens_field == "max_tokens" and "max_completion_tokens" in words:
            return replace(self, tokens_field="max_completion_tokens")
        about_format = any(word in words for word in ("response_format", "json_schema", "json_object", "schema"))
        enforced = request.schema is not None and self.structured is not Structured.prompt
        if not (formats and enforced and about_format):
            return None
        lower = Structured.json_object if self.structured is Structured.json_schema else Structured.prompt
        return replace(self, structured=lower)


def wanted_logprobs(request: Request) -> int:
    """Return the alternatives per token to ask a server for."""
    return MOST_LOGPROBS if request.choices else request.top_logprobs


def with_schema_in_words(messages: tuple[Message, ...], schema: dict[str, Any]) -> tuple[Message, ...]:
    """Return the messages with the schema at the end of the last one."""
    last = messages[-1]
    text = f"{last.content}\n\n{SCHEMA_WORDS}\n{json.dumps(schema, ensure_ascii=False)}"
    return (*messages[:-1], Message(last.role, text))


def characters(request: Request) -> int:
    """Return the length of a prompt."""
    return sum(len(message.content) for message in request.messages)


def read_completion(request_id: str, row: Any, prompt_characters: int, want_logprobs: bool) -> Completion:
    """Return the completion that a server's answer (parsed JSON) holds.

    Args:
        request_id: The completion's id.
        row: The answer's body.
        prompt_characters: Length of the prompt, from which its tokens are estimated where the server does not count.
        want_logprobs: Whether log-probabilities were asked for.
    Raises:
        BadAnswer: a part is missing or of the wrong type.
        NoLogprobs: they are missing, and the answer is no refusal.
    """
    if isinstance(row, dict) and row.get("error"):
        raise BadAnswer(f"the server answers with an error: {json.dumps(row['error'])[:300]}")
    try:
        choice = row["choices"][0]
        message = choice["message"]
        text, refusal = message.get("content"), message.get("refusal")
        reason = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise BadAnswer(f"the answer has no choices[0].message: {json.dumps(row)[:200]}") from error
    if not all(part is None or isinstance(part, str) for part in (text, refusal)):
        raise BadAnswer(f"the answer's content is a {type(text).__name__}, not a text")
    refused = bool(refusal) or reason == "content_filter"
    text = refusal or text or ""
    text = text.encode("utf-8", "replace").decode("utf-8")  # JSON may spell half of a surrogate pair
    usage = row.get("usage") if isinstance(row.get("usage"), dict) else {}
    return Completion(
        id=request_id,
        text=text,
        finish="refusal" if refused else "length" if reason == "length" else "stop",
        input_tokens=_count(usage.get("prompt_tokens"), prompt_characters),
        output_tokens=_count(usage.get("completion_tokens"), len(text)),
        logprobs=_logprobs(choice) if want_logprobs and not refused else (),
    )


def _count(tokens: Any, characters: int) -> int:
    whole = isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 0
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
