"""What a run measures of itself: waiting, the whole wall, MFU by hand, a trace, a snapshot where memory ran out."""

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reasonir.core.errors import UserError
from reasonir.train.data.batches import GlobalBatch
from reasonir.train.memory import measure
from reasonir.train.memory.machine import refuse_out_of_memory
from reasonir.train.memory.measure import Meter, memory_snapshot, peak_flops, profiled
from reasonir.train.step import largest_batch

CPU = torch.device("cpu")


def batches(count: int, seconds: float = 0.0) -> Iterator[GlobalBatch]:
    for step in range(count):
        time.sleep(seconds)
        batch = largest_batch(10, 20, 30, 1)
        object.__setattr__(batch, "step", step)
        yield batch


def test_waiting_for_data_is_told_apart_from_the_step() -> None:
    meter = Meter(CPU, forward_flops=lambda tokens: float(tokens.sum()), passes=3, peak=None)
    rows = []
    for _ in meter.waiting(batches(3, 0.2)):
        time.sleep(0.1)
        rows.append(meter.columns(tokens=600, step_seconds=0.1))
    assert len(rows) == 3
    assert all(0.2 <= row["train/data_wait_seconds"] < 2 for row in rows)
    # 600 tokens in 0.1 s are 6,000 a second; with the waiting they are 2,000 at most.
    assert all(row["train/wall_tokens_per_second"] <= 2_000 for row in rows)
    assert all(row["train/peak_memory_gib"] > 0.01 for row in rows)
    assert all("train/mfu" not in row for row in rows)


@pytest.mark.parametrize("passes", [2, 3])
def test_mfu_is_what_the_mathematics_needs_over_what_the_gpus_could_do(passes: int) -> None:
    meter = Meter(CPU, forward_flops=lambda n: 1e9 * float((n + n * n).sum()), passes=passes, peak=1e13)
    (_,) = meter.waiting(batches(1))  # a query of 10 tokens and a document of 20
    assert meter.columns(30, 0.5)["train/mfu"] == pytest.approx(passes * 1e9 * (110 + 420) / 0.5 / 1e13, abs=5e-5)


def test_gpus_are_known_by_name_in_bf16_only(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda", 0)
    names = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H100 PCIe": 756e12, "NVIDIA A100-SXM4-80GB": 312e12,
             "NVIDIA L40S": 362e12, "NVIDIA L4": 121e12, "Tesla T4": None}  # fmt: skip
    for name, peak in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert peak_flops(cuda, "bf16") == peak, name
        assert peak_flops(cuda, "fp32") is None
    assert peak_flops(CPU, "bf16") is None


def work(steps: Iterator[Any]) -> list[int]:
    done = []
    for batch in steps:
        torch.ones(8, 8) @ torch.ones(8, 8)
        done.append(batch.step + 1)
    return done


def test_a_trace_holds_the_steps_asked_for(tmp_path: Path) -> None:
    assert work(profiled(batches(6), [2, 4], tmp_path)) == [1, 2, 3, 4, 5, 6]
    (file,) = tmp_path.iterdir()
    assert file.name == "trace_2_4.json.gz"
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    assert sum(event["name"] == "aten::mm" for event in events) == 3


@pytest.mark.parametrize(("steps", "folder"), [(None, "here"), ([1, 2], None), ([7, 9], "here")])
def test_nothing_is_traced_where_nobody_asks(tmp_path: Path, steps: list[int] | None, folder: str | None) -> None:
    assert work(profiled(batches(3), steps, tmp_path if folder else None)) == [1, 2, 3]
    assert list(tmp_path.iterdir()) == []


def test_cudas_memory_is_written_where_it_ran_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    noted: list[Any] = []
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", lambda **more: noted.append(more))
    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", lambda name: Path(name).write_text("snapshot"))
    cuda = torch.device("cuda", 0)
    inside = memory_snapshot(tmp_path / "run", 3, cuda), refuse_out_of_memory("advice")
    with pytest.raises(UserError, match="advice"), inside[0], inside[1]:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")
    assert noted == [{"max_entries": measure.REMEMBERED_ALLOCATIONS, "stacks": "python"}]
    (file,) = (tmp_path / "run").iterdir()
    assert file.name == "out_of_memory_rank_3.pickle" and str(file) in capsys.readouterr().err
    with pytest.raises(ValueError, match="ours"), memory_snapshot(tmp_path / "other", 0, CPU):
        raise ValueError("ours")
    assert len(noted) == 1 and not (tmp_path / "other").exists()


def test_lengths_are_those_of_both_sides() -> None:
    seen: list[np.ndarray] = []
    meter = Meter(CPU, forward_flops=lambda n: float(seen.append(n) or 0), passes=3, peak=1.0)
    list(meter.waiting(batches(1)))
    assert sorted(seen[0].tolist()) == [10, 20]
