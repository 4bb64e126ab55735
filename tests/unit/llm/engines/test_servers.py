"""What a server refuses, lacks, and cannot do: dropped, fitted, named, or about one request; nothing of it is final."""

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from reasonir.core.errors import RunStopped, UserError
from reasonir.llm import Completion, Message, Request, open_generator
from tests.kit.generators import Configured
from tests.kit.servers import Reply, ScriptedServer, error_reply, prompt_of

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


def request(text: str, **more: Any) -> Request:
    return Request(id=text, messages=(Message("user", text),), **more)


def ask(generator: Any, *requests: Request) -> dict[str, Completion]:
    return {completion.id: completion for completion in generator.complete(requests)}


# --- a part of the request ----------------------------------------------------------------------------------------

FULL = {"top_p": 0.9, "seed": 3, "stop": ("x",), "schema": SCHEMA}
REFUSALS = {
    "seed": [
        '{"object": "error", "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"]}]}}',
        '{"error": {"message": "Unrecognized request argument supplied: seed"}}',
        '{"error": {"message": "seed is not supported by this model", "param": "seed"}}',
    ],
    "top_p": ['{"error": {"message": "`temperature` and `top_p` cannot both be specified for this model."}}'],
    "stop": ["""{"error": {"message": "Unsupported parameter: 'stop' is not supported with this model."}}"""],
    "top_k": ['{"detail": "unknown field top_k"}'],
    "chat_template_kwargs": ['{"message": "chat_template_kwargs: extra inputs are not permitted"}'],
}


@pytest.mark.parametrize(("field", "words"), [(field, words) for field, many in REFUSALS.items() for words in many])
def test_a_refused_field_is_left_out_for_the_run_and_said_once(
    configured: Configured, log_path: Path, capsys: pytest.CaptureFixture[str], field: str, words: str
) -> None:
    def answer(body: dict[str, Any], earlier: int) -> Reply | str:
        return Reply(status=422, body=words.encode()) if field in body else "good"

    own = {"send_seed": True, "top_k": 40, "chat_template_kwargs": {"enable_thinking": False}, "max_concurrency": 2}
    with (
        ScriptedServer(answer) as server,
        closing(open_generator(configured(base_url=server.url, **own), log_path)) as generator,
    ):
        found = ask(generator, *(request(f"{n}", **FULL) for n in range(8)))
        assert all(completion.text == "good" for completion in found.values())
        assert server.calls <= 8 + 2, "learned once, by the requests in flight"
        (left,) = {frozenset(body) for body in server.bodies if field not in body}
        assert {"top_p", "seed", "stop", "top_k", "chat_template_kwargs", "response_format"} - left == {field}
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{field} is left out from now on" in said


def test_a_seed_is_sent_only_where_it_is_asked_for(configured: Configured, log_path: Path) -> None:
    with ScriptedServer() as server:
        for send_seed, path in ((False, log_path), (True, log_path.with_name("other.jsonl"))):
            with closing(open_generator(configured(base_url=server.url, send_seed=send_seed), path)) as generator:
                found = ask(generator, *(request("the same", seed=seed) for seed in (1, 2)))
                assert [body.get("seed") for body in server.bodies[-2:]] == ([1, 2] if send_seed else [None, None])
                assert len(found) == 1 and len(path.read_text().splitlines()) == 2, "kept apart under their seeds"


def test_a_field_that_was_taken_before_is_not_what_one_refusal_is_about(configured: Configured, log_path: Path) -> None:
    def answer(body: dict[str, Any], earlier: int) -> Reply | str:
        return error_reply(400, "odd prompt, with 'seed' in it") if prompt_of(body) == "b" else "good"

    config = {"send_seed": True, "max_concurrency": 1}
    with (
        ScriptedServer(answer) as server,
        closing(open_generator(configured(base_url=server.url, **config), log_path)) as generator,
    ):
        found = ask(generator, *(request(name, seed=1) for name in "abc"))
        assert [found[name].finish for name in "abc"] == ["stop", "error", "stop"]
        assert server.calls == 3 and all("seed" in body for body in server.bodies)


def test_thoughts_have_tokens_of_their_own(configured: Configured, log_path: Path) -> None:
    with (
        ScriptedServer() as server,
        closing(open_generator(configured(base_url=server.url, thinking_tokens=500), log_path)) as generator,
    ):
        ask(generator, request("long", max_new_tokens=64), request("letter", max_new_tokens=1, choices=("A", "B")))
        assert {prompt_of(body): body["max_tokens"] for body in server.bodies} == {"long": 564, "letter": 1}
        assert all("thinking_tokens" not in body for body in server.bodies)


