"""An author asks a language model with one prompt, for one text of one item, until an answer passes the gates."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from reasonir.llm.attempts import Rejection, Trail, ask_until_accepted
from reasonir.llm.conversations import Conversation
from reasonir.llm.prompts import Prompt, draw_number
from reasonir.llm.records import Completion, Request
from reasonir.synth.gates.checks import Gates
from reasonir.synth.gates.parse import read_fields

# Decided in the order of the input: of two like queries the first one stays, whichever was answered first.
DUPLICATE = Rejection("duplicate_query", "The query says the same as that of an earlier row; ask something else.")


@dataclass(frozen=True, slots=True, kw_only=True)
class WritingSettings:
    """How a recipe's texts are written and checked; the names are those of the options.

    prompts: Folder of edited prompts; None takes the package's own. worked_example: Whether the prompt's example comes
    first. max_attempts: Most requests for one text. retry_temperature_step: Added to the temperature at each.
    """

    recipe: str
    seed: int
    prompts: str | None
    worked_example: bool
    gates: Gates
    model: str
    temperature: float
    top_p: float
    max_new_tokens: int
    max_attempts: int
    retry_temperature_step: float


@dataclass(slots=True)
class Outcome:
    """How an item ended: with a row, or rejected."""

    trail: Trail
    row: dict[str, Any] | None = None
    rejection: Rejection | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that passed: the fields of its JSON, and the provenance to be written into its row."""

    fields: dict[str, Any]
    provenance: dict[str, Any]


class Author:
    """Asks with one prompt."""

    def __init__(self, settings: WritingSettings, prompt: Prompt) -> None:
        self.prompt, self._settings = prompt, settings
        # For the gates: an answer must not repeat them.
        self.prompt_texts = prompt.own_texts()

    def ask(
        self,
        name: str,
        values: Mapping[str, Any],
        check: Callable[[dict[str, Any]], Rejection | None],
        trail: Trail,
        is_known: Callable[[str], bool] | None = None,
    ) -> Conversation[Answer | Rejection]:
        """Return the first answer that passes `check`, or the last rejection.

        Args:
            name: Name of the text within the run. It fixes the seeds of sampling, together with the run's seed, the
                prompt's name and the number of the attempt.
            values: Values of the prompt's variables.
            check: Returns the rejection of an answer's fields; None for those that pass.
            trail: Takes the tokens and the rejected answers.
            is_known: Says whether an earlier row has a query like the answer's `query`; such an answer is rejected too.
        """
        settings, prompt, schema = self._settings, self.prompt, self.prompt.schema_of(values)

        def seed_of(attempt: int) -> int:
            return draw_number(settings.seed, prompt.name, name, attempt)

        def read(completion: Completion, attempt: int) -> Answer | Rejection:
            fields = read_fields(completion.text, completion.finish, schema)
            if isinstance(fields, Rejection):
                return fields
            if rejection := check(fields):
                return rejection
            provenance = {
                "recipe": settings.recipe,
                "prompt": prompt.version,
                # 64 bits tell prompt files apart, and every row carries them.
                "prompt_sha256": prompt.sha256[:16],
                "model": settings.model,
                "attempt": attempt,
                "seed": seed_of(attempt),
            }
            return Answer(fields, provenance)

        request = Request(
            id="",  # `hold_conversations` numbers the requests
            messages=prompt.messages(values),
            schema=schema,
            temperature=settings.temperature,
            top_p=settings.top_p,
            max_new_tokens=settings.max_new_tokens,
        )

        def repeats(answer: Answer) -> Rejection | None:
            assert is_known is not None, "only asked where there is one"
            return DUPLICATE if is_known(answer.fields["query"].strip()) else None

        limits = settings.max_attempts, settings.retry_temperature_step
        in_order = None if is_known is None else repeats
        return ask_until_accepted(prompt, request, seed_of, read, *limits, trail, in_order)
