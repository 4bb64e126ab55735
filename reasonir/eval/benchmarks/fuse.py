"""`reasonir-eval fuse`: fuses run files, or folders of results task by task; scores them where the data is at hand.

Invariant: where the runs disagree, the difference is counted and said (a run lacks some queries) or refused (a run
lacks a task; a run names queries or documents that the data lacks). Leaves the arithmetic to `retrieval/fusion.py`.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import MANIFEST_FILE, under, write_json
from reasonir.core.run_folder import RunFolder, build_manifest
from reasonir.data.collections import Collection
from reasonir.data.open_source import RankedData, ranked_data
from reasonir.data.trec import Run, read_run, write_run
from reasonir.eval.benchmarks.config import FuseConfig, FuseDataConfig
from reasonir.eval.benchmarks.score import claim_output
from reasonir.eval.scores.results import (
    RUN_FILE,
    Aspects,
    TaskResult,
    aspects_of,
    qrels_of,
    read_results,
    results_checksums,
    write_results,
    write_task,
)
from reasonir.eval.scores.tables import write_table
from reasonir.retrieval.config import FusionMethod
from reasonir.retrieval.fusion import Fused, describe_fusion, fuse_runs


@dataclass(frozen=True, slots=True)
class Judgements:
    """What a task's run is scored with: the judged queries, and the aspects of those that name some.

    corpus_documents: documents of the task's corpus.
    """

    qrels: Mapping[str, Mapping[str, int]]
    aspects: Aspects
    corpus_documents: int


@dataclass(frozen=True, slots=True)
class RunFusion:
    """What is fused, and how. places: the runs' files or folders, in the order of `weights`. top: documents a query."""

    places: list[str]
    method: FusionMethod
    weights: list[float]
    rrf_k: float
    top: int

    @property
    def title(self) -> str:
        """Return the name of the fused run in tables."""
        return f"{describe_fusion(self.method, self.weights)}: {' + '.join(self.places)}"

    def fuse(self, runs: Sequence[Run], task: str = "") -> Fused:
        """Fuse one run of each place and print which of them lack queries; refuse a run of other queries."""
        label = f"{task}: " if task else ""
        for path, run in zip(self.places, runs, strict=True):
            # Runs that share no query at all rank other data: each query would simply keep its own run's hits.
            others = {query for other in runs if other is not run for query in other}
            if others.isdisjoint(run):
                raise UserError(
                    f"{label}runs: {path} has no query in common with the others; do their query ids match?"
                )
        fused = fuse_runs(runs, self.method, self.weights, self.top, self.rrf_k)
        for path, missing in zip(self.places, fused.missing, strict=True):
            if missing:
                print(f"{label}{path} has no hits for {missing} of {len(fused.run)} queries; they take the other runs'")
        return fused

    def counts(self, fused: Fused) -> dict[str, Any]:
        """Return what the manifest says of a fused run."""
        missing = dict(zip(self.places, fused.missing, strict=True))
        return {"queries": len(fused.run), "documents": sum(map(len, fused.run.values())), "queries_missing": missing}


def fuse(config: FuseConfig) -> None:
    """Fuse run files into a run file, or folders of results into a folder of results."""
    absent = next((run for run in config.runs if not Path(run).exists()), None)
    if absent is not None:
        raise UserError(f"runs: {absent}: no such file or folder")
    folders = [run for run in config.runs if Path(run).is_dir()]
    if folders and len(folders) < len(config.runs):
        raise UserError(f"runs={config.runs} mixes files and folders; give runs, or folders of results")
    weights = list(config.weights or [1 / len(config.runs)] * len(config.runs))
    fusion = RunFusion(config.runs, config.method, weights, config.rrf_k, config.top)
    if folders:
        _fuse_folders(config, fusion)
        return
    begun = time.time()
    fused = fusion.fuse([read_run(path) for path in fusion.places])
    with claim_output(Path(config.output), config) as output:
        # BRIGHT's score.json in, score.json out.
        if output.suffix == ".json":
            write_json(output, fused.run)
        else:
            write_run(output, fused.run, fusion.method.value)
        write_json(output.with_name(MANIFEST_FILE), build_manifest(fusion.places, fusion.counts(fused), begun))
    print(f"{len(fused.run)} queries fused, {fusion.title}: {output}")


