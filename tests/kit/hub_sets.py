"""Folders in the layout of the hub's data sets."""

from pathlib import Path
from typing import Any

from reasonir.data.bright import BRIGHT_TASKS
from reasonir.eval.benchmarks.config import WITHOUT_PAGES
from tests.kit.texts import SENTENCES, write_rows


def hub_set(folder: Path, tables: dict[str, dict[str, list[dict]]]) -> Path:
    """Write a folder as a data set lies on the hub: JSONL files, and a card that names configurations and splits."""
    folder.mkdir(parents=True, exist_ok=True)
    card = ["---", "configs:"]
    for configuration, splits in tables.items():
        card += [f"- config_name: {configuration}", "  data_files:"]
        for split, rows in splits.items():
            write_rows(folder / f"{configuration}-{split}.jsonl", rows)
            card += [f"  - split: {split}", f"    path: {configuration}-{split}.jsonl"]
    (folder / "README.md").write_text("\n".join([*card, "---"]), encoding="utf-8")
    return folder


DOCUMENTS = [{"id": f"one/{i}.txt", "content": f"text q0 q10 {i}"} for i in range(4)]
EXAMPLES = [
    {"id": 0, "query": "q0", "gold_ids": ["one/0.txt", "one/1.txt"]},
    {"id": 10, "query": "q10", "gold_ids": ["one/2.txt"]},
]
ASPECTS = [
    {"id": "earth-science-0-a1", "content": "why", "weight": 3, "supporting_docs": ["one/0.txt"]},
    {"id": "earth-science-10-aspect-1", "content": "how", "weight": 1, "supporting_docs": ["one/2.txt"]},
    {"id": "earth-science-0-a2", "content": "when", "weight": 2, "supporting_docs": ["one/1.txt", "one/0.txt"]},
]


def bright_pro(folder: Path, examples: list = EXAMPLES, aspects: list | None = ASPECTS) -> str:
    tables = {"documents": {"earth_science": DOCUMENTS}, "examples": {"earth_science": examples}}
    if aspects is not None:
        tables["aspects"] = {"earth_science": aspects}
    return f"hub:{hub_set(folder, tables)}"


def task_rows(task: str) -> dict[str, list[dict[str, Any]]]:
    """A task's rows by configuration, in BRIGHT's own fields; pages only where BRIGHT has them."""
    pages = task not in WITHOUT_PAGES
    shift = BRIGHT_TASKS.index(task) % 5
    texts = SENTENCES[shift:7] + SENTENCES[:shift]
    examples = [
        {
            "id": str(i), "query": text[:25], "reasoning": "", "gold_answer": "",
            "gold_ids": [f"{task}/{i}.txt"] * 2, "excluded_ids": ["N/A"] if i else [f"{task}/3.txt"],
            "gold_ids_long": [f"{task}/page"] if pages else ["N/A"],
        }
        for i, text in enumerate(texts[:3])
    ]  # fmt: skip
    rows = {
        "documents": [{"id": f"{task}/{i}.txt", "content": text} for i, text in enumerate(texts)],
        "examples": examples,
        "gpt4_reason": [{"id": row["id"], "query": f"{texts[4]} {row['query']}"} for row in examples[::-1]],
    }
    if pages:
        rows["long_documents"] = [
            {"id": f"{task}/page", "content": " ".join(texts[:3])},
            {"id": "o", "content": "Salt."},
        ]
    return rows
