"""One or several servers that speak OpenAI's chat API, asked one request at a time, many at once.

Invariant: a request is sent again only after a failure or a refusal that taught us another form of it. What one request
learns of a server (its dialect, its room, a pause) holds for all.
"""

import asyncio
import itertools
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import tenacity

from reasonir.core.errors import RunStopped, UserError
from reasonir.llm.config import GeneratorConfig, Structured
from reasonir.llm.engines.chat_api import BadAnswer, NoLogprobs, characters, read_completion
from reasonir.llm.engines.choices import read_single_token, restricting_fields, tokenize_address, tokenize_body
from reasonir.llm.engines.client import (
    BoundedClient,
    Notices,
    RefusedError,
    Secret,
    TransientError,
    message_of,
    no_answer,
    raise_meaning,
    retrying,
    words_of,
)
from reasonir.llm.engines.completions import Budget, CompletionLog
from reasonir.llm.engines.concurrency import ConcurrentGenerator
from reasonir.llm.engines.dialect import Dialect, option_named, wanted_logprobs
from reasonir.llm.engines.room import Room, is_about_length, read_context, shorter_answer
from reasonir.llm.engines.verdicts import AGAIN
from reasonir.llm.records import Completion, Request
from reasonir.text.lengths import COUNTED_CHARACTERS, estimate_tokens

# A server that cannot be reached is asked again after so long, where there are others.
SECONDS_LEFT_OUT = 30.0
# The question for its room may take no longer: what a server does not say here, it says in a refusal.
SECONDS_FOR_ROOM = 5.0


class EndpointGenerator(ConcurrentGenerator):
    """Answers through servers in turn, `max_concurrency` requests at a time."""

    def __init__(self, config: GeneratorConfig, log_path: Path) -> None:
        secret = Secret(config.api_key_env, config.addresses()[0])
        log = CompletionLog(log_path)
        structured = Structured.json_schema if config.structured is Structured.auto else config.structured
        self._notices = Notices()
        self._servers = [
            Server(
                url, secret, config.model, config.timeout_seconds, config.body_options(), Dialect(structured),
                steps_down=config.structured is Structured.auto, notices=self._notices,
            )
            for url in config.addresses()
        ]  # fmt: skip
        self._turn = itertools.cycle(range(len(self._servers)))
        self._send_seed, self._thinking_tokens = config.send_seed, config.thinking_tokens
        # wraps: every call has a state of its own
        self._send_with_retries = retrying(tenacity.AsyncRetrying, config.max_attempts).wraps(self._send)
        super().__init__(
            config.model,
            log,
            Budget(**config.limits()),
            config.max_concurrency,
            max_attempts=config.max_attempts,
            key_options=config.key_options(),
            finish_seconds=config.finish_seconds,
        )

    async def ask(self, request: Request) -> Completion:
        """Answer one request, as often as max_attempts allows.

        Raises:
            UserError: the server refuses every request of this kind.
            RunStopped: no server can be reached.
        """
        try:
            completion: Completion = await self._send_with_retries(
                request.as_sent(self._send_seed, self._thinking_tokens)
            )
            return completion
        except RefusedError as error:
            said = str(error)
            refused = error.finish == "refusal"
            return Completion(id=request.id, text=said if refused else "", finish=error.finish, error=said)
        except TransientError as error:
            if error.unreachable:
                where = " and ".join(server.name for server in self._servers)
                raise RunStopped(f"{where} cannot be reached: {error}; see to the server and {AGAIN}") from None
            return Completion(id=request.id, text="", finish="failed", error=str(error))

    async def _send(self, request: Request) -> Completion:
        for server in self._in_turn():
            try:
                return await server.answer(request)
            except TransientError as error:
                if not error.unreachable or len(self._servers) == 1:
                    raise
                last = error
                server.left_out_until = time.monotonic() + SECONDS_LEFT_OUT
                self._notices(f"{server.name} cannot be reached and is left out; it is tried again from time to time")
        raise last

    def _in_turn(self) -> "list[Server]":
        """Return the servers in the order in which to try them: the next one that may be asked now comes first."""
        first, count, now = next(self._turn), len(self._servers), time.monotonic()
        ring = [self._servers[(first + place) % count] for place in range(count)]
        return sorted(ring, key=lambda server: max(server.left_out_until, server.not_before) > now)

    async def shut(self) -> None:
        """Close the connections."""
        for server in self._servers:
            await server.shut()


