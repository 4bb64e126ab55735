"""The charts of a report, as numbers that the page draws: bars by task and by query length, the scaling curve.

Invariant: horizontal places are percentages, so that a chart fits any width without shrinking its words.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.data.bright import BRIGHT_TASKS
from reasonir.eval.report.runs import MeasuredRun, Shared, other_corpus
from reasonir.eval.scores.published import ORIGINAL

SCALING_FILE = "scaling.json"
LENGTHS = (16, 32, 64, 128, 256, 512, 1024)
"""Bounds of the bins by query length, in words."""
AXIS_STEP = 10
PLOT_HEIGHT, PLOT_TOP, PLOT_LEFT, PLOT_RIGHT = 240, 20, 8.0, 95.0
"""Of the scaling curve: pixels, pixels, percent, percent."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of bars. points: nDCG@10 by run. mark: the published value beside them, None where there is none."""

    label: str
    queries: int
    points: list[float]
    mark: float | None = None


@dataclass(frozen=True, slots=True)
class Bars:
    """Rows on one axis from 0 to `top` points. marked: what the marks stand for, "" for no marks."""

    rows: list[Bar]
    top: int
    marked: str = ""

    def share(self, points: float) -> str:
        """Return a length on the axis in percent."""
        return f"{100 * points / self.top:.2f}%"


def task_bars(shared: Shared) -> Bars:
    """Return one row a task, the published ReasonIR-8B marked where it ranked the same queries."""
    reference = dict(zip(BRIGHT_TASKS, ORIGINAL[0].points, strict=True))
    comparable = all(run.compares_with_bright and run.queries == "original" for run in shared.runs)
    rows = [
        Bar(
            task,
            len(queries),
            [100 * shared.mean(run, task) for run in shared.runs],
            reference.get(task) if comparable and other_corpus(shared.runs[0], task) is None else None,
        )
        for task, queries in shared.queries.items()
    ]
    return _on_one_axis(rows, f"{ORIGINAL[0].system} as published ({ORIGINAL[0].source})")


def length_bars(shared: Shared, words: Mapping[tuple[str, str], int]) -> Bars | None:
    """Return one row a bin of query lengths, over the queries of all tasks; None where no text is known."""
    if not words:
        return None
    bounds = [0, *LENGTHS]
    members: list[list[tuple[str, str]]] = [[] for _ in bounds]
    for key, count in words.items():
        members[sum(count >= bound for bound in LENGTHS)].append(key)
    filled = [place for place, keys in enumerate(members) if keys]
    rows = []
    for place in range(filled[0], filled[-1] + 1):
        keys = members[place]
        last = place == len(bounds) - 1
        label = f"{bounds[place]:,} and more" if last else f"{bounds[place]:,}–{bounds[place + 1] - 1:,}"
        sums = [sum(run.scores[task][query] for task, query in keys) for run in shared.runs]
        rows.append(Bar(label, len(keys), [100 * total / max(len(keys), 1) for total in sums]))
    return _on_one_axis(rows, "")


def _on_one_axis(rows: list[Bar], marked: str) -> Bars:
    highest = max(value for row in rows for value in (*row.points, row.mark or 0.0))
    top = AXIS_STEP * max(1, math.ceil(highest / AXIS_STEP))
    return Bars(rows, top, marked if any(row.mark is not None for row in rows) else "")


@dataclass(frozen=True, slots=True)
class Series:
    """A retriever's curve. points: (mean tokens, nDCG@10 in points, x in percent, y in pixels). original: the point of
    the queries as they were before any rewriting, which stands apart from the line."""

    name: str
    points: list[tuple[float, float, float, float]]
    original: tuple[float, float, float, float] | None

    def segments(self) -> list[tuple[float, float, float, float]]:
        """Return the lines between neighbours, as x1, y1, x2, y2."""
        return [(a[2], a[3], b[2], b[3]) for a, b in zip(self.points, self.points[1:], strict=False)]


