"""`reasonir-eval report`, top to bottom: one self-contained HTML page of a results folder, or of two side by side.

Invariant: only what every run has is compared. `report_runs.py` reads the folders, `report_queries.py` the texts,
`page_file.py` fills and writes the page; a folder of answers has a page of its own, `rag/page.py`.
"""

import time
from pathlib import Path
from typing import Any

from reasonir.core.files import CONFIG_FILE, MANIFEST_FILE
from reasonir.eval.report.answers_page import holds_answers, write_answers_page
from reasonir.eval.report.charts import length_bars, scaling_curve, task_bars
from reasonir.eval.report.config import ReportConfig
from reasonir.eval.report.page_file import claim_output, fill_page, pack, publish
from reasonir.eval.report.queries import HITS, QueryPages, collect_queries
from reasonir.eval.report.runs import Shared, open_runs, plural, share
from reasonir.eval.scores import tables
from reasonir.eval.scores.results import METRICS_FILE, QUERIES_FILE, RESULTS_FILE, RUN_FILE


def write_report(config: ReportConfig) -> None:
    """Read the results, gather what is shown of each query, write the page and its tables."""
    if holds_answers(config.results):
        write_answers_page(config)
        return
    begun = time.time()
    output, beside = claim_output(config)
    shared = share(open_runs(config.results, config.names))
    table = report_table(shared)
    scaling = scaling_curve(shared.runs)
    pages = collect_queries(shared, config.data.dir, config.snippet_characters, config.query_characters)
    page = render(shared, table, pages, scaling)
    markdown = tables.to_markdown(table)
    written = {"results.md": markdown, "results.tex": tables.to_latex(table)} if config.tables else {}
    counts = {"tasks": len(shared.queries), "queries": shared.query_count, "documents": len(pages.ids)}
    publish(config, output, beside, page, written, input_files(shared), counts, begun)
    print(f"\n{markdown}")
    for note in (*shared.notes, *pages.notes):
        print(f"note: {note}")
    size = f"{len(page.encode()) / 1e6:.1f} MB"
    print(f"{output}: {shared.query_count:,} queries of {plural(len(shared.queries), 'task')}, {size}")


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
    return tables.build_table(rows, averaged=len(shared.queries) > 1, both_kinds=True)


def input_files(shared: Shared) -> list[Path]:
    """Return the files of the results that the page was made of."""
    found = []
    for run in shared.runs:
        found += [run.folder / RESULTS_FILE, run.folder / CONFIG_FILE, run.folder / MANIFEST_FILE]
        for task in shared.queries:
            found += [run.tasks[task].folder / name for name in (METRICS_FILE, QUERIES_FILE, RUN_FILE)]
    return [path for path in found if path.is_file()]


def render(shared: Shared, table: tables.Table, pages: QueryPages, scaling: Any) -> str:
    """Return the page."""
    runs = shared.runs
    values = {
        "runs": runs,
        "averages": [100 * shared.average(run) for run in runs],
        "tasks": list(shared.queries),
        "query_count": shared.query_count,
        "changes": _changes(shared),
        "notes": [*shared.notes, *pages.notes],
        "facts": _side_by_side([dict(run.facts()) for run in runs]),
        "options": _side_by_side([run.flat_options() for run in runs]),
        "table": table,
        "short_names": tables.SHORT_NAMES,
        "task_bars": task_bars(shared),
        "length_bars": length_bars(shared, pages.words),
        "scaling": scaling,
        "hits": HITS,
    }
    return fill_page("report.html", "report.js", {"data": pack(_embedded(shared, pages))}, values)


def _embedded(shared: Shared, pages: QueryPages) -> dict[str, Any]:
    return {
        "runs": [{"letter": run.letter, "name": run.name} for run in shared.runs],
        "tasks": list(shared.queries),
        "ids": pages.ids,
        "texts": pages.texts,
        "queries": pages.queries,
    }


def _changes(shared: Shared) -> dict[str, int] | None:
    """Return on how many queries the second run is better, worse and equal; None for one run."""
    if len(shared.runs) == 1:
        return None
    a, b = (run.scores for run in shared.runs)
    differences = [b[task][query] - a[task][query] for task, queries in shared.queries.items() for query in queries]
    better, worse = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return {"better": better, "worse": worse, "equal": len(differences) - better - worse}


def _side_by_side(columns: list[dict[str, str]]) -> list[tuple[str, list[str]]]:
    """Return (name, values) for every name that any column has a value for."""
    names = dict.fromkeys(name for column in columns for name, value in column.items() if value)
    names = {name: None for column in columns for name in column if name in names}
    return [(name, [column.get(name, "") for column in columns]) for name in names]
