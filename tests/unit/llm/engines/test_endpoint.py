"""A server that misbehaves on a script: every request ends exactly once, nothing that succeeded is sent again."""

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from reasonir.core.errors import RunStopped, UserError
from reasonir.llm import Completion, Message, Request, open_generator
from reasonir.llm.engines.client import LONGEST_WAIT_SECONDS, retry_after_seconds
from tests.kit.generators import Configured
from tests.kit.servers import Reply, ScriptedServer, error_reply, misbehaviours, prompt_of

GOOD = '{"query": "why is the sky blue"}'
SCHEMA = {
    "type": "object",
    "properties": {"query": {"type": "string"}},
    "required": ["query"],
    "additionalProperties": False,
}


def request(name: str, text: str = "", **more: Any) -> Request:
    return Request(id=name, messages=(Message("system", "be brief"), Message("user", text or name)), **more)


def answers(generator: Any, requests: Any) -> dict[str, Completion]:
    """Return the completions by id; each id comes exactly once."""
    listed = list(generator.complete(requests))
    by_id = {completion.id: completion for completion in listed}
    assert len(by_id) == len(listed)
    return by_id


BAD_ANSWERS = {"truncated", "fences", "prose", "empty", "null", "long", "refusal", "filtered"}


def misbehaving(body: dict[str, Any], earlier: int) -> Reply | str:
    """Do what the prompt begins with: the first time, or (with `always`) each time."""
    name, _, rest = prompt_of(body).partition(" ")
    return misbehaviours(GOOD)[name] if earlier == 0 or rest.startswith("always") else GOOD


@pytest.mark.usefixtures("short_waits")
def test_every_misbehaviour_ends_once_and_no_success_is_repeated(configured: Configured, log_path: Path) -> None:
    names = list(misbehaviours(GOOD))
    requests = [request(f"{name} {mode}", schema=SCHEMA) for name in names for mode in ("once", "always")]
    config = dict(timeout_seconds=0.7, max_attempts=3, max_concurrency=8)
    with (
        ScriptedServer(misbehaving) as server,
        closing(open_generator(configured(base_url=server.url, **config), log_path)) as generator,
    ):
        listed: list[Completion] = []
        with pytest.raises(RunStopped, match=r"10 requests got no answer, 3 attempts each; .* run the same command"):
            for completion in generator.complete(requests):
                listed.append(completion)
        found = {completion.id: completion for completion in listed}
        assert len(listed) == len(found) and set(found) == {r.id for r in requests}
        assert server.stats["answered_again"] == 0
        calls = server.calls
        for name in names:
            once, always = found[f"{name} once"], found[f"{name} always"]
            assert not once.error and (once.text == GOOD) == (name not in BAD_ANSWERS), name
            assert (always.finish == "failed" and always.error != "") == (name not in BAD_ANSWERS), name
        assert found["truncated once"].finish == "length"
        assert found["refusal once"].finish == found["filtered once"].finish == "refusal"
        assert found["refusal once"].text == "I cannot help with that."
        assert "status 429" in found["rate_limit always"].error and "0.7 s" in found["stall always"].error
        assert found["long once"].text == "word " * 10_000
        again = answers(generator, [r for r in requests if found[r.id].answered])
        assert server.calls == calls and all(completion.cached for completion in again.values())
    with closing(open_generator(configured(base_url="http://127.0.0.1:9/v1"), log_path)) as generator:
        read = answers(generator, [r for r in requests if found[r.id].answered])
        assert {name: c.text for name, c in read.items()} == {name: c.text for name, c in again.items()}


def test_retry_after_is_obeyed(configured: Configured, log_path: Path) -> None:
    times: list[float] = []

    def answer(body: dict[str, Any], earlier: int) -> Reply | str:
        times.append(time.monotonic())
        return "good" if earlier else error_reply(429, "slow down", **{"Retry-After": "1"})

    with (
        ScriptedServer(answer) as server,
        closing(open_generator(configured(base_url=server.url), log_path)) as generator,
    ):
        assert answers(generator, [request("a")])["a"].text == "good"
    assert 1.0 <= times[1] - times[0] < 1.6


def test_retry_after_is_read_in_all_its_forms() -> None:
    assert retry_after_seconds({}) == 0
    assert retry_after_seconds({"retry-after": "7"}) == 7
    assert retry_after_seconds({"retry-after": "1.5"}) == 1.5
    assert retry_after_seconds({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert retry_after_seconds({"retry-after": "3600"}) == LONGEST_WAIT_SECONDS
    assert retry_after_seconds({"retry-after": "soon"}) == retry_after_seconds({"retry-after": "-3"}) == 0
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    assert 17 < retry_after_seconds({"retry-after": date}) <= 20


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "OPENAI_API_KEY"), (403, "rights"), (404, "generator.model=m"), (400, "generator's options")],
)
def test_a_refusal_for_good_stops_the_run_at_once(
    configured: Configured, log_path: Path, status: int, words: str
) -> None:
    def answer(body: dict[str, Any], earlier: int) -> Reply:
        return error_reply(status, "this will\nnever do", "bad_thing")

    with (
        ScriptedServer(answer) as server,
        closing(open_generator(configured(base_url=server.url, max_concurrency=2), log_path)) as generator,
    ):
        with pytest.raises(UserError, match="this will never do") as caught:
            list(generator.complete(request(str(number)) for number in itertools.count()))
        assert server.calls < 10
    message = str(caught.value)
    assert f"status {status}" in message and words in message and "\n" not in message


