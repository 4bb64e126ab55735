"""Draw what `reproduce.sh scale=small` works on: python scripts/small_texts.py CORPUS BENCHMARK QUESTIONS FOLDER

Writes FOLDER/passages.jsonl (120 passages), FOLDER/benchmark/TASK (40 queries of a BRIGHT-layout task, with their gold
documents and 200 more) and FOLDER/questions.jsonl (20 questions). All draws have the seed 0. An empty name leaves that
part out.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

PASSAGES, QUERIES, OTHERS, QUESTIONS = 120, 40, 200, 20
WORDS = (60, 300)
"""Shortest and longest passage: long enough to ask about, short enough for a small model."""


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSONL file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a JSONL file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def draw_passages(corpus: Path) -> list[dict[str, Any]]:
    """Return passages of the right length, in the order of the file."""
    fit = [row for row in read(corpus) if WORDS[0] <= len(row["content"].split()) <= WORDS[1]]
    if len(fit) < PASSAGES:
        sys.exit(f"{corpus}: {len(fit)} passages of {WORDS[0]} to {WORDS[1]} words; {PASSAGES} are needed")
    chosen = sorted(random.Random(0).sample(range(len(fit)), PASSAGES))
    return [{"id": fit[n]["id"], "content": fit[n]["content"]} for n in chosen]


def draw_task(task: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return some queries of a task, and their gold documents among others."""
    documents, examples = read(task / "documents.jsonl"), read(task / "examples.jsonl")
    draw = random.Random(0)
    examples = draw.sample(examples, min(QUERIES, len(examples)))
    kept = {name for row in examples for name in row["gold_ids"]}
    kept |= {row["id"] for row in draw.sample(documents, min(OTHERS, len(documents)))}
    here = {row["id"] for row in documents}
    for row in examples:
        row["excluded_ids"] = [name for name in row["excluded_ids"] if name not in here or name in kept]
    return [row for row in documents if row["id"] in kept], examples


def main() -> None:
    if len(sys.argv) != 5:
        sys.exit("usage: python scripts/small_texts.py CORPUS BENCHMARK QUESTIONS FOLDER")
    corpus, benchmark, questions, folder = sys.argv[1:]
    out = Path(folder)
    if corpus:
        write(out / "passages.jsonl", draw_passages(Path(corpus)))
    if benchmark:
        documents, examples = draw_task(Path(benchmark))
        write(out / "benchmark" / Path(benchmark).name / "documents.jsonl", documents)
        write(out / "benchmark" / Path(benchmark).name / "examples.jsonl", examples)
    if questions:
        write(out / "questions.jsonl", random.Random(0).sample(read(Path(questions)), QUESTIONS))


if __name__ == "__main__":
    main()
