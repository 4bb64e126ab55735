"""One question asked until an answer is accepted: each new attempt shows the model what was wrong with the last one."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from reasonir.llm.conversations import Conversation
from reasonir.llm.prompts import Prompt
from reasonir.llm.records import Completion, Message, Request

# Reason of a rejection without an answer: the engine tried as often as it may. The next run asks again.
SERVER_ERROR = "server_error"
AnswerType = TypeVar("AnswerType")


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a text is not taken. reason: a word to count by; detail: a sentence for the model and the reader."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Accepted(Generic[AnswerType]):
    """An answer that passed, and the number of its attempt, from 1."""

    answer: AnswerType
    attempt: int


@dataclass(slots=True)
class Trail:
    """What an item has cost so far, in tokens, and one line for each of its rejected answers."""

    refused: list[dict[str, Any]] = field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0

    def refuse(self, stage: str, attempt: int, rejection: Rejection, text: str) -> None:
        """Note one rejected answer.

        Args:
            stage: Name of the prompt that asked.
            attempt: Number of the attempt, from 1.
            rejection: Why the answer was rejected.
            text: The answer as the model gave it.
        """
        reason = {"reason": rejection.reason, "detail": rejection.detail}
        self.refused.append({**reason, "stage": stage, "attempt": attempt, "text": text})


def ask_until_accepted(
    prompt: Prompt,
    opening: tuple[Message, ...],
    request_for: Callable[[tuple[Message, ...], int], Request],
    read: Callable[[Completion], AnswerType | Rejection],
    max_attempts: int,
    trail: Trail,
) -> Conversation[Accepted[AnswerType] | Rejection]:
    """Return the first answer that `read` accepts, or the last rejection.

    Args:
        prompt: Gives the words that tell the model what was wrong.
        opening: The conversation before the first answer.
        request_for: Makes the request of a conversation and of the attempt's number, from 1.
        read: Turns a completion into an answer or a rejection; a completion with finish "error" never reaches it.
        max_attempts: Requests at most.
        trail: Takes the tokens and the rejected answers.
    """
    messages, rejection = opening, Rejection("empty", "")
    for attempt in range(1, max_attempts + 1):
        (completion,) = yield [request_for(messages, attempt)]
        trail.input_tokens += completion.input_tokens
        trail.output_tokens += completion.output_tokens
        failed = completion.finish == "error"
        found = Rejection(SERVER_ERROR, completion.error) if failed else read(completion)
        if not isinstance(found, Rejection):
            return Accepted(found, attempt)
        rejection = found
        trail.refuse(prompt.name, attempt, rejection, completion.text)
        # The engine has tried the request as often as it may; another question would fail alike.
        if failed:
            break
        # Only the last rejected answer is shown: all of them would fill the context.
        messages = (*opening, *prompt.after_rejection(completion, rejection.detail))
    return rejection
