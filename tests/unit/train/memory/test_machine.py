"""Free memory is read from the machine, its control groups included."""

from pathlib import Path

import psutil
import pytest
import torch

from reasonir.core.errors import UserError
from reasonir.train.memory import machine
from reasonir.train.memory.estimate import explain_out_of_memory

CPU = torch.device("cpu")


def write_group(folder: Path, limit: str, current: int, file: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {file}\n")


def test_half_of_what_is_free_on_a_cpu_shared_by_its_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    alone, whole = machine.graph_allowance(CPU), machine.device_memory_gib(CPU)
    assert 0 < alone <= psutil.virtual_memory().total / 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert machine.graph_allowance(CPU) == pytest.approx(alone / 4, rel=0.2)
    assert machine.device_memory_gib(CPU) == pytest.approx(whole / 4)


def test_the_tightest_control_group_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a batch system sets them: a limit on the job, none on the step below it."""
    groups = tmp_path / "cgroup"
    line = tmp_path / "self"
    line.write_text("0::/slurm/job_1/step_0\n")
    write_group(groups, "max", 0, 0)
    write_group(groups / "slurm" / "job_1", "8000000", 5_000_000, 1_000_000)
    write_group(groups / "slurm" / "job_1" / "step_0", "max", 4_000_000, 0)
    monkeypatch.setattr(machine, "CGROUPS", groups)
    monkeypatch.setattr(machine, "OWN_GROUP", line)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert machine.graph_allowance(CPU) == 2_000_000
    assert machine.device_memory_gib(CPU) == 8_000_000 / 2**30
    line.unlink()
    assert machine.graph_allowance(CPU) > 2_000_000


@pytest.mark.parametrize(
    "error", [torch.cuda.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_does_not_suffice_is_the_users_to_change(error: RuntimeError) -> None:
    advice = explain_out_of_memory(8_192, 2_048, None, False)
    with pytest.raises(UserError) as caught, machine.refuse_out_of_memory(advice):
        raise error
    said = str(caught.value)
    assert "lower chunk_tokens (now 8192; a single text needs 2048)" in said
    assert "set graph_memory_gib=0" in said and "gradient_checkpointing=true" in said and "zero3" in said
    assert "chunk_tokens" not in explain_out_of_memory(2_048, 2_048, 4.0, True)
    assert "lower graph_memory_gib (now 4)" in explain_out_of_memory(2_048, 2_048, 4.0, True)


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(RuntimeError, match="a shape"), machine.refuse_out_of_memory("advice"):
        raise RuntimeError("a shape does not fit")
