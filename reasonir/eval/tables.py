"""Tables of results: ours beside the published rows.

Owns results.md and what is printed at the end. Leaves numbers to `metrics.py` and `published.py`.
"""

from collections.abc import Mapping
from pathlib import Path

from reasonir.eval.config import BRIGHT_TASKS
from reasonir.eval.published import published_rows

ASPECT_METRICS = {
    "alpha-nDCG@10": "alpha_ndcg_at_10",
    "alpha-nDCG@25": "alpha_ndcg_at_25",
    "aspect recall@10": "aspect_recall_at_10",
    "aspect recall@25": "aspect_recall_at_25",
}
"""Shown beside nDCG@10 where the data names aspects."""


def write_table(
    folder: Path,
    results: dict[str, dict[str, float]],
    average: dict[str, float] | None,
    beside: str | None,
    title: str,
    above: Mapping[str, tuple[dict[str, float], float]] | None = None,
) -> None:
    """Write results.md: nDCG@10 in points per task, and the published rows where the tasks are BRIGHT's.

    Tasks that name aspects are followed by a table of the metrics over them.

    Args:
        beside: kind of queries whose published rows stand beneath ("original" or a rewriting); None for none.
        above: further rows of ours, by title, to stand before the results: nDCG@10 by task, and its average.
    """
    tasks = list(results)
    header = [f"| nDCG@10 | {' | '.join(tasks)} |{' average |' if average else ''}"]
    header.append(f"|---|{'---|' * (len(tasks) + bool(average))}")
    rows = []
    for name, (values, mean) in (above or {}).items():
        cells = [f"{100 * value:.1f}" for value in (*(values[task] for task in tasks), *([mean] if average else []))]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    cells = [f"{100 * results[task]['ndcg_at_10']:.1f}" for task in tasks]
    if average:
        cells.append(f"{100 * average['ndcg_at_10']:.1f}")
    rows.append(f"| **{title}** | {' | '.join(cells)} |")
    known = [task for task in tasks if task in BRIGHT_TASKS]
    if known and average and beside is not None:
        for name, points in published_rows(beside):
            cells = [f"{points[task]:.1f}" if task in points else "" for task in tasks]
            whole = f"{points['average']:.1f}" if len(known) == len(BRIGHT_TASKS) else ""
            rows.append(f"| {name} | {' | '.join(cells)} | {whole} |")
    text = "\n".join([*header, *rows]) + "\n"
    if known and average and beside is not None:
        text += "\nPublished rows: arXiv 2504.20595 and arXiv 2407.12883. The averages are over all 12 tasks.\n"
    text += _aspect_table(results)
    (folder / "results.md").write_text(text, encoding="utf-8")
    print(f"\n{text}")


def _aspect_table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Return the table of metrics over aspects, in points; nothing where no task names any."""
    named = {task: row for task, row in results.items() if "alpha_ndcg_at_10" in row}
    if not named:
        return ""
    lines = ["", f"| over aspects | {' | '.join(named)} | average |", f"|---|{'---|' * (len(named) + 1)}"]
    for title, metric in ASPECT_METRICS.items():
        values = [row[metric] for row in named.values()]
        cells = [f"{100 * value:.1f}" for value in [*values, sum(values) / len(values)]]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
