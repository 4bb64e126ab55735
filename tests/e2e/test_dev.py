"""Measured while it trains: no trace in the weights, the best step kept and exported, an early end, kill and resume."""

import json
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from reasonir.core.files import read_mapping
from reasonir.train.checkpoint import list_checkpoints
from tests.kit import fork
from tests.kit.collections import run as evaluate
from tests.kit.dev_runs import dev_curve, manifest, measured_training, metrics

STEPS = 10
# The nDCG@10 that each measurement finds, by step, in place of the true one: a best step in the middle is wanted.
PROGRAM = """
import os, signal, sys
import reasonir.train.checkpoint as checkpoint
import reasonir.train.dev.measure as measure

kill_in_save, found = int(sys.argv[1]), [float(x) for x in sys.argv[2].split(",")]
plain_score, plain_flush = measure.DevMeasurements.measure, checkpoint.flush_to_disk

def told(self, step, record, row):
    measure.dev_ndcg = lambda *_: found[step // 2 - 1]
    return plain_score(self, step, record, row)

def flush(path):
    if kill_in_save and f"step_{kill_in_save}.partial" in str(path):
        os.kill(os.getpid(), signal.SIGKILL)
    plain_flush(path)

measure.DevMeasurements.measure, checkpoint.flush_to_disk = told, flush
from reasonir.train.cli import main
main(sys.argv[3:])
"""
RISES_AND_FALLS = "0.2,0.5,0.4,0.3,0.3"


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    return measured_training(tmp_path, STEPS)


def train(folder: Path, options: list[str], *more: str) -> subprocess.CompletedProcess:
    done = fork.run(["-m", "reasonir.train", f"output_dir={folder}", *options, *more])
    assert done.returncode == 0, done.stderr
    return done


def told(folder: Path, options: list[str], *more: str, found: str = RISES_AND_FALLS, save: int = 0) -> str:
    done = fork.run(["-c", PROGRAM, str(save), found, f"output_dir={folder}", "resume=true", *options, *more])
    assert done.returncode == (-signal.SIGKILL if save else 0), done.stderr
    return str(done.stdout)


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def kept(folder: Path) -> list[int]:
    return [step for step, _ in list_checkpoints(folder / "checkpoints")]


@pytest.mark.seconds(30)
def test_measuring_leaves_no_trace_in_the_weights_and_evaluation_finds_the_same_number(tmp_path, options, capsys):
    plain, measured = tmp_path / "plain", tmp_path / "measured"
    train(plain, options, "dev.dir=null")
    output = train(measured, options, "dev.keep=last").stdout
    assert weights(plain) == weights(measured)
    assert [step for step, _, _ in dev_curve(measured)] == [2, 4, 6, 8, 10]
    assert len({loss for _, loss, _ in dev_curve(measured)}) == 5
    # without it: no column, no entry, no file is another
    assert not any(name.startswith("dev/") for row in metrics(plain) for name in row)
    assert "dev" not in manifest(plain) and "ended_because" not in manifest(plain)
    assert "dev" not in read_mapping(plain / "checkpoints" / "step_10" / "state.json")
    # its cost is said, and its time is none of the steps'
    assert "dev: every 2 steps, 5 times in 10 steps: dev (18 of 18 queries, 36 of 36 documents" in output
    assert len(re.findall(r"step \d+: dev loss .* nDCG@10 .*; [\d.]+ s, \d+% of the time so far", output)) == 5
    # the finished model, measured by the evaluation
    evaluate(["beir", f"data.dir={tmp_path}/dev", "split=dev", f"model.path={measured}/model", "query_max_tokens=40",
              "document_max_tokens=40", "precision=fp32", f"output_dir={tmp_path}/scores",
              "instruction=Find the principle behind this observation", f"cache_dir={tmp_path}/c"], capsys)  # fmt: skip
    score = json.loads((tmp_path / "scores" / "metrics.json").read_text())["ndcg_at_10"]
    assert score == pytest.approx(dev_curve(measured)[-1][2], abs=1e-6)
    assert 0 < score < 1


@pytest.mark.seconds(30)
def test_the_best_step_outlives_newer_checkpoints_and_is_exported(tmp_path, options):
    best, short = tmp_path / "best", tmp_path / "short"
    output = told(best, options, "keep_checkpoints=1")
    assert kept(best) == [4, 10]
    assert "model after step 4, the best" in output
    facts = manifest(best)
    assert facts["dev"] == {"best_step": 4, "best_ndcg_at_10": 0.5, "last_step": 10, "last_ndcg_at_10": 0.3,
                            "stale": 3, "exported_step": 4}  # fmt: skip
    assert facts["ended_because"] == "all steps are done" and facts["counts"]["steps"] == 10
    train(short, options, "dev.dir=null", "max_steps=4")
    assert weights(best) == weights(short)
    assert "4 steps of 4 queries" in (best / "model" / "README.md").read_text()
    # the same run, asked for its last step
    told(best, options, "dev.keep=last")
    assert weights(best) != weights(short)