def test_an_account_without_credit_stops_the_run(configured: Configured, log_path: Path) -> None:
    quota = error_reply(429, "You exceeded your current quota", "insufficient_quota")
    with (
        ScriptedServer(lambda body, earlier: quota) as server,
        closing(open_generator(configured(base_url=server.url), log_path)) as generator,
        pytest.raises(UserError, match="out of credit"),
    ):
        list(generator.complete([request("a")]))


@pytest.mark.usefixtures("short_waits")
def test_a_server_that_fails_every_request_stops_the_run(configured: Configured, log_path: Path) -> None:
    with (
        ScriptedServer(lambda body, earlier: error_reply(500, "our fault")) as server,
        closing(
            open_generator(configured(base_url=server.url, max_concurrency=4, max_attempts=2), log_path)
        ) as generator,
        pytest.raises(RunStopped, match="18 requests in a row failed, 2 times each; the last: status 500"),
    ):
        list(generator.complete(request(str(number)) for number in itertools.count()))


@pytest.mark.usefixtures("short_waits")
def test_a_server_that_cannot_be_reached_stops_the_run_at_once(configured: Configured, log_path: Path) -> None:
    config = configured(base_url="http://127.0.0.1:9/v1", max_concurrency=4, max_attempts=2)
    with (
        closing(open_generator(config, log_path)) as generator,
        pytest.raises(RunStopped, match=r":9/v1 cannot be reached: no connection: .*run the same command"),
    ):
        list(generator.complete([request("the only one")]))


def test_equal_requests_are_paid_once(configured: Configured, log_path: Path) -> None:
    with (
        ScriptedServer(latency=0.1) as server,
        closing(open_generator(configured(base_url=server.url), log_path)) as generator,
    ):
        same = [request(str(number), "the same", temperature=0.7, seed=1) for number in range(5)]
        found = answers(generator, [*same, request("other", "the same", temperature=0.7, seed=2)])
        assert server.calls == 2 and len({c.text for c in found.values()}) == 1
        assert sum(not c.cached for c in found.values()) == 2
    assert len(log_path.read_text().splitlines()) == 2


def test_answers_feed_requests(configured: Configured, log_path: Path) -> None:
    """A source may wait for answers (None) and ask more because of them."""
    waiting: list[Request] = [request(f"{number} turn 0") for number in range(6)]
    open_turns = 6

    def source() -> Iterator[Request | None]:
        while open_turns:
            yield waiting.pop() if waiting else None

    with (
        ScriptedServer(latency=0.02) as server,
        closing(open_generator(configured(base_url=server.url, max_concurrency=3), log_path)) as generator,
    ):
        seen = Counter()
        for completion in generator.complete(source()):
            name, _, turn = completion.id.partition(" turn ")
            seen[name] += 1
            if turn == "2":
                open_turns -= 1
            else:
                waiting.append(request(f"{name} turn {int(turn) + 1}"))
        assert seen == Counter({str(number): 3 for number in range(6)})
        assert server.stats["most_in_flight"] <= 3


def test_the_source_is_pulled_as_capacity_allows(configured: Configured, log_path: Path) -> None:
    pulled = 0

    def source() -> Iterator[Request]:
        nonlocal pulled
        while True:
            pulled += 1
            yield request(str(pulled))

    with (
        ScriptedServer(latency=0.01) as server,
        closing(open_generator(configured(base_url=server.url, max_concurrency=4), log_path)) as generator,
    ):
        for taken, _ in enumerate(generator.complete(source()), start=1):
            assert pulled - taken <= 2 * (4 + 2)
            if taken == 50:
                break
        assert server.stats["most_in_flight"] == 4


