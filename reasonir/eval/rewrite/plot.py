"""The plot of retrieval over query length: one line a retriever, named at its end.

Owns scaling.png and scaling.svg; the same curves give the same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Okabe and Ito's colours, which colour-blind readers tell apart; the eighth line starts again with another dash.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
MARKERS = "osD^vP*X"
# Size of a label in the font of 9 points: its line in points, a character in inches.
LINE_HEIGHT_POINTS, CHARACTER_INCHES = 11.0, 0.075
LONGEST_LABEL = 34
TEXT_COLOUR = "#222222"


@dataclass(frozen=True, slots=True)
class Curve:
    """One retriever: its original queries (tokens, score), and lengths, scores and spreads of the rewritten ones."""

    label: str
    original: tuple[float, float]
    tokens: Sequence[float]
    points: Sequence[float]
    spread: Sequence[float]


def draw(folder: Path, curves: Sequence[Curve], x_label: str, y_label: str) -> None:
    """Write scaling.png and scaling.svg.

    Args:
        folder: Where they are written.
        curves: One a retriever, in the order of the colours.
        x_label: Of the horizontal axis, in tokens.
        y_label: Of the vertical axis.
    """
    import matplotlib

    # Draws into files, also on a machine without a display.
    matplotlib.use("Agg")
    from matplotlib import pyplot

    height = max(3.6, 1.6 + len(curves) * LINE_HEIGHT_POINTS / 72)
    width = 6.0 + max(len(_shown(curve.label)) for curve in curves) * CHARACTER_INCHES
    # A fixed salt for the ids and no date: the same curves give the same bytes.
    style: Any = {"svg.hashsalt": "scaling", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
        for number, curve in enumerate(curves):
            _draw_curve(axes, curve, number)
        _scale(axes, curves)
        axes.set_xlabel(f"{x_label}\nhollow: the queries as they are")
        axes.set_ylabel(y_label)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        _name_lines(axes, curves, height)
        # matplotlib's version would be part of the bytes.
        figure.savefig(folder / "scaling.png", dpi=150, metadata={"Software": None})
        figure.savefig(folder / "scaling.svg", metadata={"Date": None, "Creator": None})
        # pyplot keeps every figure that nobody closes.
        pyplot.close(figure)


def _look(number: int) -> tuple[str, Any, str]:
    """Return colour, dash and marker of a line."""
    return (
        COLOURS[number % len(COLOURS)],
        DASHES[number // len(COLOURS) % len(DASHES)],
        MARKERS[number % len(MARKERS)],
    )


def _draw_curve(axes: Any, curve: Curve, number: int) -> None:
    colour, dash, marker = _look(number)
    axes.plot(curve.tokens, curve.points, color=colour, linestyle=dash, marker=marker, markersize=4.5, linewidth=1.5)
    if any(curve.spread):
        axes.errorbar(curve.tokens, curve.points, curve.spread, color=colour, linestyle="none", capsize=3, linewidth=1)
    tokens, points = curve.original
    # Joined only where the original queries are the shortest: a line back would cross the curve.
    if tokens < curve.tokens[0]:
        line = ([tokens, curve.tokens[0]], [points, curve.points[0]])
        axes.plot(*line, color=colour, linestyle=(0, (1, 3)), linewidth=1)
    axes.plot(tokens, points, color=colour, marker=marker, markersize=5.5, markerfacecolor="white", linestyle="none")


def _scale(axes: Any, curves: Sequence[Curve]) -> None:
    """Make the horizontal axis logarithmic, with powers of two as plain numbers."""
    axes.set_xscale("log", base=2)
    tokens = [value for curve in curves for value in (*curve.tokens, curve.original[0])]
    low, high = min(tokens) / 1.25, max(tokens) * 1.25
    axes.set_xlim(low, high)
    ticks = [2**n for n in range(24) if low <= 2**n <= high]
    if len(ticks) < 2:  # lengths that lie close together
        ticks = sorted({round(min(tokens)), round(max(tokens))})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()


def _name_lines(axes: Any, curves: Sequence[Curve], height: float) -> None:
    """Write each label beside its line's end, moved up or down where they would touch, with a thin line to it."""
    low, high = axes.get_ylim()
    # About an inch of the height is axis, labels and margins.
    step = LINE_HEIGHT_POINTS / 72 / (height - 1.0) * (high - low)
    # In the order of the lines' ends, so that the thin lines to the labels do not cross.
    order = sorted(range(len(curves)), key=lambda n: curves[n].points[-1])
    places = spread_out([curves[n].points[-1] for n in order], step, low, high)
    left, right = axes.get_xlim()
    # The label's marker stands 2 % of the axis beside the plot, so that nobody takes it for a measured point.
    right *= (right / left) ** 0.02
    for number, place in zip(order, places, strict=True):
        curve, (colour, _, marker) = curves[number], _look(number)
        axes.annotate(
            "",
            xy=(curve.tokens[-1], curve.points[-1]),
            xytext=(right, place),
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4},
        )
        axes.plot(right, place, color=colour, marker=marker, markersize=4.5, clip_on=False)
        offset = {"xytext": (6, 0), "textcoords": "offset points", "annotation_clip": False}
        axes.annotate(_shown(curve.label), (right, place), color=TEXT_COLOUR, va="center", ha="left", **offset)


def _shown(label: str) -> str:
    """Return a label cut at its beginning where it is too long, because paths differ at their end."""
    return label if len(label) <= LONGEST_LABEL else f"…{label[1 - LONGEST_LABEL :]}"


def spread_out(values: Sequence[float], step: float, low: float, high: float) -> list[float]:
    """Return ascending values, moved as little as needed to lie `step` apart, within [low, high] where they fit.

    Values that would touch form a block around their common middle; blocks that then touch are joined.

    Args:
        values: Ascending.
        step: Least distance.
        low: Lower end.
        high: Upper end.
    """
    blocks: list[list[float]] = []  # of members' values
    for value in values:
        blocks.append([value])
        while len(blocks) > 1 and _top(blocks[-2], step, low, high) + step > _bottom(blocks[-1], step, low, high):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    return [_bottom(block, step, low, high) + n * step for block in blocks for n in range(len(block))]


def _bottom(block: Sequence[float], step: float, low: float, high: float) -> float:
    extent = (len(block) - 1) * step
    bottom = sum(block) / len(block) - extent / 2
    return max(low, min(bottom, high - extent))


def _top(block: Sequence[float], step: float, low: float, high: float) -> float:
    return _bottom(block, step, low, high) + (len(block) - 1) * step
