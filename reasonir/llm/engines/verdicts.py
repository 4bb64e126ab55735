"""What is about one request and what is about the server: decided from all answers of a run together.

Invariant: a refusal that nobody can read is handed on only when another request got an answer after it; until then it
may be about the run. A request that the server failed is never the last word about it: the run ends with status 1.
"""

from collections.abc import Iterator
from dataclasses import replace

from reasonir.core.errors import RunStopped, UserError
from reasonir.llm.engines.completions import CompletionLog
from reasonir.llm.records import Completion

# Ends that stay in this room. doubted: refused for an unknown reason. thoughts_only: the answer has no content, but
# another field holds a text.
DOUBTED, THOUGHTS_ONLY = "doubted", "thoughts_only"
# What they are once another request was answered.
RELEASED = {DOUBTED: "error", THOUGHTS_ONLY: "stop"}
# Doubtful answers one after the other, at least, before they are about the run.
LEAST_PATIENCE = 3
AGAIN = "run the same command to go on"


class Verdicts:
    """Hears the completions of one run in the order in which they come and says what to hand on."""

    def __init__(self, log: CompletionLog, model: str, max_concurrency: int, max_attempts: int) -> None:
        """Start without evidence.

        Args:
            log: Takes the answers that were held back. Where it has some already, the server is known to answer.
            model: For the log.
            max_concurrency: Requests in flight; so many doubtful answers in a row are about the run.
            max_attempts: Attempts at each request, for messages.
        """
        self._log, self._model, self._max_attempts = log, model, max_attempts
        self._answered_before, self._answered = len(log) > 0, False
        self._held: list[tuple[str, Completion]] = []
        self._patience = max(LEAST_PATIENCE, max_concurrency)
        # A server is taken for down after two full rounds of failures, and ten more for a small concurrency.
        self._failed_in_a_row, self._most_failed_in_a_row = 0, 2 * max_concurrency + 10
        self._failed, self._last_failure = 0, ""

    @property
    def holds_back(self) -> bool:
        """Whether completions wait for evidence."""
        return bool(self._held)

    def hear(self, key: str, completion: Completion) -> Iterator[Completion]:
        """Yield what may be handed on now.

        Args:
            key: Of the request.
            completion: Its end.
        Raises:
            UserError: the first requests were all refused.
            RunStopped: too many requests in a row failed, or had no content.
        """
        if completion.finish in RELEASED:
            self._held.append((key, completion))
            if len(self._held) >= self._patience:
                raise self._about_the_run()
            return
        self._note(completion)
        # An answer from the log says nothing about the server.
        if completion.answered and not completion.cached:
            self._answered = True
            yield from self._release()
        yield completion

    def settle(self) -> Iterator[Completion]:
        """Yield what is held back where no further answer will come; with no evidence at all it is about the run."""
        if not (self._answered or self._answered_before):
            raise self._about_the_run()
        yield from self._release()

    def end(self) -> None:
        """Raise `RunStopped` where requests were left that the server failed."""
        if self._failed:
            raise RunStopped(
                f"{self._failed} requests got no answer, {self._max_attempts} attempts each; the last: "
                f"{self._last_failure}; all others are kept: {AGAIN}"
            )

    def _note(self, completion: Completion) -> None:
        if completion.finish != "failed":
            self._failed_in_a_row = 0
            return
        self._failed, self._last_failure = self._failed + 1, completion.error
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= self._most_failed_in_a_row:
            raise RunStopped(
                f"{self._failed_in_a_row} requests in a row failed, {self._max_attempts} times each; the last: "
                f"{completion.error}; see to the server and {AGAIN}"
            )

    def _release(self) -> Iterator[Completion]:
        held, self._held = self._held, []
        for key, completion in held:
            released = replace(completion, finish=RELEASED[completion.finish])
            # An answer without content was paid for like any other.
            if released.answered and key not in self._log:
                self._log.append(key, self._model, replace(released, error=""), 0.0)
            yield released

    def _about_the_run(self) -> UserError | RunStopped:
        words = self._held[-1][1].error
        if any(completion.finish == THOUGHTS_ONLY for _, completion in self._held):
            return RunStopped(f"{words}; {AGAIN}")
        if self._answered:
            return RunStopped(f"the server refuses the last {len(self._held)} requests: {words}; {AGAIN}")
        return UserError(f"the server refuses every request: {words}; check the generator's options")
