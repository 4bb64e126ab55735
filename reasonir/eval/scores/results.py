"""A folder of results: every command that ranks writes one, reports and comparisons read it.

    results.json                     means of every task, and their average
    <task>/run.trec                  the ranking, exclusions applied
    <task>/per_query.jsonl           one row a query
    <task>/metrics.json              means over the queries; written last, so that its presence means "complete"

The results of a BEIR folder have no task level: their files lie beside results.json. Invariant: metrics are computed
from the hits that run.trec holds.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import MANIFEST_FILE, read_jsonl, under, write_json, write_jsonl
from reasonir.core.stamp import checksums, read_stamp, unchanged
from reasonir.data.aspects import Aspect
from reasonir.data.collections import Collection
from reasonir.data.rows import add_once
from reasonir.data.trec import Run, read_run, write_run
from reasonir.retrieval.metrics import RunMetrics, score_run

Aspects = Mapping[str, Sequence[Aspect]]
"""Query id to its aspects, where the data names them."""
RESULTS_FILE, RUN_FILE, METRICS_FILE, QUERIES_FILE = "results.json", "run.trec", "metrics.json", "per_query.jsonl"
TASK_FILES = (METRICS_FILE, QUERIES_FILE, RUN_FILE)


def qrels_of(collection: Collection) -> dict[str, dict[str, int]]:
    """Return the judged queries of a collection, with their grades."""
    return {query.id: dict(query.gold) for query in collection.queries if query.gold}


def aspects_of(collection: Collection) -> Aspects:
    """Return the aspects of a collection's judged queries; empty where it names none."""
    return {query.id: query.aspects for query in collection.queries if query.gold and query.aspects}


def write_task(
    folder: Path,
    run: Run,
    qrels: Mapping[str, Mapping[str, int]],
    label: str,
    aspects: Aspects | None = None,
) -> RunMetrics:
    """Score a run and write it with its metrics into a task's folder.

    Args:
        folder: The task's folder; it is made where it is missing.
        run: The ranking, without excluded documents.
        qrels: The judged queries.
        label: The run's name in the last column of run.trec.
        aspects: The aspects of every judged query; None or empty where the data names none.
    """
    scored = score_run(run, qrels, aspects=aspects)
    folder.mkdir(parents=True, exist_ok=True)
    # metrics.json goes first and comes last: a kill in between leaves a task that does not look complete.
    (folder / METRICS_FILE).unlink(missing_ok=True)
    write_run(folder / RUN_FILE, run, label)
    write_jsonl(folder / QUERIES_FILE, [{"id": i, **values} for i, values in scored.per_query.items()])
    write_json(folder / METRICS_FILE, scored.mean)
    return scored


def results_checksums(root: Path, tasks: Iterable[Path]) -> dict[str, str]:
    """Return the checksums of all files of a folder of results, for `outputs` of its manifest.

    Args:
        root: The folder.
        tasks: The folders of its tasks.
    """
    names = [place.relative_to(root) / name for place in tasks for name in TASK_FILES]
    return checksums(root, [RESULTS_FILE, *map(str, names)])


def macro_average(results: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the unweighted mean over tasks of every metric, as BRIGHT averages; `num_queries` is summed.

    A metric over aspects has no average where one of the tasks names no aspects.
    """
    # The names that all tasks have: one aspect metric over half of the tasks would be an average of other tasks.
    names = [name for name in next(iter(results.values())) if all(name in row for row in results.values())]
    mean = {name: sum(row[name] for row in results.values()) / len(results) for name in names}
    mean["num_queries"] = sum(row["num_queries"] for row in results.values())
    return mean


def write_results(folder: Path, tasks: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Write results.json of all tasks' means; return their average."""
    average = macro_average(tasks)
    write_json(folder / RESULTS_FILE, {"tasks": dict(tasks), "average": average})
    return average


@dataclass(frozen=True, slots=True)
class TaskResult:
    """One task of a folder of results. folder: holds its run. mean: every metric's mean over its queries."""

    name: str
    folder: Path
    mean: dict[str, float]

    def per_query(self) -> dict[str, dict[str, float]]:
        """Return every query's metrics; a row of another form, or a query with other values, is refused."""
        file, found = self.folder / QUERIES_FILE, dict[str, dict[str, float]]()
        for line, row in read_jsonl(file):
            identifier = row.pop("id", None)
            # A bool is a number to Python.
            if not isinstance(identifier, str) or {type(value) for value in row.values()} - {int, float}:
                raise UserError(f"{file}:{line}: a row needs a string `id`, and numbers; rank and score again")
            add_once(found, identifier, row, f"{file}:{line}", "query")
        return found

    def run(self) -> dict[str, dict[str, float]]:
        """Return the ranking."""
        return read_run(str(self.folder / RUN_FILE))


def read_results(folder: str | Path) -> dict[str, TaskResult]:
    """Read a folder of results as {task: its result}, in the order of results.json.

    Raises:
        UserError: no such folder, no results in it, a task without its files, or files that were changed or damaged.
    """
    root = Path(folder)
    file = root / RESULTS_FILE
    if not file.is_file():
        state = "holds no results.json; is its command finished?" if root.is_dir() else "no such folder"
        raise UserError(f"{root}: {state}")
    found = {}
    for name, mean in _read_means(file).items():
        # BEIR's results have no task level: a task without a folder of its own lies in the root.
        nested = under(root, name, str(file))
        place = nested if (nested / METRICS_FILE).is_file() else root
        for needed in TASK_FILES:
            if not (place / needed).is_file():
                raise UserError(f"{root}: task {name} lacks {needed}")
        if _read_json(place / METRICS_FILE) != mean:
            raise UserError(f"{place / METRICS_FILE} and {file} tell different means of {name}; run the command again")
        found[name] = TaskResult(name, place, mean)
    _require_unchanged(root, {result.folder for result in found.values()})
    return found


def _read_means(file: Path) -> dict[str, dict[str, float]]:
    tasks = _read_json(file).get("tasks")
    means = list(tasks.values()) if isinstance(tasks, dict) else [None]
    if not all(isinstance(mean, dict) and all(map(_is_number, mean.values())) for mean in means):
        raise UserError(f"{file}: not a results.json of ours: `tasks` must hold the means of each task as numbers")
    assert isinstance(tasks, dict)
    return tasks


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not a {file.name} of ours: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: not a {file.name} of ours: it holds no object")
    return content


def _require_unchanged(root: Path, places: Iterable[Path]) -> None:
    """Refuse results that are not as their command wrote them, where its manifest tells."""
    manifest = root / MANIFEST_FILE
    stamp = read_stamp(manifest) if manifest.exists() else {}
    if stamp is None:
        raise UserError(f"{manifest} is damaged; run the command of {root} again")
    told = stamp.get("outputs", {})
    for file in (root / RESULTS_FILE, *(place / name for place in places for name in TASK_FILES)):
        name = str(file.relative_to(root))
        if name in told and not unchanged(root, {name: told[name]}):
            raise UserError(
                f"{file} is not what its command wrote; run it again, or remove {manifest} to take it as it is"
            )
