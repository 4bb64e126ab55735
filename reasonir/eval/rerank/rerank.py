"""Reranking a run with a language model, top to bottom: `rerank_run` is the main path.

Every query of the run is one conversation with the model. Each task gets two runs: the model's scores alone
(rerank_only/), and interpolated with the retriever's. Invariant: no document of the run is lost, and what was paid for
is in completions.jsonl, so that the same command continues after any interruption and ends with the same results.
"""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from math import fsum
from pathlib import Path
from typing import Any

from reasonir.core.files import CONFIG_FILE, MANIFEST_FILE, file_sha256, read_mapping
from reasonir.core.progress import Progress
from reasonir.core.run_folder import RunFolder
from reasonir.core.stamp import read_stamp, remove_stamp, unchanged, write_stamp
from reasonir.data.open_source import RankedData
from reasonir.eval.rerank.candidates import Candidates, read_candidates, run_files
from reasonir.eval.rerank.config import MAY_DIFFER, Method, RerankConfig
from reasonir.eval.rerank.cost import FORMULA, ModelSize, count_flops, size_of
from reasonir.eval.rerank.methods import VARIABLES, Reranked, Reranker, count_questions
from reasonir.eval.rerank.places import describe_places, render_places
from reasonir.eval.scores.results import METRICS_FILE, TASK_FILES, results_checksums, write_results, write_task
from reasonir.eval.scores.tables import write_table
from reasonir.llm import Generator, open_generator
from reasonir.llm.context import open_context
from reasonir.llm.conversations import Conversation, hold_conversations
from reasonir.llm.prompts import OWN_FILES, Prompt, describe_prompts, load_prompt, start_with_prompts
from reasonir.retrieval.metrics import score_run
from reasonir.text.lengths import SAFE_BYTES
from reasonir.text.markdown import markdown_table

ALONE, TASK_FILE = "rerank_only", "rerank.json"
# The paper's weights for cosines and for BM25's scores (arXiv 2504.20595, release 0aac962).
COSINE_WEIGHTS, BM25_WEIGHTS = [0.5, 0.5], [100.0, 1.0]
# Distance between documents below `top`, relative to the lowest score above them. trec_eval reads scores as float32,
# which has 7 digits: a smaller step would tie them.
STEP_BELOW = 1e-3
# Share of useless answers above which a run warns.
MANY = 0.1
# Counts that a run ends with on the screen, in this order.
SHOWN_COUNTS = (
    "answers", "phrase_missing", "unparsable", "no_digit", "digits_absent", "failed", "missing_documents",
    "repeated_documents", "unknown_documents", "grades_out_of_range", "documents_cut", "queries_cut", "input_tokens",
    "output_tokens", "documents_below_top", "excluded_documents_removed", "queries_without_gold",
    "queries_missing_in_run",
)  # fmt: skip


def rerank_run(config: RerankConfig) -> None:
    """Rerank every task of a run, write both results folders, the table and the manifest."""
    # 1 the run, its data, and the options that they answer
    tasks, config = read_run_and_resolve(config)
    settings, weights, generator = config.settings(), config.weights or [], config.generator
    folder = RunFolder(config.output_dir, config, resume=True, ignored=MAY_DIFFER)

    # 2 the prompts, and their room beside an answer
    prompts = {candidates.task: choose_prompt(config.method, config.prompts, candidates.task) for candidates in tasks}
    different = list({prompt.name: prompt for prompt in prompts.values()}.values())
    local_model = generator.local_model()
    answer_tokens = settings.answer_tokens + (generator.thinking_tokens or 0)
    context = open_context(
        config.context_tokens, answer_tokens, config.tokenizer, local_model, generator.max_model_len,
        generator.chat_template_kwargs,
    )  # fmt: skip
    size = size_of(local_model, config.model_parameters)
    start_with_prompts(folder, different)

    # 3 the questions of every task that is not finished; the engine starts only if there is one
    unfinished = [candidates for candidates in tasks if finished_counts(folder.path, candidates) is None]
    for candidates in tasks:
        if candidates not in unfinished:
            print(f"{candidates.task}: reranked before")
    if unfinished:
        # An engine in this process need not be ready for longer inputs than are asked.
        generator = replace(generator, max_model_len=context.tokens + answer_tokens)
        with closing(open_generator(generator, folder.path / "completions.jsonl")) as model:
            for candidates in unfinished:
                reranker = Reranker(settings, prompts[candidates.task], context)
                rerank_task(folder.path, candidates, reranker, model, weights)

    # 4 the tables, the cost, the manifest
    write_summary(folder.path, tasks, title_of(config.method, generator.model, weights), config.queries, config.long)
    counts, total = read_counts(folder.path, tasks)
    inputs = run_files(config.run, counts) + ([Path(config.data.dir)] if config.data.dir else [])
    counted_by = config.tokenizer or local_model or f"estimated at {SAFE_BYTES} UTF-8 bytes a token"
    room = {"prompt_tokens": context.tokens, "tokens_counted_by": counted_by}
    cost, described = describe_cost(size, total), describe_prompts(different)
    outputs = results_checksums(folder.path, [candidates.folder(folder.path) for candidates in tasks])
    folder.finish(inputs=inputs, counts=counts, cost=cost, **room, prompts=described, outputs=outputs)
    _finish_alone(folder.path, tasks)
    print_counts(total, cost["flops"])
    print(f"results: {folder.path} (interpolated), {folder.path / ALONE}")


