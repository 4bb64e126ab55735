"""Memory of this machine: what a rank may fill, what is free for kept graphs, and what becomes of freed pages."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from reasonir.core.errors import RunStopped, UserError
from reasonir.train.config import PlannedGpu
from reasonir.train.memory.estimate import GIB, GRAPH_SHARE
from reasonir.train.memory.gpus import GPUS, Device

CGROUPS, OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
MALLOPT_TRIM_THRESHOLD, MALLOPT_MMAP_MAX = -1, -4


def device_memory_gib(device: torch.device) -> float:
    """Return what one rank may fill: its GPU's memory, or its share of this machine's."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / GIB
    return min(psutil.virtual_memory().total, _cgroup_bytes()[0]) / GIB / _ranks_here()


def planned_device(gpu: PlannedGpu | None, memory_gib: float | None, ranks: int) -> Device:
    """Return the device that a plan is made for.

    Args:
        gpu: A known one; None asks the next.
        memory_gib: Of a device without a name; None takes this machine's.
        ranks: That share this machine's memory.
    """
    if gpu is not None:
        return GPUS[gpu]
    if memory_gib is not None:
        return Device("planned_memory_gib", memory_gib)
    return this_device(torch.device("cuda" if torch.cuda.is_available() else "cpu"), ranks)


def this_device(device: torch.device, ranks: int | None = None) -> Device:
    """Return what one rank computes on here.

    Args:
        device: Of the rank.
        ranks: That will share this machine's memory; None is those that do.
    """
    if device.type == "cuda":
        return Device(torch.cuda.get_device_name(device), device_memory_gib(device))
    shared = device_memory_gib(device) * _ranks_here() / (ranks or _ranks_here())
    return Device("this machine's memory" + (" for a rank" if (ranks or _ranks_here()) > 1 else ""), shared)


def graph_allowance(device: torch.device) -> int:
    """Return the bytes that kept graphs may fill beside a step that keeps none.

    Call it after a step on the largest texts: on CUDA the peak of that step counts as used.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(GRAPH_SHARE["cuda"] * (free + torch.cuda.memory_reserved(device)
                                          - torch.cuda.max_memory_allocated(device)))  # fmt: skip
    return int(GRAPH_SHARE["cpu"] * min(psutil.virtual_memory().available, _cgroup_bytes()[1]) / _ranks_here())


@contextmanager
def refuse_out_of_memory(advice: str) -> Iterator[None]:
    """Turn torch's error of memory that did not suffice into a `UserError` with this advice."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise UserError(advice) from error
        raise


@contextmanager
def stop_out_of_memory(step: int, *, alone: bool) -> Iterator[None]:
    """Turn memory that did not suffice within a step into a stop of the run, which saves what is done.

    Args:
        step: Counted from 1, for the message.
        alone: Whether the run has one rank. Others would wait in an exchange, and could save nothing.
    """
    try:
        yield
    except RuntimeError as error:
        if not alone or not is_out_of_memory(error):
            raise
        saved = (
            f"the state after step {step - 1} is saved, resume=true goes on from it" if step > 1 else "step 1 failed"
        )
        raise RunStopped(
            f"out of memory in step {step} ({str(error).splitlines()[0]}); {saved}; lower chunk_tokens, or give "
            "graph_memory_gib=0"
        ) from error


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error of torch says that memory did not suffice."""
    # torch raises a plain RuntimeError on a CPU.
    return isinstance(error, torch.cuda.OutOfMemoryError) or "allocate memory" in str(error)


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees (glibc; elsewhere nothing happens).

    Every step frees its activations and allocates them again. If their pages go back to the system in between, they
    are cleared and mapped anew, which costs more than the arithmetic on them (docs/log.md, 2026-11-25).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(MALLOPT_TRIM_THRESHOLD, -1)
    mallopt(MALLOPT_MMAP_MAX, 0)


def _ranks_here() -> int:
    """Return how many ranks share this machine's memory, as torchrun says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _cgroup_bytes() -> tuple[float, float]:
    """Return (limit, free) of this process's control groups, version 2; infinity without a limit."""
    # Batch systems set the limit on a job and start steps in groups below it: the tightest group on the way up counts.
    limit = free = float("inf")
    try:
        lines = OWN_GROUP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return limit, free
    name = next((line[3:].lstrip("/") for line in lines if line.startswith("0::")), "")
    own = CGROUPS / name
    for group in (own, *(parent for parent in own.parents if parent == CGROUPS or CGROUPS in parent.parents)):
        try:
            most = (group / "memory.max").read_text(encoding="utf-8").strip()
            used = int((group / "memory.current").read_text(encoding="utf-8"))
            stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines())
        except (OSError, ValueError):
            continue
        if most.isdigit():
            limit = min(limit, int(most))
            # Cached files that nobody uses count as used, but the kernel gives them up for us.
            free = min(free, int(most) - used + int(stat.get("inactive_file", 0)))
    return limit, max(free, 0.0)
