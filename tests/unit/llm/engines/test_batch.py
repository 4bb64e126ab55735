"""OpenAI's Batch API: nothing is submitted twice, whatever moment a run is killed at."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from reasonir.core.errors import RunStopped, UserError
from reasonir.llm import Message, Request, open_generator
from reasonir.llm.engines.batch import BatchGenerator
from tests.kit.generators import Configured
from tests.kit.servers import Reply, ScriptedServer, error_reply, prompt_of

FAST = {"engine": "openai_batch", "batch_poll_seconds": 0.01, "batch_requests": 4, "max_attempts": 2}


def asked(count: int, **more: Any) -> list[Request]:
    return [Request(id=str(n), messages=(Message("user", f"document {n}"),), **more) for n in range(count)]


def test_blocks_go_out_and_come_back(configured: Configured, log_path: Path) -> None:
    with ScriptedServer() as server:
        config = configured(base_url=server.url, **FAST)
        with closing(open_generator(config, log_path)) as generator:
            twins = [Request(id="twin", messages=(Message("user", "document 0"),))]
            found = {c.id: c for c in generator.complete([*asked(10), *twins])}
        assert len(found) == 11 and server.paid == 10 and len(server.batches) == 3
        assert all(found[str(n)].text == f"answer to: document {n}" for n in range(10))
        assert found["twin"].text == found["0"].text and found["twin"].cached and not found["0"].cached
        with closing(open_generator(config, log_path)) as generator:
            assert all(c.cached for c in generator.complete(asked(10))) and len(server.batches) == 3


def test_failed_lines_go_out_again_and_end(configured: Configured, log_path: Path) -> None:
    def answer(body: dict[str, Any], earlier: int) -> Reply | str:
        broken = prompt_of(body) == "document 1" or (prompt_of(body) == "document 2" and not earlier)
        return error_reply(500, "our fault") if broken else "good"

    with (
        ScriptedServer(answer) as server,
        closing(open_generator(configured(base_url=server.url, **FAST), log_path)) as generator,
    ):
        found = {}
        with pytest.raises(RunStopped, match=r"1 requests got no answer, 2 attempts each; .*our fault"):
            for completion in generator.complete(asked(4)):
                found[completion.id] = completion
        assert [found[str(n)].finish for n in range(4)] == ["stop", "failed", "stop", "stop"]
        assert "our fault" in found["1"].error and len(server.batches) == 2 and server.paid == 3


@pytest.mark.parametrize("moment", ["submitting", "after the answer", "while it runs"])
def test_a_killed_run_finds_its_batch(
    configured: Configured, log_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    note, gather = BatchGenerator._note, BatchGenerator._gather

    def dying_note(self: BatchGenerator, name: str, state: str) -> None:
        if moment == "submitting" or state != "submitting":
            if moment == "submitting":
                note(self, name, state)
            raise KeyboardInterrupt
        note(self, name, state)

    def dying_gather(self: BatchGenerator, name: str, batch_id: str) -> dict[str, str]:
        raise KeyboardInterrupt

    with ScriptedServer(batch_polls=2) as server:
        config = configured(base_url=server.url, **FAST)
        with monkeypatch.context() as patch, closing(open_generator(config, log_path)) as generator:
            patch.setattr(BatchGenerator, *(("_gather", dying_gather) if "runs" in moment else ("_note", dying_note)))
            with pytest.raises(KeyboardInterrupt):
                list(generator.complete(asked(4)))
        assert len(server.batches) == (moment != "submitting")
        with closing(open_generator(config, log_path)) as generator:
            found = list(generator.complete(asked(4)))
        assert len(found) == 4 and len(server.batches) == 1 and server.paid == 4
        with closing(open_generator(config, log_path)) as generator:
            polls = [batch["polls"] for batch in server.batches.values()]
            assert len(list(generator.complete(asked(4)))) == 4
        assert [batch["polls"] for batch in server.batches.values()] == polls, "a gathered batch is asked for again"
    assert gather is BatchGenerator._gather


def test_answers_feed_requests_and_the_budget_stops(configured: Configured, log_path: Path) -> None:
    waiting = asked(3)

    def source() -> Iterator[Request | None]:
        while waiting or len(seen) < 6:
            yield waiting.pop() if waiting else None

    seen: list[str] = []
    with ScriptedServer() as server:
        with closing(open_generator(configured(base_url=server.url, **FAST), log_path)) as generator:
            for completion in generator.complete(source()):
                seen.append(completion.id)
                if "more" not in completion.id:
                    waiting.append(Request(id=f"more {completion.id}", messages=(Message("user", completion.text),)))
        assert len(seen) == 6 and len(server.batches) == 2
        config = configured(base_url=server.url, **FAST, max_total_tokens=10)
        with closing(open_generator(config, log_path)) as generator, pytest.raises(RunStopped, match="is spent"):
            list(generator.complete(asked(9)))
        assert len(server.batches) == 2


def test_a_batch_that_is_refused_stops_the_run(configured: Configured, log_path: Path) -> None:
    class Refusing(ScriptedServer):
        def _poll(self, batch: dict[str, Any]) -> dict[str, Any]:
            errors = {"object": "list", "data": [{"code": "x", "message": "the model has\nno batches"}]}
            return {**batch, "status": "failed", "errors": errors}

    with (
        Refusing() as server,
        closing(open_generator(configured(base_url=server.url, **FAST), log_path)) as generator,
        pytest.raises(UserError, match="was refused: the model has no batches"),
    ):
        list(generator.complete(asked(2)))


def test_refused_lines_are_about_their_own_prompt_or_teach_another_form(
    configured: Configured, log_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(body: dict[str, Any], earlier: int) -> Reply | str:
        if "seed" in body:
            return error_reply(422, "Unrecognized request argument supplied: seed")
        if body["max_tokens"] > 100:
            return error_reply(400, "max_tokens is too large. This model supports at most 100 completion tokens")
        refusals = {"document 1": "not to the taste of the house", "document 2": "Content Exists Risk",
                    "document 3": "request (900 tokens) exceeds the available context size (512 tokens)"}  # fmt: skip
        words = refusals.get(prompt_of(body))
        return error_reply(400, words) if words else "good"

    with ScriptedServer(answer) as server:
        config = configured(base_url=server.url, **(FAST | {"batch_requests": 10, "max_attempts": 4}), send_seed=True)
        with closing(open_generator(config, log_path)) as generator:
            found = {c.id: c for c in generator.complete(asked(6, seed=1, max_new_tokens=500))}
    assert [found[str(n)].finish for n in range(6)] == ["stop", "error", "refusal", "error", "stop", "stop"]
    assert "not to the taste" in found["1"].error and "exceeds the available context" in found["3"].error
    assert len(server.batches) == 3, "one to learn of the seed, one of the limit"
    assert capsys.readouterr().err.count("seed is left out from now on") == 1


def test_a_batch_whose_lines_are_all_refused_stops_the_run(configured: Configured, log_path: Path) -> None:
    with (
        ScriptedServer(lambda body, earlier: error_reply(400, "no such thing")) as server,
        closing(open_generator(configured(base_url=server.url, **FAST), log_path)) as generator,
        pytest.raises(UserError, match=r"refuses every request: status 400: .*no such thing.*generator's options"),
    ):
        list(generator.complete(asked(3)))
    assert len(server.batches) == 1
