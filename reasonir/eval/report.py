"""`reasonir-eval report`, top to bottom: one self-contained HTML page of a results folder, or of two side by side.

Invariant: the page asks for nothing outside itself, and no text of the data can become markup or script: the template
escapes, the embedded data is compressed base64, the script writes text nodes only, and the page's own policy allows
its one script by hash. Owns the page, its tables and its manifest; `report_runs.py` reads the folders,
`report_queries.py` the texts, `page/` holds the template, style and script.
"""

import base64
import hashlib
import json
import os
import time
import zlib
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from reasonir import __version__, settings
from reasonir.eval import tables
from reasonir.eval.report_charts import length_bars, scaling_curve, task_bars
from reasonir.eval.report_config import ReportConfig
from reasonir.eval.report_queries import HITS, QueryPages, collect_queries
from reasonir.eval.report_runs import Shared, open_runs, plural, share
from reasonir.eval.results import METRICS_FILE, QUERIES_FILE, RESULTS_FILE, RUN_FILE
from reasonir.runs import CONFIG_FILE, MANIFEST_FILE, build_manifest, write_json
from reasonir.schema import UserError

OWN_OPTION = "snippet_characters:"
"""Tells a report's config.yaml from another command's."""


def write_report(config: ReportConfig) -> None:
    """Read the results, gather what is shown of each query, write the page and its tables."""
    begun = time.time()
    output, beside = claim_output(config)
    shared = share(open_runs(config.results, config.names))
    table = report_table(shared)
    scaling = scaling_curve(shared.runs)
    pages = collect_queries(shared, config.data.dir, config.snippet_characters, config.query_characters)
    output.parent.mkdir(parents=True, exist_ok=True)
    (output.parent / f"{beside}{MANIFEST_FILE}").unlink(missing_ok=True)
    write_text(output.parent / f"{beside}{CONFIG_FILE}", settings.to_yaml(config))
    page = render(shared, table, pages, scaling)
    write_text(output, page)
    markdown = tables.to_markdown(table)
    if config.tables:
        write_text(output.parent / f"{beside}results.md", markdown)
        write_text(output.parent / f"{beside}results.tex", tables.to_latex(table))
    counts = {"tasks": len(shared.queries), "queries": shared.query_count, "documents": len(pages.ids)}
    manifest = build_manifest(input_files(shared), counts, begun, page_bytes=len(page.encode()))
    write_json(output.parent / f"{beside}{MANIFEST_FILE}", manifest)
    print(f"\n{markdown}")
    for note in (*shared.notes, *pages.notes):
        print(f"note: {note}")
    size = f"{len(page.encode()) / 1e6:.1f} MB"
    print(f"{output}: {shared.query_count:,} queries of {plural(len(shared.queries), 'task')}, {size}")


def claim_output(config: ReportConfig) -> tuple[Path, str]:
    """Return the page's path, and what goes before the names of the files beside it.

    A folder that another command filled keeps its config.yaml, manifest.json and results.md: ours get the page's name.
    """
    output = Path(config.output)
    for path in (output, *output.parents):
        if path.exists() and path.is_dir() == (path == output):
            kind = "folder; name a file in it" if path == output else "file; name a folder"
            raise UserError(f"output={output}: {path} is a {kind}")
    stored = output.parent / CONFIG_FILE
    foreign = stored.exists() and OWN_OPTION not in stored.read_text(encoding="utf-8", errors="replace")
    return output, f"{output.stem}." if foreign else ""


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
    style, script = _page_file("report.css"), _page_file("report.js")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["points"] = lambda value: f"{value:.1f}"
    environment.filters["difference"] = signed
    runs = shared.runs
    return environment.from_string(_page_file("report.html")).render(
        style=style,
        script=script,
        style_hash=content_hash(style),
        script_hash=content_hash(script),
        runs=runs,
        averages=[100 * shared.average(run) for run in runs],
        tasks=list(shared.queries),
        query_count=shared.query_count,
        changes=_changes(shared),
        notes=[*shared.notes, *pages.notes],
        facts=_side_by_side([dict(run.facts()) for run in runs]),
        options=_side_by_side([run.flat_options() for run in runs]),
        table=table,
        short_names=tables.SHORT_NAMES,
        task_bars=task_bars(shared),
        length_bars=length_bars(shared, pages.words),
        scaling=scaling,
        hits=HITS,
        data=pack(_embedded(shared, pages)),
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        version=__version__,
    )


def _page_file(name: str) -> str:
    return (files("reasonir.eval") / "page" / name).read_text(encoding="utf-8")


def signed(value: float) -> str:
    """Return a difference in points with its sign; zero, as printed, has none."""
    text = f"{value:+.1f}".replace("-", "−")
    return "0.0" if text in ("+0.0", "−0.0") else text


def content_hash(content: str) -> str:
    """Return the hash by which a content security policy names an inline style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def pack(value: Any) -> str:
    """Return JSON as base64 of a zlib stream: small, and without a character that HTML could read as markup."""
    raw = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return base64.b64encode(zlib.compress(raw, 9)).decode()


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


def write_text(path: Path, text: str) -> None:
    """Write a file that appears complete or not at all."""
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)
