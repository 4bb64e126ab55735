"""Measuring a retriever, top to bottom: `evaluate_bright` and `evaluate_beir` are the main path of the stage.

Under torchrun every rank encodes its share of every task's texts; rank 0 alone searches, scores, writes and prints.
Invariant: what is scored is what is written: metrics are computed from the run file's own hits, exclusions already
applied. A finished task whose data, model and settings are unchanged is not computed again (`resume.py`). Leaves
ranking to `ranking.py`, metrics to `metrics.py`, tables to `tables.py`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasonir.core.command import to_yaml
from reasonir.core.errors import UserError
from reasonir.core.processes import rank, world_size
from reasonir.core.run_folder import RunFolder
from reasonir.data.beir import read_beir, read_beir_hub
from reasonir.data.bright import bright_instruction, list_bright_tasks, read_bright
from reasonir.data.collections import Collection
from reasonir.data.rewritings import rewritten_file
from reasonir.data.trec import write_run
from reasonir.eval.benchmarks import resume
from reasonir.eval.benchmarks.config import (
    MAY_DIFFER,
    WITHOUT_PAGES,
    BeirConfig,
    BrightConfig,
    BrightDataConfig,
    describe,
)
from reasonir.eval.scores import tables
from reasonir.eval.scores.metrics import score_run
from reasonir.eval.scores.results import aspects_of, qrels_of, write_results, write_task
from reasonir.retrieval.config import RetrievalConfig, Retriever
from reasonir.retrieval.fusion import describe_fusion
from reasonir.retrieval.ranking import HYBRID_PARTS, Searcher, SearchTask, open_searcher

Metrics = dict[str, float]


@dataclass
class Evaluation:
    """An open evaluation: its folder (None on ranks that only encode), its searcher, its counts."""

    config: RetrievalConfig
    run: RunFolder | None
    searcher: Searcher
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)


def evaluate_bright(config: BrightConfig) -> None:
    """Rank and score every task, then write results.json and the table beside the published rows."""
    root, tasks = bright_source(config.data, config.tasks, config.long)
    evaluation = open_evaluation(config)
    if evaluation.run is not None:
        # A first pass over all tasks: a mistake in the last one stops before anything is computed or written.
        for collection in read_bright(root, tasks, config.queries, config.long):
            check_collection(
                evaluation,
                collection,
                bright_instruction(config.instruction, collection.name, collection.instruction, config.long),
            )
        evaluation.run.start()
    results = {}
    for collection in read_bright(root, tasks, config.queries, config.long):
        instruction = bright_instruction(config.instruction, collection.name, collection.instruction, config.long)
        folder = Path(str(config.output_dir)) / collection.name
        results[collection.name] = evaluate_collection(evaluation, collection, instruction, folder)
    if evaluation.run is not None:
        write_bright(evaluation, config, results, bright_inputs(config, tasks))


def write_bright(evaluation: Evaluation, config: BrightConfig, results: dict[str, Metrics], inputs: list[Any]) -> None:
    """Write what stands above the tasks of a folder: results.json, the tables, the manifest."""
    folder = Path(str(config.output_dir))
    average = write_results(folder, results)
    # The published rows rank BRIGHT's passages; sets that name aspects have corpora and golds of their own.
    own = config.long or any("alpha_ndcg_at_10" in mean for mean in results.values())
    queries = None if own else config.queries
    tables.write_table(folder, results, title=title_of(config), averaged=True, queries=queries, whole_pages=config.long)
    finish(evaluation, inputs, average)


def bright_inputs(config: BrightConfig, tasks: list[str]) -> list[Any]:
    """Return the local files that an evaluation reads."""
    rewritten = [rewritten_file(config.queries, task, None) for task in tasks] if "/" in config.queries else []
    return [*([config.data.dir] if config.data.dir else []), *rewritten]


def evaluate_beir(config: BeirConfig) -> None:
    """Rank and score one retrieval set in BEIR's format."""
    folder, hub = config.data.dir, config.data.hub
    collection = read_beir(folder, config.split) if folder else read_beir_hub(str(hub), config.split)
    evaluation = open_evaluation(config)
    instruction = "" if config.instruction == "none" else config.instruction
    if evaluation.run is not None:
        check_collection(evaluation, collection, instruction)
        evaluation.run.start()
    mean = evaluate_collection(evaluation, collection, instruction, Path(str(config.output_dir)))
    if evaluation.run is not None:
        write_results(evaluation.run.path, {collection.name: mean})
        tables.write_table(
            evaluation.run.path, {collection.name: mean}, title=title_of(config), averaged=False, queries=None
        )
        names = ("corpus.jsonl*", "queries.jsonl*", f"qrels/{config.split}.tsv")
        finish(evaluation, [path for name in names for path in Path(folder).glob(name)] if folder else [], mean)


def bright_source(data: BrightDataConfig, tasks: list[str] | None, long: bool) -> tuple[str, list[str]]:
    """Return the data's root and the tasks to run; with long=true and none named, those that have pages."""
    root = f"hub:{data.hub}" if data.dir is None else data.dir
    if tasks is not None:
        return root, tasks
    tasks = list_bright_tasks(root)
    if not long or len(tasks) == 1:
        return root, tasks
    with_pages = list_bright_tasks(root, long=True) if data.dir is None else set(tasks) - set(WITHOUT_PAGES)
    left_out = [task for task in tasks if task not in with_pages]
    if left_out and rank() == 0:
        print(f"long=true: {', '.join(left_out)} left out, which have no pages")
    return root, [task for task in tasks if task not in left_out]


