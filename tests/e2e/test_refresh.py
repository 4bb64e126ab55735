"""scripts/refresh.sh as a user runs it: stopped and run again, it ends with the bytes of an unbroken run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reasonir.model import Encoder
from tests.kit.launch import ROOT, environment
from tests.kit.texts import SENTENCES, training_rows, write_rows

# Each round starts three interpreters, one of them by torchrun.
pytestmark = pytest.mark.slow

STEPS = 60
TRAIN = [
    "query_max_tokens=80", "document_max_tokens=80", "global_batch_queries=4", f"max_steps={STEPS}",
    "save_every_steps=20", "learning_rate=0.001", "warmup_steps=3", "precision=fp32", "negatives.drop_above=0.99",
]  # fmt: skip


def start(folder: Path, output: str, rounds: int) -> subprocess.Popen[str]:
    given = {"MODEL": f"{folder}/model", "ROWS": f"{folder}/rows.jsonl", "CORPUS": f"{folder}/corpus.jsonl"}
    given |= {"OUTPUT_DIR": f"{folder}/{output}", "ROUNDS": str(rounds), "PYTHON": sys.executable, "MAX_RESTARTS": "0"}
    given["MINE"] = "margin=null draw=false near_duplicate=0"
    return subprocess.Popen(
        ["bash", str(ROOT / "scripts" / "refresh.sh"), *TRAIN, f"data.cache_dir={folder}/cache"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(**given),
    )  # fmt: skip


def finish(started: subprocess.Popen[str]) -> str:
    output, _ = started.communicate(timeout=600)
    assert started.returncode == 0, output[-6000:]
    return output


def weights(folder: Path, number: int) -> bytes:
    return (folder / f"round_{number}" / "train" / "model" / "model.safetensors").read_bytes()


def processes_naming(folder: Path) -> list[str]:
    """Return the command lines of live processes that name a folder."""
    lines = (path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK))
    return [line.replace(b"\0", b" ").decode() for line in lines if str(folder).encode() in line]


def test_rounds_stopped_and_continued_end_byte_equal(tmp_path: Path, tiny: Encoder) -> None:
    tiny.save_pretrained(str(tmp_path / "model"))
    write_rows(tmp_path / "rows.jsonl", training_rows(16))
    write_rows(tmp_path / "corpus.jsonl", [{"id": f"d{i}", "content": text} for i, text in enumerate(SENTENCES)])
    finish(start(tmp_path, "unbroken", 2))
    # 1 each round mines with its own model, in place of the negatives of before
    mined = [json.loads((tmp_path / f"unbroken/round_{n}/mined/manifest.json").read_text()) for n in (1, 2)]
    assert mined[0]["model_fingerprint"] != mined[1]["model_fingerprint"]
    files = [(tmp_path / f"unbroken/round_{n}/mined/data.jsonl").read_text().splitlines() for n in (1, 2)]
    rows = [[json.loads(line) for line in lines] for lines in files]
    assert len(rows[0]) == 16 and rows[0] != rows[1]
    assert all(len(row["neg"]) == len(row["mined"]) == 1 for row in rows[0] + rows[1])
    assert weights(tmp_path / "unbroken", 1) != weights(tmp_path / "unbroken", 2)
    metrics = (tmp_path / "unbroken/round_2/train/metrics.jsonl").read_text().splitlines()
    assert len(metrics) == STEPS and sum(json.loads(line)["train/dropped_negatives"] for line in metrics) > 0
    # 2 the script alone is asked to stop while it trains: the training saves and stops with it
    broken = tmp_path / "broken"
    started = start(tmp_path, "broken", 1)
    steps = broken / "round_1" / "train" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not steps.exists() or not steps.read_text():
        assert started.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    started.send_signal(signal.SIGTERM)
    output, _ = started.communicate(timeout=120)
    assert started.returncode == 143, output[-4000:]
    assert not (broken / "round_1/train/manifest.json").exists() and processes_naming(broken) == []
    # 3 the same command goes on; the rows are not mined again
    found = (broken / "round_1/mined/data.jsonl").stat().st_mtime_ns
    output = finish(start(tmp_path, "broken", 1))
    assert "mined before" in output and "continuing after step" in output
    # 4 another round; the first is neither mined nor trained again
    trained = (broken / "round_1/train/model/model.safetensors").stat().st_mtime_ns
    output = finish(start(tmp_path, "broken", 2))
    assert output.count("mined before") == output.count("trained before") == 1
    assert (broken / "round_1/mined/data.jsonl").stat().st_mtime_ns == found
    assert (broken / "round_1/train/model/model.safetensors").stat().st_mtime_ns == trained
    for number in (1, 2):
        assert weights(broken, number) == weights(tmp_path / "unbroken", number)
