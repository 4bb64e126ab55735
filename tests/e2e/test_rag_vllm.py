"""Questions answered by the real vLLM engine with a tiny random model, over passages that a tiny encoder embedded."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import torch

from reasonir.core.files import read_jsonl
from reasonir.model.encoder import Encoder
from reasonir.model.folders import save_encoder
from tests.kit.texts import SENTENCES, write_rows
from tests.kit.vllm import needs_vllm, run, save_model

pytestmark = [needs_vllm, pytest.mark.skipif(torch.cuda.is_available(), reason="the CPU's engine"),
              pytest.mark.filterwarnings("ignore")]  # fmt: skip
QUESTIONS = 60


class Killed(NamedTuple):
    """A run that was killed after ten answers. engine: the processes of vLLM that it had started."""

    command: list[str]
    engine: list[psutil.Process]
    answers: int


@pytest.fixture
def killed(tmp_path: Path, tiny: Encoder) -> Killed:
    passages = [{"id": f"s{i}_0", "content": f"{SENTENCES[i % 7]} Case {i}."} for i in range(QUESTIONS)]
    questions = [
        {"question": f"Which one is case {i}?", "options": ["iron", "gold", "tin", "lead"], "answer": "ABCD"[i % 4],
         "gold": f"s{i}"} for i in range(QUESTIONS)
    ]  # fmt: skip
    write_rows(tmp_path / "passages.jsonl", passages)
    write_rows(tmp_path / "questions.jsonl", questions)
    save_encoder(tiny, str(tmp_path / "encoder"), query_instruction="", max_tokens=64)
    save_model(tmp_path / "llm", [row["content"] for row in passages] + [row["question"] for row in questions])
    run("reasonir.eval", "encode", f"input={tmp_path}/passages.jsonl", "side=document",
        f"model.path={tmp_path}/encoder", f"output_dir={tmp_path}/encoded")  # fmt: skip
    run("reasonir.eval", "index", f"embeddings={tmp_path}/encoded", "kind=flat", "sample_queries=20")
    command = ["multiple_choice", f"data.file={tmp_path}/questions.jsonl", f"datastore={tmp_path}/encoded", "top=3",
               f"model.path={tmp_path}/encoder", "generator=vllm", f"generator.model={tmp_path}/llm",
               "generator.enforce_eager=true", "generator.dtype=float32", "prompt_form=letter",
               "generator.max_concurrency=4", "confidence=0.999",
               f"output_dir={tmp_path}/out"]  # fmt: skip
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"}
    process = subprocess.Popen([sys.executable, "-m", "reasonir.eval", *command], env=environment)
    log = tmp_path / "out" / "completions.jsonl"
    while not log.is_file() or log.read_bytes().count(b"\n") < 10:
        time.sleep(0.05)
        assert process.poll() is None
    engine = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return Killed(command, engine, log.read_bytes().count(b"\n"))


@pytest.mark.slow
def test_a_killed_run_takes_its_engine_along(tmp_path: Path, killed: Killed) -> None:
    assert 10 <= killed.answers < 3 * QUESTIONS and not (tmp_path / "out" / "accuracy.json").exists()
    assert killed.engine
    assert not psutil.wait_procs(killed.engine, timeout=20)[1], "the engine outlives the run and keeps its memory"


@pytest.mark.slow
def test_killed_and_resumed_the_random_reader_is_at_chance(tmp_path: Path, killed: Killed) -> None:
    psutil.wait_procs(killed.engine, timeout=20)
    run("reasonir.eval", *killed.command)
    report = json.loads((tmp_path / "out" / "accuracy.json").read_text())
    for name, entry in report["conditions"].items():
        low, high = entry["all"]["interval"]
        assert entry["all"]["answers"] == QUESTIONS and entry["all"]["unreadable"] == 0, name
        assert low <= 0.25 <= high, (name, low, high)
    assert list(report["conditions"]) == ["closed_book", "retrieved", "gold_passages"]
    answers = [row for _, row in read_jsonl(tmp_path / "out" / "answers.jsonl")]
    assert all(len(row["passages"]) == 3 for row in answers if row["condition"] == "retrieved")
    assert {row["finish"] for row in answers} == {"stop"}, "a letter is a whole answer"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["counts"]["search"].endswith("index")
