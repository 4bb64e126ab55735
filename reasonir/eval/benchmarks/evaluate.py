"""Measuring a retriever: `evaluate_bright` and `evaluate_beir`, top to bottom, are the main paths.

Under torchrun every rank encodes its share of every task's texts; rank 0 alone searches, scores, writes and prints.
Invariant: metrics are computed from the hits that run.trec holds, exclusions applied. A finished task whose data, model
and settings are unchanged is not computed again (`resume.py`).

A new benchmark: options in `config.py`, a function beside `evaluate_beir` that reads collections and hands them to
`evaluate_tasks`, a line in `eval/cli.py`, values in `configs/eval/`. Ranking, scoring, resuming and tables are here.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import under
from reasonir.core.processes import rank, world_size
from reasonir.core.run_folder import RunFolder
from reasonir.data.bright import bright_instruction
from reasonir.data.collections import Collection
from reasonir.data.open_source import DataSource, open_source
from reasonir.data.rewritings import rewritten_file
from reasonir.data.trec import write_run
from reasonir.eval.benchmarks import resume
from reasonir.eval.benchmarks.config import MAY_DIFFER, WITHOUT_PAGES, BeirConfig, BrightConfig, resolve
from reasonir.eval.scores.results import (
    aspects_of,
    qrels_of,
    read_results,
    results_checksums,
    write_results,
    write_task,
)
from reasonir.eval.scores.tables import write_table
from reasonir.retrieval.config import HybridConfig, RetrievalConfig, Retriever
from reasonir.retrieval.fusion import describe_fusion
from reasonir.retrieval.metrics import score_run
from reasonir.retrieval.ranking import HYBRID_PARTS, Searcher, SearchTask, open_searcher

Metrics = dict[str, float]
# Of the data, said beside a task's score because they move it.
ODD_COUNTS = {
    "identical_ids_excluded": "with the id of a document, which they do not find",
    "judgements_not_in_corpus": "relevant documents that the corpus lacks",
    "judgements_excluded": "relevant documents that are excluded from their queries",
}
Tasks = Iterable[tuple[Collection, str]]
"""Collections, each with the instruction that an encoder puts before its queries."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An open evaluation of one retriever.

    searcher: the retriever, ready to search. retriever: its name in run.trec. title: its name in tables. top: documents
    kept a query. folder: the folder of results. run: claims the folder; None on ranks that only encode. hybrid: how
    the lists of a hybrid are fused, for the fingerprint. counts: by task, for the manifest.
    """

    searcher: Searcher
    retriever: str
    title: str
    top: int
    folder: Path
    run: RunFolder | None
    hybrid: HybridConfig | None = None
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)


def evaluate_bright(config: BrightConfig) -> None:
    """Rank and score every task, then write results.json and the table beside the published rows."""
    config = resolve(config)
    source = open_source(config.data.dir or f"hub:{config.data.hub}")
    names = choose_bright_tasks(source, config.tasks, config.long)
    evaluation = open_evaluation(config)

    # 1 every task with its instruction
    collections = source.collections(names, queries=config.queries, long=config.long)
    tasks = ((c, bright_instruction(config.instruction, c.name, c.instruction, config.long)) for c in collections)
    # 2 rank and score
    results = evaluate_tasks(evaluation, tasks, nested=True)
    if evaluation.run is None:
        return
    # 3 write what stands above the tasks
    average, table = write_bright_summary(evaluation, results, config.queries, config.long)
    print(f"\n{table}")
    # Rewritten queries in files of their own lie outside data.dir; the manifest has to name them too.
    rewritten = [rewritten_file(config.queries, task, None) for task in names] if "/" in config.queries else []
    finish_evaluation(evaluation, [*([config.data.dir] if config.data.dir else []), *rewritten])
    recall = f"recall@1 {average['recall_at_1']:.4f}, " if config.long else ""
    print(f"{recall}nDCG@10 {average['ndcg_at_10']:.4f}; results: {evaluation.folder}")


def evaluate_beir(config: BeirConfig) -> None:
    """Rank and score one retrieval set in BEIR's format."""
    config = resolve(config)
    folder, split = config.data.dir, config.split
    # Read before the model is loaded: broken data is refused at once.
    (collection,) = open_source(folder or f"hub:{config.data.hub}", split, config.identical_ids).collections()
    evaluation = open_evaluation(config)
    instruction = "" if config.instruction == "none" else config.instruction
    results = evaluate_tasks(evaluation, [(collection, instruction)], nested=False)
    if evaluation.run is None:
        return
    write_results(evaluation.folder, results)
    table = write_table(evaluation.folder, results, title=evaluation.title, averaged=False, queries=None, documents={})
    print(f"\n{table}")
    patterns = ("corpus.jsonl*", "queries.jsonl*", f"qrels/{split}.tsv")
    inputs = [path for pattern in patterns for path in Path(folder).glob(pattern)] if folder else []
    finish_evaluation(evaluation, inputs)
    print(f"nDCG@10 {results[collection.name]['ndcg_at_10']:.4f}; results: {evaluation.folder}")


