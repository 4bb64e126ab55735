"""The training command with a fault: python -m tests.distributed.faulty_run KIND RANK STEP MARKER option=value ...

KIND: none, kill, raise, nan, hang, full_disk. The fault strikes on rank RANK in step STEP, the first time only (MARKER
is a file that then exists).
"""

import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from reasonir.train import checkpoint, loop
from reasonir.train.cli import main
from reasonir.train.step import TrainingStep

kind, rank, step, marker = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
plain = loop.optimizer_step
flush = checkpoint.flush_to_disk


def wait_for_checkpoint() -> None:
    """Return once the checkpoint of the step before is whole; it is written beside the training."""
    folder = next(Path(a.split("=", 1)[1]) for a in sys.argv if a.startswith("output_dir=")) / "checkpoints"
    while not (folder / f"step_{step - 1}").exists():
        time.sleep(0.05)


def strike(engine: Any, compute: TrainingStep, batch: Any) -> None:
    """Do what KIND says, in the middle of a step."""
    if kind == "kill":
        engine.begin()
        compute(batch)
        wait_for_checkpoint()
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "raise":
        raise ZeroDivisionError("a fault of ours")
    if kind == "hang":
        time.sleep(3_600)
    if kind == "full_disk":  # files of this rank may not grow beyond 20 kB, once the checkpoint before is written
        wait_for_checkpoint()
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    if kind == "nan":
        embed = engine.embed

        def sick(packed: Any) -> torch.Tensor:
            return embed(packed) * torch.nan

        engine.embed = sick


def flush_slowly(path: Path) -> None:
    """Flush as a busy disk does: a checkpoint is still being written when the next step fails."""
    time.sleep(0.5)
    flush(path)


def faulty(ranks: Any, engine: Any, compute: TrainingStep, batch: Any, *wishes: Any, **options: Any) -> Any:
    embed = engine.embed
    if batch.step + 1 == step and ranks.rank == rank and not marker.exists():
        marker.touch()
        strike(engine, compute, batch)
    done = plain(ranks, engine, compute, batch, *wishes, **options)
    engine.embed = embed
    return done


if kind == "nan":
    checkpoint.flush_to_disk = flush_slowly
if kind != "none":
    loop.optimizer_step = faulty
main(sys.argv[5:])
