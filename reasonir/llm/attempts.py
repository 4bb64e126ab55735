"""One question asked until an answer is accepted: each new attempt shows the model what was wrong with the last one."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from reasonir.llm.conversations import Conversation
from reasonir.llm.prompts import Prompt
from reasonir.llm.records import Completion, Request

# Above it most models lose their way; a run whose own temperature is higher keeps that.
HOTTEST = 1.0
# Reasons of a rejection without an answer. The server refuses this very request, and would do so again:
SERVER_ERROR = "server_error"
# It gave no answer however often it was asked, which says nothing about the item: never final, the next run asks again.
UNANSWERED = "unanswered"
AnswerType = TypeVar("AnswerType")


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a text is not taken. reason: a word to count by; detail: a sentence for the model and the reader."""

    reason: str
    detail: str


@dataclass(slots=True)
class Trail:
    """What an item has cost so far, in tokens, and one line for each of its rejected answers."""

    rejected: list[dict[str, Any]] = field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0

    def reject(self, rejection: Rejection, stage: str, attempt: int, text: str) -> None:
        """Note one rejected answer.

        Args:
            rejection: Why it was rejected.
            stage: Name of the prompt that asked.
            attempt: Its number, from 1.
            text: The answer as the model gave it.
        """
        self.rejected.append(asdict(rejection) | {"stage": stage, "attempt": attempt, "text": text})


def ask_until_accepted(
    prompt: Prompt,
    request: Request,
    seed_of: Callable[[int], int],
    read: Callable[[Completion, int], AnswerType | Rejection],
    max_attempts: int,
    retry_temperature_step: float,
    trail: Trail,
    check_in_order: Callable[[AnswerType], Rejection | None] | None = None,
) -> Conversation[AnswerType | Rejection]:
    """Return the first answer that `read` accepts, or the last rejection.

    Args:
        prompt: Gives the words that tell the model what was wrong.
        request: The question; a further attempt adds the rejected answer to its messages.
        seed_of: Seed of an attempt, by its number from 1.
        read: Makes an answer or a rejection of a completion that is an answer, and its attempt's number.
        max_attempts: Requests at most.
        retry_temperature_step: Added to the temperature at each further attempt, up to 1: at temperature 0 a model that
            is asked again mostly repeats itself.
        trail: Takes the tokens and the rejected answers.
        check_in_order: A last check of an answer, made when all earlier items are handed on; None for none.
    """
    messages, rejection, before = request.messages, Rejection("empty", ""), ""
    hottest = max(HOTTEST, request.temperature)
    for attempt in range(1, max_attempts + 1):
        temperature = min(request.temperature + (attempt - 1) * retry_temperature_step, hottest)
        asked = replace(request, messages=messages, temperature=round(temperature, 6), seed=seed_of(attempt))
        (completion,) = yield [asked]
        trail.input_tokens += completion.input_tokens
        trail.output_tokens += completion.output_tokens
        failed = not completion.answered
        reason = UNANSWERED if completion.finish == "failed" else SERVER_ERROR
        found = Rejection(reason, completion.error) if failed else read(completion, attempt)
        if not isinstance(found, Rejection):
            if check_in_order is None:
                return found
            yield []
            if (late := check_in_order(found)) is None:
                return found
            found = late
        rejection = found
        trail.reject(rejection, prompt.name, attempt, completion.text)
        # The engine has tried the request as often as it may; another question would fail alike.
        if failed:
            break
        # Only the last rejected answer is shown: all of them would fill the context.
        repeated = attempt > 1 and completion.text == before
        detail, before = rejection.detail, completion.text
        messages = prompt.after_rejection(request.messages, completion, detail, attempt=attempt, repeated=repeated)
    return rejection
