"""scripts/bench_eval.py on tiny sizes: both ways agree, every line says what it must."""

import json
from pathlib import Path

import pytest

from tests.kit import fork
from tests.kit.texts import SENTENCES, write_rows

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "bench_eval.py"


@pytest.mark.slow
def test_smoke(tmp_path: Path) -> None:
    write_rows(tmp_path / "corpus.jsonl", [{"_id": f"d{i}", "text": text} for i, text in enumerate(SENTENCES)])
    write_rows(tmp_path / "queries.jsonl", [{"_id": f"q{i}", "text": text[:30]} for i, text in enumerate(SENTENCES)])
    sizes = ["--queries", "4", "--documents", "1500", "--dimension", "16", "--repeats", "1"]
    done = fork.run([str(SCRIPT), *sizes, "--scifact", str(tmp_path)])
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["bench"], row["variant"]) for row in rows] == [
        ("search", "usual"),
        ("search", "ours"),
        ("bm25", "ours"),
    ]
    for row in rows:
        assert row["seconds"] > 0 and row["peak_mib"] > 50 and row["device"] == "cpu"
    assert rows[0]["ratio"] == 1.0 and rows[2]["queries"] == len(SENTENCES) and rows[2]["largest_difference"] < 1e-6
