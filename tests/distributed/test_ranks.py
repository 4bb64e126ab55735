"""The end of a rank's process."""

from pathlib import Path

import pytest

from tests.distributed.launch import launch

BUSY_WATCHDOG = """
import sys, time
from reasonir.train.ranks import open_ranks

with open_ranks(0.001) as ranks:  # the watchdog is in the store nearly all the time
    ranks.phase("waiting", limited=False)
    ranks.barrier()
    time.sleep(0.3)
    {end}
"""


@pytest.mark.parametrize(("end", "status"), [("pass", 0), ("sys.exit(3)", 3), ("raise ValueError('as asked')", 1)])
def test_the_watchdog_never_aborts_a_process_that_ends(tmp_path: Path, end: str, status: int) -> None:
    """A thread that comes back from the store when the interpreter is gone takes the process with it (SIGABRT)."""
    script = tmp_path / "busy.py"
    script.write_text(BUSY_WATCHDOG.format(end=end))
    done = launch(2, [str(script)])
    assert "terminate called" not in done.stdout, done.stdout
    assert (done.returncode == 0) == (status == 0)
    assert status == 0 or f"exitcode  : {status}" in done.stdout, done.stdout
