"""Comparing folders of results: `compare_results`, top to bottom, is the main path.

Invariant: systems are compared on the same queries of the same tasks; a task or query that some system lacks is refused
or counted. A system is one folder, or several repeats whose scores are averaged query by query. Leaves the arithmetic
to `significance.py` and the page to `compare_page.py`.
"""

import difflib
import glob
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from reasonir.core.errors import UserError
from reasonir.core.files import write_json, write_jsonl, write_text
from reasonir.core.run_folder import RunFolder
from reasonir.eval.audit.compare_page import render
from reasonir.eval.audit.config import MAY_DIFFER, CompareConfig, Interval, Pairs
from reasonir.eval.benchmarks.config import with_output_dir
from reasonir.eval.scores.results import QUERIES_FILE, RESULTS_FILE, TaskResult, read_results
from reasonir.eval.scores.significance import bootstrap_interval, holm, randomisation_test, t_interval

# Scores that differ by less are a tie: averages over repeats carry the rounding of their sums.
TIE = 1e-9
Scores = dict[str, dict[str, float]]
"""Task to {query id: score}."""
TaskScores = dict[str, np.ndarray]
"""Task to scores in the order of the grid's queries: (queries,), or (repeats, queries)."""


@dataclass(frozen=True, slots=True)
class System:
    """A system to compare. folders: one a repeat. scores: one a repeat. inputs: the files that were read."""

    name: str
    folders: list[str]
    scores: list[Scores]
    inputs: list[Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTest:
    """How two systems are tested; the options of the same names say more. bca: the interval's kind."""

    confidence: float
    bca: bool
    permutations: int
    bootstrap: int
    seed: int


@dataclass(frozen=True, slots=True)
class Grid:
    """The queries to compare, by task, in the order of their ids, and how many were left out of each folder."""

    queries: dict[str, list[str]]
    left_out: dict[str, dict[str, int]]

    def repeats(self, system: System) -> TaskScores:
        """Return a system's scores by task, each (repeats, queries)."""
        return {
            task: np.array([[scores[task][query] for query in queries] for scores in system.scores])
            for task, queries in self.queries.items()
        }


def compare_results(config: CompareConfig) -> None:
    """Read the results, test every pair of systems, write comparison and differences, print the tables."""
    # 1 what is compared
    config = with_output_dir(config, "compare")
    run = RunFolder(str(config.output_dir), config, resume=True, ignored=MAY_DIFFER)
    systems = _read_systems(config.results, config.names, config.metric)
    grid = common_grid(systems, config.common_only)
    # `start` removes the manifest: results that cannot be read must leave an older comparison of this folder finished.
    run.start()
    # 2 the tests
    values = {system.name: grid.repeats(system) for system in systems}
    means = {name: {task: array.mean(axis=0) for task, array in tasks.items()} for name, tasks in values.items()}
    pairs = _choose_pairs([system.name for system in systems], config.pairs)
    test = PairedTest(
        confidence=config.confidence,
        bca=config.interval is Interval.bca,
        permutations=config.permutations,
        bootstrap=config.bootstrap,
        seed=config.seed,
    )
    comparisons = [compare_pair((a, b), (means[a], means[b]), grid, test, config.largest) for a, b in pairs]
    _correct_p_values(comparisons)
    # 3 the report
    options = ("metric", "confidence", "interval", "permutations", "bootstrap", "seed", "pairs")
    report = {name: getattr(config, name) for name in options}
    report["tasks"] = {task: len(queries) for task, queries in grid.queries.items()}
    report["left_out"] = grid.left_out
    report["systems"] = [_system_summary(system, values[system.name], config.confidence) for system in systems]
    report["comparisons"] = comparisons
    write_json(run.path / "compare.json", report)
    rows = write_jsonl(run.path / "differences.jsonl", _list_differences(pairs, means, grid))
    page = render(report)
    write_text(run.path / "compare.md", page)
    print(page)
    counts = {"systems": len(systems), "queries": sum(report["tasks"].values()), "differences": rows}
    counts |= {"left_out": grid.left_out}
    run.finish(inputs=[file for system in systems for file in system.inputs], counts=counts)
    print(f"comparison: {run.path}")


def _read_systems(results: list[str], names: list[str] | None, metric: str) -> list[System]:
    """Read every entry of `results`.

    Args:
        results: Folders of results, or patterns whose folders are the repeats of one system.
        names: One for each entry; None takes the ends of the paths.
        metric: The metric that is compared.
    Raises:
        UserError: No such folder, no results in it, an unknown metric, a score that is no finite number, one run only.
    """
    folders = [_expand(entry) for entry in results]
    if len(folders) == 1 and len(folders[0]) == 1:
        raise UserError(f"results={results} holds one run; name two, or a pattern of repeats ('runs/seed_*')")
    systems = []
    for name, places in zip(names or name_systems(results), folders, strict=True):
        found = [read_results(place) for place in places]
        scores = [
            {task: _read_scores(result, place, metric) for task, result in tasks.items()}
            for place, tasks in zip(places, found, strict=True)
        ]
        inputs = [Path(place) / RESULTS_FILE for place in places]
        inputs += [result.folder / QUERIES_FILE for tasks in found for result in tasks.values()]
        systems.append(System(name, places, scores, inputs))
    return systems


def _expand(entry: str) -> list[str]:
    """Return the folders that an entry means, in order: the entry itself, or the folders that match its pattern."""
    # A folder whose own name holds brackets or a star is that folder, not a pattern.
    if Path(entry).exists() or not glob.has_magic(entry):
        return [entry]
    matches = sorted(place for place in glob.glob(entry, recursive=True) if Path(place).is_dir())
    if not matches:
        raise UserError(f"results: no folder matches {entry!r}")
    return matches


def name_systems(entries: Sequence[str]) -> list[str]:
    """Return the shortest ends of the paths that differ from each other; equal entries are numbered."""
    parts = [Path(entry).parts for entry in entries]
    depth = 1
    while depth < max(map(len, parts)) and len({part[-depth:] for part in parts}) < len({*parts}):
        depth += 1
    # Path(".") has no parts: the entry itself is then the name.
    names = ["/".join(part[-depth:]) or entry for part, entry in zip(parts, entries, strict=True)]
    return [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names, start=1)]


