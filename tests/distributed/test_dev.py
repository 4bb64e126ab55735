"""Measured while it trains: any engine and number of ranks finds the same numbers and trains the same weights."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.kit.dev_runs import dev_curve, manifest, measured_training
from tests.kit.launch import launch

STEPS = 6
ENGINES = ["ddp", *(pytest.param(engine, marks=pytest.mark.slow) for engine in ("zero1", "zero2", "zero3", "fsdp2"))]


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    return measured_training(tmp_path, STEPS)


def train(folder: Path, options: list[str], *more: str, ranks: int = 1, rc: int = 0) -> str:
    done = launch(ranks, ["-m", "reasonir.train", f"output_dir={folder}", *options, *more], seconds=300)
    assert done.returncode == rc, done.stdout[-4000:]
    return str(done.stdout)


@pytest.mark.seconds(60)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_finds_what_one_process_finds_and_trains_as_without(
    tmp_path: Path, options: list[str], engine: str
) -> None:
    alone, two, plain = tmp_path / "alone", tmp_path / "two", tmp_path / "plain"
    train(alone, options, "model.dropout=0")
    train(two, options, "model.dropout=0", f"parallel={engine}", ranks=2)
    assert len(dev_curve(alone)) == 3
    assert np.abs(np.array(dev_curve(two)) - np.array(dev_curve(alone))).max() <= 1e-5
    assert max(abs(a[2] - b[2]) for a, b in zip(dev_curve(two), dev_curve(alone), strict=True)) <= 1e-6
    # dropout on: whatever it draws, it draws without measurements
    train(two.with_name("measured"), options, "dev.keep=last", f"parallel={engine}", ranks=2)
    train(plain, options, "dev.dir=null", f"parallel={engine}", ranks=2)
    ours, theirs = ((f / "model" / "model.safetensors").read_bytes() for f in (two.with_name("measured"), plain))
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "zero3", "fsdp2"])
def test_four_ranks_find_the_same(tmp_path: Path, options: list[str], engine: str) -> None:
    """A chunk a rank and more ranks than chunks: a rank without a chunk computes one all the same."""
    for chunk_tokens in (100, 100_000):
        alone, four = tmp_path / f"alone{chunk_tokens}", tmp_path / f"four{chunk_tokens}"
        more = ["model.dropout=0", f"chunk_tokens={chunk_tokens}"]
        train(alone, options, *more)
        train(four, options, *more, f"parallel={engine}", ranks=4)
        curves = np.array(dev_curve(alone)), np.array(dev_curve(four))
        print(engine, chunk_tokens, np.abs(curves[0] - curves[1]).max(axis=0))
        assert np.abs(curves[0] - curves[1])[:, 2].max() <= 1e-6
        assert np.abs(curves[0] - curves[1])[:, 1].max() <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["zero3", "fsdp2"])
def test_a_sharded_run_exports_its_best_step(tmp_path: Path, options: list[str], engine: str) -> None:
    """The best step of one process and of two sharded ranks is the same, and so are its weights."""
    alone, two = tmp_path / "alone", tmp_path / "two"
    more = ["model.dropout=0", "keep_checkpoints=1", "learning_rate=0.02"]
    train(alone, options, *more)
    train(two, options, *more, f"parallel={engine}", ranks=2)
    assert manifest(two)["dev"]["exported_step"] == manifest(alone)["dev"]["exported_step"]
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (two, alone))
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in theirs) < 1e-4
