"""A program of the package in its own process with libraries imported already: it starts in 0.1 s, not in 5 s.

The processes are forked by multiprocessing's fork server, which has made the imports of fork_imports.py once. A started
program behaves as the command line does: arguments, environment, folder, streams, exit code, signals; SIGKILL kills it
as it kills any process. It does not prove that a cold start works: one test of each console script does.
"""

import atexit
import contextlib
import itertools
import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = itertools.count()
_server_runs = False
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.kit.fork_imports"])


class Started:
    """A running program, with the part of subprocess.Popen's interface that the tests use."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | str | None = None,
        merged: bool = False,
    ) -> None:
        """Start `python ARGUMENTS`.

        Args:
            arguments: begin with `-m MODULE`, `-c PROGRAM` or a script's path.
            env: the whole environment; this process's where null.
            cwd: working directory; this process's where null.
            merged: standard error goes into standard output.
        """
        self.args = list(arguments)
        number = next(NUMBERS)
        self._files = _folder() / f"{number}.out", _folder() / f"{number}.err"
        for file in self._files:
            file.touch()
        files = str(self._files[0]), str(self._files[0 if merged else 1])
        _start_server()
        given = dict(os.environ if env is None else env)
        self._process = CONTEXT.Process(target=_become, args=(self.args, given, str(cwd or Path.cwd()), files))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end and return standard output and standard error."""
        self.wait(timeout)
        return self.said()

    def said(self) -> tuple[str, str]:
        """Return what the program has written so far."""
        out, err = (file.read_text(encoding="utf-8", errors="replace") for file in self._files)
        return out, err


def run(
    arguments: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
    merged: bool = False,
    timeout: float = 300.0,
) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` to its end, as subprocess.run does with text and captured output; see `Started`."""
    return finish([Started(arguments, env=env, cwd=cwd, merged=merged)], timeout)


def finish(programs: Sequence[Started], timeout: float) -> subprocess.CompletedProcess[str]:
    """Wait for programs that work together. Where one fails, the others are ended (SIGTERM), as torchrun ends them.

    Returns:
        Arguments of the first, the first status that is not 0, both streams, one program after the other.
    """
    until, status = time.monotonic() + timeout, 0
    while any(program.poll() is None for program in programs):
        failed = [code for program in programs if (code := program.poll())]
        if failed and not status:
            status = failed[0]
            for program in programs:
                program.send_signal(signal.SIGTERM)
        if time.monotonic() > until:
            for program in programs:
                program.send_signal(signal.SIGKILL)
            said = "\n".join("".join(program.said()) for program in programs)
            raise AssertionError(f"still running after {timeout:g} s:\n{said[-6000:]}")
        time.sleep(0.01)
    status = status or next((code for program in programs if (code := program.poll())), 0)
    out, err = ("".join(parts) for parts in zip(*(program.said() for program in programs), strict=True))
    return subprocess.CompletedProcess(programs[0].args, status, out, err)


def server_runs() -> bool:
    """Return whether a program was started, so that the fork server has made its imports."""
    return _server_runs


@cache
def _folder() -> Path:
    """Make the folder of the programs' output, which goes with this process."""
    folder = Path(tempfile.mkdtemp(prefix="reasonir-test-output-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _start_server() -> None:
    """Start the fork server, once, where it finds the repository, with one thread of computation."""
    global _server_runs
    _server_runs = True
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "OMP_NUM_THREADS")}
    os.environ.update(PYTHONPATH=os.pathsep.join([str(ROOT), before["PYTHONPATH"] or ""]), OMP_NUM_THREADS="1")
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _become(arguments: list[str], environment: dict[str, str], folder: str, files: tuple[str, str]) -> None:
    """Turn this fresh fork into the program, and end the process with its status."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]
    for stream, place in zip((1, 2), files, strict=True):
        os.dup2(os.open(place, os.O_WRONLY | os.O_APPEND), stream)
    sys.stdin, sys.stdout, sys.stderr = open(os.devnull), open(1, "w", 1), open(2, "w", 1)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status = 0
    try:
        _run(arguments)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as an interpreter's end does
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _run(arguments: list[str]) -> None:
    kind, *rest = arguments
    if kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(kind).parent))
        runpy.run_path(kind, run_name="__main__")