def _fuse_folders(config: FuseConfig, fusion: RunFusion) -> None:
    """Fuse every task of folders of results into a folder of results; without their data, into runs only."""
    # 1 what the folders hold, and the data that they rank
    folders = [read_results(path) for path in config.runs]
    tasks = _common_tasks(config.runs, folders, config.tasks)
    given = RankedData(
        dir=config.data.dir, hub=config.data.hub, queries=config.queries, long=config.long, split=config.split
    )
    data = given.or_else(ranked_data({"runs": config.runs}))
    scorable = _read_judgements(data, tasks, dict(zip(config.runs, folders, strict=True)), given.place is not None)
    found = FuseDataConfig(dir=data.dir, hub=data.hub)
    config = dataclasses.replace(config, data=found, queries=data.queries, long=data.long, split=data.split)
    # The stored options are the ones found: a later report reads from them which data was ranked.
    output = RunFolder(config.output, config, resume=True, ignored=("output", "debug"))
    output.start()
    # 2 fuse and score task by task
    nested = folders[0][tasks[0]].folder != Path(config.runs[0])  # the results of a BEIR folder have no task level
    means, counts = {}, {}
    for task in tasks:
        fused = fusion.fuse([folder[task].run() for folder in folders], task)
        counts[task] = fusion.counts(fused)
        place = under(output.path, task, "tasks") if nested else output.path
        # Without the data there are runs, but no metrics and no results.json.
        if scorable is None:
            place.mkdir(parents=True, exist_ok=True)
            write_run(place / RUN_FILE, fused.run, fusion.method.value)
            continue
        scored = write_task(place, fused.run, scorable[task].qrels, fusion.method.value, scorable[task].aspects)
        means[task] = scored.mean
        counts[task]["corpus_documents"] = scorable[task].corpus_documents
        print(f"{task}: nDCG@10 {scored.mean['ndcg_at_10']:.4f} ({scored.mean['num_queries']} queries)")
    # 3 what stands above the tasks
    if means:
        write_results(output.path, means)
        # The published rows rank passages, not whole pages.
        beside = None if data.long else data.queries
        averaged = nested or len(means) > 1
        sizes = {task: counts[task]["corpus_documents"] for task in means}
        table = write_table(
            output.path, means, title=fusion.title, averaged=averaged, queries=beside, documents=sizes
        )  # fmt: skip
        print(f"\n{table}")
    inputs = [folder[task].folder / RUN_FILE for folder in folders for task in tasks]
    places = [output.path / task if nested else output.path for task in means]
    output.finish(inputs=inputs, counts=counts, outputs=results_checksums(output.path, places) if means else {})
    print(f"results: {output.path}" if means else f"runs: {output.path}")


def _common_tasks(places: list[str], folders: list[dict[str, TaskResult]], asked: list[str] | None) -> list[str]:
    """Return the tasks to fuse; refuse a folder that lacks one of them."""
    tasks = asked or list(folders[0])
    for path, folder in zip(places, folders, strict=True):
        if (unknown := next((task for task in tasks if task not in folder), None)) is not None:
            raise UserError(f"tasks: {path} has no task {unknown!r}, only {', '.join(folder)}; tasks=[...] chooses")
    return tasks


def _read_judgements(
    data: RankedData, tasks: list[str], folders: Mapping[str, Mapping[str, TaskResult]], named: bool
) -> dict[str, Judgements] | None:
    """Return the judgements by task; None where the data cannot be read, which is printed.

    Args:
        data: What the runs rank.
        tasks: The tasks to fuse.
        folders: The runs' results, by the place of the folder.
        named: Whether the user named the data. Data that cannot be read is then refused.
    """
    judgements = {}
    try:
        for collection in _readable(data.collections(tasks)):
            _refuse_unknown_ids(collection, data, tasks, folders)
            size = len(collection.documents)
            judgements[collection.name] = Judgements(qrels_of(collection), aspects_of(collection), size)
    # A mistake in what the user named is refused; a set that a run folder merely records may be gone by now.
    except Unreadable as error:
        if named:
            raise
        for task in tasks:
            for folder in folders.values():
                folder[task].run()  # a broken run is refused before anything is written
        print(f"the fused runs are not scored: {error}")
        return None
    return judgements


class Unreadable(UserError):
    """The data that the runs rank is not at hand."""


def _readable(collections: Iterator[Collection]) -> Iterator[Collection]:
    try:
        yield from collections
    # Only reading is wrapped: `_refuse_unknown_ids` raises a UserError too, which must stop the command in any case.
    except UserError as error:
        raise Unreadable(str(error)) from error


def _refuse_unknown_ids(
    collection: Collection, data: RankedData, tasks: list[str], folders: Mapping[str, Mapping[str, TaskResult]]
) -> None:
    """Refuse runs that name queries or documents which the data lacks: they ranked other data."""
    if collection.name not in tasks:
        raise UserError(f"data.dir={data.dir} is {collection.name!r}, the runs are of {', '.join(tasks)}")
    queries = {query.id for query in collection.queries}
    documents = {document.id for document in collection.documents}
    for path, folder in folders.items():
        run = folder[collection.name].run()
        # Documents too: two sets can number their queries alike.
        ranked = {document for hits in run.values() for document in hits}
        for kind, unknown in (("query", run.keys() - queries), ("document", ranked - documents)):
            if unknown:
                raise UserError(
                    f"{collection.name}: {path} names {kind} {min(unknown)!r} ({len(unknown)} in all), which its data "
                    "lacks; give the data that was ranked (data.dir, queries, long, split)"
                )
