"""A server that speaks OpenAI's API and behaves as told: for tests in a thread, for kills and figures as a process.

`python -m tests.kit.servers --port 0 --latency 0.2 --answer package.module:function` prints its address on one line;
GET /stats tells what it was asked. An answer function takes (body of the request, how many times this very body came
before) and returns a text or a `Reply`.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import importlib
import json
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

SECRET_IN_REFUSALS = "Incorrect API key provided: {key}."


@dataclass
class Reply:
    """What the server does with one request. `text` alone is a good answer."""

    text: str | None = ""
    status: int = 200
    finish: str = "stop"
    refusal: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """Sent as it is, in place of the answer."""
    seconds: float = 0.0
    reset: bool = False
    """Break the connection off without an answer."""
    logprobs: list[tuple[str, float]] | None = None
    """Alternatives of the one answer token, where they are asked for; [] is a server that has none, null letters."""
    keep: float = 1.0
    """Share of the body that is sent before the connection breaks off."""


Answer = Callable[[dict[str, Any], int], "str | Reply"]


def error_reply(status: int, message: str, code: str | None = None, **headers: str) -> Reply:
    """A refusal in OpenAI's form."""
    body = json.dumps({"error": {"message": message, "type": "error", "param": None, "code": code}})
    return Reply(status=status, body=body.encode(), headers=headers)


