"""`reasonir-eval fuse`: run files, or folders of results task by task, fused and, where their data is at hand, scored.

Invariant: what the runs disagree on is counted and said (queries that one lacks) or refused (tasks that one lacks;
queries and documents that the data lacks). Leaves the arithmetic to `fusion.py`.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from reasonir.core.errors import UserError
from reasonir.core.files import CONFIG_FILE, write_json
from reasonir.core.run_folder import RunFolder, build_manifest
from reasonir.data.beir import read_beir
from reasonir.data.bright import read_bright
from reasonir.data.collections import Collection
from reasonir.data.trec import Run, read_run, write_run
from reasonir.eval.benchmarks.fuse_config import FuseConfig
from reasonir.eval.benchmarks.score import claim_output
from reasonir.eval.scores import tables
from reasonir.eval.scores.results import (
    RUN_FILE,
    Aspects,
    TaskResult,
    aspects_of,
    qrels_of,
    read_results,
    write_results,
    write_task,
)
from reasonir.retrieval.fusion import Fused, describe_fusion, fuse_runs

Judgements = Mapping[str, Mapping[str, int]]


def fuse(config: FuseConfig) -> None:
    """Fuse runs of one task, or folders of results."""
    absent = next((run for run in config.runs if not Path(run).exists()), None)
    if absent is not None:
        raise UserError(f"runs: {absent}: no such file or folder")
    folders = [run for run in config.runs if Path(run).is_dir()]
    if folders and len(folders) < len(config.runs):
        raise UserError(f"runs={config.runs} mixes files and folders; give runs, or folders of results")
    fuse_folders(config) if folders else fuse_files(config)


def weights_of(config: FuseConfig) -> list[float]:
    """Return one weight for each run."""
    return list(config.weights or [1 / len(config.runs)] * len(config.runs))


def fuse_files(config: FuseConfig) -> None:
    """Fuse run files into a run file."""
    begun = time.time()
    runs = [read_run(path) for path in config.runs]
    fused = _fuse(config, runs, "")
    output = claim_output(Path(config.output), config)
    if output.suffix == ".json":
        write_json(output, fused.run)
    else:
        write_run(output, fused.run, config.method.value)
    counts = _counts(config, fused)
    write_json(output.with_name("manifest.json"), build_manifest(config.runs, counts, begun))
    print(f"{len(fused.run)} queries fused, {_title(config)}: {output}")


def _fuse(config: FuseConfig, runs: list[Any], task: str) -> Fused:
    """Fuse and say which run lacks queries; refuse runs of other queries."""
    label = f"{task}: " if task else ""
    for path, run in zip(config.runs, runs, strict=True):
        others = {query for other in runs if other is not run for query in other}
        if others.isdisjoint(run):
            raise UserError(f"{label}runs: {path} has no query in common with the others; do their query ids match?")
    fused = fuse_runs(runs, config.method, weights_of(config), config.top, config.rrf_k)
    for path, missing in zip(config.runs, fused.missing, strict=True):
        if missing:
            print(f"{label}{path} has no hits for {missing} of {len(fused.run)} queries; they take the other runs'")
    return fused


def _counts(config: FuseConfig, fused: Fused) -> dict[str, Any]:
    missing = dict(zip(config.runs, fused.missing, strict=True))
    return {"queries": len(fused.run), "documents": sum(map(len, fused.run.values())), "queries_missing": missing}


def _title(config: FuseConfig) -> str:
    return f"{describe_fusion(config.method, weights_of(config))}: {' + '.join(config.runs)}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Folders to fuse. judgements: qrels by task, or None where the data cannot be read. aspects: by task."""

    folders: list[dict[str, TaskResult]]
    tasks: list[str]
    judgements: dict[str, Judgements] | None
    aspects: dict[str, Aspects] = field(default_factory=dict)

    def runs_of(self, task: str) -> list[Run]:
        """Return a task's runs, in the order of the folders."""
        return [folder[task].run() for folder in self.folders]


