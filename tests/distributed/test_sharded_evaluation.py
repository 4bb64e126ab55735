"""Evaluation on several ranks gives the bytes of one; a killed one goes on with the same command."""

import re
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from reasonir.model.tiny import build_tiny
from tests.kit.launch import launch
from tests.kit.texts import SENTENCES, write_rows

pytestmark = pytest.mark.seconds(60)  # launches of two ranks

TEXTS = [
    f"{sentence} {word}" for word in ("Why so?", "Indeed.", "Not at all, it seems to me.") for sentence in SENTENCES
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BRIGHT folder of two tasks and a model."""
    root = tmp_path_factory.mktemp("evaluation")
    build_tiny(
        SENTENCES, vocabulary_size=400, hidden_size=32, intermediate_size=48, layers=1, heads=2, key_value_heads=1
    ).save_pretrained(str(root / "model"))
    for shift, task in enumerate(("pony", "kitchen")):
        (root / "bright" / task).mkdir(parents=True)
        texts = TEXTS[shift:] + TEXTS[:shift]
        write_rows(
            root / "bright" / task / "documents.jsonl", [{"id": f"d{i}", "content": t} for i, t in enumerate(texts)]
        )
        examples = [
            {"id": f"q{i}", "query": TEXTS[-i][:40], "gold_ids": [f"d{i}"], "excluded_ids": [f"d{2 * i + 1}"]}
            for i in range(7)
        ]
        write_rows(root / "bright" / task / "examples.jsonl", examples)
    return root


def run(
    place: Path, folder: Path, *more: str, ranks: int = 1, strike: tuple[int, int] = (0, 0), cold: bool = False
) -> subprocess.CompletedProcess:
    """Run with a cache of the folder's own; `strike` is the rank to kill and its block."""
    program = ["-m", "tests.distributed.evaluation_worker", *map(str, strike), str(folder.with_suffix(".struck"))]
    task = [*more] or ["bright", f"data.dir={place / 'bright'}"]
    options = [f"output_dir={folder}", f"model.path={place / 'model'}", f"cache_dir={folder}-cache", "precision=fp32"]
    return launch(ranks, [*program, *task, *options], seconds=300, cold=cold or (ranks > 1 and any(strike)))


def ranked(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.suffix in (".trec", ".json", ".jsonl", ".npy", ".txt"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name != "manifest.json"}


def blocks_by_rank(output: str) -> Counter[str]:
    return Counter(re.findall(r"rank (\d) has encoded a block", output))


@pytest.fixture(scope="module")
def unbroken(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "out"
    done = run(place, folder)
    assert done.returncode == 0, done.stdout
    assert blocks_by_rank(done.stdout) == {"0": 2 * (8 + 3)}
    return folder


def test_two_ranks_share_the_texts_and_a_killed_rank_ends_the_job(place: Path, unbroken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    killed = run(place, folder, ranks=2, strike=(1, 4))
    assert killed.returncode == 1 and not (folder / "manifest.json").exists()
    before = blocks_by_rank(killed.stdout)
    assert before["1"] == 3
    done = run(place, folder, ranks=2)
    assert done.returncode == 0, done.stdout[-4000:]
    after = blocks_by_rank(done.stdout)
    assert ranked(folder) == ranked(unbroken)
    # 8 and 3 blocks a task. Nothing is encoded twice, except for a block that rank 0 had begun when it was ended.
    total = before + after
    assert 10 <= total["1"] <= 12 and 22 <= total.total() <= 23
    assert done.stdout.count("results: ") == 1, "rank 0 alone speaks"
    assert not list((tmp_path / "out-cache" / "embeddings").glob("*.blocks"))


def test_a_killed_evaluation_goes_on_after_its_last_block(place: Path, unbroken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    first_task = 8 + 3
    killed = run(place, folder, strike=(0, first_task + 5))
    assert killed.returncode == -signal.SIGKILL
    assert (folder / "kitchen" / "metrics.json").exists() and not (folder / "results.json").exists()
    done = run(place, folder)
    assert done.returncode == 0, done.stdout
    assert "kitchen: nDCG@10" in done.stdout and done.stdout.count("unchanged since it was computed") == 1
    assert "pony documents: going on after 12 of 24 texts" in done.stdout
    assert blocks_by_rank(done.stdout) == {"0": 8 - 4 + 3}
    assert ranked(folder) == ranked(unbroken)


@pytest.mark.slow
def test_encode_on_two_ranks_equals_one(place: Path, unbroken: Path, tmp_path: Path) -> None:
    """The same texts, so the same bytes, as the evaluation's cached documents."""
    done = run(place, tmp_path / "out", "encode", f"input={place / 'bright' / 'pony'}", ranks=2)
    assert done.returncode == 0, done.stdout[-4000:]
    assert blocks_by_rank(done.stdout) == {"0": 4, "1": 4}
    found = ranked(tmp_path / "out")
    assert found.keys() == {"embeddings.npy", "ids.txt"} and found["ids.txt"].split() == [b"d%d" % i for i in range(24)]
    cached = [file.read_bytes() for file in Path(f"{unbroken}-cache").rglob("*.npy")]
    assert len(cached) == 4 and found["embeddings.npy"] in cached


@pytest.mark.slow
def test_a_mistake_on_many_ranks_is_said_once(place: Path, tmp_path: Path) -> None:
    done = run(place, tmp_path / "out", "bright", f"data.dir={place / 'nowhere'}", ranks=2, cold=True)
    assert done.returncode == 1
    assert done.stdout.count("no such folder") == 1
