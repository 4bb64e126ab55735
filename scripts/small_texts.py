"""Draw what `reproduce.sh scale=small` works on: python scripts/small_texts.py CORPUS BENCHMARK QUESTIONS FOLDER

Writes FOLDER/passages.jsonl (120 passages), FOLDER/benchmark/TASK (40 queries of a BRIGHT-layout task, with their gold
documents and 200 more) and FOLDER/questions.jsonl (20 questions). All draws have the seed 0. An empty name leaves that
part out.
"""

import random
import sys
from pathlib import Path
from typing import Any

from reasonir.core.files import read_jsonl, write_jsonl
from reasonir.data.collections import stream_documents

PASSAGES, QUERIES, OTHERS, QUESTIONS = 120, 40, 200, 20
WORDS = (60, 300)
"""Shortest and longest passage: long enough to ask about, short enough for a small model."""


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSONL file."""
    return [row for _, row in read_jsonl(path)]


def draw_passages(corpus: str) -> list[dict[str, Any]]:
    """Return passages of the right length, in the order of the corpus."""
    fit = [document for document in stream_documents(corpus) if WORDS[0] <= len(document.text.split()) <= WORDS[1]]
    if len(fit) < PASSAGES:
        sys.exit(f"{corpus}: {len(fit)} passages of {WORDS[0]} to {WORDS[1]} words; {PASSAGES} are needed")
    chosen = sorted(random.Random(0).sample(range(len(fit)), PASSAGES))
    return [{"id": fit[n].id, "content": fit[n].text} for n in chosen]


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
        write_jsonl(out / "passages.jsonl", draw_passages(corpus))
    if benchmark:
        documents, examples = draw_task(Path(benchmark))
        write_jsonl(out / "benchmark" / Path(benchmark).name / "documents.jsonl", documents)
        write_jsonl(out / "benchmark" / Path(benchmark).name / "examples.jsonl", examples)
    if questions:
        write_jsonl(out / "questions.jsonl", random.Random(0).sample(read(Path(questions)), QUESTIONS))


if __name__ == "__main__":
    main()
