"""A server that means harm, and a key in the wrong place."""

import gzip
import json
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from reasonir.core.errors import RunStopped, UserError
from reasonir.llm import Completion, Message, Request, open_generator
from reasonir.llm.engines import client
from tests.kit.generators import Configured
from tests.kit.servers import Reply, ScriptedServer, chat_completion

pytestmark = pytest.mark.usefixtures("short_waits")
CANARY = "canary_0123456789abcdef"
ADDRESS = {"base_url": "http://127.0.0.1:9/v1"}


def ask(configured: Configured, log_path: Path, server: ScriptedServer, **options: Any) -> list[Completion]:
    config = configured(base_url=server.url, max_attempts=2, **options)
    requests = [Request(id=f"r{n}", messages=(Message("user", f"x{n}"),)) for n in range(2)]
    with closing(open_generator(config, log_path)) as generator:
        return sorted(generator.complete(requests), key=lambda completion: completion.id)


def body(**changes: Any) -> bytes:
    row = json.loads(chat_completion({"model": "m", "messages": []}, Reply("fine")))
    return json.dumps(row | changes).encode()


def once(reply: Reply) -> Any:
    """Answer badly the first time and well the second."""
    return lambda asked, earlier: reply if earlier == 0 else "fine"


def deep(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


ODD = {
    "deep": Reply(body=deep(200_000)),
    "never closed": Reply(body=b"[" * 200_000),
    "deep objects": Reply(body=b'{"choices":' * 5_000 + b"1" + b"}" * 5_000),
    "deep inside": Reply(body=b'{"choices": [' + deep(900) + b"]}"),
    "long number": Reply(body=b'{"choices": ' + b"9" * 100_000 + b"}"),
    "refusal of brackets": Reply(status=500, body=deep(50_000)),
    "wait not a number": Reply(status=429, body=b"{}", headers={"Retry-After": "nan"}),
    "wait without end": Reply(status=429, body=b"{}", headers={"Retry-After": "-1e999"}),
    "wait until a day that is none": Reply(status=429, body=b"{}", headers={"Retry-After": "Fri, 99 Zzz 99999 GMT"}),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_body_is_asked_for_again(configured: Configured, log_path: Path, name: str) -> None:
    with ScriptedServer(once(ODD[name])) as server:
        assert [completion.text for completion in ask(configured, log_path, server)] == ["fine", "fine"]


@pytest.mark.parametrize("packed", [False, True])
def test_an_answer_without_end_is_not_held_in_memory(
    configured: Configured, log_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    monkeypatch.setattr(client, "LARGEST_BODY_BYTES", 1 << 20)
    content = body() + b" " * (2 << 20)
    reply = Reply(body=gzip.compress(content), headers={"Content-Encoding": "gzip"}) if packed else Reply(body=content)
    stopped = pytest.raises(RunStopped, match="an answer of more than 1 MiB")
    with ScriptedServer(lambda asked, earlier: reply) as server, stopped:
        ask(configured, log_path, server)


@pytest.mark.parametrize("tokens", [10**40, -1, "12", 1.5, True, None])
def test_a_wrong_count_of_tokens_spends_no_budget(configured: Configured, log_path: Path, tokens: Any) -> None:
    usage = {"prompt_tokens": tokens, "completion_tokens": tokens}
    with ScriptedServer(lambda asked, earlier: Reply(body=body(usage=usage))) as server:
        answers = ask(configured, log_path, server, max_total_tokens=10_000)
    assert [answer.text for answer in answers] == ["fine"] * 2
    assert all(0 < answer.input_tokens < 100 and 0 < answer.output_tokens < 100 for answer in answers)


class Listening(ScriptedServer):
    """Remembers the keys that were sent."""

    async def _reply(self, method: str, path: str, headers: dict[str, str], content: bytes) -> Reply:
        self.keys = [*getattr(self, "keys", []), headers.get("authorization")]
        if method == "GET":  # what a redirect makes of a question
            return Reply(body=b"{}")
        return await super()._reply(method, path, headers, content)


@pytest.fixture
def elsewhere() -> Iterator[Listening]:
    with Listening() as server:
        yield server


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_does_not_carry_the_key(
    configured: Configured, log_path: Path, key: str, elsewhere: Listening, status: int
) -> None:
    reply = Reply(status=status, headers={"Location": f"{elsewhere.url}/chat/completions"})
    with Listening(lambda asked, earlier: reply) as server:
        with suppress(RunStopped):
            ask(configured, log_path, server)
        assert f"Bearer {key}" in server.keys
    assert elsewhere.keys and not any(elsewhere.keys), "it was followed, without the key"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"api_key_env": CANARY}, "not the key itself"),
        ({"api_key_env": f"gsk_{CANARY}"}, "not the key itself"),
        ({"api_key_env": f"hf_{CANARY}"}, "not the key itself"),
        ({"api_key_env": CANARY.upper().replace("_", "")}, "not the key itself"),
        ({"base_url": f"user:{CANARY}@host/v1"}, "holds a password"),
        ({"base_url": f"http:/{CANARY}@host/v1"}, "holds a password"),
        ({"base_url": f"https://{CANARY}@host/v1"}, "holds a password"),
        ({"base_url": f"http://host/v1?key={CANARY}"}, "more than an address"),
        ({"base_urls": ["http://a/v1", f"http://u:{CANARY}@b/v1"]}, "holds a password"),
        ({"extra_body": {"callback": {"url": f"https://u:{CANARY}@b"}}}, "holds a password"),
        ({"model": f"https://u:{CANARY}@hub/model"}, "holds a password"),
    ],
)
def test_a_key_in_the_wrong_place_is_refused_unseen(
    configured: Configured, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        configured(**options)
    assert "canary" not in str(caught.value).lower()


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "K", "MY_KEY_2", "_X", "TOGETHER_AI_API_TOKEN_V2"])
def test_names_of_variables_pass(configured: Configured, name: str) -> None:
    assert configured(api_key_env=name).api_key_env == name


def test_a_variable_that_is_set_may_be_called_anything(configured: Configured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("the_key_of_2026_in_lower_case", "x")
    assert configured(api_key_env="the_key_of_2026_in_lower_case")


@pytest.mark.parametrize(
    "url",
    ["http://", "http:///v1", "http://[::1", "http://host:99999/v1", "http://ho st/v1", "http://h\x1b[2J/v1", "host:1"],
)  # fmt: skip
def test_what_is_no_address_is_one_line(configured: Configured, url: str) -> None:
    with pytest.raises(UserError, match=r"^generator\.base_url="):
        configured(base_url=url)
