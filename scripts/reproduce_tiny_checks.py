"""What must hold after `reproduce.sh scale=tiny`, whatever the machine: relations between the files of its steps.

No stored figures: each relation follows from how the world and the rules are made, and breaks when a step loses, mixes
up or does not use what the step before it made.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

TASK = "office_cases"
GAIN = 0.1
"""nDCG@10 that training from nothing must add at least; 40 steps add several times as much."""
READ = {"mmlu": 3, "gpqa": 5}
"""Passages that the reader sees: `top` of the two tasks."""
Measure = Callable[[Path], tuple[str, bool]]


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ndcg(folder: Path, name: str) -> float:
    """Return a result's average nDCG@10."""
    found = json.loads((folder / name / "results.json").read_text(encoding="utf-8"))
    return float(found["average"]["ndcg_at_10"])


def above(higher: str, lower: str, by: float = 0.0) -> Measure:
    """Return the check that one result lies above another by more than so much."""

    def measure(folder: Path) -> tuple[str, bool]:
        first, second = ndcg(folder, higher), ndcg(folder, lower)
        return f"{first:.3f} and {second:.3f}", first > second + by

    return measure


def rows_account(folder: Path) -> tuple[str, bool]:
    """Every document ends as a row or as a rejection, in every recipe; every row has its positive and its negative."""
    kept = len(rows(folder / "synth/filter/documents.jsonl"))
    said, good = [], kept > 0
    for chain in ("hq", "eq", "vl"):
        counts = json.loads((folder / f"synth/{chain}/manifest.json").read_text(encoding="utf-8"))["counts"]
        first, last = rows(folder / f"synth/{chain}/data.jsonl"), rows(folder / f"synth/{chain}_negatives/data.jsonl")
        refused = sum(row["final"] for row in rows(folder / f"synth/{chain}/rejections.jsonl"))
        good &= len(first) + refused == counts["in"] and (chain == "vl" or counts["in"] == kept)
        good &= {row["id"] for row in last} <= {row["id"] for row in first} and len(last) > 0.8 * counts["in"]
        good &= all(len(row["pos"]) == 1 and len(row["neg"]) == 1 for row in last)
        said.append(f"{chain} {len(last)} of {counts['in']}")
    return ", ".join(said), good


def seeds_are_documents(folder: Path) -> tuple[str, bool]:
    """Queries of hq come from the benchmark's documents and are none of the benchmark's queries."""
    documents = {row["id"]: row["content"] for row in rows(folder / f"world/{TASK}/documents.jsonl")}
    asked = {row["query"] for row in rows(folder / f"world/{TASK}/examples.jsonl")}
    made = rows(folder / "synth/hq/data.jsonl")
    right = sum(row["pos"][0][1] == documents.get(row["id"]) and row["query"][1] not in asked for row in made)
    return f"{right} of {len(made)}", right == len(made) > 0


def losses_fall(*runs: str) -> Measure:
    """Return the check that the loss of every run falls, comparing thirds of its steps."""

    def measure(folder: Path) -> tuple[str, bool]:
        said, good = [], True
        for run in runs:
            steps = rows(folder / f"train/{run}/metrics.jsonl")
            losses = [row["train/loss_nats"] for row in steps]
            third = len(losses) // 3
            first, last = sum(losses[:third]) / third, sum(losses[-third:]) / third
            good &= last < first and [row["step"] for row in steps] == list(range(1, len(steps) + 1))
            said.append(f"{run} {first:.2f} to {last:.2f}")
        return ", ".join(said), good

    return measure


def same_documents(folder: Path) -> tuple[str, bool]:
    """Reranking keeps each query's documents: the same ten in front, the same ones in all."""
    before, after = (_ranking(folder / name / TASK / "run.trec") for name in ("bright/trained", "reranked"))
    same = sum(set(before[q][:10]) == set(after[q][:10]) and set(before[q]) == set(after[q]) for q in before)
    moved = sum(before[q] != after[q] for q in before)
    return f"{same} of {len(before)} queries, {moved} in another order", same == len(before) > 0 and moved > 0


def _ranking(run: Path) -> dict[str, list[str]]:
    ranked: dict[str, list[tuple[float, str]]] = {}
    for line in run.read_text(encoding="utf-8").splitlines():
        query, _, document, _, score, _ = line.split()
        ranked.setdefault(query, []).append((-float(score), document))
    return {query: [document for _, document in sorted(found)] for query, found in ranked.items()}


def reading_is_retrieval(task: str) -> Measure:
    """Return the check that the reader is right exactly where the gold document was among what it read."""

    def measure(folder: Path) -> tuple[str, bool]:
        gold = json.loads((folder / "questions/gold.json").read_text(encoding="utf-8"))
        answers = rows(folder / task / "answers.jsonl")
        found = {
            row["id"]: gold[row["id"]] in [hit["id"] for hit in row["hits"][: READ[task]]]
            for row in rows(folder / task / "retrieved.jsonl")
        }
        right = {row["id"]: row["correct"] for row in answers if row["condition"] == "retrieved"}
        closed = sum(row["correct"] for row in answers if row["condition"] == "closed_book")
        said = f"hit rate {sum(found.values())}/{len(found)}, right {sum(right.values())}, closed book {closed}"
        return said, right == found and sum(found.values()) > 0 and closed == 0

    return measure


RELATIONS: tuple[tuple[str, str, str, Measure], ...] = (
    ("synth", "every document ends once, every row has a positive and a negative", "all", rows_account),
    ("synth", "hq's rows come from the benchmark's documents, none from its queries", "all", seeds_are_documents),
    ("train", "loss falls, no step twice or missing", "last third below first", losses_fall("vl_hq")),
    ("bright", "trained above untrained, nDCG@10", f"by {GAIN}", above("bright/trained", "bright/untrained", GAIN)),
    ("bright", "trained above BM25, nDCG@10", f"by {GAIN}", above("bright/trained", "bright/bm25", GAIN)),
    ("rewrite", "BM25 gains by rewriting", f"by {GAIN}", above("bright/rewritten_bm25", "bright/bm25", GAIN)),
    ("rewrite", "trained on rewritten queries above untrained", "above", above("bright/rewritten", "bright/untrained")),
    ("rerank", "the same documents, in another order", "all", same_documents),
    ("rerank", "reranked above retrieved, nDCG@10", "above", above("reranked", "bright/trained")),
    ("rag", "MMLU: accuracy is the hit rate, question by question", "equal", reading_is_retrieval("mmlu")),
    ("rag", "GPQA: accuracy is the hit rate, question by question", "equal", reading_is_retrieval("gpqa")),
    ("ablations", "losses fall", "last third below first", losses_fall("public", "vl", "hq", "eq")),
    ("ablations", "public rows alone above untrained", "above", above("bright/public", "bright/untrained")),
    ("ablations", "hard queries alone above easy ones", "above", above("bright/hq", "bright/eq")),
    ("ablations", "all rows above varied-length ones alone", "above", above("bright/trained", "bright/vl")),
)
"""Step, what must hold, what is expected, and the measure."""
