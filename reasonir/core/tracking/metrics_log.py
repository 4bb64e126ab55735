"""Measurements of a run: a file with a row a step, which trackers and a figure show."""

import json
import sys
from pathlib import Path
from typing import Any

from reasonir.core.files import METRICS_FILE, naming, write_text
from reasonir.core.tracking.curves import draw_curves
from reasonir.core.tracking.trackers import Tracker


class MetricsLog:
    """metrics.jsonl, one row a step; its curves as metrics.png; and a tracker where `tracking` names one.

    An interrupted run may have written rows after its last checkpoint. The log is opened at the checkpoint's step and
    drops them, so that each step has exactly one row.
    """

    def __init__(self, folder: Path, config: Any, *, first_step: int, tracking: str) -> None:
        self._path = folder / METRICS_FILE
        kept = []
        if self._path.exists():
            # A damaged byte costs its row; a last row without an end is the one that a kill cut off.
            rows = self._path.read_text(encoding="utf-8", errors="replace").split("\n")
            steps = {row: _step_of(row) for row in rows}
            kept = [row for row, step in steps.items() if step is not None and step <= first_step]
            if lost := sum(steps[row] is None for row in rows[:-1]):
                print(f"{self._path}: {lost} damaged rows are left out", file=sys.stderr)
        # Written anew as a whole: a kill during the write leaves the old rows.
        write_text(self._path, "".join(row + "\n" for row in kept))
        self._stream = self._path.open("a", encoding="utf-8")
        self._tracker = None
        if tracking != "none":
            self._tracker = Tracker(tracking, folder, config, [json.loads(row) for row in kept])

    def append(self, row: dict[str, Any]) -> None:
        """Write one row (it must hold `step`) and flush it."""
        with naming(self._path):
            self._stream.write(json.dumps(row) + "\n")
            # A killed process keeps every step that it finished.
            self._stream.flush()
        if self._tracker is not None:
            self._tracker.log(row)

    def summarise(self, sources: list[dict[str, Any]]) -> None:
        """Give the finished run a table of its sources and its curves, one a source, where the tracker shows them.

        Args:
            sources: One row a source of training rows: its `path`, and counts of what was used.
        """
        if self._tracker is not None:
            self._tracker.summarise(sources, self._rows())

    def close(self) -> None:
        """Close the file, draw its curves and end the tracking."""
        with naming(self._path):
            self._stream.close()
        draw_curves(self._path.with_suffix(".png"), self._rows())
        if self._tracker is not None:
            self._tracker.finish()

    def _rows(self) -> list[dict[str, Any]]:
        return [json.loads(row) for row in self._path.read_text(encoding="utf-8").splitlines()]


def _step_of(row: str) -> int | None:
    try:
        return int(json.loads(row)["step"])
    except (ValueError, KeyError, TypeError):
        return None
