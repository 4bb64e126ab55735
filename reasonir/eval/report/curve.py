"""The scaling curve of a run: nDCG@10 by length of the rewritten query, as numbers that the page draws.

Invariant: horizontal places are percentages, so that the curve fits any width without shrinking its words.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.eval.report.runs import MeasuredRun

SCALING_FILE = "scaling.json"
# Of the curve: pixels, pixels, percent, percent.
PLOT_HEIGHT, PLOT_TOP, PLOT_LEFT, PLOT_RIGHT = 240, 20, 8.0, 95.0


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A point: mean tokens of the queries, nDCG@10 in points, and its place (x in percent, y in pixels).

    original: of the queries as they were before any rewriting; it stands apart from the line.
    """

    tokens: float
    value: float
    original: bool
    x: float = 0.0
    y: float = 0.0


@dataclass(frozen=True, slots=True)
class Series:
    """A retriever's points, by length."""

    name: str
    points: list[CurvePoint]

    def segments(self) -> list[tuple[CurvePoint, CurvePoint]]:
        """Return the lines between neighbours."""
        line = [point for point in self.points if not point.original]
        return list(pairwise(line))


@dataclass(frozen=True, slots=True)
class Curve:
    """The curve on a logarithmic axis of tokens. ticks: (text, place)."""

    series: list[Series]
    x_ticks: list[tuple[str, float]]
    y_ticks: list[tuple[str, float]]
    height: int = PLOT_HEIGHT

    @property
    def has_originals(self) -> bool:
        """Whether any point is of the original queries."""
        return any(point.original for series in self.series for point in series.points)


def scaling_curve(runs: Sequence[MeasuredRun]) -> Curve | None:
    """Return the curve of the runs' scaling.json; None where there is none.

    Raises:
        UserError: a file that holds no usable point.
    """
    places = {run.letter: _scaling_file(run.folder) for run in runs}
    # Two runs that are points of one curve share its file, which is drawn once and needs no letters.
    several = len(set(places.values())) > 1
    found: dict[str, list[CurvePoint]] = {}
    for letter, file in places.items() if several else list(places.items())[:1]:
        for name, point in _read_points(file) if file is not None else ():
            found.setdefault(f"{letter}: {name}" if several else name, []).append(point)
    return _place(found) if found else None


def _scaling_file(folder: Path) -> Path | None:
    """Return the scaling.json of a folder, or of the scaling run of which the folder is one point."""
    nested = folder.resolve()
    # A point of a curve lies in CURVE/<retriever>/<rewriting>.
    places = (folder, nested.parent, nested.parent.parent)
    return next((file for place in places if (file := place / SCALING_FILE).is_file()), None)


def _place(found: Mapping[str, list[CurvePoint]]) -> Curve:
    points = [point for each in found.values() for point in each]
    # Axes end at powers of two (tokens) and at multiples of 5 or 10 (points) around what is drawn.
    lengths, values = [point.tokens for point in points], [point.value for point in points]
    first, last = math.floor(math.log2(min(lengths))), math.ceil(math.log2(max(lengths)))
    # Points of one length would leave an axis without any extent.
    last = max(last, first + 1)
    step = 5 if max(values) - min(values) < 25 else 10
    low, high = step * math.floor(min(values) / step), step * math.ceil(max(values) / step)
    # As above, for equal scores.
    high = max(high, low + step)

    def place_x(tokens: float) -> float:
        return round(PLOT_LEFT + (PLOT_RIGHT - PLOT_LEFT) * (math.log2(tokens) - first) / (last - first), 2)

    def place_y(value: float) -> float:
        return round(PLOT_TOP + (PLOT_HEIGHT - PLOT_TOP) * (high - value) / (high - low), 1)

    series = [
        Series(
            name,
            [
                replace(point, x=place_x(point.tokens), y=place_y(point.value))
                for point in sorted(each, key=lambda point: (not point.original, point.tokens, point.value))
            ],
        )
        for name, each in found.items()
    ]
    x_ticks = [(f"{2**power:,}", place_x(2**power)) for power in range(first, last + 1)]
    y_ticks = [(str(value), place_y(value)) for value in range(low, high + 1, step)]
    return Curve(series, x_ticks, y_ticks)


def _read_points(file: Path) -> list[tuple[str, CurvePoint]]:
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
    points = [found for holder, row in rows if isinstance(row, dict) for found in _read_point(holder, row)]
    if not points:
        raise UserError(f"{file}: no point with mean_tokens and ndcg_at_10; run reasonir-eval scaling again")
    return points


def _read_point(holder: str, row: Mapping[str, Any]) -> Iterator[tuple[str, CurvePoint]]:
    # `reasonir-eval scaling` calls the length tokens_mean.
    tokens, score = row.get("mean_tokens", row.get("tokens_mean")), row.get("ndcg_at_10")
    # A point without tokens has no place on a logarithmic axis.
    if isinstance(tokens, (int, float)) and isinstance(score, (int, float)) and tokens > 0:
        name = holder or str(row.get("retriever") or row.get("name") or "retriever")
        yield name, CurvePoint(float(tokens), 100 * float(score), row.get("queries") == "original")
