"""Starts a module on several gloo ranks of this machine, as a user does: through torchrun."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def command_of(ranks: int, arguments: Sequence[str], *options: str) -> list[str]:
    """Return the command line; one rank runs without a launcher."""
    if ranks == 1:
        return [sys.executable, *arguments]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks), *options]
    python = [] if arguments[0] == "-m" else ["--no-python", sys.executable]
    return [sys.executable, *launcher, *python, *arguments]


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment, one thread a rank, the repository importable."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **more}


def launch(
    ranks: int, arguments: Sequence[str], *options: str, seconds: float = 300, **more: str
) -> subprocess.CompletedProcess:
    """Run to the end and return exit code and output (standard error within standard output)."""
    return subprocess.run(
        command_of(ranks, arguments, *options),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=seconds,
        env=environment(**more),
    )  # fmt: skip
