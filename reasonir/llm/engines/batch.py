"""OpenAI's Batch API: requests go out as a file, answers come back within a day, at half the price.

Invariant: a batch that was submitted is gathered, never submitted twice. Its name is on disk before it is submitted
(as metadata that the server keeps), so that a run killed at any moment finds it again.
"""

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import openai
import tenacity

from reasonir.core.errors import UserError
from reasonir.llm.config import GeneratorConfig, Structured
from reasonir.llm.engines.chat_api import BadAnswer, characters, read_completion
from reasonir.llm.engines.client import (
    FILTERED,
    MOST_READ_CHARACTERS,
    REFUSING_STATUS,
    Notices,
    Secret,
    raise_meaning,
    retrying,
)
from reasonir.llm.engines.completions import Budget, CompletionLog, look_up, stop_for
from reasonir.llm.engines.concurrency import SECONDS_BETWEEN_LOOKS
from reasonir.llm.engines.dialect import Dialect
from reasonir.llm.engines.room import Room, is_about_length, shorter_answer
from reasonir.llm.engines.verdicts import DOUBTED, Verdicts
from reasonir.llm.records import Completion, Request
from reasonir.text.lengths import COUNTED_CHARACTERS, estimate_tokens

# Of a batch's file; half of OpenAI's limit, because the prompts' characters are counted and not the file's bytes.
LARGEST_FILE_BYTES = 100_000_000
ENDED = {"completed", "failed", "expired", "cancelled"}
T = TypeVar("T")


