"""A folder of results: every command that ranks writes one, reports and comparisons read it.

    results.json                     means of every task, and their average
    <task>/run.trec                  the ranking, exclusions applied
    <task>/per_query.jsonl           one row a query
    <task>/metrics.json              means over the queries; written last, so that its presence means "complete"

The results of a BEIR folder have no task level: their files lie beside results.json. Invariant: metrics are computed
from the hits that run.trec holds.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reasonir.core.errors import UserError
from reasonir.core.files import read_jsonl, write_json, write_jsonl
from reasonir.data.aspects import Aspect
from reasonir.data.collections import Collection
from reasonir.data.trec import Run, read_run, write_run
from reasonir.retrieval.metrics import RunMetrics, score_run

Aspects = Mapping[str, Sequence[Aspect]]
"""Query id to its aspects, where the data names them."""
RESULTS_FILE, RUN_FILE, METRICS_FILE, QUERIES_FILE = "results.json", "run.trec", "metrics.json", "per_query.jsonl"


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
        """Return every query's metrics."""
        rows = (row for _, row in read_jsonl(self.folder / QUERIES_FILE))
        return {row["id"]: {k: v for k, v in row.items() if k != "id"} for row in rows}

    def run(self) -> dict[str, dict[str, float]]:
        """Return the ranking."""
        return read_run(str(self.folder / RUN_FILE))


def read_results(folder: str | Path) -> dict[str, TaskResult]:
    """Read a folder of results as {task: its result}, in the order of results.json.

    Raises:
        UserError: no such folder, no results in it, or a task without its files.
    """
    root = Path(folder)
    file = root / RESULTS_FILE
    if not file.is_file():
        state = "holds no results.json; is its command finished?" if root.is_dir() else "no such folder"
        raise UserError(f"{root}: {state}")
    try:
        tasks = json.loads(file.read_text(encoding="utf-8"))["tasks"]
    # TypeError: valid JSON of another shape, such as a list.
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: not a results.json of ours: {error}") from error
    found = {}
    for name, mean in tasks.items():
        # BEIR's results have no task level: a task without a folder of its own lies in the root.
        place = root / name if (root / name / METRICS_FILE).is_file() else root
        for needed in (METRICS_FILE, QUERIES_FILE, RUN_FILE):
            if not (place / needed).is_file():
                raise UserError(f"{root}: task {name} lacks {needed}")
        found[name] = TaskResult(name, place, mean)
    return found
