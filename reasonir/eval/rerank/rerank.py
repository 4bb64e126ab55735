"""Reranking a run with a language model, top to bottom: `rerank_run` is the main path.

Candidates in, questions out as the model asks for more, scores back; then two runs a task: the model's scores alone
(rerank_only/), and interpolated with the retriever's. Invariant: no document of the run is lost, and what was paid for
is in completions.jsonl, so that the same command goes on after any interruption and ends with the same results.
"""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from math import fsum
from pathlib import Path
from typing import Any

from reasonir.core.files import CONFIG_FILE, MANIFEST_FILE, write_json
from reasonir.core.progress import Progress
from reasonir.core.run_folder import RunFolder
from reasonir.eval.rerank.candidates import Candidates, read_candidates, run_files, stored_options
from reasonir.eval.rerank.config import MAY_DIFFER, Method, RerankConfig
from reasonir.eval.rerank.cost import FORMULA, ModelSize, count_flops, read_size
from reasonir.eval.rerank.interleave import interleave
from reasonir.eval.rerank.methods import VARIABLES, Reranked, Reranker, windows
from reasonir.eval.scores.metrics import score_run
from reasonir.eval.scores.results import METRICS_FILE, write_results, write_task
from reasonir.eval.scores.tables import write_table
from reasonir.llm import Generator, open_generator
from reasonir.llm.config import Engine
from reasonir.llm.context import BYTES_PER_TOKEN, Context, open_context
from reasonir.llm.prompts import OWN_FILES, Prompt, describe_prompts, keep_prompts, load_prompt, save_prompts

ALONE, TASK_FILE = "rerank_only", "rerank.json"
COSINE_WEIGHTS, BM25_WEIGHTS = [0.5, 0.5], [100.0, 1.0]
"""The paper's two forms. arXiv 2504.20595, release 0aac962."""
STEP_BELOW = 1e-3
"""Distance between documents below `top`, relative to the lowest score above them: trec_eval reads float32."""
MANY = 0.1
"""Share of answers of no use from which a run warns."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What all tasks share. size: of the model, as far as it is known."""

    config: RerankConfig
    folder: Path
    prompts: Mapping[str, Prompt]
    context: Context
    size: ModelSize


def rerank_run(config: RerankConfig) -> None:
    """Rerank every task of a run, write both results folders, the table and the manifest."""
    tasks = read_candidates(config)
    config.weights = config.weights or default_weights(stored_options(config.run).get("retriever"), tasks)
    folder = RunFolder(config.output_dir, config, resume=True, ignored=MAY_DIFFER)
    prompts = {candidates.task: choose_prompt(config, candidates.task) for candidates in tasks}
    different = list({prompt.name: prompt for prompt in prompts.values()}.values())
    keep_prompts(folder.path, different)
    context = open_context(config.generator, config.context_tokens, config.answer_tokens(), config.tokenizer)
    plan = Plan(config, folder.path, prompts, context, size_of(config))
    folder.start()
    save_prompts(folder.path, different)
    open_tasks = [candidates for candidates in tasks if finished_counts(plan, candidates) is None]
    for candidates in tasks:
        if candidates not in open_tasks:
            print(f"{candidates.task}: reranked before")
    if open_tasks:
        generator = replace(config.generator, max_model_len=plan.context.tokens + config.answer_tokens())
        with closing(open_generator(generator, folder.path / "completions.jsonl")) as model:
            for candidates in open_tasks:
                rerank_task(plan, candidates, model)
    write_summary(plan, tasks)
    finish(plan, folder, tasks, different)


