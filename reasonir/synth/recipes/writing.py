"""One item's conversation: ask, read, check, and ask again with the reason, until an answer passes or tries run out.

An item's work is a conversation (`llm/conversations.py`) that returns an `Outcome`, so a recipe reads top to bottom.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from reasonir.llm.attempts import Rejection, Trail, ask_until_accepted
from reasonir.llm.config import GeneratorConfig
from reasonir.llm.conversations import Conversation
from reasonir.llm.prompts import Prompt, draw_number
from reasonir.llm.records import Completion, Message, Request
from reasonir.synth.gates.parse import read_answer


@dataclass(slots=True)
class Outcome:
    """How an item ended: with a row, or rejected for `refusal`."""

    trail: Trail
    row: dict[str, Any] | None = None
    refusal: Rejection | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that passed. provenance: where it comes from, for its row."""

    fields: dict[str, Any]
    provenance: dict[str, Any]


Steps = Conversation[Outcome]
Asking = Conversation[Answer | Rejection]
Check = Callable[[dict[str, Any]], Rejection | None]


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

        def request_for(messages: tuple[Message, ...], attempt: int) -> Request:
            return self._request(messages, self._draw(name, attempt))

        def read(completion: Completion) -> dict[str, Any] | Rejection:
            found = read_answer(completion.text, completion.finish, self.prompt.schema)
            return found if isinstance(found, Rejection) else check(found) or found

        opening = self.prompt.messages(values)
        accepted = yield from ask_until_accepted(self.prompt, opening, request_for, read, self._max_attempts, trail)
        if isinstance(accepted, Rejection):
            return accepted
        return Answer(accepted.answer, self._provenance(accepted.attempt, self._draw(name, accepted.attempt)))

    def _draw(self, name: str, attempt: int) -> int:
        return draw_number(self._seed, self.prompt.name, name, attempt)

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