def choose_bright_tasks(source: DataSource, tasks: list[str] | None, long: bool) -> list[str]:
    """Return the tasks to run.

    Args:
        source: Where the tasks lie.
        tasks: The tasks that the user names; None for all that `source` holds.
        long: Whether whole pages are ranked; of BRIGHT's tasks those without pages are then left out.
    """
    if tasks is not None:
        return tasks
    found = source.tasks()
    if not long or len(found) == 1:
        return found
    # A folder may hold pages as documents.jsonl, so that names alone tell which of BRIGHT's tasks have no pages.
    with_pages = source.tasks(long=True) if source.place.startswith("hub:") else set(found) - set(WITHOUT_PAGES)
    left_out = [task for task in found if task not in with_pages]
    if left_out and rank() == 0:
        print(f"long=true: {', '.join(left_out)} left out, which have no pages")
    return [task for task in found if task not in left_out]


def open_evaluation(config: RetrievalConfig, searcher: Searcher | None = None) -> Evaluation:
    """Claim the output folder and load the retriever; nothing is written yet.

    Args:
        config: Resolved options, with an output folder.
        searcher: The retriever of these options where it is open already; several evaluations can share it.
    """
    folder = str(config.output_dir)
    # Other ranks write nothing, so that rank 0 alone claims the folder, and a refusal is said once.
    run = RunFolder(folder, config, resume=True, ignored=MAY_DIFFER) if rank() == 0 else None
    hybrid = config.hybrid if config.retriever is Retriever.hybrid else None
    name = config.retriever.value
    title = str(config.model.path) if config.retriever in (Retriever.dense, Retriever.hybrid) else name
    if hybrid is not None:
        title += f" + {hybrid.lexical.value} ({describe_fusion(hybrid.method, hybrid.weights)})"
    searcher = searcher or open_searcher(config)
    return Evaluation(searcher, name, title, config.top, Path(folder), run, hybrid)


def evaluate_tasks(evaluation: Evaluation, tasks: Tasks, nested: bool) -> dict[str, Metrics]:
    """Rank and score every task; return the means by task, on ranks that only encode empty ones.

    Args:
        evaluation: The retriever and the folder of results.
        tasks: Read once. Rank 0 holds all their texts, because it checks the last task before it computes the first.
        nested: Whether each task has a folder of its own within the folder of results.
    """
    if evaluation.run is not None:
        # A mistake in the last task is said before hours of encoding, and before an older manifest is removed.
        tasks = _check_all(tasks, evaluation.searcher)
        evaluation.run.start()
    results = {}
    for collection, instruction in tasks:
        folder = under(evaluation.folder, collection.name, "tasks") if nested else evaluation.folder
        results[collection.name] = evaluate_collection(evaluation, collection, instruction, folder)
        if evaluation.run is not None:
            print(summary_line(collection.name, results[collection.name], evaluation.counts[collection.name]))
    return results


def _check_all(tasks: Tasks, searcher: Searcher) -> Iterator[tuple[Collection, str]]:
    """Read and check all tasks; return an iterator that lets go of each task's texts once the next one is asked for."""
    held = list(tasks)
    for collection, instruction in held:
        check_collection(searcher, collection, instruction)
    # `pop` takes from the end: the list then holds no task that is done.
    held.reverse()
    return (held.pop() for _ in range(len(held)))


def check_collection(searcher: Searcher, collection: Collection, instruction: str) -> None:
    """Refuse what cannot be measured.

    Args:
        searcher: The retriever.
        collection: One task.
        instruction: The text before its queries.
    Raises:
        UserError: No documents, no judged query, or an instruction longer than the limit of a query's tokens.
    """
    if not collection.documents:
        raise UserError(f"{collection.name}: the corpus is empty")
    if not any(query.gold for query in collection.queries):
        raise UserError(f"{collection.name}: no query has a gold document")
    if searcher.dense is not None:
        # One short query tells whether the instruction alone exceeds the limit.
        searcher.dense.encoder.template.encode([(instruction, "x")], searcher.dense.query_max_tokens)