def _read_scores(result: TaskResult, place: str, metric: str) -> dict[str, float]:
    """Return one task's scores by query."""
    rows = result.per_query()
    scores: dict[str, float] = {}
    for query, row in rows.items():
        if metric not in row:
            near = difflib.get_close_matches(metric, row, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(row)}"
            raise UserError(f"metric={metric} is not in {result.folder / QUERIES_FILE}; {hint}")
        score = row[metric]
        # Python counts a bool as an int, and JSON's NaN as a float.
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
            raise UserError(f"{place}: task {result.name}, query {query!r}: {metric} is {score!r}, no finite number")
        scores[query] = float(score)
    # A per_query.jsonl that was cut at the end of a line is still valid rows: the stored count finds the loss.
    if len(scores) != result.mean.get("num_queries", len(scores)):
        raise UserError(f"{place}: task {result.name} has {len(scores)} queries, its metrics.json says otherwise")
    return scores


def common_grid(systems: Sequence[System], common_only: bool) -> Grid:
    """Return the tasks and queries that every folder holds.

    Raises:
        UserError: The folders differ and `common_only` is off (the first difference is named), or nothing is common.
    """
    folders = [
        (place, scores) for system in systems for place, scores in zip(system.folders, system.scores, strict=True)
    ]
    first_place, first = folders[0]
    remedy = "; common_only=true compares what all share"
    if not common_only:
        for place, scores in folders[1:]:
            _refuse_difference("task", first, scores, first_place, place, remedy)
            for task in first:
                _refuse_difference(f"task {task}: query", first[task], scores[task], first_place, place, remedy)
    # Sorted, so that the order of queries in a file changes no draw of the tests.
    queries = {}
    for task in first:
        if all(task in scores for _, scores in folders):
            queries[task] = sorted(set.intersection(*(set(scores[task]) for _, scores in folders)))
    queries = {task: ids for task, ids in queries.items() if ids}
    if not queries:
        raise UserError(f"{first_place} and {folders[-1][0]} share no task with a query; nothing can be compared")
    # A folder that holds exactly what all share is not listed: the page names folders that lost something.
    left_out = {}
    for place, scores in folders:
        tasks = len(scores) - len(queries)
        rest = sum(len(scores[task]) - len(ids) for task, ids in queries.items())
        if tasks or rest:
            left_out[place] = {"tasks": tasks, "queries_of_common_tasks": rest}
    return Grid(queries, left_out)


def _refuse_difference(what: str, a: Any, b: Any, place_a: str, place_b: str, remedy: str) -> None:
    for own, other, holder, lacking in ((a, b, place_a, place_b), (b, a, place_b, place_a)):
        extra = [name for name in own if name not in other]
        if extra:
            more = f" and {len(extra) - 1} more" if extra[1:] else ""
            raise UserError(f"{what} {extra[0]!r}{more} is in {holder} but not in {lacking}{remedy}")


def _choose_pairs(names: Sequence[str], which: Pairs) -> list[tuple[str, str]]:
    """Return (a, b) of every comparison; differences are b - a."""
    return list(combinations(names, 2)) if which is Pairs.all else [(names[0], name) for name in names[1:]]


