"""Thousands of scripted faults: every request ends once, as its script says, and nothing is paid for twice."""

import json
import random
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from reasonir.core.errors import RunStopped
from reasonir.llm import Completion, Message, Request, open_generator
from tests.kit.generators import Configured
from tests.kit.servers import Reply, ScriptedServer, error_reply, misbehaviours, prompt_of

ATTEMPTS, SEATS = 3, 16
PASSING = {name: misbehaviours("an answer")[name] for name in
           ("server_error", "overloaded", "reset", "torn_body", "broken_json", "no_choices", "wrong_types",
            "error_in_success")}  # fmt: skip
PASSING |= {
    "rate_limit": error_reply(429, "slow down"),
    "broken_off": Reply(text="half an ans", finish="error"),
    "nested": Reply(body=b'{"choices": ' + b"[" * 50_000),
}
# How a request ends, if its script does not fail it before.
ENDS: dict[str, tuple[Reply, str]] = {
    "whole": (Reply(text="an answer"), "stop"),
    "cut": (Reply(text="an ans", finish="MAX_TOKENS"), "length"),
    "declined": (Reply(text=None, refusal="No."), "refusal"),
    "filtered": (error_reply(400, "Content Exists Risk"), "refusal"),
    "too long": (error_reply(400, "request (9000 tokens) exceeds the available context size (4096 tokens)"), "error"),
    "refused": (error_reply(400, "not to the taste of the house"), "error"),
}
WEIGHTS = (75, 5, 5, 3, 3, 9)


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_faults_without_number_make_no_verdict(configured: Configured, log_path: Path, count: int) -> None:
    draw = random.Random(0)
    faults = {str(n): draw.choices(list(PASSING), k=draw.choices((0, 1, 2, 3), (50, 25, 15, 10))[0]) for n in
              range(count)}  # fmt: skip
    ends = dict(zip(faults, draw.choices(list(ENDS), WEIGHTS, k=count), strict=True))
    calls, sent = Counter[str](), Counter[str]()

    def answer(body: dict[str, Any], earlier: int) -> Reply:
        name = prompt_of(body)
        calls[name] += 1
        if calls[name] <= len(faults[name]):
            sent[faults[name][calls[name] - 1]] += 1
            return PASSING[faults[name][calls[name] - 1]]
        sent[ends[name]] += 1
        return ENDS[ends[name]][0]

    expected = {name: "failed" if len(faults[name]) >= ATTEMPTS else ENDS[ends[name]][1] for name in faults}
    requests = [Request(id=name, messages=(Message("user", name),)) for name in faults]
    failed = sum(finish == "failed" for finish in expected.values())
    with ScriptedServer(answer, remember=False) as server:
        limits = {"max_attempts": ATTEMPTS, "max_concurrency": SEATS, "timeout_seconds": 300.0}
        config = configured(base_url=server.url, **limits)
        found: list[Completion] = []
        with (
            closing(open_generator(config, log_path)) as generator,
            pytest.raises(RunStopped, match=f"^{failed} requests got no answer, {ATTEMPTS} attempts each"),
        ):
            for completion in generator.complete(requests):
                found.append(completion)
        assert {c.id: c.finish for c in found} == expected and len(found) == count
        assert {c.text for c in found if c.finish == "stop"} == {"an answer"}
        assert set(sent) == PASSING.keys() | ENDS.keys(), "every fault was there"
        logged = [json.loads(line)["key"] for line in log_path.read_text().splitlines()]
        answered = sum(finish in ("stop", "length", "refusal") for finish in expected.values())
        assert len(logged) == len(set(logged)) == answered
        # The server is well again: what failed is asked for, what was answered is not.
        before = calls.copy()
        with closing(open_generator(config, log_path)) as generator:
            again = {completion.id: completion for completion in generator.complete(requests)}
        assert {name: c.finish for name, c in again.items()} == {name: ENDS[end][1] for name, end in ends.items()}
        asked = {name for name in faults if calls[name] > before[name]}
        assert asked == {name for name, finish in expected.items() if finish in ("failed", "error")}