class BatchGenerator:
    """Answers block by block; `<log>.batches.jsonl` beside the log says which batches are out."""

    def __init__(self, config: GeneratorConfig, log_path: Path) -> None:
        self.model, self._secret = config.model, Secret(config.api_key_env, config.base_url)
        self._batch_requests, self._poll_seconds = config.batch_requests, config.batch_poll_seconds
        self._max_attempts, self._base_url = config.max_attempts, config.base_url
        self._timeout_seconds = config.timeout_seconds
        self._budget, self._log = Budget(**config.limits()), CompletionLog(log_path)
        # Chosen beforehand: a batch comes back after hours, too late to learn a simpler form from its refusal.
        structured = Structured.json_schema if config.structured is Structured.auto else config.structured
        self._dialect = Dialect(structured, "max_completion_tokens" if config.base_url is None else "max_tokens")
        self._room, self._notices = Room(), Notices()
        self._send_seed, self._thinking_tokens = config.send_seed, config.thinking_tokens
        self._body_options = config.body_options()
        self._key_options = config.key_options()
        self._ledger = log_path.with_suffix(".batches.jsonl")
        self._client = openai.OpenAI(
            api_key=self._secret.reveal(), base_url=config.base_url, max_retries=0, timeout=config.timeout_seconds
        )

    def complete(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """Yield the answer of every request; a block goes out when it is full or the source has nothing right now.

        Raises:
            UserError: the server refuses for good (key, model, a batch as a whole).
            RunStopped: the budget is spent (it is looked at before every batch, which may pass it); or the server
                failed some requests.
        """
        self._gather_what_is_out()
        source = look_up(requests, lambda request: request.key(self.model, self._key_options), self._log, self._budget)
        verdicts = Verdicts(self._log, self.model, self._batch_requests, self._max_attempts)
        block: dict[str, list[Request]] = {}  # by key; the same question may be asked under several ids
        tried: Counter[str] = Counter()
        spent, more = "", True
        while more or block:
            bytes_out = 0
            while more and len(block) < self._batch_requests and bytes_out < LARGEST_FILE_BYTES:
                try:
                    found = next(source)
                except StopIteration as end:
                    more, spent = False, end.value
                    break
                # The source waits for answers, so the block goes out although it is not full.
                if found is None:
                    break
                if isinstance(found, Completion):
                    yield found
                else:
                    key, request = found
                    block.setdefault(key, []).append(request)
                    bytes_out += characters(request)
            if not block:
                time.sleep(SECONDS_BETWEEN_LOOKS if more else 0.0)
                continue
            # One batch; what failed in it stays in the block for the next one, up to max_attempts times.
            unanswered = self._run(block)
            tried.update(block.keys())
            ended = [
                key
                for key in block
                if key in self._log or unanswered[key].finish != "failed" or tried[key] >= self._max_attempts
            ]
            # Answers last: they show that a refusal beside them is about its own request.
            for key in sorted(ended, key=lambda key: key in self._log):
                for completion in self._ends(key, block.pop(key), unanswered.get(key)):
                    yield from verdicts.hear(key, completion)
            if verdicts.holds_back:
                yield from verdicts.settle()
        if spent:
            raise stop_for(spent)
        verdicts.end()

    def _ends(self, key: str, asked: list[Request], unanswered: Completion | None) -> Iterator[Completion]:
        for place, request in enumerate(asked):
            found = self._log.find(key, request.id)
            if found is not None:
                yield replace(found, cached=place > 0)
            elif unanswered is not None:
                yield replace(unanswered, id=request.id)

    def _body(self, request: Request) -> dict[str, Any]:
        sent = request.as_sent(self._send_seed, self._thinking_tokens)
        tokens = self._room.fit(sent.max_new_tokens, estimate_tokens(characters(sent), COUNTED_CHARACTERS))
        return self._dialect.body(self.model, sent, tokens, self._body_options)

    def _run(self, block: dict[str, list[Request]]) -> dict[str, Completion]:
        """Submit one batch, wait for it, gather it; return by key how the requests ended that have no answer."""
        bodies = {key: self._body(request) for key, (request, *_) in block.items()}
        lines = []
        for key, body in bodies.items():
            row = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
            lines.append(json.dumps(row).encode() + b"\n")
        content = ("requests.jsonl", b"".join(lines))
        file = self._call(lambda: self._client.files.create(file=content, purpose="batch"))
        # The name is on disk before the batch is submitted: a run killed in between finds the batch by its metadata.
        name = uuid.uuid4().hex
        self._note(name, "submitting")
        # Looked for first: a call that failed here may have reached the server all the same.
        batch = self._call(lambda: self._find(name) or self._submit(file.id, name))
        self._note(name, batch.id)
        ends = self._gather(name, batch.id)
        missing = Completion(id="", text="", finish="failed", error="the batch ended without it")
        ends |= {key: missing for key in block if key not in ends and key not in self._log}
        return {
            key: self._learn(end, block[key][0], bodies[key]) if key in block and end.finish == DOUBTED else end
            for key, end in ends.items()
        }

    def _learn(self, refused: Completion, request: Request, body: dict[str, Any]) -> Completion:
        """Return a refusal as a failure, so that the next batch asks again, where it teaches us another form."""
        words = refused.error
        too_long = is_about_length(words)
        if too_long:
            self._room = self._room.learn(words)
            alone = shorter_answer(words, body[self._dialect.tokens_field], 0) is None
        # The schema's form is chosen by an option here, and never another.
        elif simpler := self._dialect.step_down(body, words, False, ()):
            self._notices(f"the server refuses a part of the request: {self._dialect.describe(simpler)} from now on")
            self._dialect = simpler
        if self._body(request) != body and not (too_long and alone):
            return replace(refused, finish="failed")
        return replace(refused, finish="error" if too_long else DOUBTED, error=words[:300])

    def _submit(self, file_id: str, name: str) -> Any:
        return self._client.batches.create(
            input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"reasonir": name}
        )

    def _find(self, name: str) -> Any:
        """Return the batch of a name, which may have been submitted though no answer reached us; None for none."""
        return next(
            (b for b in self._client.batches.list(limit=100) if (b.metadata or {}).get("reasonir") == name), None
        )

    def _note(self, name: str, state: str) -> None:
        with self._ledger.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"name": name, "state": state}) + "\n")

    def _gather_what_is_out(self) -> None:
        """Gather the batches of an earlier run that did not live to do it."""
        states: dict[str, str] = {}
        text = self._ledger.read_text(encoding="utf-8") if self._ledger.exists() else ""
        if text and not text.endswith("\n"):
            # Torn by a kill: the batch that the line names was not submitted yet, or `_find` knows it.
            text = text[: text.rfind("\n") + 1]
            self._ledger.write_text(text, encoding="utf-8")
        for line in text.splitlines():
            row = json.loads(line)
            states[row["name"]] = row["state"]
        for name, state in states.items():
            batch_id = state
            if state == "submitting":
                batch = self._call(lambda name=name: self._find(name))  # type: ignore[misc]
                batch_id = batch.id if batch is not None else "gathered"
            if batch_id != "gathered":
                self._gather(name, batch_id)

    def _gather(self, name: str, batch_id: str) -> dict[str, Completion]:
        """Put the answers of a batch into the log; return the ends of its other requests by key."""
        while True:
            batch = self._call(lambda: self._client.batches.retrieve(batch_id))
            if batch.status in ENDED:
                break
            time.sleep(self._poll_seconds)
        unanswered: dict[str, Completion] = {}
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is not None:
                text = self._call(lambda file_id=file_id: self._client.files.content(file_id).text)  # type: ignore[misc]
                text = self._secret.redact(text)
                # Not splitlines: a JSON text may hold U+2028 as it is, which splitlines takes for a line end.
                for line in filter(None, text.split("\n")):
                    unanswered |= self._read_line(line)
        # Only now: every answer is in the log.
        self._note(name, "gathered")
        if batch.status == "failed" and batch.output_file_id is None:
            first = next(iter((batch.errors.data if batch.errors else None) or []), None)
            reason = self._secret.redact((first.message if first else None) or "no reason given")
            raise UserError(f"the batch {batch_id} was refused: {' '.join(reason.split())[:300]}")
        return unanswered

    def _read_line(self, line: str) -> dict[str, Completion]:
        try:
            row = json.loads(line)
            key, response = row["custom_id"], row.get("response") or {}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}  # of no request that we could name: its batch ends without it
        try:
            completion = self._read_response(key, row.get("error"), response)
        except (BadAnswer, KeyError, TypeError, AttributeError, RecursionError) as error:
            words = self._secret.redact(f"{type(error).__name__}: {error}")
            return {key: Completion(id=key, text="", finish="failed", error=words)}
        # A batch that a killed run had half gathered is gathered once more.
        if completion.answered and key not in self._log:
            self._log.append(key, self.model, completion, 0.0)
        return {} if completion.answered else {key: completion}

    def _read_response(self, key: str, error: Any, response: dict[str, Any]) -> Completion:
        status, body = response.get("status_code"), response.get("body")
        if not error and status == 200:
            want_logprobs = bool(((body or {}).get("choices") or [{}])[0].get("logprobs"))
            return read_completion(key, body, 0, want_logprobs, self._notices)
        words = f"status {status}: {json.dumps(error or body)[:MOST_READ_CHARACTERS]}"
        if status not in REFUSING_STATUS:
            raise BadAnswer(words[:300])
        if any(sign in words.lower() for sign in FILTERED):
            return Completion(id=key, text=words[:300], finish="refusal")
        return Completion(id=key, text="", finish=DOUBTED, error=words)

    def _call(self, call: Callable[[], T]) -> T:
        """Make a call of the API, again where its failure may pass."""

        def once() -> T:
            try:
                return call()
            except openai.APIError as error:
                raise_meaning(error, self._secret, self._base_url, self.model, self._timeout_seconds)

        result: T = retrying(tenacity.Retrying, self._max_attempts)(once)
        return result

    def finish_in_flight(self) -> None:
        """Return at once: batches that are out stay out, and the next run gathers them."""

    def close(self) -> None:
        """Close the log and the connections; batches that are out stay out, the next run gathers them."""
        self._client.close()
        self._log.close()
