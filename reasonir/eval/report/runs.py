"""The runs of a report: their scores, and the queries that they share.

Invariant: only queries that every run has are compared; the others are counted. Leaves texts to `query_items.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import read_jsonl
from reasonir.data.open_source import RankedData, ranked_data
from reasonir.data.rewritings import ORIGINAL
from reasonir.eval.report.provenance import facts_of, mapping, model_of, plural, read_manifest, read_options
from reasonir.eval.scores.published import BRIGHT_SIZES, TaskSize
from reasonir.eval.scores.results import QUERIES_FILE, TaskResult, read_results

METRIC = "ndcg_at_10"
LETTERS = "AB"


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """One folder of results.

    options: its config.yaml. source: the data that it ranked. manifest: its manifest.json.
    Both are empty where there is none. finished: when the manifest was written. scores: nDCG@10 by task and query.
    """

    letter: str
    name: str
    folder: Path
    options: dict[str, Any]
    source: RankedData
    manifest: dict[str, Any]
    finished: str
    tasks: dict[str, TaskResult]
    scores: dict[str, dict[str, float]]

    @property
    def queries(self) -> str:
        """The kind of queries: "original", or the name of a rewriting."""
        return self.source.queries or ORIGINAL

    @property
    def compares_with_bright(self) -> bool:
        """Whether published rows may stand beside: they rank BRIGHT's passages, not pages, nor a BEIR folder."""
        return not self.source.long and not self.source.split

    def corpus_documents(self, task: str) -> int | None:
        """Return how many documents a task's corpus has; None where the manifest does not say."""
        counts = mapping(mapping(self.manifest.get("counts")).get(task))
        # Of a run that was fused or reranked, `documents` are the hits.
        found = counts.get("corpus_documents", counts.get("documents") if "retriever" in self.options else None)
        return found if isinstance(found, int) else None

    def facts(self) -> dict[str, str]:
        """Return what was measured, by name."""
        options, source = self.options, self.source
        pairs = [
            ("Retriever", options.get("retriever")),
            ("Model", model_of(options)),
            ("Method", options.get("method")),
            ("Generator", mapping(options.get("generator")).get("model")),
            ("Made of", ", ".join(map(str, options.get("runs") or [options.get("run") or ""]))),
            ("Data", source.dir or (source.hub and f"hub {source.hub}")),
            ("Split", source.split),
            ("Queries", source.queries),
            ("Documents", "whole pages (long)" if source.long else None),
            ("Instruction", options.get("instruction")),
        ]
        return facts_of(pairs, self.folder, self.manifest, self.finished)


@dataclass(slots=True)
class Shared:
    """What is compared. queries: ids by task, as the first run orders them. notes: what was left out, and why."""

    runs: list[MeasuredRun]
    queries: dict[str, list[str]]
    notes: list[str] = field(default_factory=list)

    def mean(self, run: MeasuredRun, task: str) -> float:
        """Return a run's nDCG@10 on the shared queries of a task."""
        values = [run.scores[task][query] for query in self.queries[task]]
        return sum(values) / len(values)

    def average(self, run: MeasuredRun) -> float:
        """Return a run's macro average over the shared tasks."""
        return sum(self.mean(run, task) for task in self.queries) / len(self.queries)

    def sizes(self) -> dict[str, TaskSize]:
        """Return how much of each task was ranked, where all runs say so and agree."""
        sizes = {}
        for task, queries in self.queries.items():
            found = {run.corpus_documents(task) for run in self.runs}
            documents = found.pop() if len(found) == 1 else None
            if documents is not None:
                sizes[task] = TaskSize(len(queries), documents)
        return sizes

    @property
    def query_count(self) -> int:
        """The number of shared queries."""
        return sum(map(len, self.queries.values()))


def open_runs(folders: Sequence[str], names: Sequence[str] | None) -> list[MeasuredRun]:
    """Read the folders' options and scores; texts and rankings are read later."""
    # Not strict: one folder leaves the letter B over.
    runs = [_open_run(Path(folder), letter) for folder, letter in zip(folders, LETTERS, strict=False)]
    chosen = list(names) if names is not None else [run.name for run in runs]
    # Two runs of one model are told apart by their folders.
    if names is None and len(set(chosen)) < len(chosen):
        chosen = [f"{run.name} ({run.folder.resolve().name})" for run in runs]
    return [replace(run, name=name) for run, name in zip(runs, chosen, strict=True)]