def open_evaluation(config: RetrievalConfig) -> Evaluation:
    """Claim the output folder and load the encoder; nothing is written yet."""
    if config.output_dir is None:
        name = hashlib.sha256(to_yaml(config).encode()).hexdigest()[:8]
        config.output_dir = str(Path("outputs") / "eval" / f"{describe(config)}-{config.retriever.value}-{name}")
    leads = rank() == 0
    run = RunFolder(config.output_dir, config, resume=True, ignored=MAY_DIFFER) if leads else None
    return Evaluation(config, run, open_searcher(config))


def check_collection(evaluation: Evaluation, collection: Collection, instruction: str) -> None:
    """Refuse what could not be measured: no documents, no judged query, an instruction longer than the limit."""
    if not collection.documents:
        raise UserError(f"{collection.name}: the corpus is empty")
    if not any(query.gold for query in collection.queries):
        raise UserError(f"{collection.name}: no query has a gold document")
    dense = evaluation.searcher.dense
    if dense is not None:
        dense.encoder.template.encode([(instruction, "x")], dense.query_max_tokens)


def evaluate_collection(evaluation: Evaluation, collection: Collection, instruction: str, folder: Path) -> Metrics:
    """Rank one collection's documents for its queries; write run, metrics and per-query rows into `folder`.

    Returns:
        The task's means; on ranks that only encode, nothing.
    """
    config, searcher = evaluation.config, evaluation.searcher
    judged = [query for query in collection.queries if query.gold]
    queries, excluded = {query.id: query.text for query in judged}, {query.id: query.excluded_ids for query in judged}
    task = SearchTask(collection.name, collection.documents, queries, instruction, excluded)
    name = resume.fingerprint(collection.documents, judged, determinants(evaluation, task))
    finished = resume.read_finished(folder, name)
    if evaluation.run is None:
        if finished is None and searcher.dense is not None:
            searcher.dense.encode_share(task)
        return {}
    if finished is not None:
        evaluation.counts[collection.name] = {**finished.counts, "unchanged": True}
        print(f"{_scored(collection.name, finished.mean, finished.counts)}, unchanged since it was computed")
        return finished.mean
    ranked = searcher.rank(task, config.top)
    skipped = len(collection.queries) - len(judged)
    counts: dict[str, Any] = {
        "documents": len(collection.documents),
        "queries": len(judged),
        "queries_without_gold": skipped,
    }
    counts |= ranked.counts
    resume.mark_unfinished(folder)
    qrels = qrels_of(collection)
    scored = write_task(folder, ranked.run, qrels, config.retriever.value, aspects_of(collection))
    for part, run in ranked.parts.items():
        write_run(folder / f"{part}.trec", run, part)
        counts[f"{part}_ndcg_at_10"] = score_run(run, qrels).mean["ndcg_at_10"]
    resume.mark_finished(folder, name, counts, [f"{part}.trec" for part in ranked.parts])
    evaluation.counts[collection.name] = counts
    print(_scored(collection.name, scored.mean, counts))
    return scored.mean


def determinants(evaluation: Evaluation, task: SearchTask) -> list[object]:
    """Return what a task's results depend on besides its data."""
    config, dense = evaluation.config, evaluation.searcher.dense
    made_of: list[object] = [config.retriever.value, config.top]
    if dense is not None:
        encodings = [(job.kind, job.settings) for job in dense.encoding_jobs(task)]
        made_of += [dense.encoder.fingerprint, dense.encoder.template.fingerprint, encodings]
    return [*made_of, config.hybrid] if config.retriever is Retriever.hybrid else made_of


def _scored(name: str, mean: Mapping[str, float], counts: Mapping[str, Any]) -> str:
    skipped = counts["queries_without_gold"]
    note = f", {skipped} queries without gold left out" if skipped else ""
    parts = "".join(f", {p} {counts[f'{p}_ndcg_at_10']:.4f}" for p in HYBRID_PARTS if f"{p}_ndcg_at_10" in counts)
    return f"{name}: nDCG@10 {mean['ndcg_at_10']:.4f}{parts} ({counts['queries']} queries{note})"


def title_of(config: RetrievalConfig) -> str:
    """Return what a table calls this retriever."""
    if config.retriever is Retriever.hybrid:
        hybrid = config.hybrid
        fusion = describe_fusion(hybrid.method, hybrid.weights)
        return f"{config.model.path} + {hybrid.lexical.value} ({fusion})"
    return config.retriever.value if config.retriever is not Retriever.dense else str(config.model.path)


def finish(evaluation: Evaluation, inputs: list[Any], mean: Metrics) -> None:
    """Write the manifest and say where the results lie."""
    encoder, run = evaluation.searcher.encoder, evaluation.run
    assert run is not None, "rank 0"
    run.finish(
        inputs=inputs,
        counts=evaluation.counts,
        model_fingerprint=encoder.fingerprint if encoder is not None else None,
        device=str(encoder.device) if encoder is not None else "cpu",
        processes=world_size(),
    )
    recall = f"recall@1 {mean['recall_at_1']:.4f}, " if getattr(evaluation.config, "long", False) else ""
    print(f"{recall}nDCG@10 {mean['ndcg_at_10']:.4f}; results: {run.path}")
