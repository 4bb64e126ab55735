"""Requests to a language model and their completions, whichever engine answers.

Invariant: a request's `key` depends on everything that shapes the answer and on nothing else, so that requests of one
key may share one paid answer. Imports no engine.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from reasonir.core.stamp import digest_of


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat. role: system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One completion to make.

    id: the caller's own name of the request, unique within a call of `complete`. schema: JSON schema of the answer,
    enforced where the server can and asked for in words elsewhere; OpenAI wants `additionalProperties: false` and every
    property required. seed: requests that differ in the seed alone get answers of their own (a further attempt at a
    temperature above 0). top_logprobs: alternatives to report per answer token. choices: the answer is one token, one
    of these texts; their log-probabilities over the whole vocabulary are reported (vllm: all of them, and no other
    token can be answered; so does vLLM's own server; another server: those among its 20 likeliest tokens).
    """

    id: str
    messages: tuple[Message, ...]
    schema: dict[str, Any] | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 1536
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int = 0
    choices: tuple[str, ...] = ()

    def as_sent(self, send_seed: bool, thinking_tokens: int | None) -> "Request":
        """Return the request as an engine gets it.

        Args:
            send_seed: Whether it gets the seed, which keeps requests and their answers apart either way.
            thinking_tokens: Tokens for thoughts beside the answer's own; an answer of one chosen token has none.
        """
        more = 0 if self.choices else thinking_tokens or 0
        return replace(self, seed=self.seed if send_seed else None, max_new_tokens=self.max_new_tokens + more)

    def key(self, model: str, options: Mapping[str, Any] | None = None) -> str:
        """Return the key under which the answer of `model` is logged, in hex; `id` does not count.

        Args:
            model: Its name.
            options: What all requests of a run share beside it, by the name of the option; none where none is set.
        """
        parts = [model, [[m.role, m.content] for m in self.messages], self.schema, self.temperature, self.top_p,
                 self.max_new_tokens, self.seed, list(self.stop), self.top_logprobs]  # fmt: skip
        # Only where there are any: logs older than the fields keep their keys.
        if self.choices:
            parts.append(list(self.choices))
        if options:
            parts.append(dict(options))
        # Another form of this text would find none of the answers that were paid for before.
        return digest_of([json.dumps(parts, sort_keys=True, ensure_ascii=False)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The answer to a request, or the reason there is none.

    finish: an answer is stop, length or refusal (the model or a filter declined; `text` is what was said). "error": the
    server refuses this request and would do so again. "failed": it gave no answer however often it was asked; the next
    run asks again. error: the server's words where there is no answer, else "". input_tokens, output_tokens: counted by
    the server, else estimates.
    logprobs: per answer token, (token, log-probability) of the alternatives, best first. cached: found in the log, not
    paid again.
    """

    id: str
    text: str
    finish: str
    input_tokens: int = 0
    output_tokens: int = 0
    error: str = ""
    cached: bool = False
    logprobs: tuple[tuple[tuple[str, float], ...], ...] = field(default=())

    @property
    def answered(self) -> bool:
        """Whether this is an answer, which was paid for."""
        return self.finish in ("stop", "length", "refusal")


class Generator(Protocol):
    """Answers requests. Every request given to `complete` comes back exactly once, in any order."""

    model: str

    def complete(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """Take requests as capacity allows, yield answers as they come.

        The iterable is read in the caller's thread between answers, so it may be endless or depend on earlier answers.
        None in it means "nothing right now, but more may follow": it is read again after the next answer, or a moment
        later where no answer is awaited. It should not block, because no answer is handed over meanwhile.

        Raises:
            UserError: a refusal that every request would meet (key, model, options).
            RunStopped: the budget is spent, or the server is down, or (after the last answer) requests are left that it
                failed; every answer paid for is in the log.
        """
        ...

    def finish_in_flight(self) -> None:
        """Wait a stated time for what the engine works on, and keep it in the log; for a run that is interrupted."""
        ...

    def close(self) -> None:
        """Give back what the engine holds."""
        ...
