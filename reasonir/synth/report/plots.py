"""report.png: lengths, lexical overlap, ranks of the source."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from reasonir.synth.report.ranks import rank_buckets

# Width of a bar in the plot of lengths.
BIN_WORDS = 20


def draw_plots(
    folder: Path,
    lengths: Mapping[str, Counter[int]],
    overlaps: Mapping[str, Counter[int]],
    ranks: Mapping[str, Sequence[int | None]],
) -> None:
    """Write report.png.

    Args:
        folder: Where.
        lengths: Of each side, in words.
        overlaps: Of positives and negatives, in %.
        ranks: Of the source, by the retriever's name.
    """
    # Not pyplot, which keeps figures and a backend for the whole process.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, sides, width in ((axes[0], lengths, BIN_WORDS), (axes[1], overlaps, 5)):
        for side, counts in sides.items():
            if counts:
                bins = range(0, max(counts) + 2 * width, width) if width == BIN_WORDS else range(0, 105, width)
                axis.hist(list(counts), weights=list(counts.values()), bins=bins, histtype="step", label=side)
    for number, (name, found) in enumerate(ranks.items()):
        buckets = rank_buckets(found)
        places = [place + 0.4 * number for place in range(len(buckets))]
        axes[2].bar(places, list(buckets.values()), width=0.4, label=name)
        axes[2].set_xticks(places, list(buckets))
    titles = ("length, words", "query's content words found in it, %", "rank of the positive")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    figure.savefig(folder / "report.png", dpi=110)
