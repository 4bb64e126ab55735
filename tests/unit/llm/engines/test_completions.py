"""The log of paid answers: torn lines, locks, kills, and what it holds in memory."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reasonir.core.errors import UserError
from reasonir.llm import Completion, Message, Request
from reasonir.llm.engines.completions import Budget, CompletionLog
from tests.kit import fork
from tests.kit.servers import ScriptedServer

ROOT = Path(__file__).resolve().parents[4]


def key_of(number: int) -> str:
    return f"{number:064x}"


def completion(text: str) -> Completion:
    return Completion(id="any", text=text, finish="stop", input_tokens=2, output_tokens=3)


def test_answers_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "completions.jsonl"
    texts = ["plain", "line\nend \u2028 \x00", "ä" * 50_000, ""]
    log = CompletionLog(path)
    for number, text in enumerate(texts):
        log.append(key_of(number), "m", completion(text), 0.5)
        assert log.find(key_of(number), "mine").text == text
    log.close()
    log = CompletionLog(path)
    assert len(log) == 4 and (log.input_tokens, log.output_tokens) == (8, 12)
    for number, text in enumerate(texts):
        found = log.find(key_of(number), "mine")
        assert (found.id, found.text, found.cached) == ("mine", text, True)
    assert log.find(key_of(9), "mine") is None and key_of(9) not in log
    log.close()


@pytest.mark.parametrize("torn", ['{"key": "00', '{"key": "00"}', "\x00\x00\x00", '{"key": "zz", "input_tokens": 1}\n'])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "completions.jsonl"
    log = CompletionLog(path)
    log.append(key_of(1), "m", completion("one"), 0.0)
    log.close()
    whole = path.read_bytes()
    path.write_bytes(whole + torn.encode())
    log = CompletionLog(path)
    assert len(log) == 1 and path.read_bytes() == whole
    log.append(key_of(2), "m", completion("two"), 0.0)
    assert log.find(key_of(2), "b").text == "two"
    log.close()
    assert [json.loads(line)["text"] for line in path.read_text().splitlines()] == ["one", "two"]


def test_a_damaged_line_before_the_last_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "completions.jsonl"
    log = CompletionLog(path)
    log.append(key_of(1), "m", completion("one"), 0.0)
    log.close()
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(UserError, match=r"completions.jsonl:1: damaged line.*remove the line"):
        CompletionLog(path)


def test_two_runs_do_not_share_a_log(tmp_path: Path) -> None:
    log = CompletionLog(tmp_path / "completions.jsonl")
    with pytest.raises(UserError, match="another run writes here"):
        CompletionLog(tmp_path / "completions.jsonl")
    log.close()
    CompletionLog(tmp_path / "completions.jsonl").close()


def test_budget_counts_tokens_and_money(tmp_path: Path) -> None:
    log = CompletionLog(tmp_path / "completions.jsonl")
    log.append(key_of(1), "m", completion("one"), 0.0)
    prices = {"cost_per_million_input_tokens": 1e6, "cost_per_million_output_tokens": 2e6}
    assert Budget(**prices).cost(log) == 2 + 6
    assert Budget().exhausted(log) == Budget(max_total_tokens=6).exhausted(log) == ""
    assert "generator.max_total_tokens=5 is spent (1 answers, 2 tokens read, 3 written)" in Budget(
        max_total_tokens=5
    ).exhausted(log)
    assert "cost 8.0000" in Budget(max_cost=8.0, **prices).exhausted(log)
    assert Budget(max_cost=8.1, **prices).exhausted(log) == ""
    log.close()


def test_a_key_depends_on_what_shapes_the_answer_and_not_on_the_id() -> None:
    base = {"id": "a", "messages": (Message("user", "x"),)}
    key = Request(**base).key("m")
    assert Request(**{**base, "id": "b"}).key("m") == key != Request(**base).key("n")
    changes = [{"messages": (Message("system", "x"),)}, {"schema": {}}, {"temperature": 1.0}, {"top_p": 0.5},
               {"max_new_tokens": 1}, {"seed": 0}, {"stop": ("x",)}, {"top_logprobs": 1}]  # fmt: skip
    keys = {Request(**{**base, **change}).key("m") for change in changes}
    assert len(keys) == len(changes) and key not in keys


def test_memory_per_answer_is_small(tmp_path: Path) -> None:
    code = """
import sys, tracemalloc
from pathlib import Path
from reasonir.llm.engines.completions import CompletionLog
tracemalloc.start()
log = CompletionLog(Path(sys.argv[1]))
print(len(log), tracemalloc.get_traced_memory()[0])
"""
    line = json.dumps({"key": "", "text": "x" * 2000, "input_tokens": 1, "output_tokens": 1})
    path = tmp_path / "completions.jsonl"
    path.write_text("".join(line.replace('"key": ""', f'"key": "{key_of(n)}"') + "\n" for n in range(10_000)))
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, check=True)
    count, traced = map(int, done.stdout.split())
    assert count == 10_000 and traced < 10_000 * 300


CHILD = """
import sys, yaml
from contextlib import closing
from pathlib import Path
from reasonir.llm import Message, Request, open_generator
from reasonir.llm.config import Provider, GeneratorConfig, Structured
content = yaml.safe_load(Path("configs/generator/openai.yaml").read_text())
content.update(model="m", base_url=sys.argv[1], max_concurrency=4, engine=Provider.openai, structured=Structured.auto)
requests = (Request(id=str(n), messages=(Message("user", f"document {n}"),)) for n in range(int(sys.argv[3])))
with closing(open_generator(GeneratorConfig(**content), sys.argv[2])) as generator:
    for count, _ in enumerate(generator.complete(requests)):
        if not count:
            print("first", flush=True)
"""


@pytest.mark.slow
def test_ten_kills_pay_for_little_more_than_every_document(tmp_path: Path) -> None:
    documents, kills, draw = 400, 10, random.Random(0)
    path = tmp_path / "completions.jsonl"
    in_flight = 0
    with ScriptedServer(latency=0.02) as server:
        command = ["-c", CHILD, server.url, str(path), str(documents)]
        for _ in range(kills):
            child = fork.Started(command, cwd=ROOT)
            while child.said()[0] != "first\n":
                assert child.poll() is None, child.said()
                time.sleep(0.005)
            enough = server.paid + draw.randrange(6, 20)
            while server.paid < enough:
                assert child.poll() is None, child.said()
                time.sleep(0.001)
            child.send_signal(signal.SIGKILL)
            child.wait()
            in_flight += 4  # what max_concurrency allows
        before = server.paid
        assert before > 50, "the kills came too early to test anything"
        assert fork.run(command, cwd=ROOT).returncode == 0
        assert documents <= server.paid <= documents + in_flight
        assert server.paid > before, "the kills came too late to test anything"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == len({row["key"] for row in rows}) == documents
