"""Starts a module on several gloo ranks of this machine, as a user does: through torchrun."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def command_of(ranks: int, arguments: Sequence[str], *options: str) -> list[str]:
    """Return the command line; one rank runs without a launcher."""
    if ranks == 1:
        return [sys.executable, *arguments]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks), *options]
    python = [] if arguments[0] == "-m" else ["--no-python", sys.executable]
    return [sys.executable, *launcher, *python, *arguments]


def environment(ranks: int = 1, **more: str) -> dict[str, str]:
    """Return this process's environment, one thread a rank, the repository importable; NCCL where GPUs suffice."""
    fixed = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    if torch.cuda.device_count() < ranks:
        fixed["CUDA_VISIBLE_DEVICES"] = ""
    return {**os.environ, **fixed, **more}


def launch(
    ranks: int, arguments: Sequence[str], *options: str, seconds: float = 120, **more: str
) -> subprocess.CompletedProcess:
    """Run to the end and return exit code and output (standard error within standard output)."""
    process = subprocess.Popen(
        command_of(ranks, arguments, *options),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env=environment(ranks, **more),
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the ranks too
        output, _ = process.communicate()
        raise AssertionError(f"still running after {seconds:g} s:\n{output[-6000:]}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, output)
