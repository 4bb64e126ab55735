"""Progress of long work: a bar on a terminal, a line a minute in a log."""

import sys
import time
from typing import Any

# A day's log of one command stays readable: 1,440 lines.
SECONDS_BETWEEN_LOG_LINES = 60.0


class Progress:
    """How far a long piece of work is: a live bar on a terminal, a log line a minute elsewhere."""

    def __init__(self, label: str, total: int, unit: str, done: int = 0) -> None:
        """Start at `done`.

        Args:
            label: What is worked on, at the line's beginning.
            total: Units in all; 0 where nobody knows.
            unit: What is counted, in the plural.
            done: Units that an earlier run finished; they count neither as speed nor as time left.
        """
        self.label, self.total, self.unit, self.done = label, total, unit, done
        # monotonic: a clock that is set while the run goes on must not bend the rate.
        self._first_done, self._started = done, time.monotonic()
        self._last_line = self._started
        self._bar: Any = None
        # stderr, because stdout may be read by another program.
        if sys.stderr.isatty():
            self._bar = _open_bar(label, total, done)

    def update(self, count: int, note: str = "") -> None:
        """Add `count` units; `note` stands behind the bar or on the log line."""
        self.done += count
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, advance=count, note=f"{self._rate()} {note}")
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LOG_LINES:
            self._last_line = time.monotonic()
            whole = f"/{self.total}" if self.total else ""
            print(f"{self.label}: {self.done}{whole} {self.unit}, {self._rate()} {note}", file=sys.stderr)

    def _rate(self) -> str:
        # Units of an earlier run took no time of this one.
        rate = (self.done - self._first_done) / max(time.monotonic() - self._started, 1e-9)
        left = (self.total - self.done) / rate if rate > 0 else 0.0
        remaining = f" {left / 60:.1f} min left," if self.total else ""
        return f"{rate:.3g} {self.unit}/s,{remaining}"

    def close(self) -> None:
        """Remove the live bar."""
        if self._bar is not None:
            self._bar[0].stop()


def _open_bar(label: str, total: int, done: int) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    bar = Bar(*columns, console=Console(stderr=True), transient=True)
    bar.start()
    return bar, bar.add_task(label, total=total or None, completed=done, note="")