def evaluate_collection(evaluation: Evaluation, collection: Collection, instruction: str, folder: Path) -> Metrics:
    """Rank one collection's documents for its queries; write run, metrics and per-query rows.

    Args:
        evaluation: The retriever; its `counts` get an entry for the task.
        collection: The corpus and its queries. Queries without a gold document are left out and counted.
        instruction: The text before the queries; encoders alone see it.
        folder: The task's folder.

    Returns:
        The task's means; on ranks that only encode, nothing.
    """
    searcher = evaluation.searcher
    # 1 is the task finished already?
    judged = [query for query in collection.queries if query.gold]
    queries, excluded = {query.id: query.text for query in judged}, {query.id: query.excluded_ids for query in judged}
    # Excluded documents are never ranked, as in BRIGHT: they would take places within the cut.
    task = SearchTask(collection.name, collection.documents, queries, instruction, excluded)
    fingerprint = resume.fingerprint(collection.documents, judged, _settings_of(evaluation, task))
    finished = resume.read_finished(folder, fingerprint)
    if evaluation.run is None:
        # Every rank asks first whether the task is finished, so that none encodes what rank 0 does not rank.
        if finished is None and searcher.dense is not None:
            searcher.dense.encode_share(task)
        return {}
    if finished is not None:
        evaluation.counts[collection.name] = {**finished.counts, "unchanged": True}
        return finished.mean

    # 2 rank, score, write
    ranked = searcher.rank(task, evaluation.top)
    counts: dict[str, Any] = {"documents": len(collection.documents), "queries": len(judged)}
    counts |= {"queries_without_gold": len(collection.queries) - len(judged), **ranked.counts}
    odd = {"identical_ids_excluded": collection.identical_ids, **collection.unreachable()}
    counts |= {name: count for name, count in odd.items() if count}
    # Only now: a kill during the ranking leaves the older result whole.
    resume.mark_unfinished(folder)
    qrels = qrels_of(collection)
    scored = write_task(folder, ranked.run, qrels, evaluation.retriever, aspects_of(collection))
    for part, run in ranked.parts.items():
        write_run(folder / f"{part}.trec", run, part)
        counts[f"{part}_ndcg_at_10"] = score_run(run, qrels).mean["ndcg_at_10"]
    # The stamp comes last: a task whose files are not all written is computed again.
    resume.mark_finished(folder, fingerprint, counts, [f"{part}.trec" for part in ranked.parts])
    evaluation.counts[collection.name] = counts
    return scored.mean


def _settings_of(evaluation: Evaluation, task: SearchTask) -> list[object]:
    """Return what a task's results depend on besides its data. The order is part of every stored fingerprint."""
    settings: list[object] = [evaluation.retriever, evaluation.top]
    dense = evaluation.searcher.dense
    if dense is not None:
        # What each encoding job depends on: instructions, limits and precision; chunk sizes change no result.
        encodings = [(job.kind, job.settings) for job in dense.encoding_jobs(task)]
        settings += [dense.encoder.fingerprint, dense.encoder.template.fingerprint, encodings]
    return settings if evaluation.hybrid is None else [*settings, evaluation.hybrid]


def summary_line(task: str, mean: Mapping[str, float], counts: Mapping[str, Any]) -> str:
    """Return one line on a finished task.

    Args:
        task: Its name.
        mean: Its metrics.
        counts: Its entry in `Evaluation.counts`.
    """
    skipped = counts["queries_without_gold"]
    note = f", {skipped} queries without gold left out" if skipped else ""
    note += "".join(f", {counts[name]} {said}" for name, said in ODD_COUNTS.items() if name in counts)
    parts = "".join(f", {p} {counts[f'{p}_ndcg_at_10']:.4f}" for p in HYBRID_PARTS if f"{p}_ndcg_at_10" in counts)
    end = ", unchanged since it was computed" if counts.get("unchanged") else ""
    return f"{task}: nDCG@10 {mean['ndcg_at_10']:.4f}{parts} ({counts['queries']} queries{note}){end}"


def write_bright_summary(
    evaluation: Evaluation, results: Mapping[str, Metrics], queries: str, long: bool
) -> tuple[Metrics, str]:
    """Write results.json and results.md; return the average over the tasks, and the table.

    Args:
        evaluation: The retriever and the folder of results.
        results: The means by task.
        queries: "original", or which rewriting.
        long: Whether whole pages were ranked.
    """
    average = write_results(evaluation.folder, results)
    # The published rows rank BRIGHT's passages; sets that name aspects have corpora and golds of their own.
    comparable = not long and not any("alpha_ndcg_at_10" in mean for mean in results.values())
    beside = queries if comparable else None
    documents = {task: counts["documents"] for task, counts in evaluation.counts.items()}
    table = write_table(
        evaluation.folder, results, title=evaluation.title, averaged=True, queries=beside, documents=documents,
        whole_pages=long,
    )  # fmt: skip
    return average, table


def finish_evaluation(evaluation: Evaluation, inputs: Iterable[str | Path]) -> None:
    """Write the manifest, which names the local files that were read, and holds checksums of those written."""
    encoder, run = evaluation.searcher.encoder, evaluation.run
    assert run is not None, "rank 0"
    results = [result.folder for result in read_results(evaluation.folder).values()]
    run.finish(
        inputs=inputs,
        counts=evaluation.counts,
        outputs=results_checksums(evaluation.folder, results),
        model_fingerprint=encoder.fingerprint if encoder is not None else None,
        device=str(encoder.device) if encoder is not None else "cpu",
        processes=world_size(),
    )
