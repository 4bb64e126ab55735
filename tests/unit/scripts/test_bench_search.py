"""scripts/bench_search.py on tiny sizes: every line says what it must, and more probes find more."""

import json
from pathlib import Path

import pytest

from tests.kit import fork

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "bench_search.py"


@pytest.mark.slow
def test_smoke() -> None:
    sizes = ["--vectors", "1200", "--dimension", "16", "--queries", "20", "--pq-bytes", "4", "--shards", "2"]
    done = fork.run([str(SCRIPT), *sizes])
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows[-1]["variant"] == "exact" and rows[-1]["ms"] > 0
    found = {(row["variant"], row["probes"]): row["recall_at_10"] for row in rows[:-1]}
    assert all(row["build_seconds"] > 0 and row["bytes_per_vector"] > 12 and row["peak_gib"] > 0 for row in rows[:-1])
    assert found["index", 1] < found["index+refine", 1] < found["index+refine", 16] > found["index", 16]
