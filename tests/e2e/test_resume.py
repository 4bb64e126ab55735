"""Killed anywhere and resumed, a run ends with the bytes of the unbroken run."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from reasonir.train import checkpoint
from tests.kit import fork
from tests.kit.texts import tiny_training, training_rows, write_rows

STEPS = 6
PROGRAM = """
import os, signal, sys
import reasonir.train.loop as loop
import reasonir.train.checkpoint as checkpoint

kill_in_step, kill_in_save = int(sys.argv[1]), int(sys.argv[2])
plain_step, plain_flush = loop.optimizer_step, checkpoint.flush_to_disk

def step(ranks, engine, compute, batch, asked, **options):
    if batch.step + 1 == kill_in_step:
        compute(batch)
        os.kill(os.getpid(), signal.SIGKILL)
    return plain_step(ranks, engine, compute, batch, asked, **options)

def flush(path):
    if kill_in_save and f"step_{kill_in_save}.partial" in str(path):
        os.kill(os.getpid(), signal.SIGKILL)
    plain_flush(path)

loop.optimizer_step, checkpoint.flush_to_disk = step, flush
from reasonir.train.cli import main
main(sys.argv[3:])
"""


@pytest.fixture
def options(tmp_path) -> list[str]:
    return tiny_training(tmp_path, STEPS)


def run(folder: Path, options: list[str], *, step: int = 0, save: int = 0) -> subprocess.CompletedProcess:
    return fork.run(["-c", PROGRAM, str(step), str(save), f"output_dir={folder}", "resume=true", *options])


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


@pytest.mark.seconds(20)
def test_killed_in_a_step_and_in_a_save_ends_byte_equal(tmp_path, options):
    # Wide enough for matrix products that round by where in memory a matrix lies.
    options = [*options, "model.hidden_size=64", "model.intermediate_size=96"]
    unbroken = run(tmp_path / "unbroken", options)
    assert unbroken.returncode == 0, unbroken.stderr
    broken = tmp_path / "broken"
    assert run(broken, options, step=4).returncode == -signal.SIGKILL
    assert [step for step, _ in checkpoint.list_checkpoints(broken / "checkpoints")] == [2]
    assert run(broken, options, save=4).returncode == -signal.SIGKILL
    assert list((broken / "checkpoints").glob(".step_4.partial")), "the kill did not hit the write"
    assert not (broken / "manifest.json").exists()
    last = run(broken, [*options, "graph_memory_gib=null"])
    assert last.returncode == 0, last.stderr
    assert "kept graphs may fill" in last.stdout
    assert "continuing after step 2" in last.stdout
    assert weights(broken) == weights(tmp_path / "unbroken")
    assert not list((broken / "checkpoints").glob(".step_*"))
    rows = [json.loads(line) for line in (broken / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows[0]["train/kept_chunks"] == rows[-1]["train/replayed_chunks"] == 0, "the last run kept all graphs"
    losses = [
        [json.loads(line)["train/loss_nats"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (broken, tmp_path / "unbroken")
    ]
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == STEPS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_signal_saves_and_says_how_to_go_on(tmp_path, options, number):
    folder = tmp_path / "run"
    more = ["max_steps=100000", "save_every_steps=0", f"output_dir={folder}"]
    process = fork.Started(["-m", "reasonir.train", *options, *more])
    until = time.monotonic() + 120
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert "resume=true continues" in errors
    assert "Traceback" not in errors
    (step, path), *_ = checkpoint.list_checkpoints(folder / "checkpoints")
    assert step >= 1
    assert json.loads((path / "state.json").read_text())["step"] == step


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(tmp_path, tiny, capsys):
    from reasonir.train.cli import main

    rows = write_rows(tmp_path / "rows.jsonl", training_rows(8))
    tiny.save_pretrained(str(tmp_path / "whole"))
    before = (tmp_path / "whole" / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit) as stopped:
        main([f"output_dir={tmp_path}/run", f"model.path={tmp_path}/whole", f"data.files=[{rows}]", "max_steps=3",
              "global_batch_queries=4", "query_max_tokens=80", "document_max_tokens=80", "precision=fp32",
              "temperature=1e-39"])  # fmt: skip
    # Scores over such a temperature overflow.
    assert stopped.value.code == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(r"step 1: loss nan.*rows\.jsonl:\d+", line)
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == before
    assert not (tmp_path / "run" / "model").exists()
    assert not (tmp_path / "run" / "metrics.jsonl").read_text()
