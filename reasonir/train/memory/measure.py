"""What a run measures of itself: waiting for data, memory, the share of a GPU's arithmetic, a trace of some steps."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reasonir.core.run_folder import peak_memory_gib
from reasonir.train.memory.gpus import peak_flops_of

# Allocations that the snapshot of an out-of-memory stop remembers; torch takes some 2 us for each.
REMEMBERED_ALLOCATIONS = 100_000


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Return the operations a second of a known GPU in bf16; None for any other device or precision."""
    if device.type != "cuda" or precision != "bf16":
        return None
    return peak_flops_of(torch.cuda.get_device_name(device))


def peak_gib(device: torch.device) -> float:
    """Return the most memory that tensors took on this GPU so far; on a CPU, that this process took."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else peak_memory_gib()


class Meter:
    """Turns steps into the columns that only the loop around them can know.

    MFU is model FLOPs utilisation, arXiv 2204.02311: the operations that the mathematics needs, whatever is computed
    twice, over what the GPUs could do in the step's time. LoRA needs two thirds: frozen weights have no gradient.
    """

    def __init__(
        self, device: torch.device, *, forward_flops: Callable[[np.ndarray], float], passes: int, peak: float | None
    ) -> None:
        """Start the clock.

        Args:
            device: Of this rank.
            forward_flops: Operations of the forward pass of texts with these lengths.
            passes: Forward passes that a step's mathematics costs: 3, or 2 with adapters.
            peak: Operations a second of all ranks' GPUs; None leaves MFU out.
        """
        self._device, self._forward_flops, self._passes, self._peak = device, forward_flops, passes, peak
        self._row_at = time.perf_counter()
        self._waited = self._flops = 0.0

    def waiting(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield the batches, and measure how long the step has to wait for each."""
        while True:
            begun = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            self._waited = time.perf_counter() - begun
            lengths = np.array([len(ids) for ids in (*batch.query_ids, *batch.document_ids)])
            self._flops = self._passes * self._forward_flops(lengths)
            yield batch

    def columns(self, tokens: int, step_seconds: float, apart: float = 0.0) -> dict[str, float]:
        """Return the columns of a step that has ended.

        `wall` counts from the row before: waiting, step, saving, logging.

        Args:
            tokens: Of the step.
            step_seconds: It took.
            apart: Seconds since the row before that belong to no training.
        """
        now = time.perf_counter()
        wall, self._row_at = now - self._row_at - apart, now
        found = {
            "train/data_wait_seconds": round(self._waited, 4),
            "train/wall_tokens_per_second": round(tokens / wall, 1),
            "train/peak_memory_gib": round(peak_gib(self._device), 3),
        }
        if self._peak is not None:
            found["train/mfu"] = round(self._flops / step_seconds / self._peak, 4)
        return found


def profiled(batches: Iterator[Any], steps: list[int] | None, folder: Path | None) -> Iterator[Any]:
    """Yield the batches, and write a trace of torch's profiler over some of their steps.

    Args:
        batches: Their `step` counts from 0.
        steps: First and last step, counted from 1; None profiles nothing.
        folder: Gets `trace_A_B.json.gz`, for Perfetto or chrome://tracing; None on ranks that write nothing.
    """
    if steps is None or folder is None:
        yield from batches
        return
    first, last = steps
    activities = torch.profiler.supported_activities()
    for batch in batches:
        if batch.step + 1 != first:
            yield batch
            continue
        with torch.profiler.profile(activities=activities, record_shapes=True, profile_memory=True) as profiler:
            yield batch
            # The loop asks for another batch when the step has ended.
            yield from islice(batches, last - first)
        file = folder / f"trace_{first}_{last}.json.gz"
        profiler.export_chrome_trace(str(file))
        print(f"trace of steps {first} to {last}: {file}", file=sys.stderr)


@contextmanager
def memory_snapshot(folder: Path, rank: int, device: torch.device) -> Iterator[None]:
    """Write CUDA's memory snapshot where a GPU's memory runs out: who held what, for pytorch.org/memory_viz.

    Args:
        folder: Gets `out_of_memory_rank_R.pickle`.
        rank: This rank.
        device: Of this rank.
    """
    if device.type == "cuda":
        torch.cuda.memory._record_memory_history(max_entries=REMEMBERED_ALLOCATIONS, stacks="python")
    try:
        yield
    except BaseException as error:
        if any(isinstance(e, torch.cuda.OutOfMemoryError) for e in (error, error.__cause__)):
            file = folder / f"out_of_memory_rank_{rank}.pickle"
            folder.mkdir(parents=True, exist_ok=True)
            torch.cuda.memory._dump_snapshot(str(file))
            print(f"CUDA's memory when it ran out: {file} (pytorch.org/memory_viz shows it)", file=sys.stderr)
        raise
