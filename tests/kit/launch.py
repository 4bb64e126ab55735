"""Starts a module on one or several gloo ranks of this machine: forked, or as a user does, through torchrun."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.kit import fork

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
    ranks: int, arguments: Sequence[str], *options: str, seconds: float = 120, cold: bool = False, **more: str
) -> subprocess.CompletedProcess:
    """Run to the end and return exit code and output (standard error within standard output).

    Args:
        ranks: processes; one runs without a launcher.
        arguments: `-m MODULE`, `-c PROGRAM` or a script, and what follows.
        options: of torchrun, which then starts the ranks.
        seconds: after which the run is killed and the test fails.
        cold: start new interpreters, several ranks by torchrun: where its handling of faults, or an environment that
            libraries read when they are imported, is the subject. Else the ranks are forked (fork.py).
        more: environment variables.
    """
    if not cold and not options:
        return _launch_forked(ranks, arguments, seconds, environment(ranks, **more))
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


def _launch_forked(
    ranks: int, arguments: Sequence[str], seconds: float, variables: dict[str, str]
) -> subprocess.CompletedProcess:
    """Fork the ranks, with the variables that torchrun sets; the store in which they meet is this process's."""
    if ranks == 1:
        return fork.run(arguments, env=variables, merged=True, timeout=seconds)
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
              "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "TORCHELASTIC_RUN_ID": "forked",
              "TORCHELASTIC_RESTART_COUNT": "0", "GROUP_RANK": "0"}  # fmt: skip
    own = ({**variables, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks))
    return fork.finish([fork.Started(arguments, env=values, merged=True) for values in own], seconds)