def compare_pair(
    names: tuple[str, str], means: tuple[TaskScores, TaskScores], grid: Grid, test: PairedTest, largest: int
) -> dict[str, Any]:
    """Return the tests of two systems by task and for the average, and the queries that moved most.

    Args:
        names: Of the systems a and b; differences are b - a.
        means: Their scores by task, averaged over repeats: (queries,).
        grid: The queries.
        test: How the systems are tested.
        largest: How many of the queries that moved most are listed.
    """
    a, b = names
    scores = dict(zip(names, means, strict=True))
    tasks = {task: _test_tasks([task], *means, test) for task in grid.queries}
    # Sorted, because the tasks' order decides which draw meets which query, and the first folder must not decide that.
    average = _test_tasks(sorted(grid.queries), *means, test) if len(tasks) > 1 else next(iter(tasks.values()))
    # Rows below TIE are rounding and would fill the list where two systems are nearly the same.
    moves = [row for row in _list_differences([names], scores, grid) if abs(row["difference"]) > TIE]
    moves.sort(key=lambda row: -abs(row["difference"]))
    keys = ("task", "id", "score_a", "score_b", "difference")
    moved_most = [{key: row[key] for key in keys} for row in moves[:largest]]
    return {"a": a, "b": b, "tasks": tasks, "average": dict(average), "largest_moves": moved_most}


def _test_tasks(tasks: Sequence[str], a: TaskScores, b: TaskScores, test: PairedTest) -> dict[str, Any]:
    """Return difference, interval, test and wins over some tasks together."""
    differences = [b[task] - a[task] for task in tasks]
    # The test drops zeros and counts sign patterns of the rest: rounding must not pass for a query that moved.
    differences = [np.where(np.abs(d) <= TIE, 0.0, d) for d in differences]
    everything = np.concatenate(differences)
    # The tasks' names seed the draws, so that a task's numbers do not depend on the other tasks of the comparison.
    label = crc32("\0".join(tasks).encode())
    # Two streams, so that another number of permutations leaves the interval as it was.
    flips, resamples = (np.random.default_rng([test.seed, use, label]) for use in (0, 1))
    chance = randomisation_test(differences, test.permutations, flips)
    interval = bootstrap_interval(differences, test.confidence, test.bootstrap, test.bca, resamples)
    return {
        "queries": len(everything),
        "mean_a": float(np.mean([a[task].mean() for task in tasks])),
        "mean_b": float(np.mean([b[task].mean() for task in tasks])),
        "difference": float(np.mean([d.mean() for d in differences])),
        "interval": interval,
        "p_value": chance.p_value,
        # `_correct_p_values` replaces this one once all pairs are tested.
        "p_value_holm": chance.p_value,
        "exact": chance.exact,
        "sign_patterns": chance.patterns,
        "wins": int(np.sum(everything > 0)),
        "ties": int(np.sum(everything == 0)),
        "losses": int(np.sum(everything < 0)),
    }


def _correct_p_values(comparisons: list[dict[str, Any]]) -> None:
    """Set the corrected p-values of all pairs: Holm over the tests of tasks, and apart over the tests of averages."""
    # Two questions, two families: which tasks differ, and whether the average does.
    by_task = [test for comparison in comparisons for test in comparison["tasks"].values()]
    for family in (by_task, [comparison["average"] for comparison in comparisons]):
        for test, corrected in zip(family, holm([test["p_value"] for test in family]), strict=True):
            test["p_value_holm"] = corrected


def _list_differences(
    pairs: Sequence[tuple[str, str]], means: Mapping[str, TaskScores], grid: Grid
) -> Iterator[dict[str, Any]]:
    """Yield a row for every pair and query.

    Args:
        pairs: Names of two systems each.
        means: Every system's scores by task, in the order of the grid's queries.
        grid: The queries.
    """
    for a, b in pairs:
        for task, queries in grid.queries.items():
            for query, score_a, score_b in zip(queries, means[a][task].tolist(), means[b][task].tolist(), strict=True):
                scores = {"score_a": score_a, "score_b": score_b, "difference": score_b - score_a}
                yield {"a": a, "b": b, "task": task, "id": query, **scores}


def _system_summary(system: System, values: TaskScores, confidence: float) -> dict[str, Any]:
    """Return a system's mean, standard deviation and interval over its repeats, by task and for the average.

    Args:
        system: The system.
        values: Its scores by task: (repeats, queries).
        confidence: Coverage of the interval.
    """
    by_repeat = {task: array.mean(axis=1) for task, array in values.items()}
    # Averaged within each repeat first: the deviation is one of whole repeats, not of tasks.
    by_repeat["average"] = np.mean(list(by_repeat.values()), axis=0)
    spread = {}
    for task, repeats in by_repeat.items():
        deviation = float(np.std(repeats, ddof=1)) if len(repeats) > 1 else None
        spread[task] = {
            "mean": float(repeats.mean()),
            "standard_deviation": deviation,
            "interval": t_interval(repeats.tolist(), confidence),
            "by_repeat": repeats.tolist(),
        }
    average = spread.pop("average")
    return {"name": system.name, "folders": system.folders, "average": average, "tasks": spread}
