"""A rank that dies, raises, hangs, meets NaN or a full disk ends the job; what was saved is whole and goes on."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reasonir.train import checkpoint
from tests.kit.launch import command_of, environment, launch
from tests.kit.texts import tiny_training

pytestmark = pytest.mark.seconds(60)  # launches of two ranks

STEPS = 6
TORCHRUNS_OWN = 1


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    return tiny_training(tmp_path, STEPS)


def run(
    folder: Path,
    options: Sequence[str],
    *more: str,
    ranks: int = 2,
    fault: str = "none",
    step: int = 5,
    launcher: Sequence[str] = (),
    cold: bool = False,
) -> subprocess.CompletedProcess:
    marker = folder.with_name(f"{folder.name}.struck")
    program = ["-m", "tests.distributed.faulty_run", fault, "1", str(step), str(marker)]
    arguments = [*program, f"output_dir={folder}", "resume=true", *options, *more]
    return launch(ranks, arguments, *launcher, cold=cold or fault != "none")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def saved_steps(folder: Path) -> list[int]:
    return [step for step, _ in checkpoint.list_checkpoints(folder / "checkpoints")]


def logged_steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "zero1", "zero2", "zero3", "fsdp2"])
def test_a_killed_rank_ends_the_job_and_the_resumed_run_is_equal(
    tmp_path: Path, options: list[str], engine: str
) -> None:
    unbroken, broken, choice = tmp_path / "unbroken", tmp_path / "broken", f"parallel={engine}"
    done = run(unbroken, options, choice)
    assert done.returncode == 0, done.stdout[-4000:]
    begun = time.monotonic()
    killed = run(broken, options, choice, fault="kill")
    assert time.monotonic() - begun < 60
    assert killed.returncode == TORCHRUNS_OWN
    assert saved_steps(broken)[-1] == 4 and 5 not in logged_steps(broken)
    assert not (broken / "manifest.json").exists()
    last = run(broken, options, choice)
    assert last.returncode == 0, last.stdout[-4000:]
    assert "continuing after step 4" in last.stdout
    assert logged_steps(broken) == list(range(1, STEPS + 1))
    ends = weights(unbroken), weights(broken)
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.slow
def test_any_engine_and_number_of_ranks_goes_on_from_any_checkpoint(tmp_path: Path, options: list[str]) -> None:
    options = [*options, "model.dropout=0"]  # ranks draw their own dropout
    alone, moved = tmp_path / "alone", tmp_path / "moved"
    done = run(alone, options, ranks=1)
    assert done.returncode == 0, done.stdout[-4000:]
    for ranks, engine, steps in ((2, "zero3", 2), (1, "single", 4), (2, "fsdp2", STEPS)):
        done = run(moved, options, f"parallel={engine}", f"max_steps={steps}", ranks=ranks)
        assert done.returncode == 0, done.stdout[-4000:]
    ends = weights(alone), weights(moved)
    start = load_file(alone / "initial_model" / "model.safetensors")
    assert max(float((ends[0][name] - start[name]).abs().max()) for name in start) > 1e-3
    assert max(float((ends[0][name] - ends[1][name]).abs().max()) for name in ends[0]) < 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "zero2"])
def test_nan_on_one_rank_stops_all_before_the_update(tmp_path: Path, options: list[str], engine: str) -> None:
    folder = tmp_path / "run"
    done = run(folder, options, f"parallel={engine}", fault="nan", step=3)
    assert done.returncode == TORCHRUNS_OWN
    (line,) = [line for line in done.stdout.splitlines() if "reasonir-train: error:" in line]
    assert "step 3: loss nan on rank" in line and "the weights were not touched" in line
    assert re.search(r"[ab]\.jsonl:\d+", line)
    assert saved_steps(folder) == [2] and logged_steps(folder) == [1, 2]


@pytest.mark.slow
def test_every_engine_passes_over_a_batch_that_is_not_finite_on_one_rank(tmp_path: Path, options: list[str]) -> None:
    options, ends = [*options, "model.dropout=0", "skip_nonfinite_steps=1"], {}
    for engine in ("ddp", "zero1", "zero2", "zero3", "fsdp2"):
        folder = tmp_path / engine
        done = run(folder, options, f"parallel={engine}", fault="nan", step=3)
        assert done.returncode == 0, done.stdout[-4000:]
        # A document that is not finite ruins the losses of all ranks, a query those of its own.
        assert done.stdout.count("skipped: step 3: loss nan on rank") == 1, done.stdout[-4000:]
        assert json.loads((folder / "manifest.json").read_text())["counts"]["skipped_steps"] == 1
        assert logged_steps(folder) == list(range(1, STEPS + 1))
        ends[engine] = weights(folder)
    first = ends["ddp"]
    for engine, found in ends.items():
        assert max(float((found[name] - first[name]).abs().max()) for name in first) < 2e-6, engine


@pytest.mark.slow
def test_an_error_on_one_rank_ends_all_with_its_cause(tmp_path: Path, options: list[str]) -> None:
    begun = time.monotonic()
    done = run(tmp_path / "run", options, "parallel=ddp", fault="raise", step=3)
    assert time.monotonic() - begun < 60
    assert done.returncode == TORCHRUNS_OWN
    assert done.stdout.count("ZeroDivisionError: a fault of ours") == 1
    assert "gloo" not in done.stdout


@pytest.mark.slow
def test_a_hung_rank_times_out_by_name(tmp_path: Path, options: list[str]) -> None:
    limit = "parallel.collective_timeout_seconds=15"  # a busy machine needs that for any other phase
    done = run(tmp_path / "run", options, "parallel=ddp", limit, fault="hang", step=3)
    assert done.returncode == TORCHRUNS_OWN
    lines = [line for line in done.stdout.splitlines() if "collective_timeout_seconds" in line and "error:" in line]
    # Both ranks pass the limit at about the same time; the first to say so is the last that torchrun lets speak.
    waiting = [line for line in lines if "error: rank 0 spent" in line]
    hung = [line for line in lines if "error: rank 1 spent" in line]
    assert waiting or hung, done.stdout[-4000:]
    assert all("`step 3: gathering documents`" in line and "rank 1: step 2: " in line for line in waiting)
    assert all("`step 2: " in line for line in hung)


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, options: list[str]) -> None:
    folder = tmp_path / "run"
    done = run(folder, options, "parallel=ddp", fault="full_disk", step=3)
    assert done.returncode == TORCHRUNS_OWN
    line, *others = [line for line in done.stdout.splitlines() if "reasonir-train: error:" in line]
    assert all("lost another rank" in other for other in others), "the other rank may speak before torchrun ends it"
    assert "could not be written" in line and "resume=true" in line
    assert saved_steps(folder) == [2]
    last = run(folder, options, "parallel=ddp")
    assert last.returncode == 0 and "continuing after step 2" in last.stdout


@pytest.mark.slow
def test_torchrun_restarts_by_itself(tmp_path: Path, options: list[str]) -> None:
    folder = tmp_path / "run"
    fresh = [option for option in options if not option.startswith("resume")]
    program = ["-m", "tests.distributed.faulty_run", "kill", "1", "5", str(tmp_path / "struck")]
    done = launch(2, [*program, f"output_dir={folder}", *fresh, "parallel=ddp"], "--max-restarts", "1")
    assert done.returncode == 0, done.stdout[-4000:]
    assert (tmp_path / "struck").exists() and "continuing after step 4" in done.stdout
    assert logged_steps(folder) == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_sigterm_to_the_launcher_saves_on_all_ranks(tmp_path: Path, options: list[str]) -> None:
    folder = tmp_path / "run"
    more = ["parallel=ddp", "max_steps=100000", "save_every_steps=0", f"output_dir={folder}"]
    command = command_of(2, ["-m", "reasonir.train", *options, *more])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(2))
    until = time.monotonic() + 120
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "saved; resume=true continues" in output
    ((step, _),) = checkpoint.list_checkpoints(folder / "checkpoints")
    assert step == logged_steps(folder)[-1]


@pytest.mark.slow
def test_options_that_are_wrong_on_all_ranks_are_said_once(tmp_path: Path, options: list[str]) -> None:
    done = run(tmp_path / "run", options, "parallel=single", cold=True)
    assert done.returncode == TORCHRUNS_OWN
    assert done.stdout.count("reasonir-train: error:") == 1
    assert "parallel=single cannot use 2 ranks" in done.stdout
