"""Multiple-choice questions about the built-in world, as MMLU and GPQA lay theirs out: for `reproduce.sh scale=tiny`.

    python scripts/tiny_questions.py WORLD/TASK OUTPUT

Each asks which entry of the corpus a query is about; the options are titles of four documents, so that only somebody
who has the right document before them can tell. Queries take turns: one for OUTPUT/mmlu/<task>_test.csv, one for
OUTPUT/gpqa.csv. OUTPUT/gold.json names, by question, the document that settles it.
"""

import csv
import json
import sys
from pathlib import Path
from random import Random
from typing import Any

from tiny_answers import read, title

from reasonir.quickstart.world import shuffled

OPTIONS = 4
LONGEST_WORDS = 120
"""Queries beyond are left out: the tiny model reads no further."""


def main() -> None:
    """Write the two files of questions and their gold documents."""
    if len(sys.argv) != 3:
        print("usage: python scripts/tiny_questions.py WORLD/TASK OUTPUT", file=sys.stderr)
        sys.exit(2)
    folder, output = Path(sys.argv[1]), Path(sys.argv[2])
    documents = {row["id"]: row["content"] for row in _rows(folder / "documents.jsonl")}
    examples = [row for row in _rows(folder / "examples.jsonl") if len(row["query"].split()) <= LONGEST_WORDS]
    mmlu, gpqa, gold = [], [], {}
    for number, example in enumerate(examples):
        right, *wrong = options(example, documents)
        if number % 2 == 0:
            place = number // 2 % OPTIONS
            mmlu.append([example["query"], *wrong[:place], right, *wrong[place:], "ABCD"[place]])
            gold[f"{folder.name}/{len(mmlu)}"] = example["gold_ids"][0]
        else:
            gpqa.append([example["id"], example["query"], right, *wrong])
            gold[example["id"]] = example["gold_ids"][0]
    heads = ["Record ID", "Question", "Correct Answer", *(f"Incorrect Answer {n}" for n in range(1, OPTIONS))]
    _write(output / "mmlu" / f"{folder.name}_test.csv", mmlu)
    _write(output / "gpqa.csv", [heads, *gpqa])
    (output / "gold.json").write_text(json.dumps(gold, indent=1) + "\n", encoding="utf-8")
    print(f"{len(mmlu)} questions in MMLU's form, {len(gpqa)} in GPQA's: {output}")


def options(example: dict[str, Any], documents: dict[str, str]) -> list[str]:
    """Return the title of the query's document, and three that no document of the same meaning has."""
    content = documents[example["gold_ids"][0]]
    same = {title(text) for text in documents.values() if read(text, "document") == read(content, "document")}
    others = sorted({title(text) for text in documents.values()} - same)
    return [title(content), *shuffled(Random(example["id"]), others)[: OPTIONS - 1]]


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write(path: Path, rows: list[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)


if __name__ == "__main__":
    main()
