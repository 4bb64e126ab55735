"""Retrieval over the length of rewritten queries, top to bottom: `measure_scaling` is the main path.

Every point of the curve is a folder of results as `reasonir-eval bright` writes it, OUT/<retriever>/<rewriting>/. A
retriever is loaded once, and a corpus is embedded (or indexed) once for all its points. The same command continues
after any kill and ends with the same bytes; a finished point is not computed again.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import under, write_json
from reasonir.core.run_folder import RunFolder
from reasonir.data.bright import bright_instruction, examples_file
from reasonir.data.collections import Collection, Query
from reasonir.data.open_source import open_source
from reasonir.data.rewritings import ORIGINAL, Rewriting, find_rewritings, read_rewritten, rewritten_file
from reasonir.eval.benchmarks.evaluate import (
    Evaluation,
    check_collection,
    choose_bright_tasks,
    evaluate_collection,
    finish_evaluation,
    open_evaluation,
    write_bright_summary,
)
from reasonir.eval.rewrite.config import BM25, SCALING_MAY_DIFFER, ScalingConfig, retriever_labels, short_source
from reasonir.eval.rewrite.plot import Curve, draw
from reasonir.eval.rewrite.rewrite import read_queries
from reasonir.eval.scores.results import macro_average
from reasonir.model.encoder import Encoder
from reasonir.text.lengths import Counter, measure, open_counter
from reasonir.text.markdown import markdown_table

PUBLISHED = (
    "Published shape (arXiv 2504.20595, rewritings of 64 to 2,048 tokens): ReasonIR-8B and BM25 keep rising with the "
    "length, GRIT-7B and Nomic flatten after 256 tokens."
)


@dataclass(slots=True)
class Point:
    """One set of queries. files: of the rewritten ones, by task. texts: by task and id. lengths: means over tasks."""

    name: str
    length_tokens: int | None
    sample: int
    files: dict[str, Path]
    texts: dict[str, dict[str, str]]
    lengths: dict[str, float]


@dataclass(slots=True)
class OpenPoint:
    """A point of one retriever, and the evaluation that holds the folder of its results."""

    point: Point
    evaluation: Evaluation


def measure_scaling(config: ScalingConfig) -> None:
    """Read the rewritings, measure every retriever on each, write the table and the plot."""
    # 1 everything that can be refused is read before the first retriever works for hours
    source = open_source(config.data.dir or f"hub:{config.data.hub}")
    tasks = choose_bright_tasks(source, config.tasks, config.long)
    labels, counter = retriever_labels(config.retrievers), open_counter(config.tokenizer)
    queries = {task: read_queries(source.place, task) for task in tasks}
    rewritings = choose_rewritings(Path(config.rewrites), config.name, tasks, config.length_tokens)
    points = read_points(queries, config.rewrites, rewritings, counter)
    path = config.output_dir or str(Path("outputs") / "eval" / f"scaling-{short_source(config.data)}-{config.name}")
    config = dataclasses.replace(config, output_dir=path)
    folder = RunFolder(path, config, resume=True, ignored=SCALING_MAY_DIFFER)
    check_models(config.retrievers, config.template.value)
    originals = [examples_file(source.place, task) for task in tasks] if config.data.dir else []

    # 2 every retriever on every point
    measured = {}
    for retriever, label in labels.items():
        opened: list[OpenPoint] = []
        for point in points:
            place = f"{config.rewrites}/{point.name}" if point.files else ORIGINAL
            options = config.point_options(retriever, place, str(folder.path / label / point.name))
            # One retriever serves all points, which differ in their queries only.
            searcher = opened[0].evaluation.searcher if opened else None
            opened.append(OpenPoint(point, open_evaluation(options, searcher)))
        collections = source.collections(tasks, long=config.long)
        # A list, because the check and the measurement both walk over the collections.
        pairs = [(c, bright_instruction(config.instruction, c.name, c.instruction, config.long)) for c in collections]
        # All tasks are checked before the first one is measured, which may take hours.
        for collection, instruction in pairs:
            check_collection(opened[0].evaluation.searcher, collection, instruction)
        # Not earlier: what is refused above must leave an older curve of this folder finished.
        folder.start()
        means = measure_points(pairs, opened, label)
        measured[label] = {
            each.point.name: close_point(each, means[each.point.name], label, config.long, originals) for each in opened
        }

    # 3 the curve
    curve = summarize(points, measured, counter.by)
    write_json(folder.path / "scaling.json", {"metric": "ndcg_at_10", "tasks": tasks, **curve})
    text = curve_table(curve, tasks)
    (folder.path / "scaling.md").write_text(text, encoding="utf-8")
    draw(folder.path, curves_of(curve), f"mean length of the queries ({curve['tokens_by']})", y_label(tasks))
    inputs = [*originals, *(file for point in points for file in point.files.values())]
    folder.finish(inputs=inputs, counts={"points": len(points), "retrievers": len(labels), "tasks": len(tasks)})
    print(f"\n{text}\n{folder.path}/scaling.png, scaling.svg, scaling.json; each point's results beside them")


def check_models(retrievers: Sequence[str], template: str) -> None:
    """Check all model paths before the first long evaluation."""
    for model in retrievers:
        if model in BM25 or Path(model).is_dir():
            continue
        if model.startswith(("/", ".", "~")):
            raise UserError(f"retrievers: {model}: no such folder; give a model's folder, a hub id or bm25")
        # Loaded and dropped: the download and the leak probe may fail, and must not do so after hours.
        Encoder.from_pretrained(model, template=template)


def read_points(
    queries: dict[str, list[Query]], rewrites: str, rewritings: Sequence[Rewriting], counter: Counter
) -> list[Point]:
    """Return the queries of every point, the original ones first, with their lengths measured.

    Args:
        queries: Of each task, as they are.
        rewrites: Folder of the rewritings.
        rewritings: Those to read.
        counter: Counts tokens.
    Raises:
        UserError: a rewriting that lacks a query.
    """
    originals = {task: {query.id: query.text for query in of_task} for task, of_task in queries.items()}
    points = [_point(Rewriting(0, 1, ORIGINAL), {}, originals, counter)]
    for rewriting in rewritings:
        path = f"{rewrites}/{rewriting.name}"
        files = {task: rewritten_file(path, task, None) for task in queries}
        texts = {task: _texts(path, task, of_task) for task, of_task in queries.items()}
        points.append(_point(rewriting, files, texts, counter))
    return points


def choose_rewritings(root: Path, name: str, tasks: Sequence[str], lengths: Sequence[int] | None) -> list[Rewriting]:
    """Return the rewritings of a folder that all tasks have, the shortest first; refuse one that some tasks lack.

    Args:
        root: Folder of the rewritings.
        name: That they were given.
        tasks: To measure.
        lengths: Target lengths to take; None takes all.
    """
    if not root.is_dir():
        raise UserError(f"rewrites={root}: no such folder; make it with reasonir-eval rewrite")
    found = {task: find_rewritings(root / task, name) for task in tasks}
    chosen = list(dict.fromkeys(
        rewriting
        for of_task in found.values()
        for rewriting in of_task
        if lengths is None or rewriting.length_tokens in lengths
    ))  # fmt: skip
    absent = [n for n in lengths or () if n not in {rewriting.length_tokens for rewriting in chosen}]
    if absent or not chosen:
        wanted = f"{name}_{absent[0]}" if absent else f"{name}_<length>"
        raise UserError(
            f"rewrites={root} holds no <task>/{wanted}.jsonl for {', '.join(tasks)}; make them with reasonir-eval "
            f"rewrite name={name} length_tokens=[{absent[0] if absent else '64,256,1024'}]"
        )
    for task, of_task in found.items():
        missing = next((rewriting for rewriting in chosen if rewriting not in of_task), None)
        if missing is not None:
            raise UserError(
                f"rewrites={root} lacks {task}/{missing.name}.jsonl, which another task has; rewrite that task too, or "
                "name the tasks= and length_tokens= that are complete"
            )
    return sorted(chosen, key=lambda r: (r.length_tokens == 0, r.length_tokens, r.sample))


def _texts(path: str, task: str, queries: Sequence[Query]) -> dict[str, str]:
    # The task's own folder is not asked for: `path` holds a slash and says where the file lies.
    rewritten = read_rewritten(path, task, Path()) or {}
    texts = {}
    for query in queries:
        _, text = rewritten.get(query.id, (0, None))
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{rewritten_file(path, task, None)}: the query of id {query.id!r} is missing or empty")
        texts[query.id] = text
    return texts


def _point(rewriting: Rewriting, files: dict[str, Path], texts: dict[str, dict[str, str]], counter: Counter) -> Point:
    # Means of tasks and not of queries, as nDCG is averaged.
    by_task = [measure(list(of_task.values()), counter) for of_task in texts.values()]
    lengths = {field: fmean(row[field] for row in by_task) for field in ("words_mean", "tokens_mean")}
    return Point(rewriting.name, rewriting.length_tokens or None, rewriting.sample, files, texts, lengths)


def measure_points(
    tasks: Iterable[tuple[Collection, str]], opened: Sequence[OpenPoint], label: str
) -> dict[str, dict[str, dict[str, float]]]:
    """Measure every point on every task, into its folder; return the means by the point's name and the task.

    Args:
        tasks: Collections with the instruction before their queries.
        opened: The points of one retriever.
        label: The retriever's name, for the lines that are printed.
    """
    means: dict[str, dict[str, dict[str, float]]] = {each.point.name: {} for each in opened}
    for each in opened:
        assert each.evaluation.run is not None, "scaling runs on one rank"
        each.evaluation.run.start()
    # Tasks outside and points inside: a corpus is embedded once for all points.
    for collection, instruction in tasks:
        for each in opened:
            texts, place = each.point.texts[collection.name], under(each.evaluation.folder, collection.name, "tasks")
            # The same collection with other queries: what a search keeps of its documents serves all points.
            collection.queries = [dataclasses.replace(query, text=texts[query.id]) for query in collection.queries]
            mean = evaluate_collection(each.evaluation, collection, instruction, place)
            means[each.point.name][collection.name] = mean
            cut = each.evaluation.counts[collection.name].get("queries_truncated", 0)
            note = f", {cut} queries cut at the model's limit" if cut else ""
            said = f"{label}, {collection.name}, {each.point.name}: nDCG@10 {mean['ndcg_at_10']:.4f}{note}"
            print(said, flush=True)
    return means


def close_point(
    each: OpenPoint, results: dict[str, dict[str, float]], label: str, long: bool, originals: Sequence[Path]
) -> dict[str, Any]:
    """Write the tables and the manifest of a point's folder; return the point's part of the curve.

    Args:
        each: The point.
        results: Its means by task.
        label: The retriever's name.
        long: Whether whole pages were ranked.
        originals: Files of the original queries.
    """
    evaluation = each.evaluation
    write_bright_summary(evaluation, results, each.point.name, long)
    finish_evaluation(evaluation, [*originals, *each.point.files.values()])
    return {
        "folder": f"{label}/{each.point.name}",
        "ndcg_at_10": macro_average(results)["ndcg_at_10"],
        "tasks": {task: row["ndcg_at_10"] for task, row in results.items()},
        "queries_truncated": sum(counts.get("queries_truncated", 0) for counts in evaluation.counts.values()),
    }


def summarize(points: Sequence[Point], measured: dict[str, dict[str, dict[str, Any]]], by: str) -> dict[str, Any]:
    """Return lengths and scores of every retriever, the samples of one length together.

    Args:
        points: All sets of queries, the original ones first.
        measured: By retriever's label and point's name.
        by: Who counted the tokens.
    """
    groups: dict[int | str | None, list[Point]] = {}
    for point in points:
        # A rewriting without a length has no `length_tokens` either: only the name tells the original queries apart.
        groups.setdefault(ORIGINAL if point.name == ORIGINAL else point.length_tokens, []).append(point)
    retrievers: dict[str, list[dict[str, Any]]] = {label: [] for label in measured}
    for group in groups.values():
        for label, by_name in measured.items():
            scores = [by_name[point.name]["ndcg_at_10"] for point in group]
            retrievers[label].append(
                {
                    "queries": group[0].name,
                    "length_tokens": group[0].length_tokens,
                    "samples": len(group),
                    "tokens_mean": fmean(point.lengths["tokens_mean"] for point in group),
                    "words_mean": fmean(point.lengths["words_mean"] for point in group),
                    "ndcg_at_10": fmean(scores),
                    "standard_deviation": stdev(scores) if len(scores) > 1 else None,
                    "of_samples": {point.name: by_name[point.name] for point in group},
                }
            )
    return {"tokens_by": by, "retrievers": retrievers}


def curve_table(curve: dict[str, Any], tasks: Sequence[str]) -> str:
    """Return scaling.md."""
    first = next(iter(curve["retrievers"].values()))
    head = [_title(point) for point in first]
    lengths = [f"{point['tokens_mean']:.0f}" for point in first]
    rows = [[f"*mean tokens ({curve['tokens_by']})*", *lengths]]
    rows += [[label, *map(_cell, row)] for label, row in curve["retrievers"].items()]
    lines = [markdown_table([f"nDCG@10, {_tasks(tasks)}", *head], rows, compact=True)]
    if any(point["samples"] > 1 for point in first):
        lines.append("\n±: standard deviation over the samples.")
    for label, row in curve["retrievers"].items():
        cut = {_title(p): sum(s["queries_truncated"] for s in p["of_samples"].values()) for p in row}
        if any(cut.values()):
            said = ", ".join(f"{title} {number}" for title, number in cut.items() if number)
            lines.append(f"\n{label} cuts queries at its limit: {said}.")
    return "\n".join([*lines, "", PUBLISHED]) + "\n"


def curves_of(curve: dict[str, Any]) -> list[Curve]:
    """Return what is drawn, in points of nDCG@10, shortest queries first."""
    curves = []
    for label, row in curve["retrievers"].items():
        # A row begins with the original queries, which stand apart from the line.
        ends = sorted(row[1:], key=lambda point: point["tokens_mean"])
        spread = [100 * (point["standard_deviation"] or 0.0) for point in ends]
        curves.append(
            Curve(
                label=label,
                original=(row[0]["tokens_mean"], 100 * row[0]["ndcg_at_10"]),
                tokens=[point["tokens_mean"] for point in ends],
                points=[100 * point["ndcg_at_10"] for point in ends],
                spread=spread,
            )
        )
    return curves


def y_label(tasks: Sequence[str]) -> str:
    """Return what the vertical axis shows."""
    return f"nDCG@10, points ({_tasks(tasks)})"


def _tasks(tasks: Sequence[str]) -> str:
    return tasks[0] if len(tasks) == 1 else f"average of {len(tasks)} tasks"


def _title(point: dict[str, Any]) -> str:
    if point["queries"] == ORIGINAL:
        return ORIGINAL
    return f"{point['length_tokens']:,}" if point["length_tokens"] else "no length"


def _cell(point: dict[str, Any]) -> str:
    spread = f" ± {100 * point['standard_deviation']:.1f}" if point["standard_deviation"] is not None else ""
    return f"{100 * point['ndcg_at_10']:.1f}{spread}"
