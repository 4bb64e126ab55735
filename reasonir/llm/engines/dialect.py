"""The form of request that a server understands: the body of a call, and what a refusal teaches about it.

Invariant: a dialect only gets simpler, and a field is left out only after the server named it in a refusal.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from reasonir.llm.config import Structured
from reasonir.llm.records import Message, Request

SCHEMA_WORDS = "Answer with one JSON object that obeys this JSON schema, and with nothing else:"
# Alternatives that OpenAI's chat API reports at most.
MOST_LOGPROBS = 20
# Fields without which a request would ask for something else, and the option that each follows.
KEPT = {
    "temperature": "generator.temperature (1 is the default of most servers, and left out where they refuse it)",
    "response_format": "generator.structured",
    "max_tokens": "generator.max_new_tokens",
    "max_completion_tokens": "generator.max_new_tokens",
}
NEVER_NAMED = {"model", "messages"}
DEFAULT_TEMPERATURE = 1.0
# A field of a plain English word counts as named only in quotes, or beside a word that is about fields.
_ABOUT_FIELDS = r"(?:parameter|param|field|argument|option|property|key|input|supplied|loc|body)"
_ABOUT_VALUES = r"(?:is|are|must|does|do|not|should|cannot|can|parameter|value|unsupported|unknown|extra)"


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a server was found to understand. strict: of a schema. left_out: fields that it refuses."""

    structured: Structured
    tokens_field: str = "max_tokens"
    strict: bool = True
    left_out: frozenset[str] = frozenset()

    def body(self, model: str, request: Request, max_tokens: int, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a chat completion.

        Args:
            model: The server's name of it.
            request: What to ask.
            max_tokens: Tokens of the answer at most, where the server's context leaves no more room.
            options: Further fields, the same for all requests.
        """
        messages = request.messages
        body: dict[str, Any] = {"model": model, "temperature": request.temperature, self.tokens_field: max_tokens}
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
                schema = {"name": "answer", "schema": request.schema} | ({"strict": True} if self.strict else {})
                body["response_format"] = {"type": "json_schema", "json_schema": schema}
            else:
                messages = with_schema_in_words(messages, request.schema)
                if self.structured is Structured.json_object:
                    body["response_format"] = {"type": "json_object"}
        body["messages"] = [{"role": message.role, "content": message.content} for message in messages]
        return {field: value for field, value in (body | dict(options)).items() if field not in self.left_out}

    def step_down(
        self, body: Mapping[str, Any], words: str, formats: bool, known_good: Collection[str]
    ) -> "Dialect | None":
        """Return a simpler dialect where a refusal names what the server does not take; None where it names nothing.

        Args:
            body: The refused request.
            words: What the server said, all of it.
            formats: Whether the schema may be asked for in another way (structured=auto).
            known_good: Fields of requests that were answered, which a refusal cannot be about.
        """
        if self.tokens_field == "max_tokens" and "max_completion_tokens" in words and "max_tokens" not in known_good:
            return replace(self, tokens_field="max_completion_tokens")
        simpler_format = self._simpler_format(body.get("response_format"), words) if formats else None
        if simpler_format is not None:
            return simpler_format
        needed = KEPT.keys() - ({"temperature"} if body.get("temperature") == DEFAULT_TEMPERATURE else set())
        named = {f for f in body.keys() - needed - NEVER_NAMED - set(known_good) if names(f, words)}
        if {"logprobs", "top_logprobs"} & named:
            named |= {"logprobs", "top_logprobs"}
        return replace(self, left_out=self.left_out | named) if named else None

    def _simpler_format(self, form: Any, words: str) -> "Dialect | None":
        if form is None:
            return None
        if self.structured is Structured.json_schema and self.strict and names("strict", words):
            return replace(self, strict=False)
        if not any(word in words.lower() for word in ("response_format", "json_schema", "json_object", "schema")):
            return None
        lower = Structured.json_object if self.structured is Structured.json_schema else Structured.prompt
        return replace(self, structured=lower)

    def describe(self, simpler: "Dialect") -> str:
        """Return in words what another dialect leaves out that this one has."""
        if simpler.tokens_field != self.tokens_field:
            return f"{self.tokens_field} is called {simpler.tokens_field}"
        if simpler.structured is not self.structured:
            return f"a JSON schema is asked for as {simpler.structured}"
        if simpler.strict != self.strict:
            return "a JSON schema is not asked for as strict"
        return f"{', '.join(sorted(simpler.left_out - self.left_out))} is left out"


def option_named(body: Mapping[str, Any], words: str, known_good: Collection[str]) -> str | None:
    """Return the option to change where a refusal names a field that cannot be left out; None where it does not.

    Args:
        body: The refused request.
        words: What the server said.
        known_good: Fields of requests that were answered.
    """
    named = (option for field, option in KEPT.items() if field in body.keys() - set(known_good) and names(field, words))
    return next(named, None)


def names(field: str, words: str) -> bool:
    """Return whether a server's refusal names a field of the request."""
    name = re.escape(field)
    if "_" in field or field == "logprobs":
        return re.search(rf"(?<!\w){name}(?!\w)", words) is not None
    pattern = (
        rf"[\"'`\[]{name}[\"'`\]]|\b{_ABOUT_FIELDS}s?(?:\(s\))?\W+{name}\b|(?<!\w){name}[\"'`]?:?\s+{_ABOUT_VALUES}\b"
    )
    return re.search(pattern, words, re.IGNORECASE) is not None


def wanted_logprobs(request: Request) -> int:
    """Return the alternatives per token to ask a server for."""
    return MOST_LOGPROBS if request.choices else request.top_logprobs


def with_schema_in_words(messages: tuple[Message, ...], schema: dict[str, Any]) -> tuple[Message, ...]:
    """Return the messages with the schema at the end of the last one."""
    last = messages[-1]
    text = f"{last.content}\n\n{SCHEMA_WORDS}\n{json.dumps(schema, ensure_ascii=False)}"
    return (*messages[:-1], Message(last.role, text))