def test_a_refused_strict_schema_is_asked_for_loosely(configured: Configured, log_path: Path) -> None:
    def answer(body: dict[str, Any], earlier: int) -> Reply | str:
        strict = body["response_format"]["json_schema"].get("strict")
        return error_reply(400, "Unknown parameter: 'strict'") if strict else "good"

    with (
        ScriptedServer(answer) as server,
        closing(open_generator(configured(base_url=server.url), log_path)) as generator,
    ):
        assert ask(generator, request("a", schema=SCHEMA))["a"].text == "good"
        assert server.bodies[-1]["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize(("temperature", "learns"), [(0.3, False), (1.0, True)])
def test_a_temperature_is_left_out_only_at_its_default(
    configured: Configured, log_path: Path, temperature: float, learns: bool
) -> None:
    def answer(body: dict[str, Any], earlier: int) -> Reply | str:
        words = "Unsupported value: 'temperature'. Only the default (1) value is supported."
        return error_reply(400, words) if "temperature" in body else "good"

    with (
        ScriptedServer(answer) as server,
        closing(open_generator(configured(base_url=server.url), log_path)) as generator,
    ):
        if learns:
            assert ask(generator, request("a", temperature=temperature))["a"].text == "good"
        else:
            with pytest.raises(UserError, match=r"status 400.*'temperature'.*change generator.temperature"):
                ask(generator, request("a", temperature=temperature))


def test_options_of_the_server_reach_it_and_the_key(configured: Configured, log_path: Path) -> None:
    own = {"top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1, "chat_template_kwargs": {"enable_thinking": False},
           "extra_body": {"reasoning": {"effort": "low"}, "top_k": 21}}  # fmt: skip
    with ScriptedServer() as server:
        for options in ({}, own, own, own | {"top_k": 22}, {"extra_body": {}, "chat_template_kwargs": {}}):
            with closing(open_generator(configured(base_url=server.url, **options), log_path)) as generator:
                ask(generator, request("a"))
        first, second, _ = server.bodies  # the third and fifth are found in the log
    assert not first.keys() & own.keys()
    assert second == first | {"top_k": 21, "min_p": 0.05, "repetition_penalty": 1.1, "reasoning": {"effort": "low"},
                              "chat_template_kwargs": {"enable_thinking": False}}  # fmt: skip
    # Logs of before these options keep their keys.
    assert json.loads(log_path.read_text().splitlines()[0])["key"] == request("a").key("m")


# --- room ---------------------------------------------------------------------------------------------------------


def small_context(body: dict[str, Any], earlier: int) -> Reply | str:
    """100 tokens of prompt and answer; a token is a word."""
    words, wanted = len(prompt_of(body).split()), body["max_tokens"]
    if words >= 100:
        return error_reply(400, f"request ({words} tokens) exceeds the available context size (100 tokens)")
    total = f"you requested {words + wanted} tokens ({words} in the messages, {wanted} in the completion)"
    too_long = error_reply(400, f"This model's maximum context length is 100 tokens. However, {total}.")
    return too_long if words + wanted > 100 else "good"


@pytest.mark.parametrize("listed", [False, True])
def test_the_answer_s_limit_is_fitted_to_the_context(
    configured: Configured, log_path: Path, capsys: pytest.CaptureFixture[str], listed: bool
) -> None:
    models = [{"id": "m", "max_model_len": 100}] if listed else None
    with (
        ScriptedServer(small_context, models=models) as server,
        closing(open_generator(configured(base_url=server.url, max_concurrency=1), log_path)) as generator,
    ):
        prompts = ["two words", "word " * 90, "w " * 60, "many words " * 60]
        found = ask(generator, *(request(prompt, max_new_tokens=1000) for prompt in prompts))
        assert [found[prompt].finish for prompt in prompts] == ["stop", "stop", "stop", "error"]
        assert "exceeds the available context size" in found[prompts[3]].error
        limits = {prompt_of(body): body["max_tokens"] for body in server.bodies}
        assert limits["word " * 90] == 10 and 30 <= limits["w " * 60] <= 40
        assert (server.bodies[0]["max_tokens"] < 100) == listed, "asked for beforehand where the server says it"
    assert capsys.readouterr().err.count("has room for 100 tokens") == 1


# --- one prompt, or the run ---------------------------------------------------------------------------------------


def refuses(*refused: str, words: str = "the server has its reasons") -> Any:
    return lambda body, earlier: error_reply(400, words) if prompt_of(body) in refused else "good"


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("refused", ["a", "c", "e"])
def test_a_refusal_that_others_did_not_get_is_about_its_request(
    configured: Configured, log_path: Path, concurrency: int, refused: str
) -> None:
    with (
        ScriptedServer(refuses(refused)) as server,
        closing(open_generator(configured(base_url=server.url, max_concurrency=concurrency), log_path)) as generator,
    ):
        found = ask(generator, *map(request, "abcde"))
        assert server.calls == 5
    assert {name for name in found if found[name].finish == "error"} == {refused} and len(found) == 5
    assert "status 400: the server has its reasons" in found[refused].error


def test_what_waits_for_evidence_does_not_keep_other_requests_waiting(configured: Configured, log_path: Path) -> None:
    """A source that waits for the answer to its first question learns it when nothing else can come."""

    def source() -> Iterator[Request | None]:
        yield request("good")
        yield request("bad")
        while "bad" not in seen:
            yield None

    seen: set[str] = set()
    with (
        ScriptedServer(refuses("bad")) as server,
        closing(open_generator(configured(base_url=server.url, max_concurrency=1), log_path)) as generator,
    ):
        for completion in generator.complete(source()):
            seen.add(completion.id)
    assert seen == {"good", "bad"}


def test_a_server_that_begins_to_refuse_everything_rejects_nothing(configured: Configured, log_path: Path) -> None:
    with (
        ScriptedServer(refuses(*map(str, range(5, 99)), words="model unloaded")) as server,
        closing(open_generator(configured(base_url=server.url, max_concurrency=4), log_path)) as generator,
    ):
        found = []
        with pytest.raises(RunStopped, match=r"refuses the last 4 requests: status 400: model unloaded.*same command"):
            for completion in generator.complete(request(str(number)) for number in itertools.count()):
                found.append(completion)
        assert server.calls < 20
    assert all(completion.finish == "stop" for completion in found)


def test_a_rerun_of_what_was_refused_alone_does_not_take_it_for_the_run(configured: Configured, log_path: Path) -> None:
    with ScriptedServer(refuses("b")) as server:
        for calls in (3, 4):
            with closing(open_generator(configured(base_url=server.url), log_path)) as generator:
                assert [c.finish for c in ask(generator, *map(request, "abc")).values()].count("error") == 1
            assert server.calls == calls


@pytest.mark.parametrize(
    "reply",
    [
        error_reply(400, "filtered due to the prompt triggering the content management policy", "content_filter"),
        error_reply(400, "Content Exists Risk"),
        error_reply(400, "Input data may contain inappropriate content.", "data_inspection_failed"),
        error_reply(400, "The request was rejected because it was considered high risk"),
        error_reply(400, "Invalid prompt: your prompt was flagged", "invalid_prompt"),
        error_reply(403, "Your input was flagged by moderation"),
    ],
)
def test_a_filter_declines_one_prompt_even_if_it_is_the_only_one(
    configured: Configured, log_path: Path, reply: Reply
) -> None:
    with (
        ScriptedServer(lambda body, earlier: reply) as server,
        closing(open_generator(configured(base_url=server.url), log_path)) as generator,
    ):
        found = ask(generator, request("a"))["a"]
        assert found.finish == "refusal" and "status 40" in found.text and server.calls == 1


def hidden(body: dict[str, Any], earlier: int) -> Reply:
    message = {"role": "assistant", "content": None, "reasoning_content": f"answer to {prompt_of(body)}"}
    return Reply(body=json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode())


def test_a_server_that_hides_every_answer_stops_the_run_and_keeps_nothing(
    configured: Configured, log_path: Path
) -> None:
    with ScriptedServer(hidden) as server:
        for count in (2, 50):
            with (
                closing(open_generator(configured(base_url=server.url, max_concurrency=4), log_path)) as generator,
                pytest.raises(RunStopped, match=r"stands in reasoning_content: start the server without"),
            ):
                ask(generator, *(request(str(number)) for number in range(count)))
        assert server.calls < 20 and log_path.read_text() == ""


def test_one_hidden_answer_among_others_is_an_empty_one(configured: Configured, log_path: Path) -> None:
    with ScriptedServer(lambda body, earlier: hidden(body, 0) if prompt_of(body) == "b" else "good") as server:
        for _ in range(2):
            with closing(open_generator(configured(base_url=server.url), log_path)) as generator:
                found = ask(generator, *map(request, "abc"))
                assert (found["b"].finish, found["b"].text) == ("stop", "")
        assert server.calls == 3 and len(log_path.read_text().splitlines()) == 3


@pytest.mark.usefixtures("short_waits")
def test_deeply_nested_json_is_a_failed_attempt(configured: Configured, log_path: Path) -> None:
    deep = Reply(body=b'{"choices": ' + b"[" * 200_000 + b"]" * 200_000 + b"}")
    with (
        ScriptedServer(lambda body, earlier: "good" if earlier else deep) as server,
        closing(open_generator(configured(base_url=server.url), log_path)) as generator,
    ):
        assert ask(generator, request("a"))["a"].text == "good" and server.calls == 2


# --- outages ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize(
    "reply", [error_reply(503, "away"), error_reply(429, "slow"), Reply(body=b"data: {}"), Reply(reset=True)]
)
def test_an_outage_fails_however_few_requests_there_are(configured: Configured, log_path: Path, reply: Reply) -> None:
    with (
        ScriptedServer(lambda body, earlier: reply if prompt_of(body) != "b" else "good") as server,
        closing(open_generator(configured(base_url=server.url, max_attempts=2), log_path)) as generator,
    ):
        found = []
        with pytest.raises(RunStopped, match=r"2 requests got no answer, 2 attempts each; the last: .*same command"):
            for completion in generator.complete(map(request, "abc")):
                found.append(completion)
        assert {c.id: c.finish for c in found} == {"a": "failed", "b": "stop", "c": "failed"} and server.calls == 5
        server.answer = lambda body, earlier: "good"
        assert {c.finish for c in ask(generator, *map(request, "abc")).values()} == {"stop"} and server.calls == 7