def _finish_alone(path: Path, tasks: Sequence[Candidates]) -> None:
    """Make rerank_only/ a folder of results in its own right."""
    alone = path / ALONE
    shutil.copy(path / CONFIG_FILE, alone / CONFIG_FILE)
    outputs = results_checksums(alone, [candidates.folder(alone) for candidates in tasks])
    write_stamp(alone / MANIFEST_FILE, **{**(read_stamp(path / MANIFEST_FILE) or {}), "outputs": outputs})


def read_run_and_resolve(config: RerankConfig) -> tuple[list[Candidates], RerankConfig]:
    """Return the tasks of the run, and the options with the data and the weights that the run answers filled in."""
    known = RankedData(
        dir=config.data.dir, hub=config.data.hub, queries=config.queries, long=config.long, split=config.split
    )
    tasks, data = read_candidates(config.run, known, config.tasks, config.top)
    retriever = read_mapping(Path(config.run) / CONFIG_FILE).get("retriever")
    resolved = replace(
        config,
        data=replace(config.data, dir=data.dir, hub=data.hub),
        tasks=[candidates.task for candidates in tasks],
        queries=data.queries,
        long=data.long,
        split=data.split,
        weights=config.weights or default_weights(retriever, tasks),
    )
    return tasks, resolved


def rerank_task(
    root: Path, candidates: Candidates, reranker: Reranker, model: Generator, weights: Sequence[float]
) -> None:
    """Ask about one task's documents and write its two runs, their metrics, and last its counts.

    Args:
        root: Folder of the results.
        candidates: The task.
        reranker: Holds the conversations of this task.
        model: Answers.
        weights: Of the reranker and of the retriever.
    """
    task, results = candidates.task, dict[str, Reranked]()

    def converse(name: str) -> Conversation[Reranked]:
        documents = {document: candidates.documents[document] for document in candidates.first(name)}
        return reranker.converse(name, candidates.queries[name], documents)

    settings = reranker.settings
    total = sum(count_questions(settings, len(candidates.first(name))) for name in candidates.queries)
    with closing(Progress(task, total, "answers")) as progress:
        hold_conversations(
            model, candidates.queries, converse, results.__setitem__, on_answer=lambda: progress.update(1)
        )
    alone = {name: above_the_rest(result.scores, candidates.run[name]) for name, result in results.items()}
    mixed = {
        name: above_the_rest(interpolate(result.scores, candidates.run[name], weights), alone[name])
        for name, result in results.items()
    }
    place = candidates.folder(root)
    # Removed before and written last, so that a kill in between does not leave a stamp beside other files.
    remove_stamp(place / TASK_FILE)
    label = f"rerank_{settings.method}"
    write_task(candidates.folder(root / ALONE), alone, candidates.qrels, label, candidates.aspects)
    write_task(place, mixed, candidates.qrels, f"{label}_interpolated", candidates.aspects)
    counts = {**candidates.counts, **add_counts(results.values())}
    missing = mean_of([mass for result in results.values() for mass in result.missing])
    places = describe_places(
        {name: result.shown for name, result in results.items()},
        {name: [document for document, grade in candidates.qrels[name].items() if grade > 0] for name in results},
        "rank" if settings.method is Method.listwise else "grade",
    )
    files = {str(file.relative_to(root)): file_sha256(file) for file in _files_of(root, candidates)}
    write_stamp(
        place / TASK_FILE, inputs=candidates.digest(), files=files, counts=counts, mean_missing_mass=missing,
        places=places,
    )  # fmt: skip
    warn(task, settings.method is Method.pointwise, counts, missing)


def _files_of(root: Path, candidates: Candidates) -> list[Path]:
    """Return the files of a task in both folders of results."""
    return [candidates.folder(place) / name for place in (root, root / ALONE) for name in TASK_FILES]


