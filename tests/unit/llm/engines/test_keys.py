"""A key appears nowhere: not in files, errors, debug output or tracebacks."""

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from reasonir.core.errors import UserError
from reasonir.llm import Message, Request, open_generator
from tests.kit.generators import KEY, Configured
from tests.kit.servers import ScriptedServer

ROOT = Path(__file__).resolve().parents[4]

# Everything speaks as loudly as it can, and every failure is printed with its traceback and its locals.
CHILD = """
import faulthandler, logging, sys, traceback, yaml
from contextlib import closing
from pathlib import Path
logging.basicConfig(level=logging.DEBUG)
from reasonir.core.errors import RunStopped
from reasonir.llm import Message, Request, open_generator
from reasonir.llm.config import Provider, GeneratorConfig, Structured
content = yaml.safe_load(Path("configs/generator/openai.yaml").read_text())
content.update(model="m", base_url=sys.argv[1], max_attempts=2, timeout_seconds=1.0, structured=Structured.auto)
content.update(engine=Provider(sys.argv[3]), batch_poll_seconds=0.01)
config = GeneratorConfig(**content)
print(config)
try:
    with closing(open_generator(config, sys.argv[2])) as generator:
        print(generator, vars(generator))
        for number in range(4):
            try:
                for completion in generator.complete([Request(id="a", messages=(Message("user", f"x{number}"),))]):
                    print(completion)
            except RunStopped:
                traceback.print_exc()
except Exception:
    traceback.print_exc()
    sys.exit(3)
"""


def leaky(body: dict, earlier: int) -> object:
    """Errors and answers that say the key."""
    from tests.kit.servers import Reply, error_reply, prompt_of

    refusals = {
        "x0": Reply(text=f"your key is {KEY}"),
        "x1": error_reply(500, f"cannot forward Authorization: Bearer {KEY}"),
        "x2": Reply(body=f"not JSON, but {KEY}".encode()),
        "x3": Reply(body=f'{{"error": "{KEY}"}}'.encode()),
    }
    return refusals[prompt_of(body)]


@pytest.mark.parametrize(
    ("server_key", "engine"),
    [
        ("another", "openai"),
        pytest.param(KEY, "openai", marks=pytest.mark.slow),
        pytest.param(KEY, "openai_batch", marks=pytest.mark.slow),
        pytest.param("another", "openai_batch", marks=pytest.mark.slow),
    ],
)
def test_the_key_is_nowhere(tmp_path: Path, server_key: str, engine: str) -> None:
    with ScriptedServer(leaky, key=server_key) as server:
        command = [sys.executable, "-X", "dev", "-W", "ignore", "-c", CHILD, server.url]
        command += [str(tmp_path / "completions.jsonl"), engine]
        environment = {**os.environ, "OPENAI_API_KEY": KEY, "OPENAI_LOG": "debug"}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    said = done.stdout + done.stderr
    assert "api_key_env='OPENAI_API_KEY'" in said and "DEBUG" in said
    if server_key == KEY:
        assert done.returncode == 0 and said.count("<OPENAI_API_KEY>") >= 2, said
    else:
        assert done.returncode == 3 and "UserError" in said and "status 401" in said, said
    assert KEY not in said
    written = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*") if path.is_file()]
    assert written and all(KEY not in text for text in written)


def test_openai_itself_needs_a_key(configured: Configured, log_path: Path) -> None:
    for engine in ("openai", "openai_batch"):
        with pytest.raises(UserError, match=r"OPENAI_API_KEY is not set: export your key, or name a server"):
            open_generator(configured(engine=engine), log_path)
    assert not log_path.exists()


def test_a_key_with_a_line_end_is_refused_unseen(
    configured: Configured, log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", f"{KEY}\nmore")
    with pytest.raises(UserError) as caught:
        open_generator(configured(base_url="http://127.0.0.1:9/v1", api_key_env="MY_KEY"), log_path)
    assert KEY not in str(caught.value) and "MY_KEY" in str(caught.value)


def test_the_key_of_the_named_variable_is_sent(
    configured: Configured, log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    with (
        ScriptedServer(key=KEY) as server,
        closing(open_generator(configured(base_url=server.url, api_key_env="MY_KEY"), log_path)) as generator,
    ):
        assert [c.finish for c in generator.complete([Request(id="a", messages=(Message("user", "x"),))])] == ["stop"]