class Server:
    """One address, and what was learned about it."""

    def __init__(
        self, url: str | None, secret: Secret, model: str, timeout_seconds: float, options: Mapping[str, Any],
        dialect: Dialect, *, steps_down: bool, notices: Notices,
    ) -> None:  # fmt: skip
        """Open the client; no connection is made yet.

        Args:
            url: Root of the API; None is OpenAI's.
            secret: The key.
            model: The server's name of it.
            timeout_seconds: Of a request.
            options: Fields of every body beside those of the request.
            dialect: The first form of a request.
            steps_down: Whether a JSON schema may be asked for in another way where the server refuses one.
            notices: Takes what the user should know.
        """
        self.name = url or "OpenAI"
        self.left_out_until = self.not_before = 0.0
        self._url, self._secret, self._model, self._timeout_seconds = url, secret, model, timeout_seconds
        self._options, self._dialect, self._steps_down, self._notices = options, dialect, steps_down, notices
        self._known_good: set[str] = set()
        self._room, self._room_question = Room(), asyncio.Lock()
        self._asked_for_room = False
        self._restrictions: dict[tuple[str, ...], dict[str, Any]] = {(): {}}
        self._tokens_question = asyncio.Lock()
        self._client = openai.AsyncOpenAI(
            api_key=secret.reveal(), base_url=url, max_retries=0, timeout=timeout_seconds,
            http_client=BoundedClient(timeout=timeout_seconds),
        )  # fmt: skip

    async def answer(self, request: Request) -> Completion:
        """Answer one request, in as many forms as the server's refusals teach.

        Raises:
            TransientError: a failure that another attempt may mend.
            RefusedError: a refusal that none will.
            UserError: a refusal that every request of the run would meet.
        """
        while (pause := self.not_before - time.monotonic()) > 0:  # the server asked everybody to wait
            await asyncio.sleep(pause)
        await self._ask_for_room()
        restriction = await self._restriction_to(request.choices)
        prompt_tokens = estimate_tokens(characters(request), COUNTED_CHARACTERS)
        most = request.max_new_tokens
        while True:
            dialect, tokens = self._dialect, self._room.fit(most, prompt_tokens)
            body = dialect.body(self._model, request, tokens, {**restriction, **self._options})
            try:
                completion = await self._post(request, body)
            except openai.APIStatusError as error:
                words = words_of(error)
                if error.status_code in (400, 413, 422, 500) and is_about_length(words):
                    most = self._shorten(error, words, tokens, prompt_tokens)
                elif error.status_code not in (400, 422) or not self._learn(words, body, dialect):
                    self._refuse(error, words, body)
            else:
                self._known_good |= body.keys()
                if tokens < request.max_new_tokens:
                    known = self._room.context or self._room.answer
                    room = f"room for {known} tokens" if known else "less room"
                    self._notices(f"{self.name} has {room}: answers get what is left of generator.max_new_tokens")
                return completion

    async def _post(self, request: Request, body: dict[str, Any]) -> Completion:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                # The raw text: the client's own models take any type for any other, and a third of its time.
                content = await self._client.post("/chat/completions", body=body, cast_to=str)
            row = json.loads(self._secret.redact(content))
            return read_completion(request.id, row, characters(request), wanted_logprobs(request) > 0, self._notices)
        except TimeoutError:
            raise TransientError(no_answer(self._timeout_seconds)) from None
        except openai.APIStatusError:
            raise
        except openai.APIError as error:
            raise_meaning(error, self._secret, self._url, self._model, self._timeout_seconds)
        except NoLogprobs as error:
            raise RefusedError(str(error)) from None
        except BadAnswer as error:
            raise TransientError(self._secret.redact(str(error))) from None
        # RecursionError: JSON that is nested by the thousand.
        except (ValueError, RecursionError) as error:
            raise TransientError(self._secret.redact(f"the answer is no JSON: {error}")) from None

    def _shorten(self, error: openai.APIStatusError, words: str, sent: int, prompt_tokens: int) -> int:
        """Return a smaller limit of the answer; refuse the request where its prompt alone is too long."""
        self._room = self._room.learn(words)
        shorter = shorter_answer(words, sent, prompt_tokens)
        if shorter is None:
            raise RefusedError(f"status {error.status_code}: {self._secret.redact(message_of(error))}") from None
        return shorter

    def _learn(self, words: str, body: dict[str, Any], dialect: Dialect) -> bool:
        """Return whether a refusal taught us a simpler dialect, so that the request may go out again at once."""
        # Another request learned while this one was away.
        if self._dialect is not dialect:
            return True
        simpler = dialect.step_down(body, words, self._steps_down, self._known_good)
        if simpler is None:
            return False
        self._notices(f"{self.name} refuses a part of the request: {dialect.describe(simpler)} from now on")
        self._dialect = simpler
        return True

    def _refuse(self, error: openai.APIStatusError, words: str, body: dict[str, Any]) -> None:
        try:
            raise_meaning(error, self._secret, self._url, self._model, self._timeout_seconds)
        except TransientError as transient:
            # Only "too many requests" concerns the requests beside this one.
            if transient.status == 429:
                self.not_before = max(self.not_before, time.monotonic() + transient.wait_seconds)
            raise
        except RefusedError as refused:
            option = option_named(body, words, self._known_good)
            if option is None or refused.finish == "refusal":
                raise
            raise UserError(f"{self.name} refuses ({refused}); change {option}") from None

    async def _ask_for_room(self) -> None:
        """Ask once how many tokens the server has for prompt and answer."""
        async with self._room_question:
            if self._asked_for_room:
                return
            self._asked_for_room = True
            models = await self._get("/models")
            context = read_context(models, self._model)
            # llama.cpp lists what the model was trained for; its room is in /props, beside the API's root.
            if '"llamacpp"' in json.dumps(models) and self._url is not None:
                props = await self._get(self._url.rstrip("/").removesuffix("/v1") + "/props")
                settings = props.get("default_generation_settings") if isinstance(props, dict) else None
                served = settings.get("n_ctx") if isinstance(settings, dict) else None
                context = served if isinstance(served, int) and served > 0 else context
            self._room = replace(self._room, context=context)

    async def _restriction_to(self, choices: tuple[str, ...]) -> dict[str, Any]:
        """Return the fields that restrict an answer to the choices; none where the server does not tell its tokens."""
        if choices in self._restrictions:
            return self._restrictions[choices]
        async with self._tokens_question:
            if choices not in self._restrictions:
                tokens = [await self._token_of(choice) for choice in choices]
                known = [token for token in tokens if token is not None]
                self._restrictions[choices] = restricting_fields(known) if len(known) == len(choices) else {}
        return self._restrictions[choices]

    async def _token_of(self, text: str) -> int | None:
        if self._url is None:
            return None
        try:
            async with asyncio.timeout(self._timeout_seconds):
                body = tokenize_body(self._model, text)
                row = await self._client.post(tokenize_address(self._url), body=body, cast_to=str)
            return read_single_token(json.loads(row))
        except (openai.APIStatusError, ValueError, RecursionError):
            return None  # a server that does not know the question
        # Not a None: a restriction that a moment's failure left out would be missing for the whole run.
        except TimeoutError:
            raise TransientError(no_answer(self._timeout_seconds)) from None
        except openai.APIError as error:
            raise_meaning(error, self._secret, self._url, self._model, self._timeout_seconds)

    async def _get(self, path: str) -> Any:
        """Return the JSON of a page; None where there is none: a refusal will say what it does not."""
        try:
            async with asyncio.timeout(min(SECONDS_FOR_ROOM, self._timeout_seconds)):
                return json.loads(await self._client.get(path, cast_to=str))
        except (TimeoutError, openai.APIError, ValueError, RecursionError):
            return None

    async def shut(self) -> None:
        """Close the connections."""
        await self._client.close()
