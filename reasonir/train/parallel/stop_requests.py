"""Polite signals: SIGTERM and Ctrl-C ask a run to stop after its step; they do not end it."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Two signals within this time are one request: at a terminal, ranks get Ctrl-C directly and from torchrun too.
SECONDS_OF_ONE_REQUEST = 2.0


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect the numbers of the signals in a list; a second Ctrl-C interrupts at once."""
    asked: list[int] = []
    asked_at = 0.0

    def note(number: int, frame: Any) -> None:
        nonlocal asked_at
        if asked and number == signal.SIGINT and time.monotonic() - asked_at > SECONDS_OF_ONE_REQUEST:
            raise KeyboardInterrupt
        if not asked:
            asked_at = time.monotonic()
            asked.append(number)
            print("stopping after this step; once more to stop at once", file=sys.stderr)

    # Restored at the end: in a notebook or a test the process lives on.
    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
