"""The runs of a report: what their folders say of themselves, and the queries that they share.

Invariant: only queries that every run has are compared; the others are counted. Leaves texts to `report_queries.py`.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from reasonir.core.errors import UserError
from reasonir.core.files import CONFIG_FILE, MANIFEST_FILE, read_jsonl
from reasonir.eval.scores.published import BRIGHT_DOCUMENTS
from reasonir.eval.scores.results import QUERIES_FILE, TaskResult, read_results

METRIC = "ndcg_at_10"
LETTERS = "AB"
SOURCE_OPTIONS = ("data", "queries", "long", "split")
MOST_STEPS = 8
"""From a run to the runs that it was made of."""


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """One folder of results.

    options: its config.yaml. source: what decides its texts, as `read_source` finds it. manifest: its manifest.json.
    All are empty where there is none. finished: when the manifest was written. scores: nDCG@10 by task and query.
    """

    letter: str
    name: str
    folder: Path
    options: dict[str, Any]
    source: dict[str, Any]
    manifest: dict[str, Any]
    finished: str
    tasks: dict[str, TaskResult]
    scores: dict[str, dict[str, float]]

    @property
    def queries(self) -> str:
        """Return the kind of queries: "original", or the name of a rewriting."""
        return str(self.source.get("queries") or "original")

    @property
    def compares_with_bright(self) -> bool:
        """Say whether published rows may stand beside: they rank BRIGHT's passages, not pages, nor a BEIR folder."""
        return not self.source.get("long") and not self.source.get("split")

    def facts(self) -> list[tuple[str, str]]:
        """Return what was measured, as pairs of a name and a value."""
        options, source = self.options, self.source
        data, generator = _mapping(source.get("data")), _mapping(options.get("generator"))
        made_of = options.get("runs") or [options.get("run") or ""]
        pairs = [
            ("Retriever", options.get("retriever")),
            ("Model", model_of(options)),
            ("Method", options.get("method")),
            ("Generator", generator.get("model")),
            ("Made of", ", ".join(map(str, made_of))),
            ("Data", data.get("dir") or (f"hub {data['hub']}" if data.get("hub") else None)),
            ("Split", source.get("split")),
            ("Queries", source.get("queries")),
            ("Documents", "whole pages (long)" if source.get("long") else None),
            ("Instruction", options.get("instruction")),
            ("Finished", self.finished),
            ("Took", duration(self.manifest.get("wall_seconds"))),
            ("Command", command_line(self.manifest.get("command"))),
            ("Folder", self.folder),
        ]
        return [(name, "" if value is None else str(value)) for name, value in pairs]

    def flat_options(self) -> dict[str, str]:
        """Return every option of its config.yaml by dotted name."""
        return dict(flatten(self.options))


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

    @property
    def query_count(self) -> int:
        """Return the number of shared queries."""
        return sum(map(len, self.queries.values()))


def open_runs(folders: Sequence[str], names: Sequence[str] | None) -> list[MeasuredRun]:
    """Read what the folders hold, texts and rankings aside."""
    runs = [_open_run(Path(folder), letter) for folder, letter in zip(folders, LETTERS, strict=False)]
    chosen = list(names) if names is not None else [run.name for run in runs]
    if names is None and len(set(chosen)) < len(chosen):
        chosen = [f"{run.name} ({run.folder.resolve().name})" for run in runs]
    return [_renamed(run, name) for run, name in zip(runs, chosen, strict=True)]


def _renamed(run: MeasuredRun, name: str) -> MeasuredRun:
    parts = {slot: getattr(run, slot) for slot in MeasuredRun.__slots__}
    return MeasuredRun(**{**parts, "name": name})


def _open_run(folder: Path, letter: str) -> MeasuredRun:
    tasks = read_results(folder)
    manifest, finished = read_manifest(folder)
    options = read_mapping(folder / CONFIG_FILE)
    source = read_source(options)
    scores = {name: read_scores(task) for name, task in tasks.items()}
    name = _name_of(options, source, folder)
    return MeasuredRun(letter, name, folder, options, source, manifest, finished, tasks, scores)


