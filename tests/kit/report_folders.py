"""Folders of results for the tests of reports: BRIGHT's tasks and numbers of queries, texts made up."""

import random
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from reasonir.core.files import write_json
from reasonir.data.bright import BRIGHT_TASKS, read_bright
from reasonir.eval.scores.results import qrels_of, write_results, write_task
from tests.kit.texts import write_rows

QUERIES = dict(zip(BRIGHT_TASKS, (103, 116, 103, 101, 101, 117, 108, 142, 112, 111, 194, 76), strict=True))
"""As many as BRIGHT has: 1,384."""
SYLLABLES = ("ba", "ce", "di", "fo", "gu", "la", "me", "ni", "po", "ru", "sa", "te", "xo", "kra", "str", "ent", "ion")


def write_bright(root: Path, queries: Mapping[str, int], documents_per_query: int = 10) -> None:
    """Write a folder in BRIGHT's format; texts of invented words, so that they compress as badly as real ones."""
    draw = random.Random(7)
    words = ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(30_000)]
    commonness = list(accumulate(1 / (rank + 3) for rank in range(len(words))))

    def text(length: int) -> str:
        return " ".join(draw.choices(words, cum_weights=commonness, k=length))

    for task, count in queries.items():
        (root / task).mkdir(parents=True)
        ids = [f"{task}/part_{number}.txt" for number in range(max(60, documents_per_query * count))]
        write_rows(root / task / "documents.jsonl", [{"id": i, "content": text(100)} for i in ids])
        examples = [
            {
                "id": str(number),
                "query": text(draw.choice((12, 30, 90, 150, 300))),
                "gold_ids": draw.sample(ids, draw.randint(1, 8)),
                "excluded_ids": ["N/A"],
            }
            for number in range(count)
        ]
        write_rows(root / task / "examples.jsonl", examples)


def write_results_folder(
    folder: Path, data: Path, tasks: list[str], quality: float, depth: int = 30, **options: Any
) -> Path:
    """Write what `reasonir-eval bright` would; `quality` is the chance that a gold document is found."""
    draw = random.Random(int(1000 * quality))
    means, counts = {}, {}
    for collection in read_bright(str(data), tasks):
        ids = [document.id for document in collection.documents]
        run = {}
        for query in collection.queries:
            # Runs share most of their hits, as retrievers do.
            rest = random.Random(query.id).sample(ids, depth)
            found = [gold for gold in query.gold if draw.random() < quality]
            order = dict.fromkeys(sorted([*found, *rest], key=lambda _: draw.random()))
            run[query.id] = {document: 20 - 0.37 * rank for rank, document in enumerate(list(order)[:depth])}
        means[collection.name] = write_task(folder / collection.name, run, qrels_of(collection), "made-up").mean
        counts[collection.name] = {"documents": len(ids)}
    write_results(folder, means)
    asked = {"retriever": "bm25", "data": {"dir": str(data), "hub": None}, "queries": "original", "long": False}
    asked |= {"instruction": "bright", "model": {"path": None, "template": "auto"}, "top": depth, **options}
    (folder / "config.yaml").write_text(yaml.safe_dump(asked), encoding="utf-8")
    command = ["reasonir-eval", "bright", f"data.dir={data}", f"retriever={asked['retriever']}"]
    write_json(folder / "manifest.json", {"command": command, "wall_seconds": 75.3, "counts": counts})
    return folder