def _open_run(folder: Path, letter: str) -> MeasuredRun:
    tasks = read_results(folder)
    manifest, finished = read_manifest(folder)
    options = read_options(folder)
    source = ranked_data(options)
    scores = {name: _read_scores(task) for name, task in tasks.items()}
    name = _name_of(options, source.queries, folder)
    return MeasuredRun(letter, name, folder, options, source, manifest, finished, tasks, scores)


def _read_scores(task: TaskResult) -> dict[str, float]:
    """Read the nDCG@10 of every query of a task.

    Raises:
        UserError: broken rows, a query twice, or another mean than metrics.json says.
    """
    file = task.folder / QUERIES_FILE
    scores: dict[str, float] = {}
    for line, row in read_jsonl(file):
        identifier, value = row.get("id"), row.get(METRIC)
        if not isinstance(identifier, str) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise UserError(
                f"{file}:{line}: a row needs a string `id` and `{METRIC}` from 0 to 1; rank and score again"
            )
        if identifier in scores:
            raise UserError(f"{file}:{line}: query {identifier!r} stands twice; rank and score again")
        scores[identifier] = value
    # The two files are written by one command; another mean says that one of them is from another run.
    mean = sum(scores.values()) / len(scores)
    stored = task.mean.get(METRIC, math.nan)
    if not math.isclose(mean, stored, abs_tol=1e-9):
        raise UserError(
            f"{file}: its mean {METRIC} is {mean:.6f}, but results.json says {stored}; rank and score again"
        )
    return scores


def _name_of(options: Mapping[str, Any], queries: str | None, folder: Path) -> str:
    """Return a short name: the method and the runs that it was made of, else retriever and model."""
    retriever, model = options.get("retriever"), _last(model_of(options))
    if options.get("method"):
        parts = [options["method"], _last(mapping(options.get("generator")).get("model"))]
        name = " by ".join(filter(None, parts))
        if made_of := options.get("runs") or [options.get("run")]:
            name += f" of {' and '.join(_last(run) for run in made_of if run)}"
    elif retriever in (None, "dense"):
        name = model
    else:
        name = f"{retriever}, {model}" if model else str(retriever)
    suffix = f", {_last(queries)} queries" if queries not in (None, ORIGINAL) else ""
    return f"{name}{suffix}" if name else folder.resolve().name


def _last(path: Any) -> str:
    """Return the last part of a path or hub id; "" for none."""
    return str(path or "").rstrip("/").rsplit("/", 1)[-1]


def share(runs: list[MeasuredRun]) -> Shared:
    """Return the tasks and queries that all runs have, BRIGHT's tasks in its order, and what was left out.

    Raises:
        UserError: the runs share no query.
    """
    # A run alone is both, and shares everything with itself.
    first, last = runs[0], runs[-1]
    tasks = [task for task in first.tasks if task in last.tasks]
    # BRIGHT's tasks in the order of its tables; others as the first run has them.
    tasks.sort(key=list(BRIGHT_SIZES).index if set(tasks) <= BRIGHT_SIZES.keys() else lambda _: 0)
    shared = Shared(runs, {})
    for run, other in ((first, last), (last, first)) if len(runs) == 2 else ():
        alone = [task for task in run.tasks if task not in other.tasks]
        if alone:
            shared.notes.append(f"{run.letter} alone has {plural(len(alone), 'task')} ({', '.join(alone)}): left out.")
        missing = {task: sum(query not in other.scores[task] for query in run.scores[task]) for task in tasks}
        where = ", ".join(f"{task} {count:,}" for task, count in missing.items() if count)
        if where:
            shared.notes.append(f"{run.letter} alone has queries in shared tasks ({where}): left out.")
    for task in tasks:
        queries = [query for query in first.scores[task] if query in last.scores[task]]
        if queries:
            shared.queries[task] = queries
    if not shared.queries:
        raise UserError(f"results: {first.folder} and {last.folder} share no query; compare runs over the same data")
    shared.notes += _notes_on_folders(shared)
    return shared


def _notes_on_folders(shared: Shared) -> list[str]:
    """Say what makes the numbers less than they seem: no manifest."""
    return [
        f"{run.folder} has no manifest.json: how it came about is not known." for run in shared.runs if not run.manifest
    ]
