"""Texts, rows and small files made in code, for the tests."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from reasonir.model import Encoder

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


def tiny_training(folder: Path, steps: int) -> list[str]:
    """Write two sources and return the options of a run over them: dropout on, several chunks, a save every 2 steps."""
    rows = [write_rows(folder / f"{name}.jsonl", training_rows(n)) for name, n in (("a", 11), ("b", 7))]
    return [
        f"data.files=[{rows[0]},{rows[1]}]",
        "model.vocabulary_size=400", "model.hidden_size=32", "model.intermediate_size=48", "model.layers=2",
        "model.heads=4", "model.key_value_heads=2", "model.dropout=0.1", "query_max_tokens=40",
        "document_max_tokens=40", "global_batch_queries=4", "chunk_tokens=100", "graph_memory_gib=0",
        f"max_steps={steps}", "save_every_steps=2", "learning_rate=0.001", "warmup_steps=3", "precision=fp32",
    ]  # fmt: skip


def note_encoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Return a list that grows by every (instruction, text) that an encoder embeds from now on."""
    noted: list[tuple[str, str]] = []
    plain = Encoder.encode_blocks

    def noting(self: Encoder, blocks: Iterable[Sequence[tuple[str, str]]], *args: Any, **more: Any) -> Any:
        def watched() -> Iterator[Sequence[tuple[str, str]]]:
            for block in blocks:
                noted.extend(block)
                yield block

        return plain(self, watched(), *args, **more)

    monkeypatch.setattr(Encoder, "encode_blocks", noting)
    return noted