def default_weights(retriever: str | None, tasks: Iterable[Candidates]) -> list[float]:
    """Return the paper's weights for cosines or those for BM25, by the run's retriever.

    Where the run does not name it, they are cosines if all scores lie in [-1, 1].
    """
    if retriever is not None:
        return BM25_WEIGHTS if retriever.startswith("bm25") else COSINE_WEIGHTS
    scores = (score for candidates in tasks for hits in candidates.run.values() for score in hits.values())
    # Rounding carries a cosine a little over 1.
    return COSINE_WEIGHTS if all(abs(score) < 1.001 for score in scores) else BM25_WEIGHTS


def interpolate(
    scores: Mapping[str, float], retrieved: Mapping[str, float], weights: Sequence[float]
) -> dict[str, float]:
    """Return weights[0] * rerank score + weights[1] * the retriever's own score.

    Args:
        scores: The reranker's, by document.
        retrieved: The retriever's, for these documents and others.
        weights: Of the reranker and of the retriever.
    """
    return {name: weights[0] * score + weights[1] * retrieved[name] for name, score in scores.items()}


def above_the_rest(scores: Mapping[str, float], ranking: Mapping[str, float]) -> dict[str, float]:
    """Return `scores`, and below them all other documents of `ranking` in its order.

    The other documents stand at equal steps under the lowest score, because their own scores are on another scale.

    Args:
        scores: Of the first documents.
        ranking: Scores of all documents, best first.
    """
    rest = [name for name in ranking if name not in scores]
    floor = min(scores.values(), default=0.0)
    step = STEP_BELOW * max(1.0, abs(floor))
    return {**scores, **{name: floor - step * place for place, name in enumerate(rest, start=1)}}


def choose_prompt(method: Method, folder: str | None, task: str) -> Prompt:
    """Return a task's own wording where there is one, the user's or ours, else the general one of the method.

    Args:
        method: Begins the prompt's name.
        folder: The user's prompt files; None for ours alone.
        task: Ends the name of its own wording.
    """
    general, name = f"rerank_{method}", f"rerank_{method}_{task}"
    folders = [OWN_FILES, *([Path(folder)] if folder else [])]
    own = any((place / f"{name}.yaml").is_file() for place in folders)
    return load_prompt(name if own else general, folder, VARIABLES[method], "text", retried=False)


def add_counts(results: Iterable[Reranked]) -> dict[str, int]:
    """Return the sums of all queries' counts that are not zero, by name in alphabetical order."""
    total: Counter[str] = Counter()
    for result in results:
        total.update(result.counts)
    return {name: total[name] for name in sorted(total) if total[name]}


def mean_of(values: list[float]) -> float | None:
    """Return the mean, whatever the order of the values; None of none."""
    return fsum(values) / len(values) if values else None


def finished_counts(root: Path, candidates: Candidates) -> dict[str, Any] | None:
    """Return what an earlier run counted for a task; None where the task must be reranked.

    A task with failed questions is asked again, and one whose files were changed since: only the failed questions are
    paid for, because the log has the others.
    """
    stamp = read_stamp(candidates.folder(root) / TASK_FILE, inputs=candidates.digest())
    # Stamps of older versions name no files.
    if stamp is None or stamp["counts"].get("failed") or not unchanged(root, stamp.get("files", {})):
        return None
    return stamp


def warn(task: str, pointwise: bool, counts: Mapping[str, int], missing: float | None) -> None:
    """Say on stderr what makes a task's scores doubtful.

    Args:
        task: Its name.
        pointwise: Whether an answer that cannot be read counts as score -1.
        counts: What happened, by name.
        missing: Mean probability beside the six digits; None for scoring=raw.
    """
    answers = max(counts.get("answers", 0), 1)
    useless = {
        "phrase_missing": "lack the phrase, and count as score 0",
        "unparsable": "cannot be read" + (", and count as score -1" if pointwise else ""),
        "no_digit": "hold no digit among their likeliest tokens, and count as score 0",
        "digits_absent": "lack one or more of the six digits among the tokens that the server reports: their score is "
        "over the others",
    }
    for name, words in useless.items():
        if counts.get(name, 0) > MANY * answers:
            print(f"warning: {task}: {counts[name]} of {answers} answers {words}", file=sys.stderr)
    if failed := counts.get("failed", 0):
        remedy = "the same command asks these again"
        print(f"warning: {task}: {failed} of {answers} questions got no answer; {remedy}", file=sys.stderr)
    if missing is not None and missing > 0.5:
        print(
            f"warning: {task}: {100 * missing:.0f} % of the probability lies beside the digits: this model does not "
            "answer as asked",
            file=sys.stderr,
        )
    if absent := counts.get("queries_missing_in_run", 0):
        print(f"warning: {task}: {absent} judged queries have no hit in the run; they count as 0", file=sys.stderr)


