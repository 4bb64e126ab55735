"""Measuring a retriever, top to bottom: `evaluate_bright` and `evaluate_beir` are the main path of the stage.

Invariant: what is scored is what is written: metrics are computed from the run file's own hits, exclusions already
applied. Leaves search to `search.py` and `lexical.py`, metrics to `metrics.py`, tables to `tables.py`.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reasonir import settings
from reasonir.corpora import Collection, list_bright_tasks, read_beir, read_bright
from reasonir.eval import tables
from reasonir.eval.config import (
    BRIGHT_TASKS,
    MAY_DIFFER,
    BeirConfig,
    BrightConfig,
    RetrievalConfig,
    Retriever,
    describe,
)
from reasonir.eval.embeddings import EncodingSettings, embed_cached, encoding_precision
from reasonir.eval.metrics import RunMetrics
from reasonir.eval.results import qrels_of, write_results, write_task
from reasonir.eval.search import exact_top_k
from reasonir.lexical import BM25Index
from reasonir.model.encoder import Encoder
from reasonir.rewritten import rewritten_file
from reasonir.runs import RunFolder
from reasonir.schema import UserError

Ranking = tuple[np.ndarray, np.ndarray]
"""Document indices (Q, top), -1 where there are fewer, and their scores."""


@dataclass
class Evaluation:
    """An open evaluation: its folder, its encoder (None for BM25), what it has counted so far."""

    config: RetrievalConfig
    run: RunFolder
    encoder: Encoder | None
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)


def evaluate_bright(config: BrightConfig) -> None:
    """Rank and score every task, then write results.json and the table beside the published rows."""
    root = config.data.dir or f"hub:{config.data.hub}"
    tasks = config.tasks or (list_bright_tasks(root) if config.data.dir else list(BRIGHT_TASKS))
    evaluation = open_evaluation(config)
    # A first pass over all tasks, so that a mistake in the last one stops before anything is computed or written.
    for collection in read_bright(root, tasks, config.queries, config.long):
        check_collection(evaluation, collection, bright_instruction(config.instruction, collection, config.long))
    evaluation.run.start()
    metrics = {}
    for collection in read_bright(root, tasks, config.queries, config.long):
        instruction = bright_instruction(config.instruction, collection, config.long)
        folder = evaluation.run.path / collection.name
        metrics[collection.name] = evaluate_collection(evaluation, collection, instruction, folder)
    results = {name: scored.mean for name, scored in metrics.items()}
    average = write_results(evaluation.run.path, results)
    beside = None if config.long else config.queries  # the published rows rank passages
    tables.write_table(evaluation.run.path, results, average, beside, title_of(config))
    finish(evaluation, bright_inputs(config, tasks), average)


def bright_inputs(config: BrightConfig, tasks: list[str]) -> list[Any]:
    """Return the local files that an evaluation reads."""
    rewritten = [rewritten_file(config.queries, task, None) for task in tasks] if "/" in config.queries else []
    return [*([config.data.dir] if config.data.dir else []), *rewritten]


def evaluate_beir(config: BeirConfig) -> None:
    """Rank and score one BEIR folder."""
    collection = read_beir(config.data.dir, config.split)
    evaluation = open_evaluation(config)
    instruction = "" if config.instruction == "none" else config.instruction
    check_collection(evaluation, collection, instruction)
    evaluation.run.start()
    scored = evaluate_collection(evaluation, collection, instruction, evaluation.run.path)
    results = {collection.name: scored.mean}
    write_results(evaluation.run.path, results)
    tables.write_table(evaluation.run.path, results, None, None, title_of(config))
    folder = Path(config.data.dir)
    inputs = [*folder.glob("corpus.jsonl*"), *folder.glob("queries.jsonl*"), folder / "qrels" / f"{config.split}.tsv"]
    finish(evaluation, [path for path in inputs if path.exists()], scored.mean)


def open_evaluation(config: RetrievalConfig) -> Evaluation:
    """Claim the output folder and load the encoder; nothing is written yet."""
    if config.output_dir is None:
        name = hashlib.sha256(settings.to_yaml(config).encode()).hexdigest()[:8]
        config.output_dir = str(Path("outputs") / "eval" / f"{describe(config)}-{config.retriever.value}-{name}")
    run = RunFolder(config.output_dir, config, resume=True, ignored=MAY_DIFFER)
    encoder = None
    if config.retriever is Retriever.dense:
        assert config.model.path is not None, "validated"
        encoder = Encoder.from_pretrained(config.model.path, template=config.model.template.value)
    return Evaluation(config, run, encoder)


def check_collection(evaluation: Evaluation, collection: Collection, instruction: str) -> None:
    """Refuse what could not be measured: no documents, no judged query, an instruction longer than the limit."""
    if not collection.documents:
        raise UserError(f"{collection.name}: the corpus is empty")
    if not any(query.gold for query in collection.queries):
        raise UserError(f"{collection.name}: no query has a gold document")
    encoder = evaluation.encoder
    if encoder is not None:
        encoder.template.encode([(instruction, "x")], evaluation.config.query_max_tokens or encoder.default_max_tokens)


def evaluate_collection(evaluation: Evaluation, collection: Collection, instruction: str, folder: Path) -> RunMetrics:
    """Rank one collection's documents for its queries; write run, metrics and per-query rows into `folder`."""
    judged = [query for query in collection.queries if query.gold]
    ids = [document.id for document in collection.documents]
    row_of = {identifier: row for row, identifier in enumerate(ids)}
    excluded = [
        np.array(sorted(row_of[i] for i in set(query.excluded_ids) if i in row_of), dtype=np.int64) for query in judged
    ]
    rank = rank_dense if evaluation.encoder is not None else rank_lexical
    indices, scores = rank(evaluation, collection, [query.text for query in judged], instruction, excluded)
    run = {
        query.id: {ids[i]: float(s) for i, s in zip(row, values, strict=True) if i >= 0}
        for query, row, values in zip(judged, indices, scores, strict=True)
    }
    scored = write_task(folder, run, qrels_of(collection), evaluation.config.retriever.value)
    skipped = len(collection.queries) - len(judged)
    counts = {"documents": len(ids), "queries": len(judged), "queries_without_gold": skipped}
    evaluation.counts.setdefault(collection.name, {}).update(counts)
    note = f", {skipped} queries without gold left out" if skipped else ""
    print(f"{collection.name}: nDCG@10 {scored.mean['ndcg_at_10']:.4f} ({len(judged)} queries{note})")
    return scored


