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
from reasonir.llm.engines.chat_api import BadAnswer, Dialect, characters, read_completion
from reasonir.llm.engines.client import Secret, raise_meaning, retrying
from reasonir.llm.engines.completions import Budget, CompletionLog, look_up, stop_for
from reasonir.llm.engines.concurrency import SECONDS_BETWEEN_LOOKS
from reasonir.llm.records import Completion, Request

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
        self._ledger = log_path.with_suffix(".batches.jsonl")
        self._client = openai.OpenAI(
            api_key=self._secret.reveal(), base_url=config.base_url, max_retries=0, timeout=config.timeout_seconds
        )

    def complete(self, requests: Iterable[Request | None]) -> Iterator[Completion]:
        """Yield the answer of every request; a block goes out when it is full or the source has nothing right now.

        Raises:
            UserError: the server refuses for good (key, model, a batch as a whole).
            RunStopped: the budget is spent; it is looked at before every batch, which may pass it.
        """
        self._gather_what_is_out()
        source = look_up(requests, self.model, self._log, self._budget)
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
            failures = self._run(block)
            tried.update(block.keys())
            for key in [key for key in block if key in self._log or tried[key] >= self._max_attempts]:
                yield from self._answers(key, block.pop(key), failures.get(key, "the batch ended without it"))
        if spent:
            raise stop_for(spent)

    def _answers(self, key: str, asked: list[Request], failure: str) -> Iterator[Completion]:
        for place, request in enumerate(asked):
            found = self._log.find(key, request.id)
            if found is None:
                yield Completion(id=request.id, text="", finish="error", error=failure)
            else:
                yield replace(found, cached=place > 0)

    def _run(self, block: dict[str, list[Request]]) -> dict[str, str]:
        """Submit one batch, wait for it, gather it; return why requests failed, by key."""
        lines = []
        for key, (request, *_) in block.items():
            body = self._dialect.body(self.model, request)
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
        return self._gather(name, batch.id)

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

    def _gather(self, name: str, batch_id: str) -> dict[str, str]:
        while True:
            batch = self._call(lambda: self._client.batches.retrieve(batch_id))
            if batch.status in ENDED:
                break
            time.sleep(self._poll_seconds)
        failures: dict[str, str] = {}
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is not None:
                text = self._call(lambda file_id=file_id: self._client.files.content(file_id).text)  # type: ignore[misc]
                text = self._secret.redact(text)
                # Not splitlines: a JSON text may hold U+2028 as it is, which splitlines takes for a line end.
                for line in filter(None, text.split("\n")):
                    failures |= self._read_line(json.loads(line))
        # Only now: every answer is in the log.
        self._note(name, "gathered")
        if batch.status == "failed" and batch.output_file_id is None:
            first = next(iter((batch.errors.data if batch.errors else None) or []), None)
            reason = self._secret.redact((first.message if first else None) or "no reason given")
            raise UserError(f"the batch {batch_id} was refused: {' '.join(reason.split())[:300]}")
        return failures

    def _read_line(self, row: dict[str, Any]) -> dict[str, str]:
        key, response = row["custom_id"], row.get("response") or {}
        try:
            if row.get("error") or response.get("status_code") != 200:
                raise BadAnswer(json.dumps(row.get("error") or response.get("body"))[:300])
            body = response["body"]
            want_logprobs = bool((body.get("choices") or [{}])[0].get("logprobs"))
            completion = read_completion(key, body, 0, want_logprobs)
        except (BadAnswer, KeyError, TypeError, AttributeError) as error:
            return {key: self._secret.redact(f"{type(error).__name__}: {error}")}
        # A batch that a killed run had half gathered is gathered once more.
        if key not in self._log:
            self._log.append(key, self.model, completion, 0.0)
        return {}

    def _call(self, call: Callable[[], T]) -> T:
        """Make a call of the API, again where its failure may pass."""

        def once() -> T:
            try:
                return call()
            except openai.APIError as error:
                raise_meaning(error, self._secret, self._base_url, self.model, self._timeout_seconds)

        result: T = retrying(tenacity.Retrying, self._max_attempts)(once)
        return result

    def close(self) -> None:
        """Close the log and the connections; batches that are out stay out, the next run gathers them."""
        self._client.close()
        self._log.close()