def rerank_task(plan: Plan, candidates: Candidates, model: Generator) -> None:
    """Ask about one task's documents and write its two runs, their metrics, and last its counts."""
    config, task = plan.config, candidates.task
    reranker = Reranker(config, plan.prompts[task], plan.context)
    works = (
        (name, reranker.steps(name, text, {i: candidates.documents[i] for i in candidates.first(name)}))
        for name, text in candidates.queries.items()
    )
    total = sum(count_questions(config, len(candidates.first(name))) for name in candidates.queries)
    with closing(Progress(task, total, "answers")) as progress:
        found = dict(interleave(works, model, lambda: progress.update(1)))
    results = {name: found[name] for name in candidates.run}  # in the run's order, whenever they ended
    alone = {name: above_the_rest(result.scores, candidates.run[name]) for name, result in results.items()}
    mixed = {
        name: above_the_rest(interpolate(result.scores, candidates.run[name], config.weights or []), alone[name])
        for name, result in results.items()
    }
    place = task_folder(plan.folder, candidates)
    (place / TASK_FILE).unlink(missing_ok=True)
    label = f"rerank_{config.method}"
    write_task(task_folder(plan.folder / ALONE, candidates), alone, candidates.qrels, label, candidates.aspects)
    write_task(place, mixed, candidates.qrels, f"{label}_interpolated", candidates.aspects)
    counts = {**candidates.counts, **add_counts(results.values())}
    missing = mean_of([mass for result in results.values() for mass in result.missing])
    write_json(place / TASK_FILE, {"inputs": candidates.digest(), "counts": counts, "mean_missing_mass": missing})
    warn(task, config, counts, missing)


def default_weights(retriever: str | None, tasks: Iterable[Candidates]) -> list[float]:
    """Return the paper's weights for cosines or those for BM25, by the run's retriever.

    Where the run does not name it, they are cosines if all scores lie in [-1, 1].
    """
    if retriever is not None:
        return BM25_WEIGHTS if retriever.startswith("bm25") else COSINE_WEIGHTS
    scores = (score for candidates in tasks for hits in candidates.run.values() for score in hits.values())
    return COSINE_WEIGHTS if all(abs(score) < 1.001 for score in scores) else BM25_WEIGHTS


def interpolate(scores: Mapping[str, float], retrieved: Mapping[str, float], weights: list[float]) -> dict[str, float]:
    """Return weights[0] * rerank score + weights[1] * the retriever's own score, of the documents that have both."""
    return {name: weights[0] * score + weights[1] * retrieved[name] for name, score in scores.items()}


def above_the_rest(scores: Mapping[str, float], ranking: Mapping[str, float]) -> dict[str, float]:
    """Return `scores`, and below them all other documents of `ranking` in its order.

    The rest stands at equal steps under the lowest score: their own scores would be on another scale.

    Args:
        ranking: best first.
    """
    rest = [name for name in ranking if name not in scores]
    floor = min(scores.values(), default=0.0)
    step = STEP_BELOW * max(1.0, abs(floor))
    return {**scores, **{name: floor - step * place for place, name in enumerate(rest, start=1)}}


def choose_prompt(config: RerankConfig, task: str) -> Prompt:
    """Return a task's own wording where there is one, the user's or ours, else the general one of the method."""
    method, name = f"rerank_{config.method}", f"rerank_{config.method}_{task}"
    folders = [OWN_FILES, *([Path(config.prompts)] if config.prompts else [])]
    own = any((folder / f"{name}.yaml").is_file() for folder in folders)
    return load_prompt(name if own else method, config.prompts, VARIABLES[config.method], "text", retried=False)


def size_of(config: RerankConfig) -> ModelSize:
    """Return what is known of the model: read off its configuration where it runs here, and what the options say."""
    size = read_size(config.generator.model) if config.generator.engine is Engine.vllm else ModelSize()
    return size if config.model_parameters is None else replace(size, parameters=config.model_parameters)