def title_of(method: Method, model: str, weights: Sequence[float]) -> str:
    """Return the name of the interpolated scores' row.

    Args:
        method: How the model was asked.
        model: Its name or folder.
        weights: Of the reranker and of the retriever.
    """
    return f"{method} rerank by {Path(model).name}, {weights[0]:g} * rerank + {weights[1]:g} * retriever"


def write_summary(root: Path, tasks: Sequence[Candidates], title: str, queries: str | None, long: bool | None) -> None:
    """Write results.json of both folders, and the table: retrieved, reranked alone, interpolated.

    Args:
        root: Folder of the results.
        tasks: All of them, finished.
        title: Of the row of the interpolated scores.
        queries: "original" or a rewriting's name: which published rows stand beside BRIGHT's.
        long: Whether whole pages were ranked; the published rows rank passages, so that none stands beside them.
    """
    alone, mixed = (
        {c.task: json.loads((c.folder(folder) / METRICS_FILE).read_text(encoding="utf-8")) for c in tasks}
        for folder in (root / ALONE, root)
    )
    # Of the run as it was reranked, exclusions applied, so that the rows differ by the reranking alone.
    before = {c.task: score_run(c.run, c.qrels).mean for c in tasks}
    write_results(root / ALONE, alone)
    write_results(root, mixed)
    stamps = {c.task: read_stamp(c.folder(root) / TASK_FILE) or {} for c in tasks}
    above = {
        title: {task: mean["ndcg_at_10"] for task, mean in means.items()}
        for title, means in (("retrieved", before), ("reranked alone", alone))
    }
    nested = tasks[0].nested
    beside = queries if nested and not long else None
    documents = {candidates.task: candidates.counts["corpus_documents"] for candidates in tasks}
    table = write_table(
        root, mixed, title=title, averaged=nested, queries=beside, documents=documents, above=above,
        below=[*_digits_table(stamps), *_places_table(stamps)],
    )  # fmt: skip
    print(f"\n{table}")


def _digits_table(stamps: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the table of what the expected scores leave out; nothing where scores are read off the answers."""
    rows = [
        [task, f"{counts['answers']:,}", f"{counts.get('digits_absent', 0):,}", f"{counts.get('no_digit', 0):,}",
         f"{100 * stamp['mean_missing_mass']:.1f}"]
        for task, stamp in stamps.items() if stamp.get("mean_missing_mass") is not None for counts in (stamp["counts"],)
    ]  # fmt: skip
    if not rows:
        return []
    head = ["expected score", "answers", "lack a digit", "lack all", "% of probability beside the digits seen"]
    return [
        markdown_table(head, rows),
        "A server that reports all six digits of every answer shows 0 under lack a digit.",
    ]


def _places_table(stamps: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the table of what each place of a list was given; nothing where no list was shown."""
    # Stamps of older versions have no such entry.
    found = {task: stamp["places"] for task, stamp in stamps.items() if stamp.get("places")}
    return [render_places(found)] if found else []


def read_counts(root: Path, tasks: Iterable[Candidates]) -> tuple[dict[str, Any], Counter[str]]:
    """Return what was counted for each task, for the manifest, and the sums over the tasks."""
    counts: dict[str, Any] = {}
    total: Counter[str] = Counter()
    for candidates in tasks:
        stamp = read_stamp(candidates.folder(root) / TASK_FILE)
        assert stamp is not None, f"{candidates.task} was finished above"
        counts[candidates.task] = stamp["counts"]
        total.update(stamp["counts"])
        if stamp["mean_missing_mass"] is not None:
            counts[candidates.task]["mean_missing_mass"] = stamp["mean_missing_mass"]
    return counts, total


def describe_cost(size: ModelSize, total: Mapping[str, int]) -> dict[str, Any]:
    """Return tokens and FLOPs of all answers, for the manifest."""
    return {
        "input_tokens": total["input_tokens"],
        "output_tokens": total["output_tokens"],
        "flops": count_flops(size, total["input_tokens"] + total["output_tokens"], total["token_pairs"]),
        "formula": FORMULA,
        "parameters": size.parameters,
        "layers": size.layers,
        "width": size.width,
    }


def print_counts(total: Mapping[str, int], flops: float | None) -> None:
    """Print the counts that are not zero, and the FLOPs."""
    for name in SHOWN_COUNTS:
        if total[name]:
            print(f"{name.replace('_', ' '):28} {total[name]:>14,}")
    print(f"{'FLOPs':28} {f'{flops:.3g}' if flops else 'unknown (model_parameters=)':>14}")