def misbehaviours(good: str) -> dict[str, Reply]:
    """Every way in which servers and models are known to go wrong, around a good answer's text."""
    wrong = {"choices": [{"message": {"content": ["not", "a", "text"]}, "finish_reason": 7}], "usage": "many"}
    return {
        "rate_limit": error_reply(429, "slow down", **{"Retry-After": "1"}),
        "server_error": error_reply(500, "our fault"),
        "overloaded": Reply(status=503, body=b"<html>upstream</html>"),
        "reset": Reply(reset=True),
        "stall": Reply(text=good, seconds=30.0),
        "torn_body": Reply(text=good, keep=0.5),
        "broken_json": Reply(body=b'{"choices": [{"message": {"content": "cut'),
        "no_choices": Reply(body=b'{"choices": []}'),
        "wrong_types": Reply(body=json.dumps(wrong).encode()),
        "error_in_success": Reply(body=b'{"error": {"message": "the provider is away"}}'),
        "truncated": Reply(text=good[: len(good) // 2], finish="length"),
        "fences": Reply(text=f"```json\n{good}\n```"),
        "prose": Reply(text=f"Sure, here it is:\n{good}\nI hope that this helps."),
        "empty": Reply(text=""),
        "null": Reply(text=None),
        "long": Reply(text="word " * 10_000),
        "refusal": Reply(text=None, refusal="I cannot help with that."),
        "filtered": Reply(text=None, finish="content_filter"),
    }


def prompt_of(body: dict[str, Any]) -> str:
    """The last message of a request."""
    return str(body["messages"][-1]["content"])


def echo(body: dict[str, Any], earlier: int) -> str:
    """Answer with the smallest object that obeys the request's schema, else with the prompt's first words."""
    form = body.get("response_format", {})
    if form.get("type") == "json_schema":
        return json.dumps(smallest(form["json_schema"]["schema"]))
    return f"answer to: {prompt_of(body)[:80]}"


def smallest(schema: dict[str, Any]) -> Any:
    """A small value that obeys a JSON schema."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object":
        return {name: smallest(part) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [smallest(schema.get("items", {}))] * max(1, schema.get("minItems", 1))
    return {"string": "text", "integer": schema.get("minimum", 1), "number": 0.5, "boolean": True}.get(kind)


class ScriptedServer:
    """The server; `with ScriptedServer(answer) as server:` runs it in a thread, `server.url` is its API's root.

    latency: seconds of every good answer. formats: kinds of response_format it knows. key: refuse any other.
    batch_polls: how often a batch is still in progress. remember: keep every body in `bodies`. models:
    what /v1/models lists; None has no such page.
    """

    def __init__(
        self,
        answer: Answer = echo,
        *,
        latency: float = 0.0,
        formats: tuple[str, ...] = ("json_schema", "json_object", "text"),
        key: str | None = None,
        batch_polls: int = 1,
        remember: bool = True,
        models: list[dict[str, Any]] | None = None,
        tokens: Mapping[str, list[int]] | None = None,
    ) -> None:
        self.answer, self.latency, self.formats, self.key = answer, latency, formats, key
        self.batch_polls, self.remember, self.models, self.tokens = batch_polls, remember, models, tokens
        self.calls = self.paid = self.in_flight = self.most_in_flight = 0
        self.seen: Counter[int] = Counter()
        """How many times each body came."""
        self.answered: Counter[int] = Counter()
        """How many whole answers each body got."""
        self.bodies: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def stats(self) -> dict[str, int]:
        """Calls, good answers begun, answers beyond the first to one body, most requests at once."""
        again = sum(count - 1 for count in self.answered.values())
        return {"calls": self.calls, "paid": self.paid, "answered_again": again, "most_in_flight": self.most_in_flight}

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    def __enter__(self) -> "ScriptedServer":
        self._loop.run_until_complete(self.start())
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._serve_one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            with contextlib.suppress(ConnectionError):
                writer.transport.abort()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "chunked" in headers.get("transfer-encoding", ""):
            content = await _read_chunks(reader)
        else:
            content = await reader.readexactly(int(headers.get("content-length", 0)))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            reply = await self._reply(method, path.split("?")[0], headers, content)
        finally:
            self.in_flight -= 1
        if reply.reset:
            return False
        body = reply.body or b""
        extra = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
        status = (
            f"HTTP/1.1 {reply.status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
        )
        writer.write(status.encode() + body[: int(len(body) * reply.keep)])
        await writer.drain()
        return reply.keep == 1.0

    async def _reply(self, method: str, path: str, headers: dict[str, str], content: bytes) -> Reply:
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if path == "/stats":
            return Reply(body=json.dumps(self.stats).encode())
        if self.key is not None and given != self.key:
            return error_reply(401, SECRET_IN_REFUSALS.format(key=given), "invalid_api_key")
        if path == "/v1/models" and self.models is not None:
            return Reply(body=json.dumps({"object": "list", "data": self.models}).encode())
        if path == "/v1/chat/completions":
            return await self._chat(json.loads(content))
        if path == "/tokenize" and self.tokens is not None:
            return Reply(body=json.dumps({"tokens": self.tokens[json.loads(content)["prompt"]]}).encode())
        return self._batch_api(method, path, headers, content)

    async def _chat(self, body: dict[str, Any]) -> Reply:
        self.calls += 1
        if self.remember:
            self.bodies.append(body)
        reply = self._decide(body)
        good = reply.status == 200 and not reply.reset and reply.keep == 1.0
        self.paid += good
        await asyncio.sleep(reply.seconds or self.latency)
        if reply.body is None and good:
            self.answered[_name(body)] += 1
        return dataclasses.replace(reply, body=chat_completion(body, reply)) if reply.body is None else reply

    def _decide(self, body: dict[str, Any]) -> Reply:
        form = body.get("response_format")
        if form is not None and form["type"] not in self.formats:
            return error_reply(400, f"response_format type {form['type']} is not supported")
        if form is not None and form["type"] == "json_schema":
            inner = form["json_schema"]
            if not (re.fullmatch(r"[\w-]+", inner["name"]) and inner["schema"]["type"] == "object"):
                return error_reply(400, "Invalid schema for response_format")
        name = _name(body)
        reply = self.answer(body, self.seen[name])
        self.seen[name] += 1
        return Reply(text=reply) if isinstance(reply, str) else reply

    def _batch_api(self, method: str, path: str, headers: dict[str, str], content: bytes) -> Reply:
        if (method, path) == ("POST", "/v1/files"):
            name = f"file-{len(self.files)}"
            self.files[name] = _uploaded(headers["content-type"], content)
            value: dict[str, Any] = {"id": name, "object": "file", "bytes": len(self.files[name]), "created_at": 0,
                                     "filename": "a.jsonl", "purpose": "batch", "status": "processed"}  # fmt: skip
        elif (method, path) == ("POST", "/v1/batches"):
            asked = json.loads(content)
            value = {"id": f"batch-{len(self.batches)}", "object": "batch", "status": "validating", "created_at": 0,
                     "errors": None, "output_file_id": None, "error_file_id": None, "polls": 0, **asked}  # fmt: skip
            self.batches[value["id"]] = value
        elif path == "/v1/batches":
            value = {"object": "list", "data": list(self.batches.values())[::-1], "has_more": False}
        elif path.startswith("/v1/batches/"):
            value = self._poll(self.batches[path.rsplit("/", 1)[1]])
        elif path.endswith("/content"):
            return Reply(body=self.files[path.split("/")[3]])
        else:
            return error_reply(404, f"no such path: {path}")
        return Reply(body=json.dumps(value).encode())

    def _poll(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch["polls"] += 1
        if batch["polls"] <= self.batch_polls or batch["status"] == "completed":
            batch["status"] = batch["status"].replace("validating", "in_progress")
            return batch
        good, bad = [], []
        for line in self.files[batch["input_file_id"]].decode().splitlines():
            row = json.loads(line)
            self.calls += 1
            reply = self._decide(row["body"])
            self.paid += reply.status == 200
            raw = reply.body or chat_completion(row["body"], reply)
            try:
                body = json.loads(raw)
            except ValueError:
                body = raw.decode()
            result = {"custom_id": row["custom_id"], "response": {"status_code": reply.status, "body": body}}
            (good if reply.status == 200 else bad).append(json.dumps({**result, "error": None}))
        for field_name, lines in (("output_file_id", good), ("error_file_id", bad)):
            if lines:
                batch[field_name] = f"file-{len(self.files)}"
                self.files[batch[field_name]] = ("\n".join(lines) + "\n").encode()
        batch["status"] = "completed"
        return batch


def chat_completion(body: dict[str, Any], reply: Reply) -> bytes:
    """A good answer as OpenAI words it."""
    text = reply.text or ""
    choice: dict[str, Any] = {"index": 0, "finish_reason": reply.finish}
    choice["message"] = {"role": "assistant", "content": reply.text, "refusal": reply.refusal}
    if body.get("logprobs") and reply.logprobs != []:
        letters = [(token, -rank - 0.5) for rank, token in enumerate("ABCDE")]
        pairs = (letters if reply.logprobs is None else reply.logprobs)[: body["top_logprobs"]]
        tops = [{"token": token, "logprob": logprob} for token, logprob in pairs]
        choice["logprobs"] = {"content": [{**tops[0], "top_logprobs": tops}] if tops else []}
    read, written = sum(len(m["content"].split()) for m in body["messages"]), len(text.split())
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    answer = {"id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": body["model"]}
    return json.dumps({**answer, "choices": [choice], "usage": usage}).encode()


def _name(body: dict[str, Any]) -> int:
    return hash(json.dumps(body, sort_keys=True))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    content = b""
    while size := int(await reader.readline(), 16):
        content += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return content


def _uploaded(content_type: str, content: bytes) -> bytes:
    """The file in a multipart form."""
    boundary = content_type.split("boundary=")[1].strip('"').encode()
    for part in content.split(b"--" + boundary):
        head, _, data = part.partition(b"\r\n\r\n")
        if b'name="file"' in head:
            return data.removesuffix(b"\r\n")
    raise AssertionError("the form has no file")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--answer", default="tests.kit.servers:echo")
    given = parser.parse_args()
    module, _, name = given.answer.partition(":")
    answer = getattr(importlib.import_module(module), name)
    random.seed(0)

    async def run() -> None:
        server = ScriptedServer(answer, latency=given.latency, remember=False)
        await server.start(given.port)
        print(server.url, flush=True)
        await asyncio.Event().wait()

    asyncio.run(run())


if __name__ == "__main__":
    main()
