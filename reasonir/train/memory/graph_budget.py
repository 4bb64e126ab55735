"""What a rank may fill: its device's memory, how much of it is free for kept graphs, and what becomes of freed memory.

Leaves what a run needs to `memory.py`.
"""

import ctypes
import os
from pathlib import Path

import psutil
import torch

from reasonir.train.memory.estimate import GIB, GRAPH_SHARE

CGROUPS, OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
MALLOPT_TRIM_THRESHOLD, MALLOPT_MMAP_MAX = -1, -4


def device_memory_gib(device: torch.device) -> float:
    """Return what one rank may fill: its GPU's memory, or its share of this machine's."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / GIB
    return min(psutil.virtual_memory().total, _cgroup_bytes()[0]) / GIB / ranks_here()


def graph_allowance(device: torch.device) -> int:
    """Return the bytes that kept graphs may fill beside a step that keeps none.

    Call it after a step on the largest texts: on CUDA what that step needed at its peak is not free.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(GRAPH_SHARE["cuda"] * (free + torch.cuda.memory_reserved(device)
                                          - torch.cuda.max_memory_allocated(device)))  # fmt: skip
    return int(GRAPH_SHARE["cpu"] * min(psutil.virtual_memory().available, _cgroup_bytes()[1]) / ranks_here())


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees (glibc; elsewhere nothing happens).

    Activations are freed and asked for again in every step; handed back in between, their pages have to be cleared
    and mapped anew, which costs more than the arithmetic on them (docs/log.md, 2026-11-25).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(MALLOPT_TRIM_THRESHOLD, -1)
    mallopt(MALLOPT_MMAP_MAX, 0)


def ranks_here() -> int:
    """Return how many ranks share this machine's memory, as torchrun says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _cgroup_bytes() -> tuple[float, float]:
    """Return (limit, free) of this process's control groups, version 2; infinity where none limits it."""
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
            free = min(free, int(most) - used + int(stat.get("inactive_file", 0)))
    return limit, max(free, 0.0)
