"""One item's conversation: ask, read, check, and ask again with the reason, until an answer passes or tries run out.

An item's work is a coroutine: it yields requests, is sent their completions, and returns an `Outcome`. So a recipe
reads top to bottom, and `weave.py` decides how many run at once. Invariant: what a coroutine yields depends on the
item and on the answers before, never on time, so that a log of answers replays it.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from reasonir.llm.config import GeneratorConfig
from reasonir.llm.prompts import Prompt, draw_number
from reasonir.llm.records import Completion, Message, Request
from reasonir.synth.gates.parse import Refusal, read_answer

SERVER_ERROR = "server_error"


@dataclass(slots=True)
class Trail:
    """What an item has cost and which answers were refused."""

    refused: list[dict[str, Any]] = field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0

    def refuse(self, stage: str, attempt: int, refusal: Refusal, text: str) -> None:
        """Note one refused answer."""
        line = {"reason": refusal.reason, "detail": refusal.detail, "stage": stage, "attempt": attempt, "text": text}
        self.refused.append(line)


@dataclass(slots=True)
class Outcome:
    """How an item ended: with a row, or rejected for `refusal`."""

    trail: Trail
    row: dict[str, Any] | None = None
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that passed. provenance: where it comes from, for its row."""

    fields: dict[str, Any]
    provenance: dict[str, Any]


Steps = Generator[Request, Completion, Outcome]
Asking = Generator[Request, Completion, Answer | Refusal]
Check = Callable[[dict[str, Any]], Refusal | None]


class Author:
    """Asks with one prompt. Holds what all its requests share."""

    def __init__(
        self, recipe: str, prompt: Prompt, generator: GeneratorConfig, seed: int, *, temperature: float | None = None,
        max_new_tokens: int | None = None,
    ) -> None:  # fmt: skip
        """Take over the generator's sampling, but for a temperature or a length of this author's own."""
        self.prompt = prompt
        self._recipe, self._seed = recipe, seed
        self._model, self._top_p = generator.model, generator.top_p
        self._temperature = generator.temperature if temperature is None else temperature
        self._max_new_tokens = max_new_tokens or generator.max_new_tokens
        self._max_attempts = generator.max_attempts

    def ask(self, name: str, values: Mapping[str, Any], check: Check, trail: Trail) -> Asking:
        """Return the first answer that passes `check`, or the last refusal.

        Args:
            name: the item's own, which with the seed fixes the sampling.
            values: what the prompt's turns show.
        """
        opening = self.prompt.messages(values)
        messages = opening
        refusal = Refusal("empty", "")
        for attempt in range(1, self._max_attempts + 1):
            seed = draw_number(self._seed, self.prompt.name, name, attempt)
            completion = yield self._request(messages, seed)
            trail.input_tokens += completion.input_tokens
            trail.output_tokens += completion.output_tokens
            if completion.finish == "error":
                refusal = Refusal(SERVER_ERROR, completion.error)
                trail.refuse(self.prompt.name, attempt, refusal, completion.text)
                return refusal  # the generator has tried as often as it may
            found = read_answer(completion.text, completion.finish, self.prompt.schema)
            verdict = found if isinstance(found, Refusal) else check(found)
            if verdict is None:
                return Answer(found, self._provenance(attempt, seed))  # type: ignore[arg-type]
            refusal = verdict
            trail.refuse(self.prompt.name, attempt, refusal, completion.text)
            messages = (*opening, *self.prompt.after_refusal(completion, refusal.detail))
        return refusal

    def _request(self, messages: tuple[Message, ...], seed: int) -> Request:
        return Request(
            id="",  # given by whoever sends it
            messages=messages,
            schema=self.prompt.schema,
            temperature=self._temperature,
            top_p=self._top_p,
            max_new_tokens=self._max_new_tokens,
            seed=seed,
        )

    def _provenance(self, attempt: int, seed: int) -> dict[str, Any]:
        return {
            "recipe": self._recipe,
            "prompt": self.prompt.version,
            "prompt_sha256": self.prompt.sha256[:16],
            "model": self._model,
            "attempt": attempt,
            "seed": seed,
        }