@pytest.mark.seconds(30)
def test_patience_ends_the_run_as_finished_and_more_patience_goes_on(tmp_path, options):
    early, long = tmp_path / "early", tmp_path / "long"
    told(early, options, "dev.patience=2")
    facts = manifest(early)
    assert facts["ended_because"] == "2 measurements without a better nDCG@10 (dev.patience=2)"
    assert facts["counts"]["steps"] == 8 and facts["dev"]["exported_step"] == 4
    assert [row["step"] for row in metrics(early)] == list(range(1, 9))
    model, stamp = weights(early), (early / "manifest.json").stat().st_mtime_ns
    told(early, options, "dev.patience=2")
    assert weights(early) == model and (early / "manifest.json").stat().st_mtime_ns != stamp
    assert [row["step"] for row in metrics(early)] == list(range(1, 9)), "a finished run took another step"
    told(early, options, "dev.patience=0")
    told(long, options)
    assert dev_curve(early) == dev_curve(long) and kept(early)[-1] == kept(long)[-1] == 10
    assert weights(early) == weights(long)


@pytest.mark.seconds(40)
def test_killed_while_the_best_is_written_it_ends_with_the_same_best_and_bytes(tmp_path, options):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    more = ["keep_checkpoints=1", "save_every_steps=3", "dev.patience=3"]
    told(whole, options, *more)
    told(broken, options, *more, save=4)
    assert kept(broken) == [3] or kept(broken) == [2, 3], "the one before is whole"
    told(broken, options, *more, save=9)
    assert 4 in kept(broken), "the best is still there"
    told(broken, options, *more)
    assert weights(broken) == weights(whole) and dev_curve(broken) == dev_curve(whole)
    assert manifest(broken)["dev"] == manifest(whole)["dev"] and kept(broken) == kept(whole)
    for step in kept(whole):
        states = [(folder / "checkpoints" / f"step_{step}" / "state.json").read_bytes() for folder in (broken, whole)]
        assert states[0] == states[1]


@pytest.mark.slow
@pytest.mark.parametrize("draw", range(4))
def test_killed_at_random_moments_it_ends_with_the_same_best_and_bytes(tmp_path, options, draw):
    """True measurements, and kills wherever the clock says: in a step, a measurement, a save."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    more = ["max_steps=40", "dev.every_steps=3", "save_every_steps=4", "keep_checkpoints=1", "dev.patience=8"]
    begun = time.monotonic()
    train(whole, options, *more)
    seconds, chance, kills = time.monotonic() - begun, random.Random(draw), 0
    for _ in range(40):
        process = fork.Started(["-m", "reasonir.train", f"output_dir={broken}", "resume=true", *options, *more])
        until = time.monotonic() + chance.uniform(0.3, 0.9) * seconds
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        kills += 1
    assert kills and process.poll() == 0, process.said()
    assert weights(broken) == weights(whole) and dev_curve(broken) == dev_curve(whole)
    assert manifest(broken)["dev"] == manifest(whole)["dev"] and kept(broken) == kept(whole)


@pytest.mark.seconds(20)
def test_a_share_of_the_rows_is_held_out_and_said(tmp_path, options):
    folder = tmp_path / "held"
    output = train(folder, options, "dev.dir=null", "dev.share=0.2").stdout
    assert re.search(r"\d rows are held out of training, to measure on \(dev\.share\)", output)
    facts = manifest(folder)
    rows = sum(source["rows"] for source in facts["counts"]["sources"])
    assert rows < 18 and facts["dev"]["last_step"] == STEPS
    assert any("held out" in line for line in facts["differences_from_published"])


def test_mistakes_are_refused_in_one_line(tmp_path, options):
    for more, said in (
        (["dev.share=0.1"], "dev.dir and dev.share exclude each other"),
        (["dev.dir=nowhere"], "dev.dir=nowhere"),
        (["dev.every_steps=0"], "dev.every_steps"),
        (["dev.share=1"], "dev.share"),
    ):
        done = fork.run(["-m", "reasonir.train", f"output_dir={tmp_path}/x", *options, *more])
        assert done.returncode == 2, done.stderr
        assert said in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()