@pytest.mark.parametrize(
    "limit",
    [
        {"max_total_tokens": 300},
        {"max_cost": 0.3, "cost_per_million_input_tokens": 1000.0, "cost_per_million_output_tokens": 1000.0},
    ],
)
def test_the_budget_stops_and_a_rerun_does_not_pay_again(
    configured: Configured, log_path: Path, limit: dict[str, Any]
) -> None:
    requests = [request(str(number)) for number in range(200)]
    with ScriptedServer(lambda body, earlier: "one two three four five six") as server:
        config = configured(base_url=server.url, max_concurrency=4, **limit)
        with closing(open_generator(config, log_path)) as generator:
            found = []
            with pytest.raises(RunStopped, match=r"is spent .*raise the limit"):
                for completion in generator.complete(requests):
                    found.append(completion)
        # 3 tokens read and 6 written each: 34 answers reach 300, what was under way may pass it
        assert 34 <= len(found) == server.paid <= 34 + 2 * (4 + 2)
        with closing(open_generator(config, log_path)) as generator:
            cached = []
            with pytest.raises(RunStopped):
                for completion in generator.complete(requests):
                    cached.append(completion)
        assert len(cached) == server.paid == len(found) and all(c.cached for c in cached)


@pytest.mark.parametrize(
    ("formats", "refusals", "in_words"),
    [(("json_schema",), 0, False), (("json_object",), 1, True), ((), 2, True)],
)
def test_auto_steps_down_once_a_run(
    configured: Configured, log_path: Path, formats: tuple[str, ...], refusals: int, in_words: bool
) -> None:
    with (
        ScriptedServer(lambda body, earlier: GOOD, formats=formats) as server,
        closing(open_generator(configured(base_url=server.url, max_concurrency=1), log_path)) as generator,
    ):
        found = answers(generator, [request(str(number), schema=SCHEMA) for number in range(5)])
        assert {c.text for c in found.values()} == {GOOD} and server.calls == 5 + refusals
        last = server.bodies[-1]
        assert (json.dumps(SCHEMA) in prompt_of(last)) == in_words
        assert last.get("response_format", {}).get("type") == (formats[0] if formats else None)


def test_a_chosen_form_is_not_changed(configured: Configured, log_path: Path) -> None:
    config = dict(structured="json_schema", max_concurrency=1)
    with (
        ScriptedServer(formats=()) as server,
        closing(open_generator(configured(base_url=server.url, **config), log_path)) as generator,
        pytest.raises(UserError, match="json_schema is not supported"),
    ):
        list(generator.complete([request("a", schema=SCHEMA)]))


def test_a_server_of_the_other_token_field_is_understood(configured: Configured, log_path: Path) -> None:
    def answer(body: dict[str, Any], earlier: int) -> Reply | str:
        wrong = error_reply(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return wrong if "max_tokens" in body else f"{body['max_completion_tokens']} tokens"

    with (
        ScriptedServer(answer) as server,
        closing(open_generator(configured(base_url=server.url, structured="prompt"), log_path)) as generator,
    ):
        assert answers(generator, [request("a", max_new_tokens=7)])["a"].text == "7 tokens"


def test_every_field_of_a_request_reaches_the_server(configured: Configured, log_path: Path) -> None:
    asked = request("a", temperature=0.3, top_p=0.9, max_new_tokens=5, seed=3, stop=("x",), top_logprobs=2)
    with (
        ScriptedServer() as server,
        closing(open_generator(configured(base_url=server.url, send_seed=True), log_path)) as generator,
    ):
        found = answers(generator, [asked])["a"]
        cached = answers(generator, [asked])["a"]
        body = server.bodies[0]
    expected = {"temperature": 0.3, "top_p": 0.9, "max_tokens": 5, "seed": 3, "stop": ["x"]}
    assert {**expected, "model": "m", "logprobs": True, "top_logprobs": 2}.items() <= body.items()
    assert body["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a"}]
    assert found.logprobs == cached.logprobs == ((("A", -0.5), ("B", -1.5)),)
    assert (found.input_tokens, found.output_tokens) == (3, 3)


def test_half_a_surrogate_pair_in_an_answer_is_replaced(configured: Configured, log_path: Path) -> None:
    body = b'{"choices": [{"message": {"content": "a\\ud83d b"}, "finish_reason": "stop"}]}'
    with (
        ScriptedServer(lambda b, earlier: Reply(body=body)) as server,
        closing(open_generator(configured(base_url=server.url), log_path)) as generator,
    ):
        found = answers(generator, [request("a")])["a"]
        assert found.text == "a? b" and found.output_tokens == 1
        assert answers(generator, [request("b", found.text)])["b"].finish == "stop"


def test_closing_does_not_wait_for_a_stalled_server(configured: Configured, log_path: Path) -> None:
    with ScriptedServer(lambda body, earlier: Reply(text="late", seconds=30.0)) as server:
        generator = open_generator(configured(base_url=server.url, timeout_seconds=60.0), log_path)
        running = generator.complete(request(str(number)) if number < 3 else None for number in itertools.count())
        threading.Thread(target=lambda: (time.sleep(0.5), generator.close())).start()
        started = time.monotonic()
        with pytest.raises(CancelledError):
            next(running)
        generator.close()
        assert time.monotonic() - started < 10
        assert all(thread.name != "generator" for thread in threading.enumerate())
