"""metrics.png: the curves of a run, drawn when it ends and when it stops."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reasonir.core.files import METRICS_FILE

PANELS = (
    ("loss, nats", {"train/loss_nats": "training", "dev/loss_nats": "dev"}),
    ("nDCG@10", {"dev/ndcg_at_10": "dev"}),
    ("learning rate", {"train/learning_rate": ""}),
    ("gradient norm", {"train/grad_norm": ""}),
)
"""Title of each panel, and the columns of metrics.jsonl that it shows by their names in the legend."""
FEW_POINTS = 40
"""Curves of at most so many points mark each: a curve of one point would be invisible."""


def draw_curves(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draw what was measured, one panel a kind; a kind without numbers gets none. A failure is printed, not raised.

    Args:
        path: Of the figure.
        rows: Of metrics.jsonl. A missing column and null (a skipped step) have no point.
    """
    panels = []
    for title, columns in PANELS:
        curves = {name: _points(rows, column) for column, name in columns.items()}
        if shown := {name: points for name, points in curves.items() if points}:
            panels.append((title, shown))
    if not panels:
        return
    try:
        _draw(path, panels)
    except Exception as error:  # of a font, of the disk: the run is worth more than its figure
        print(f"{path.name} was not drawn, {METRICS_FILE} holds the numbers: {error}", file=sys.stderr)


def _points(rows: Sequence[dict[str, Any]], column: str) -> list[tuple[int, float]]:
    return [(row["step"], row[column]) for row in rows if row.get(column) is not None]


def _draw(path: Path, panels: list[tuple[str, dict[str, list[tuple[int, float]]]]]) -> None:
    # Not pyplot, which keeps figures and a backend for the whole process.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(4.2 * len(panels), 3.0), layout="tight")
    for axis, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, points in curves.items():
            marker = "o" if len(points) <= FEW_POINTS else ""
            axis.plot(*zip(*points, strict=True), label=name, marker=marker, markersize=3, linewidth=1.2)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step", fontsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(color="#dddddd", linewidth=0.6)
        if len(curves) > 1:
            axis.legend(fontsize=8)
    # matplotlib's version would be part of the bytes.
    figure.savefig(path, dpi=110, metadata={"Software": None})
