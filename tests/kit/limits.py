"""A pytest plugin: which tests share a worker, in what order they run, and how long one may take.

A test's call may take SECONDS; `@pytest.mark.seconds(n)` names another limit for a test whose subject is a chain of
commands or a launch of ranks. Set-up and fixtures do not count, nor does a call that imports a library for the first
time in its process or starts its fork server: whichever test comes first pays that. A test over its limit fails when
the limit is exceeded on a machine of reference speed: the limit is multiplied by how much slower a fixed computation is
right after the test.
REASONIR_TEST_PATIENCE multiplies the limits further: CI sets it, where neighbours disturb.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.kit import fork

SECONDS = 5.0
REFERENCE_SECONDS = 0.07
"""What `reference_computation` takes on an idle core of the machine on which the limit was chosen."""
NEW_MODULES = 100
"""A call that brought in more modules than this has paid for somebody's imports."""
modules_before, fork_server_before = pytest.StashKey[int](), pytest.StashKey[bool]()
GROUPS = {
    "tests/distributed/": "ranks",
    "tests/e2e/test_report_page.py": "browser",
    "tests/e2e/test_rag_page.py": "browser",
    "tests/e2e/test_compare_page.py": "browser",
}
"""Beginning of a file's path to the group whose tests run in one worker; a file is its own group otherwise, and every
file named *vllm* belongs to the group vllm: each group starts its browser, its engine or its ranks once."""
FIRST = ("tests/distributed/", "tests/e2e/test_reproduce.py", "tests/e2e/")
"""Long groups begin first, so that no worker is left alone with one at the end."""


def reference_computation() -> float:
    """Return the seconds that a fixed computation in plain Python takes now."""
    begun = time.perf_counter()
    total = 0
    for number in range(1_000_000):
        total += number & 7
    return time.perf_counter() - begun


def group_of(path: str) -> str:
    if "vllm" in Path(path).name:
        return "vllm"
    return next((group for start, group in GROUPS.items() if path.startswith(start)), path)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--part", default="", help="I/N: the I-th of N parts of the slow tests, in whole groups (I from 1)"
    )


class GroupScheduling(LoadScopeScheduling):
    """Sends all tests of a group to one worker.

    pytest-xdist's own groups (`--dist loadgroup`) write into the id of a test, which pytest 9.2 no longer reads.
    """

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid.partition("::")[0])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling:
    return GroupScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    places = {}
    for item in items:
        path = item.path.relative_to(config.rootpath).as_posix()
        group = group_of(path)
        after = next((place for place, start in enumerate(FIRST) if path.startswith(start)), len(FIRST))
        places[item] = (0 if group == "vllm" else 1 + after, group)
    if config.getoption("part"):
        part, parts = map(int, config.getoption("part").split("/"))
        slow = {place[1] for item, place in places.items() if item.get_closest_marker("slow")}
        mine = sorted(slow)[part - 1 :: parts]
        items[:] = [item for item in items if places[item][1] in mine]
    if config.getoption("numprocesses", None) or hasattr(config, "workerinput"):
        items.sort(key=places.__getitem__)


def limit_of(item: pytest.Item) -> float | None:
    """Return how many seconds the test's call may take; None for a slow one."""
    if item.get_closest_marker("slow") or item.get_closest_marker("gpu"):
        return None
    own = item.get_closest_marker("seconds")
    return float(own.args[0]) if own else SECONDS


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    item.stash[modules_before], item.stash[fork_server_before] = len(sys.modules), fork.server_runs()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    limit = limit_of(item)
    if call.when != "call" or limit is None or not report.passed or call.duration <= limit:
        return report
    if len(sys.modules) - item.stash[modules_before] > NEW_MODULES:
        return report
    if fork.server_runs() and not item.stash[fork_server_before]:
        return report
    slower = max(1.0, min(reference_computation() for _ in range(2)) / REFERENCE_SECONDS)
    patience = float(os.environ.get("REASONIR_TEST_PATIENCE", "1"))
    allowed = limit * slower * patience
    said = f"{call.duration:.1f} s; allowed are {limit:g} s x {slower:.1f} (this machine now) x {patience:g}"
    if call.duration > allowed:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} took {said}. Make it faster, or mark it `slow` or `seconds(n)`."
    return report