# --- several servers ----------------------------------------------------------------------------------------------


def test_servers_take_turns_and_a_dead_one_is_left_out(
    configured: Configured, log_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ScriptedServer() as one, ScriptedServer() as two:
        urls = [one.url, "http://127.0.0.1:9/v1", two.url]
        config = configured(base_urls=urls, max_concurrency=4, max_attempts=1)
        with closing(open_generator(config, log_path)) as generator:
            found = ask(generator, *(request(str(number)) for number in range(60)))
        assert len(found) == 60 and all(completion.finish == "stop" for completion in found.values())
        assert one.calls + two.calls == 60 and min(one.calls, two.calls) >= 15
    assert capsys.readouterr().err.count("http://127.0.0.1:9/v1 cannot be reached and is left out") == 1


def test_servers_that_are_all_dead_stop_the_run(configured: Configured, log_path: Path) -> None:
    config = configured(base_urls=["http://127.0.0.1:9/v1", "http://127.0.0.1:19/v1"], max_attempts=1)
    with (
        closing(open_generator(config, log_path)) as generator,
        pytest.raises(RunStopped, match=r":9/v1 and http://127.0.0.1:19/v1 cannot be reached"),
    ):
        ask(generator, request("a"))


# --- in flight ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "kept"), [(5.0, 3), (0.2, 0)])
def test_answers_in_flight_are_waited_for_and_kept(
    configured: Configured, log_path: Path, capsys: pytest.CaptureFixture[str], seconds: float, kept: int
) -> None:
    with ScriptedServer(latency=1.0) as server:
        config = configured(base_url=server.url, max_concurrency=3, finish_seconds=seconds)
        with closing(open_generator(config, log_path)) as generator:
            running = generator.complete(request(str(n)) if n < 4 else None for n in itertools.count())

            def read() -> None:
                with contextlib.suppress(CancelledError):  # what had not been sent
                    list(running)

            reader = threading.Thread(target=read)
            reader.start()
            while server.in_flight < 3:
                time.sleep(0.01)
            begun = time.monotonic()
            generator.finish_in_flight()
            assert time.monotonic() - begun < 10
            generator.close()
            reader.join()
        assert server.calls == 3, "what had not been sent is dropped"
    assert len(log_path.read_text().splitlines()) == kept
    said = capsys.readouterr().err
    assert f"waiting up to {seconds:g} s for 3 answers in flight" in said and f"{kept} of 3 answers" in said


# --- options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base_urls": []}, "names no server"),
        ({"base_urls": ["http://a/v1"], "base_url": "http://b/v1"}, "in place of generator.base_url"),
        ({"base_urls": ["ftp://a"]}, "must begin with http"),
        ({"base_url": "http://user:canary@host/v1"}, "holds a password"),
        ({"api_key_env": "sk-canary-0123"}, "not the key itself"),
        ({"min_p": 1.5}, "min_p"),
        ({"top_k": 0}, "top_k"),
        ({"finish_seconds": -1.0}, "finish_seconds"),
    ],
)
def test_options_that_make_no_sense_are_refused(configured: Configured, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        configured(**options)
    assert "canary" not in str(caught.value)