def count_questions(config: RerankConfig, documents: int) -> int:
    """Return the questions that a query with so many documents takes."""
    if config.method is Method.pointwise:
        return documents * config.samples
    if config.method is Method.listwise:
        return sum(1 for _ in windows(documents, config.window, config.step))
    return config.rounds * -(-documents // config.group_size)


def add_counts(results: Iterable[Reranked]) -> dict[str, int]:
    """Return the sums of all queries' counts that are not zero, by name in alphabetical order."""
    total: Counter[str] = Counter()
    for result in results:
        total.update(result.counts)
    return {name: total[name] for name in sorted(total) if total[name]}


def mean_of(values: list[float]) -> float | None:
    """Return the mean, whatever the order of the values; None of none."""
    return fsum(values) / len(values) if values else None


def task_folder(root: Path, candidates: Candidates) -> Path:
    """Return where a task's results lie: BEIR's have no level of their own."""
    return root / candidates.task if candidates.nested else root


def finished_counts(plan: Plan, candidates: Candidates) -> dict[str, Any] | None:
    """Return what an earlier run counted for a task; None where it must be reranked, for it is not whole.

    A task with failed questions is asked again: only those are, for the others' answers are in the log.
    """
    file = task_folder(plan.folder, candidates) / TASK_FILE
    if not file.is_file():
        return None
    told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    same = told["inputs"] == candidates.digest()
    return told if same and not told["counts"].get("failed") else None


def warn(task: str, config: RerankConfig, counts: Mapping[str, int], missing: float | None) -> None:
    """Say on stderr what makes a task's scores doubtful."""
    answers = max(counts.get("answers", 0), 1)
    useless = {
        "phrase_missing": "lack the phrase, and count as score 0",
        "unparsable": "cannot be read" + (", and count as score -1" if config.method is Method.pointwise else ""),
        "no_digit": "hold no digit among their likeliest tokens, and count as score 0",
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


def write_summary(plan: Plan, tasks: list[Candidates]) -> None:
    """Write results.json of both folders, and the table: retrieved, reranked alone, interpolated."""
    config = plan.config
    alone, mixed = (
        {c.task: json.loads((task_folder(root, c) / METRICS_FILE).read_text(encoding="utf-8")) for c in tasks}
        for root in (plan.folder / ALONE, plan.folder)
    )
    before = {c.task: score_run(c.run, c.qrels).mean for c in tasks}
    write_results(plan.folder / ALONE, alone)
    write_results(plan.folder, mixed)
    above = {
        title: {task: mean["ndcg_at_10"] for task, mean in means.items()}
        for title, means in (("retrieved", before), ("reranked alone", alone))
    }
    nested = tasks[0].nested
    beside = config.queries if nested and not config.long else None  # the published rows rank passages
    first, second = config.weights or []
    name = Path(config.generator.model).name
    title = f"{config.method} rerank by {name}, {first:g} * rerank + {second:g} * retriever"
    write_table(plan.folder, mixed, title=title, averaged=nested, queries=beside, above=above)


def finish(plan: Plan, folder: RunFolder, tasks: list[Candidates], prompts: list[Prompt]) -> None:
    """Write the manifest, with the cost, and say what was counted."""
    config, counts = plan.config, {}
    total: Counter[str] = Counter()
    for candidates in tasks:
        told = json.loads((task_folder(plan.folder, candidates) / TASK_FILE).read_text(encoding="utf-8"))
        counts[candidates.task] = told["counts"]
        total.update(told["counts"])
        if told["mean_missing_mass"] is not None:
            counts[candidates.task]["mean_missing_mass"] = told["mean_missing_mass"]
    flops = count_flops(plan.size, total["input_tokens"] + total["output_tokens"], total["token_pairs"])
    tokenizer = config.tokenizer or (config.generator.model if plan.context.tokenizer is not None else None)
    how = tokenizer or f"estimated at {BYTES_PER_TOKEN} UTF-8 bytes a token"
    cost = {
        "input_tokens": total["input_tokens"],
        "output_tokens": total["output_tokens"],
        "flops": flops,
        "formula": FORMULA,
        "parameters": plan.size.parameters,
        "layers": plan.size.layers,
        "width": plan.size.width,
    }
    inputs = run_files(config) + ([Path(config.data.dir)] if config.data.dir else [])
    folder.finish(
        inputs=inputs,
        counts=counts,
        cost=cost,
        prompt_tokens=plan.context.tokens,
        tokens_counted_by=how,
        prompts=describe_prompts(prompts),
    )
    for name in (CONFIG_FILE, MANIFEST_FILE):  # so that rerank_only/ is a folder of results in its own right
        shutil.copy(plan.folder / name, plan.folder / ALONE / name)
    for name in ("answers", "phrase_missing", "unparsable", "no_digit", "failed", "missing_documents", "documents_cut",
                 "repeated_documents", "unknown_documents", "grades_out_of_range", "queries_cut", "input_tokens",
                 "output_tokens", "documents_below_top", "excluded_documents_removed", "queries_without_gold",
                 "queries_missing_in_run"):  # fmt: skip
        if total[name]:
            print(f"{name.replace('_', ' '):28} {total[name]:>14,}")
    print(f"{'FLOPs':28} {f'{flops:.3g}' if flops else 'unknown (model_parameters=)':>14}")
    print(f"results: {plan.folder} (interpolated), {plan.folder / ALONE}")
