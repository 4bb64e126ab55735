"""A server that speaks OpenAI's chat API, asked one request at a time, many at once.

Invariant: a request is sent again only after a failure. A dialect or a pause that one request learns holds for all.
"""

import asyncio
import json
import time
from pathlib import Path

import openai
import tenacity

from reasonir.core.errors import RunStopped
from reasonir.llm.config import GeneratorConfig, Structured
from reasonir.llm.engines.chat_api import BadAnswer, Dialect, NoLogprobs, characters, read_completion, wanted_logprobs
from reasonir.llm.engines.client import (
    RefusedError,
    Secret,
    TransientError,
    message_of,
    no_answer,
    raise_meaning,
    retrying,
)
from reasonir.llm.engines.completions import Budget, CompletionLog
from reasonir.llm.engines.concurrency import ConcurrentGenerator
from reasonir.llm.records import Completion, Request


class EndpointGenerator(ConcurrentGenerator):
    """Answers through a server, `max_concurrency` requests at a time."""

    def __init__(self, config: GeneratorConfig, log_path: Path) -> None:
        self._secret = Secret(config.api_key_env, config.base_url)
        self._base_url, self._timeout_seconds = config.base_url, config.timeout_seconds
        self._max_attempts = config.max_attempts
        log = CompletionLog(log_path)
        self._client = openai.AsyncOpenAI(
            api_key=self._secret.reveal(), base_url=config.base_url, max_retries=0, timeout=config.timeout_seconds,
            http_client=openai.DefaultAioHttpClient(timeout=config.timeout_seconds),  # half the time of httpx's own
        )  # fmt: skip
        self._steps_down = config.structured is Structured.auto
        self._dialect = Dialect(Structured.json_schema if self._steps_down else config.structured)
        self._not_before = 0.0
        # A server is taken for down after two full rounds of failures, and ten more for a small concurrency.
        self._failed_in_a_row, self._patience = 0, 2 * config.max_concurrency + 10
        # wraps: every call has a state of its own
        self._send_with_retries = retrying(tenacity.AsyncRetrying, config.max_attempts).wraps(self._send)
        super().__init__(config.model, log, Budget(**config.limits()), config.max_concurrency)

    async def ask(self, request: Request) -> Completion:
        """Answer one request, as often as max_attempts allows.

        Raises:
            UserError: the server refuses every request of this kind.
            RunStopped: the server cannot be reached, or so many requests failed one after the other that it is down.
        """
        try:
            completion: Completion = await self._send_with_retries(request)
        except RefusedError as error:
            return Completion(id=request.id, text="", finish="error", error=str(error))
        except TransientError as error:
            self._failed_in_a_row += 1
            if error.unreachable:
                failed = f"{self._base_url or 'OpenAI'} cannot be reached: {error}"
            elif self._failed_in_a_row >= self._patience:
                times = f"{self._failed_in_a_row} requests in a row failed, {self._max_attempts} times each"
                failed = f"{times}; the last: {error}"
            else:
                return Completion(id=request.id, text="", finish="error", error=str(error))
            raise RunStopped(f"{failed}; see to the server and run the same command to go on") from None
        self._failed_in_a_row = 0
        return completion

    async def _send(self, request: Request) -> Completion:
        while (pause := self._not_before - time.monotonic()) > 0:  # the server asked everybody to wait
            await asyncio.sleep(pause)
        want_logprobs = wanted_logprobs(request) > 0
        while True:
            dialect = self._dialect
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    body = dialect.body(self.model, request)
                    # The raw text: the client's own models take any type for any other, and a third of its time.
                    content = await self._client.post("/chat/completions", body=body, cast_to=str)
                content = self._secret.redact(content)
                return read_completion(request.id, json.loads(content), characters(request), want_logprobs)
            except TimeoutError:
                raise TransientError(no_answer(self._timeout_seconds)) from None
            except openai.APIError as error:
                if not self._learn(error, request, dialect):
                    self._raise_meaning(error)
            except NoLogprobs as error:
                raise RefusedError(str(error)) from None
            except BadAnswer as error:
                raise TransientError(self._secret.redact(str(error))) from None
            except ValueError as error:
                raise TransientError(self._secret.redact(f"the answer is no JSON: {error}")) from None

    def _learn(self, error: openai.APIError, request: Request, dialect: Dialect) -> bool:
        """Return whether a refusal taught us a simpler dialect, so that the request may go out again at once."""
        if not isinstance(error, openai.APIStatusError) or error.status_code not in (400, 422):
            return False
        simpler = dialect.step_down(request, message_of(error), formats=self._steps_down)
        if simpler is not None and self._dialect == dialect:  # else another request learned it first
            self._dialect = simpler
        return simpler is not None

    def _raise_meaning(self, error: openai.APIError) -> None:
        try:
            raise_meaning(error, self._secret, self._base_url, self.model, self._timeout_seconds)
        except TransientError as transient:
            # Only "too many requests" concerns the requests beside this one.
            if transient.status == 429:
                self._not_before = max(self._not_before, time.monotonic() + transient.wait_seconds)
            raise

    async def shut(self) -> None:
        """Close the connections."""
        await self._client.close()