@dataclass(frozen=True, slots=True)
class Curve:
    """The scaling curve on a logarithmic axis of tokens. ticks: (text, place)."""

    series: list[Series]
    x_ticks: list[tuple[str, float]]
    y_ticks: list[tuple[str, float]]
    height: int = PLOT_HEIGHT


Point = tuple[float, float, bool]
"""Mean tokens, nDCG@10 in points, whether the queries are the original ones."""


def scaling_curve(runs: Sequence[MeasuredRun]) -> Curve | None:
    """Return the curve of the runs' scaling.json; None where there is none.

    Raises:
        UserError: a file that holds no usable point.
    """
    places = {run.letter: _scaling_file(run.folder) for run in runs}
    several = len(set(places.values())) > 1
    found: dict[str, list[Point]] = {}
    for letter, file in places.items() if several else list(places.items())[:1]:
        for name, point in _read_points(file) if file is not None else ():
            found.setdefault(f"{letter}: {name}" if several else name, []).append(point)
    return _place(found) if found else None


def _scaling_file(folder: Path) -> Path | None:
    """Return the scaling.json of a folder, or of the scaling run of which the folder is one point."""
    nested = folder.resolve()
    places = (folder, nested.parent, nested.parent.parent)
    return next((file for place in places if (file := place / SCALING_FILE).is_file()), None)


def _place(found: Mapping[str, list[Point]]) -> Curve:
    lengths = [x for pairs in found.values() for x, _, _ in pairs]
    values = [y for pairs in found.values() for _, y, _ in pairs]
    first, last = math.floor(math.log2(min(lengths))), math.ceil(math.log2(max(lengths)))
    last = max(last, first + 1)
    step = 5 if max(values) - min(values) < 25 else 10
    low, high = step * math.floor(min(values) / step), step * math.ceil(max(values) / step)
    high = max(high, low + step)

    def place_x(value: float) -> float:
        return round(PLOT_LEFT + (PLOT_RIGHT - PLOT_LEFT) * (math.log2(value) - first) / (last - first), 2)

    def place_y(value: float) -> float:
        return round(PLOT_TOP + (PLOT_HEIGHT - PLOT_TOP) * (high - value) / (high - low), 1)

    series = []
    for name, points in found.items():
        placed = [((x, y, place_x(x), place_y(y)), original) for x, y, original in sorted(points)]
        line = [place for place, original in placed if not original]
        series.append(Series(name, line, next((place for place, original in placed if original), None)))
    x_ticks = [(f"{2**power:,}", place_x(2**power)) for power in range(first, last + 1)]
    y_ticks = [(str(value), place_y(value)) for value in range(low, high + 1, step)]
    return Curve(series, x_ticks, y_ticks)


def _read_points(file: Path) -> list[tuple[str, Point]]:
    """Return every point that has a length and a score, with its retriever.

    The file maps each retriever to its points, as `reasonir-eval scaling` writes it, or lists points that name theirs.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: broken JSON: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("retrievers"), dict):
        rows = [(name, row) for name, points in content["retrievers"].items() for row in points]
    else:
        listed = content.get("points") if isinstance(content, dict) else content
        rows = [("", row) for row in listed] if isinstance(listed, list) else []
    points = [(name, point) for holder, row in rows if isinstance(row, dict) for name, point in _point(holder, row)]
    if not points:
        raise UserError(f"{file}: no point with mean_tokens and ndcg_at_10; run reasonir-eval scaling again")
    return points


def _point(holder: str, row: Mapping[str, Any]) -> Iterator[tuple[str, Point]]:
    tokens, score = row.get("mean_tokens", row.get("tokens_mean")), row.get("ndcg_at_10")
    if isinstance(tokens, (int, float)) and isinstance(score, (int, float)) and tokens > 0:
        name = holder or str(row.get("retriever") or row.get("name") or "retriever")
        yield name, (float(tokens), 100 * float(score), row.get("queries") == "original")
