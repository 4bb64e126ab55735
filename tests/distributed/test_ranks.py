"""The end of a rank's process."""

from pathlib import Path

import pytest

from tests.kit.launch import launch

pytestmark = pytest.mark.seconds(60)  # launches of two ranks

BUSY_WATCHDOG = """
import sys, time
from reasonir.train.parallel.ranks import open_ranks

with open_ranks(0.001) as ranks:  # the watchdog is in the store nearly all the time
    ranks.phase("waiting", limited=False)
    ranks.barrier()
    time.sleep(0.3)
    {end}
"""


ENDS = [
    ("pass", 0),
    pytest.param("sys.exit(3)", 3, marks=pytest.mark.slow),
    pytest.param("raise ValueError('as asked')", 1, marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize(("end", "status"), ENDS)
def test_the_watchdog_never_aborts_a_process_that_ends(tmp_path: Path, end: str, status: int) -> None:
    """A thread that comes back from the store when the interpreter is gone takes the process with it (SIGABRT)."""
    script = tmp_path / "busy.py"
    script.write_text(BUSY_WATCHDOG.format(end=end))
    done = launch(2, [str(script)], cold=True)
    assert "terminate called" not in done.stdout, done.stdout
    assert (done.returncode == 0) == (status == 0)
    assert status == 0 or f"exitcode  : {status}" in done.stdout, done.stdout


ABORTED_END = """
import atexit, ctypes, sys
from pathlib import Path
from reasonir.core.processes import rank
from reasonir.core.command import run_command
from reasonir.train.config import TrainConfig

FOLDER = Path(sys.argv[1])

def run(config):
    library = ctypes.CDLL(None)
    library.__cxa_atexit(library.abort, None, None)  # as a native thread does, when Python is gone
    atexit.register((FOLDER / f"said_{{rank()}}").touch)
    {end}

run_command("reasonir-train", "train", TrainConfig, run, ["output_dir=x", "data.files=[x]", "parallel=ddp"])
"""


@pytest.mark.parametrize(("end", "status"), [pytest.param("pass", 0, marks=pytest.mark.slow), ("sys.exit(143)", 143)])
def test_an_abort_after_the_end_does_not_fail_the_run(tmp_path: Path, end: str, status: int) -> None:
    """torchrun would call a finished run failed, and take along the rank that still writes the model."""
    script = tmp_path / "ends.py"
    script.write_text(ABORTED_END.format(end=end))
    done = launch(2, [str(script), str(tmp_path)], cold=True)
    assert "SIGABRT" not in done.stdout, done.stdout
    assert (done.returncode == 0) == (status == 0), done.stdout
    assert status == 0 or f"exitcode  : {status}" in done.stdout, done.stdout
    said = {path.name for path in tmp_path.glob("said_*")}
    # torchrun ends the other rank as soon as one has failed: then the handlers of either are enough.
    assert said if status else "said_0" in said, "Python's own handlers have run"
