"""Texts, rows and small files made in code, for the tests."""

import json
from pathlib import Path

SENTENCES = [
    "Water left in a shallow dish is gone by the evening, the faster the warmer the room.",
    "Molecules at a surface that gain enough energy escape into the air.",
    "A key that moves along a metal rod heats it at the far end too.",
    "Conduction passes kinetic energy from particle to particle.",
    "The lid of the jar would not open until it was held under hot water.",
    "Materials expand when warmed, metals more than glass.",
    "Short.",
    "Nothing here answers anything, it is only long enough to be cut when the limit is small. " * 6,
]

INSTRUCTION = "Find the principle behind this observation"


def training_rows(count: int = 24) -> list[dict]:
    """Rows in the contract's format, with one negative each; texts of different length."""
    rows = []
    for i in range(count):
        rows.append(
            {
                "query": [INSTRUCTION, f"observation {i}: {SENTENCES[i % 7]}"],
                "pos": [["", f"principle {i}: {SENTENCES[(i + 1) % 7]}"]],
                "neg": [["", f"rival {i}: {SENTENCES[(i + 3) % 7]}"]],
            }
        )
    return rows


def write_rows(path: Path, rows: list[dict]) -> Path:
    """Write rows as JSONL and return the path."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
