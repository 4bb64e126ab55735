"""A run that stops, skips or saves by the clock loses nothing; the model's files are as their owner wants them."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from reasonir.model import Encoder
from reasonir.train import checkpoint, loop
from reasonir.train.cli import main
from tests.kit.texts import tiny_training, training_rows, write_rows

STEPS = 6


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    return [*tiny_training(tmp_path, STEPS), "save_every_steps=0"]


def stopped(folder: Path, options: list[str], *more: str) -> int:
    with pytest.raises(SystemExit) as left:
        main([f"output_dir={folder}", *options, *more])
    return int(left.value.code or 0)


def run(folder: Path, options: list[str], *more: str) -> None:
    assert stopped(folder, options, *more) == 0


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def saved_steps(folder: Path) -> list[int]:
    return [step for step, _ in checkpoint.list_checkpoints(folder / "checkpoints")]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def fail_in(monkeypatch: pytest.MonkeyPatch, steps: set[int], damage: Callable[..., torch.Tensor]) -> None:
    """Let `damage(embeddings)` strike in every pass of these steps."""
    plain = loop.optimizer_step

    def step(ranks: Any, engine: Any, compute: Any, batch: Any, *arguments: Any, **options: Any) -> Any:
        embed = engine.embed
        if batch.step + 1 in steps:
            engine.embed = lambda packed: damage(embed(packed))
        try:
            return plain(ranks, engine, compute, batch, *arguments, **options)
        finally:
            engine.embed = embed

    monkeypatch.setattr(loop, "optimizer_step", step)


def ruin(embeddings: torch.Tensor) -> torch.Tensor:
    return embeddings * torch.nan


def fill_memory(embeddings: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")


@pytest.mark.seconds(20)
@pytest.mark.parametrize(
    ("damage", "said"), [(ruin, "step 4: loss nan, gradient norm nan"), (fill_memory, "out of memory in step 4")]
)
def test_a_step_that_fails_leaves_the_state_before_it_on_the_disk(tmp_path, options, damage, said, capsys, monkeypatch):
    run(tmp_path / "unbroken", options)
    folder = tmp_path / "run"
    fail_in(monkeypatch, {4}, damage)
    assert stopped(folder, options) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in line and "state after step 3 is saved" in line
    assert saved_steps(folder) == [3]
    whole = (tmp_path / "unbroken" / "metrics.png").read_bytes()
    assert (folder / "metrics.png").read_bytes() != whole, "the curves of three steps"
    monkeypatch.undo()
    run(folder, options, "resume=true")
    assert weights(folder) == weights(tmp_path / "unbroken")
    assert (folder / "metrics.png").read_bytes() == whole


@pytest.mark.seconds(20)
def test_steps_that_are_not_finite_are_skipped_named_and_counted(tmp_path, options, capsys, monkeypatch):
    fail_in(monkeypatch, {2, 5}, ruin)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(whole, options, "skip_nonfinite_steps=2")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped: ")]
    assert [line[: len("skipped: step 2")] for line in lines] == ["skipped: step 2", "skipped: step 5"]
    assert all("jsonl:" in line for line in lines)
    assert json.loads((whole / "manifest.json").read_text())["counts"]["skipped_steps"] == 2
    assert [row["step"] for row in rows_of(whole) if row["train/loss_nats"] is None] == [2, 5]
    # AdamW's own count of steps leaves them out, in the continued run as in the unbroken one.
    assert stopped(broken, options, "skip_nonfinite_steps=1") == 1
    assert "step 5: loss nan" in capsys.readouterr().err and saved_steps(broken) == [4]
    run(broken, options, "skip_nonfinite_steps=2", "resume=true")
    assert weights(broken) == weights(whole)


@pytest.mark.seconds(20)
def test_a_checkpoint_is_due_by_the_clock(tmp_path, options, monkeypatch):
    saved: list[int] = []
    plain = checkpoint.CheckpointWriter.save
    monkeypatch.setattr(
        checkpoint.CheckpointWriter,
        "save",
        lambda self, engine, state: (saved.append(state.step), plain(self, engine, state)),
    )
    run(tmp_path / "never", options, "save_every_minutes=0")
    assert saved == [STEPS]
    saved.clear()
    run(tmp_path / "always", options, "save_every_minutes=1e-9")
    assert saved == [1, 2, 3, 4, 5, STEPS]
    assert weights(tmp_path / "never") == weights(tmp_path / "always")


def test_rows_without_weight_are_refused_before_the_first_file(tmp_path, capsys):
    rows = write_rows(tmp_path / "rows.jsonl", [{**row, "weight": 0} for row in training_rows(8)])
    options = [f"data.files=[{rows}]", "model.vocabulary_size=400", "global_batch_queries=4"]
    assert stopped(tmp_path / "run", options) == 2
    assert "rows.jsonl: all 4 rows of step 1 have weight 0" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.seconds(20)
def test_a_model_is_exported_in_the_dtype_of_its_base_and_readable_by_others(tmp_path, tiny):
    """The folder of a bfloat16 base, as most published models are; the umask gives the mode."""
    tiny.trunk.to(torch.bfloat16)
    tiny.save_pretrained(str(tmp_path / "base"))
    rows = write_rows(tmp_path / "rows.jsonl", training_rows(8))
    options = [f"model.path={tmp_path}/base", f"data.files=[{rows}]", "max_steps=2", "global_batch_queries=4",
               "query_max_tokens=60", "document_max_tokens=60", "precision=fp32", "learning_rate=0.01"]  # fmt: skip
    before = os.umask(0o027)
    try:
        run(tmp_path / "run", options)
    finally:
        os.umask(before)
    kept = {name: tmp_path / "run" / name for name in ("model", "checkpoints/step_2")}
    for folder in kept.values():
        modes = {stat.S_IMODE(file.stat().st_mode) for file in folder.rglob("*.safetensors")}
        assert modes == {0o640}
    exported = load_file(kept["model"] / "model.safetensors")
    assert {tensor.dtype for tensor in exported.values()} == {torch.bfloat16}
    assert {p.dtype for p in Encoder.from_pretrained(str(kept["model"])).parameters()} == {torch.float32}
    run(tmp_path / "run", options, "resume=true", "export_dtype=fp32")
    whole = load_file(kept["model"] / "model.safetensors")
    assert {tensor.dtype for tensor in whole.values()} == {torch.float32}
    assert any(not torch.equal(whole[name], exported[name].float()) for name in whole), "float32 holds more"
    assert all(torch.equal(whole[name].bfloat16(), exported[name]) for name in whole)
