"""The page of one run or of two side by side: figures, the table beside the published rows, charts, the queries."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from reasonir.core.files import CONFIG_FILE, MANIFEST_FILE
from reasonir.data.bright import BRIGHT_TASKS
from reasonir.eval.report.curve import scaling_curve
from reasonir.eval.report.page import Bar, BarChart, Filter, Page, Side, pack_list
from reasonir.eval.report.provenance import option_texts, side_by_side
from reasonir.eval.report.query_items import QueryItems
from reasonir.eval.report.runs import Shared
from reasonir.eval.scores import tables
from reasonir.eval.scores.published import BRIGHT_SIZES, ORIGINAL, why_not_comparable
from reasonir.eval.scores.results import METRICS_FILE, QUERIES_FILE, RESULTS_FILE, RUN_FILE

# Bounds of the bins by query length, in words.
LENGTHS = (16, 32, 64, 128, 256, 512, 1024)
# Axes end at a multiple of so many points.
AXIS_STEP = 10


def rankings_page(shared: Shared, table: tables.Table, items: QueryItems) -> Page:
    """Return the page of the runs.

    Args:
        shared: the runs and their common queries.
        table: our rows beside the published ones.
        items: what is shown of every query.
    """
    runs, tasks = shared.runs, list(shared.queries)
    two = len(runs) == 2
    sides = [Side(run.name, run.letter) for run in runs]
    filters = [Filter("task", "Task", "all tasks", tasks)] if len(tasks) > 1 else []
    words = {"items": "queries", "nothing": "No query fits.", "passage": "Document", "hits": "First hits"}
    # All queries are one chunk: they share documents, and each document's text is stored once.
    data = pack_list(
        sides, [[0, 1]] if two else [], filters, words | {"unknown": "text not known"}, len(items.listed),
        items.listed if filters else [{**item, "parts": []} for item in items.listed],
    )  # fmt: skip
    charts = [_task_bars(shared), _length_bars(shared, items.words)]
    return Page(
        kind="Retrieval report",
        title=" and ".join(run.name for run in runs),
        sides=sides,
        notes=[*shared.notes, *table.notes, *items.notes],
        facts=side_by_side([run.facts() for run in runs]),
        options=side_by_side([option_texts(run.options) for run in runs]),
        # One task needs no chart by task.
        charts=charts if len(tasks) > 1 else charts[1:],
        noun="queries",
        filters=filters,
        packed={"data": data, "texts-0": items.passages.chunk(items.opened)},
        count=shared.query_count,
        table=table,
        averages=[100 * shared.average(run) for run in runs],
        changes=_changes(shared),
        curve=scaling_curve(runs),
    )


def report_table(shared: Shared) -> tables.Table:
    """Return our rows over the shared queries, beside all published ones."""
    rows = [
        tables.Measured(
            run.name,
            {task: shared.mean(run, task) for task in shared.queries},
            run.queries if run.compares_with_bright else None,
        )
        for run in shared.runs
    ]
    return tables.build_table(rows, averaged=len(shared.queries) > 1, sizes=shared.sizes(), both_kinds=True)


def input_files(shared: Shared) -> list[Path]:
    """Return the files of the results that the page was made of."""
    found = []
    for run in shared.runs:
        found += [run.folder / RESULTS_FILE, run.folder / CONFIG_FILE, run.folder / MANIFEST_FILE]
        for task in shared.queries:
            found += [run.tasks[task].folder / name for name in (METRICS_FILE, QUERIES_FILE, RUN_FILE)]
    return [path for path in found if path.is_file()]


def _changes(shared: Shared) -> dict[str, int] | None:
    """Return on how many queries the second run is better, worse and equal; None for one run."""
    if len(shared.runs) == 1:
        return None
    a, b = (run.scores for run in shared.runs)
    moves = [b[task][query] - a[task][query] for task, queries in shared.queries.items() for query in queries]
    better, worse = sum(move > 0 for move in moves), sum(move < 0 for move in moves)
    return {"better": better, "worse": worse, "equal": len(moves) - better - worse}


def _task_bars(shared: Shared) -> BarChart:
    """Return one row a task, the published ReasonIR-8B marked where it ranked the same queries."""
    reference, sizes = dict(zip(BRIGHT_TASKS, ORIGINAL[0].points, strict=True)), shared.sizes()
    # A published value is marked only where it was measured on the same queries and documents.
    comparable = all(run.compares_with_bright and run.queries == "original" for run in shared.runs)
    full = {task for task in sizes if comparable and task in BRIGHT_SIZES and not why_not_comparable(task, sizes[task])}
    rows = [
        Bar(
            task,
            len(queries),
            [100 * shared.mean(run, task) for run in shared.runs],
            reference[task] if task in full else None,
        )
        for task, queries in shared.queries.items()
    ]
    marked = f"{ORIGINAL[0].system} as published ({ORIGINAL[0].source})"
    caption = "nDCG@10 in points, and the number of queries."
    chart = BarChart(id="tasks", title="By task", link="Tasks", caption=caption, first="Task", heads=(), rows=rows)
    return _on_one_axis(chart, len(shared.runs), marked)


def _length_bars(shared: Shared, words: Mapping[tuple[str, str], int]) -> BarChart:
    """Return one row a bin of query lengths, over the queries of all tasks; no row where no text is known."""
    bounds = [0, *LENGTHS]
    members: list[list[tuple[str, str]]] = [[] for _ in bounds]
    for key, count in words.items():
        # The number of bounds that a length reaches is the place of its bin.
        members[sum(count >= bound for bound in LENGTHS)].append(key)
    # Empty bins at either end are left out; one between others is shown, with dashes.
    filled = [place for place, keys in enumerate(members) if keys]
    rows = []
    for place in range(filled[0], filled[-1] + 1) if filled else ():
        keys = members[place]
        last = place == len(bounds) - 1
        label = f"{bounds[place]:,} and more" if last else f"{bounds[place]:,}–{bounds[place + 1] - 1:,}"
        sums = [sum(run.scores[task][query] for task, query in keys) for run in shared.runs]
        rows.append(Bar(label, len(keys), [100 * total / len(keys) if keys else None for total in sums]))
    in_a = " in A" if len(shared.runs) > 1 else ""
    caption = f"nDCG@10 in points by words of the query{in_a}, and the number of queries, all tasks together."
    title = "By query length"
    chart = BarChart(
        id="lengths", title=title, link="Query length", caption=caption, first="Words", heads=(), rows=rows
    )
    return _on_one_axis(chart, len(shared.runs))


def _on_one_axis(chart: BarChart, runs: int, marked: str = "") -> BarChart:
    """Return a chart with the columns of one run or of two, and an axis that holds all its values."""
    highest = max((value or 0.0 for row in chart.rows for value in (*row.points, row.mark)), default=0.0)
    return replace(
        chart,
        heads=["nDCG@10"] if runs == 1 else [0, 1],
        top=AXIS_STEP * max(1, math.ceil(highest / AXIS_STEP)),
        last="B − A" if runs > 1 else "",
        marked=marked if any(row.mark is not None for row in chart.rows) else "",
    )