def rank_dense(
    evaluation: Evaluation, collection: Collection, queries: list[str], instruction: str, excluded: list[np.ndarray]
) -> Ranking:
    """Embed documents and queries (or reuse them) and search exactly."""
    config, encoder = evaluation.config, evaluation.encoder
    assert encoder is not None, "dense"
    precision = encoding_precision(config.precision.value, encoder)
    sides = (
        ("documents", [document.text for document in collection.documents], "", config.document_max_tokens),
        ("queries", queries, instruction, config.query_max_tokens),
    )
    embeddings, counts = [], evaluation.counts.setdefault(collection.name, {})
    for side, texts, words, limit in sides:
        options = EncodingSettings(words, limit or encoder.default_max_tokens, precision)
        label = f"{collection.name} {side}"
        encoded = embed_cached(encoder, texts, options, Path(config.cache_dir).expanduser(), label, config.chunk_tokens)
        embeddings.append(encoded.embeddings)
        counts[f"{side}_truncated"], counts[f"{side}_reused"] = encoded.truncated_texts, encoded.reused
        how = "reused from the cache" if encoded.reused else "encoded"
        cut = f", {encoded.truncated_texts} cut at {options.max_tokens} tokens" if encoded.truncated_texts else ""
        print(f"{label}: {len(texts)} {how}{cut}")
    return exact_top_k(
        embeddings[1], embeddings[0], config.top, excluded, ids=[document.id for document in collection.documents]
    )


def rank_lexical(
    evaluation: Evaluation, collection: Collection, queries: list[str], instruction: str, excluded: list[np.ndarray]
) -> Ranking:
    """Rank by BM25; instructions are for encoders only."""
    if collection.index is None:
        ids, texts = [d.id for d in collection.documents], [d.text for d in collection.documents]
        collection.index = BM25Index(ids, texts)
    weighted = evaluation.config.retriever is Retriever.bm25_query_weighted
    return collection.index.search(queries, evaluation.config.top, excluded, "bm25" if weighted else "plain")


def bright_instruction(option: str, collection: Collection, long: bool) -> str:
    """Return the query instruction of a task.

    The `bright` preset follows the families of the paper's evaluation, filled with the raw task id; a task folder's
    own instruction.txt comes before it. arXiv 2504.20595, release 0aac962.
    """
    if option == "none":
        return ""
    if option != "bright":
        return option.replace("{task}", collection.name)
    if collection.instruction:
        return collection.instruction
    task, unit = collection.name, "documents" if long else "passages"
    if task == "leetcode":
        return "Given a coding problem, retrieve relevant examples that help answer the problem"
    if task in ("aops", "theoremqa_questions"):
        return "Given a Math problem, retrieve relevant examples that help answer the problem"
    if task == "theoremqa_theorems":
        return "Given a Math problem, retrieve relevant theorems that help answer the problem"
    if task == "pony":
        return f"Given a {task} question, retrieve relevant {unit} that help answer the question"
    return f"Given a {task} post, retrieve relevant {unit} that help answer the post"


def title_of(config: RetrievalConfig) -> str:
    """Return what a table calls this retriever."""
    return config.retriever.value if config.retriever is not Retriever.dense else str(config.model.path)


def finish(evaluation: Evaluation, inputs: list[Any], mean: dict[str, float]) -> None:
    """Write the manifest and say where the results lie."""
    encoder = evaluation.encoder
    evaluation.run.finish(
        inputs=inputs,
        counts=evaluation.counts,
        model_fingerprint=encoder.fingerprint if encoder is not None else None,
        device=str(encoder.device) if encoder is not None else "cpu",
    )
    print(f"nDCG@10 {mean['ndcg_at_10']:.4f}; results: {evaluation.run.path}")