def fuse_folders(config: FuseConfig) -> None:
    """Fuse every task of folders of results into a folder of results; without their data, into runs only."""
    plan = plan_folders(config)
    output = RunFolder(config.output, config, resume=True, ignored=("output", "debug"))
    output.start()
    means, counts = {}, {}
    for task in plan.tasks:
        fused = _fuse(config, plan.runs_of(task), task)
        own_level = plan.folders[0][task].folder != Path(config.runs[0])  # a BEIR folder's results have no task level
        folder = output.path / task if own_level else output.path
        counts[task] = _counts(config, fused)
        if plan.judgements is None:
            folder.mkdir(parents=True, exist_ok=True)
            write_run(folder / RUN_FILE, fused.run, config.method.value)
            continue
        scored = write_task(folder, fused.run, plan.judgements[task], config.method.value, plan.aspects[task])
        means[task] = scored.mean
        print(f"{task}: nDCG@10 {scored.mean['ndcg_at_10']:.4f} ({scored.mean['num_queries']} queries)")
    if means:
        write_results(output.path, means)
        beside = None if config.long else config.queries  # the published rows rank passages
        averaged = len(means) > 1 or own_level
        tables.write_table(output.path, means, title=_title(config), averaged=averaged, queries=beside)
    output.finish(
        inputs=[folder[task].folder / RUN_FILE for folder in plan.folders for task in plan.tasks], counts=counts
    )
    print(f"results: {output.path}" if means else f"runs: {output.path}")


def plan_folders(config: FuseConfig) -> Plan:
    """Read what the folders hold and, where it can be, their data; the options that they answer are filled in."""
    folders = [read_results(path) for path in config.runs]
    tasks = config.tasks or list(folders[0])
    for path, folder in zip(config.runs, folders, strict=True):
        if (unknown := next((task for task in tasks if task not in folder), None)) is not None:
            raise UserError(f"tasks: {path} has no task {unknown!r}, only {', '.join(folder)}; tasks=[...] chooses")
    plan = Plan(folders, tasks, None)
    named = config.data.dir is not None or config.data.hub is not None
    take_over_data(config)
    try:
        judgements, aspects = {}, {}
        for collection in read_data(config, tasks):
            judgements[collection.name] = _judge(config, plan, collection)
            aspects[collection.name] = aspects_of(collection)
    except Unreadable as error:
        if named:
            raise
        for task in tasks:
            plan.runs_of(task)  # a broken one is refused before anything is written
        print(f"the fused runs are not scored: {error}")
        return plan
    return Plan(folders, tasks, judgements, aspects)


class Unreadable(UserError):
    """The data that the runs rank is not at hand."""


def _judge(config: FuseConfig, plan: Plan, collection: Collection) -> Judgements:
    """Return a task's qrels; refuse runs that name queries or documents which the data lacks."""
    if collection.name not in plan.tasks:
        raise UserError(f"data.dir={config.data.dir} is {collection.name!r}, the runs are of {', '.join(plan.tasks)}")
    queries = {query.id for query in collection.queries}
    documents = {document.id for document in collection.documents}
    for path, run in zip(config.runs, plan.runs_of(collection.name), strict=True):
        for kind, known, used in (
            ("query", queries, run.keys()),
            ("document", documents, {document for hits in run.values() for document in hits}),
        ):
            if unknown := sorted(used - known):
                raise UserError(
                    f"{collection.name}: {path} names {kind} {unknown[0]!r} ({len(unknown)} in all), which its data "
                    "lacks; give the data that was ranked (data.dir, queries, long, split)"
                )
    return qrels_of(collection)


def take_over_data(config: FuseConfig) -> None:
    """Fill data, queries, long and split from the first folder whose config.yaml names its data."""
    for folder in map(Path, config.runs):
        file = folder / CONFIG_FILE
        stored = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
        data = stored.get("data") or {}
        if not data.get("dir") and not data.get("hub"):
            continue
        if config.data.dir is None and config.data.hub is None:
            config.data.dir, config.data.hub = data.get("dir"), data.get("hub")
        config.queries = config.queries or stored.get("queries")
        config.long = stored.get("long") if config.long is None else config.long
        config.split = config.split or stored.get("split")
        return


def read_data(config: FuseConfig, tasks: list[str]) -> Iterator[Collection]:
    """Yield the tasks' collections.

    Raises:
        Unreadable: no data is named, or it cannot be read.
    """
    place = config.data.dir
    if place is None and config.data.hub is None:
        raise Unreadable("no folder says what it ranks; data.dir=FOLDER does")
    try:
        if place is not None and any((Path(place) / f"corpus.jsonl{suffix}").is_file() for suffix in ("", ".gz")):
            yield read_beir(place, config.split or "test")
            return
        root = place or f"hub:{config.data.hub}"
        yield from read_bright(root, tasks, config.queries or "original", bool(config.long))
    except UserError as error:
        raise Unreadable(str(error)) from error
