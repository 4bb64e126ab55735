"""scripts/bench_train.py and bench_encode.py on tiny sizes: all ways compute the same, every line says what it must."""

import json
from pathlib import Path

import pytest

from tests.kit import fork
from tests.kit.texts import SENTENCES, write_rows

pytestmark = pytest.mark.slow
SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"


def lines_of(script: str, *options: str) -> list[dict]:
    done = fork.run([str(SCRIPTS / script), *options])
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_training_beside_the_published_setting():
    variants = ["published", "packed", "packed_kept_graphs"]
    sizes = ["--mixes", "public", "--queries", "4", "--repeats", "1", "--chunk-tokens", "512"]
    rows = lines_of("bench_train.py", *sizes, "--variants", *variants)
    assert [row["variant"] for row in rows] == variants
    assert {row["real_tokens"] for row in rows} == {rows[0]["real_tokens"]} and rows[0]["real_tokens"] > 100
    for row in rows:
        assert (
            row["real_tokens_per_second"] > 0 and row["peak_gib"] > 0 and 0 < row["gemm_share"] < row["product_share"]
        )


def test_encoding_beside_sentence_transformers(tmp_path):
    pytest.importorskip("sentence_transformers")
    write_rows(tmp_path / "corpus.jsonl", [{"_id": f"d{i}", "text": text} for i, text in enumerate(SENTENCES)])
    rows = lines_of(
        "bench_encode.py", "--corpus", str(tmp_path / "corpus.jsonl"), "--repeats", "1", "--max-tokens", "64"
    )
    assert [row["variant"] for row in rows] == ["sentence_transformers", "ours", "ours_bf16"]
    for row in rows:
        assert row["texts"] == len(SENTENCES) and row["tokens_per_second"] > 0 and row["largest_difference"] < 1e-5
