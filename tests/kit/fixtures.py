"""Fixtures of all tests: a tiny encoder, a BRIGHT and a BEIR folder, caches of their own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reasonir.model import Encoder
from reasonir.model.tiny import build_tiny
from tests.kit.browser import open_browser
from tests.kit.collections import TEXTS
from tests.kit.texts import SENTENCES, write_rows

SIZES: dict[str, Any] = {"vocabulary_size": 400, "hidden_size": 32, "intermediate_size": 48, "layers": 1}
SIZES |= {"heads": 2, "key_value_heads": 1}
"""Of the smallest model that has all parts."""


@pytest.fixture
def tiny() -> Encoder:
    """A fresh two-layer Llama encoder with grouped queries, in float32 on the CPU."""
    return build_tiny(
        SENTENCES, vocabulary_size=400, hidden_size=64, intermediate_size=96, layers=2, heads=4, key_value_heads=2
    )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved one-layer encoder. Tests read the folder and never write into it."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    build_tiny(TEXTS, **SIZES).save_pretrained(str(folder))
    return folder


@pytest.fixture
def bright_folder(tmp_path: Path) -> Path:
    """Two tasks: exclusions, golds named twice, "N/A", an empty document, a query without gold."""
    root = tmp_path / "bright"
    for shift, name in enumerate(("physics", "kitchen")):
        task = root / name
        task.mkdir(parents=True)
        documents = [{"id": f"{name}/{i}", "content": text} for i, text in enumerate([*TEXTS, ""])]
        write_rows(task / "documents.jsonl", documents)

        def example(number: int, text: str, gold: list[int], out: list[int], name: str = name) -> dict[str, Any]:
            excluded = [f"{name}/{i}" for i in out] or ["N/A"]
            golds = [f"{name}/{i}" for i in gold] or ["N/A"]
            return {"id": f"q{number}", "query": text, "gold_ids": golds, "excluded_ids": excluded}

        examples = [
            example(0, "Why is the water in the dish gone by evening?", [1, 1], [0]),
            example(1, "Why would the lid of the jar not open?", [5, 4 + shift], []),
            example(2, "What is this about?", [], []),
            example(3, "A metal rod gets hot at the far end", [3], [2, 9]),
        ]
        write_rows(task / "examples.jsonl", examples)
        rewritten = [{"id": e["id"], "query": f"{e['query']} Iron and salt."} for e in reversed(examples)]
        write_rows(task / "longer.jsonl", rewritten)
    (root / "physics" / "instruction.txt").write_text("Find the principle\n", encoding="utf-8")
    return root


@pytest.fixture
def beir_folder(tmp_path: Path) -> Path:
    """Three queries, one of them without gold, and graded judgements of the split dev."""
    root = tmp_path / "water"
    (root / "qrels").mkdir(parents=True)
    write_rows(root / "corpus.jsonl", [{"_id": f"d{i}", "title": "", "text": t} for i, t in enumerate(TEXTS)])
    queries = [
        {"_id": "a", "text": "water in a dish"},
        {"_id": "b", "text": "metal rod"},
        {"_id": "c", "text": "?"},
    ]
    write_rows(root / "queries.jsonl", queries)
    lines = ["query-id\tcorpus-id\tscore", "a\td0\t2", "a\td1\t1", "a\td7\t0", "b\td2\t1", "c\td2\t0"]
    (root / "qrels" / "dev.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.fixture
def own_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the datasets library prepares in the test's folder."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium. Not for the whole session: its library keeps an event loop running, which other tests would meet."""
    with open_browser() as opened:
        yield opened