def read_source(options: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """Return what decides a run's texts; reranked and fused runs may leave it to the runs that they were made of."""
    given = {key: options.get(key) for key in SOURCE_OPTIONS}
    source = {key: value for key, value in given.items() if value is not None and _says(value)}
    for made_of in [*(options.get("runs") or []), options.get("run")]:
        if "data" in source or depth > MOST_STEPS or not isinstance(made_of, str):
            break
        source = {**read_source(read_mapping(Path(made_of) / CONFIG_FILE), depth + 1), **source}
    return source


def _says(value: Any) -> bool:
    return any(value.values()) if isinstance(value, Mapping) else True


def read_manifest(folder: Path) -> tuple[dict[str, Any], str]:
    """Return a folder's manifest.json, and when it was written; {} and "" where there is none."""
    file = folder / MANIFEST_FILE
    manifest = read_mapping(file)
    if not manifest:
        return {}, ""
    return manifest, f"{datetime.fromtimestamp(file.stat().st_mtime, UTC):%Y-%m-%d %H:%M} UTC"


def read_mapping(file: Path) -> dict[str, Any]:
    """Read config.yaml or manifest.json (JSON is YAML); {} where there is none."""
    if not file.is_file():
        return {}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: broken: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds no mapping")
    return content


def read_scores(task: TaskResult) -> dict[str, float]:
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
    mean = sum(scores.values()) / len(scores)
    stored = task.mean.get(METRIC, math.nan)
    if not math.isclose(mean, stored, abs_tol=1e-9):
        raise UserError(
            f"{file}: its mean {METRIC} is {mean:.6f}, but results.json says {stored}; rank and score again"
        )
    return scores


def _name_of(options: Mapping[str, Any], source: Mapping[str, Any], folder: Path) -> str:
    retriever, model = options.get("retriever"), _last(model_of(options))
    if options.get("method"):
        parts = [options["method"], _last(_mapping(options.get("generator")).get("model"))]
        name = " by ".join(filter(None, parts))
        if made_of := options.get("runs") or [options.get("run")]:
            name += f" of {' and '.join(_last(run) for run in made_of if run)}"
    elif retriever in (None, "dense"):
        name = model
    else:
        name = f"{retriever}, {model}" if model else str(retriever)
    queries = source.get("queries")
    suffix = f", {_last(queries)} queries" if isinstance(queries, str) and queries != "original" else ""
    return f"{name}{suffix}" if name else folder.resolve().name


def model_of(options: Mapping[str, Any]) -> Any:
    """Return the path or id of the encoder; None where only words were compared."""
    lexical = str(options.get("retriever")).startswith("bm25")
    return None if lexical else _mapping(options.get("model")).get("path")


def _last(path: Any) -> str:
    """Return the last part of a path or hub id; "" for none."""
    return str(path or "").rstrip("/").rsplit("/", 1)[-1]


def share(runs: list[MeasuredRun]) -> Shared:
    """Return the tasks and queries that all runs have, BRIGHT's tasks in its order, and what was left out.

    Raises:
        UserError: the runs share no query.
    """
    first, last = runs[0], runs[-1]
    tasks = [task for task in first.tasks if task in last.tasks]
    tasks.sort(key=list(BRIGHT_DOCUMENTS).index if set(tasks) <= BRIGHT_DOCUMENTS.keys() else lambda _: 0)
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
    """Say what makes the numbers less than they seem: no manifest, a corpus that is not BRIGHT's."""
    notes = []
    for run in shared.runs:
        if not run.manifest:
            notes.append(f"{run.folder} has no manifest.json: how it came about is not known.")
    for task in shared.queries:
        if (documents := other_corpus(shared.runs[0], task)) is not None:
            notes.append(
                f"{task} was ranked over {documents:,} documents; BRIGHT's corpus has {BRIGHT_DOCUMENTS[task]:,}, "
                "so the published rows do not compare."
            )
    return notes


def other_corpus(run: MeasuredRun, task: str) -> int | None:
    """Return the documents that a task of BRIGHT's name was ranked over, where they are not as many as BRIGHT's."""
    documents = _mapping(_mapping(run.manifest.get("counts")).get(task)).get("documents")
    expected = BRIGHT_DOCUMENTS.get(task) if run.compares_with_bright else None
    return documents if expected and isinstance(documents, int) and documents != expected else None


def plural(count: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def duration(seconds: Any) -> str | None:
    """Return seconds as read by people; None for what is no number."""
    if not isinstance(seconds, (int, float)):
        return None
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.1f} s" if seconds < 90 else f"{minutes:.1f} min" if minutes < 90 else f"{hours:.1f} h"


def command_line(parts: Any) -> str | None:
    """Return a manifest's command as typed; None where it has none."""
    if not isinstance(parts, list) or not parts:
        return None
    return " ".join([str(parts[0]), *(shlex.quote(str(part)) for part in parts[1:])])  # parts[0] may hold the task


def flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return every leaf of nested options by dotted name."""
    pairs: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            pairs += flatten(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", "null" if value is None else str(value)))
    return pairs
