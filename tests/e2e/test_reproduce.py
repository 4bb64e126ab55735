"""`scripts/reproduce.sh scale=tiny`: from an empty folder to the final table, killed, interrupted, its server ended."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "reproduce.sh"
SIGNS = {
    "synth": "synth/hq/completions.jsonl",
    "train": "train/vl_hq/checkpoints/step_*",
    "bright": "bright/trained/config.yaml",
    "rewrite": "rewrites/completions.jsonl",
    "rerank": "reranked/completions.jsonl",
    "rag": "mmlu/completions.jsonl",
    "ablations": "train/hq/checkpoints/step_*",
}
"""What shows that a step is at work, none of which is there before it."""
SECONDS = 1800
"""Beyond what the slowest machine takes for one stage."""


class Chain:
    """A run of the script in a process group of its own, its output in a file."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.out = folder / "out"
        self.log = folder / "log"
        command = ["bash", str(SCRIPT), "scale=tiny", f"output_dir={self.out}", *arguments]
        environment = {**os.environ, "PYTHON": sys.executable}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # pytest may have been started deaf
            )  # fmt: skip

    def wait_for(self, sign: str) -> None:
        """Wait until a file of the output folder is there and holds something."""
        deadline = time.monotonic() + SECONDS
        while not any(path.is_dir() or path.stat().st_size for path in self.out.glob(sign)):
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, f"no {sign}"
            time.sleep(0.02)

    def end(self, number: signal.Signals) -> int:
        """Send a signal to the whole group, as a terminal or a machine that goes down does."""
        os.killpg(self.process.pid, number)
        return self.process.wait(timeout=120)

    def finish(self) -> tuple[int, dict[str, Any]]:
        """Return exit status and table."""
        status = self.process.wait(timeout=SECONDS)
        return status, json.loads((self.out / "reproduce.json").read_text())


def servers(folder: Path) -> list[int]:
    """Return the processes that serve an output folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"{folder}/address".encode() in words and not words[0].endswith(b"bash"):
            found.append(int(process.name))
    return found


def without_times(table: dict[str, Any]) -> dict[str, Any]:
    steps = [{**step, "seconds": None} for step in table["steps"]]
    return {**table, "steps": steps, "commands": {name: note["command"] for name, note in table["commands"].items()}}


def killed_and_continued(folder: Path, stages: list[str]) -> Path:
    """Run the chain, killed once in each of the stages, to its end; return its output folder."""
    for stage in stages:
        chain = Chain(folder)
        chain.wait_for(SIGNS[stage])
        assert chain.end(signal.SIGKILL) == -signal.SIGKILL
        assert not (chain.out / "notes" / stage).exists(), f"{stage} had ended before it was killed"
    status, table = Chain(folder).finish()
    bad = [line for line in table["checks"] if line["status"] != "ok"]
    assert (status, bad) == (0, []), (folder / "log").read_text()[-3000:]
    assert table["status"] == "ok" and table["stopped"] == ""
    assert [(step["step"], step["state"]) for step in table["steps"]] == [(name, "ran") for name in SIGNS]
    assert {line["step"] for line in table["checks"]} == set(SIGNS)
    assert "not the paper's numbers" in table["says"]
    return folder / "out"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a chain that was killed in three stages."""
    return killed_and_continued(tmp_path_factory.mktemp("chain"), ["synth", "train", "rag"])


@pytest.mark.slow
def test_the_chain_survives_kills_and_says_nothing_twice(finished: Path) -> None:
    before = json.loads((finished / "reproduce.json").read_text())
    commands = [line.split(": ")[1] for line in (finished.parent / "log").read_text().splitlines() if line[:3] == "-- "]
    assert "chain was done before" in commands, "the last run began where the one before was killed"
    chain = Chain(finished.parent)
    begun = time.monotonic()
    status, after = chain.finish()
    log = chain.log.read_text()
    assert status == 0 and without_times(after) == without_times(before)
    assert not [line for line in log.splitlines() if line.startswith("$ ")], "a finished command ran again"
    assert log.count(" was done before") == len(before["commands"]) == 23
    assert time.monotonic() - begun < 60
    assert not servers(finished)


def swap(first: str, second: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        one, other = (folder / name / "results.json" for name in (first, second))
        texts = one.read_text(), other.read_text()
        one.write_text(texts[1])
        other.write_text(texts[0])

    return change


def edit(file: str, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / file
        path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")

    return apply


def renamed(lines: list[str]) -> list[str]:
    """Steps in the other order under the old numbers: the loss rises."""
    numbers = [json.loads(line)["step"] for line in lines]
    return [json.dumps({**json.loads(line), "step": n}) for line, n in zip(lines[::-1], numbers, strict=True)]


def wrong_once(lines: list[str]) -> list[str]:
    """One answer with passages judged the other way round."""
    rows = [json.loads(line) for line in lines]
    row = next(row for row in rows if row["condition"] == "retrieved")
    row["correct"] = not row["correct"]
    return [json.dumps(row) for row in rows]


BREAKAGES: dict[str, Callable[[Path], None]] = {
    "every document ends once, every row has a positive and a negative": edit("synth/hq/data.jsonl", lambda x: x[1:]),
    "hq's rows come from the benchmark's documents, none from its queries": edit(
        "world/office_cases/documents.jsonl", lambda x: x[1:]
    ),
    "loss falls, no step twice or missing": edit("train/vl_hq/metrics.jsonl", lambda x: [*x, x[-1]]),
    "trained above untrained, nDCG@10": swap("bright/trained", "bright/untrained"),
    "trained above BM25, nDCG@10": swap("bright/trained", "bright/bm25"),
    "BM25 gains by rewriting": swap("bright/rewritten_bm25", "bright/bm25"),
    "trained on rewritten queries above untrained": swap("bright/rewritten", "bright/untrained"),
    "the same documents, in another order": edit(
        "reranked/office_cases/run.trec", lambda x: [x[0].replace("office_cases/", "other/"), *x[1:]]
    ),
    "reranked above retrieved, nDCG@10": swap("reranked", "bright/trained"),
    "MMLU: accuracy is the hit rate, question by question": edit("mmlu/answers.jsonl", wrong_once),
    "GPQA: accuracy is the hit rate, question by question": edit("gpqa/answers.jsonl", wrong_once),
    "losses fall": edit("train/eq/metrics.jsonl", renamed),
    "public rows alone above untrained": swap("bright/public", "bright/untrained"),
    "hard queries alone above easy ones": swap("bright/hq", "bright/eq"),
    "all rows above varied-length ones alone": swap("bright/vl", "bright/trained"),
}


@pytest.mark.slow
def test_each_relation_can_fail(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import reproduce_table

    names = [name for _, name, *_ in reproduce_table.checks("tiny")]
    assert names == list(BREAKAGES)
    kept = shutil.ignore_patterns("cache", "checkpoints", "model", "initial_model", "store")
    for number, (name, damage) in enumerate(BREAKAGES.items()):
        folder = tmp_path / str(number)
        shutil.copytree(finished, folder, ignore=kept)
        damage(folder)
        table = reproduce_table.report("tiny", folder, list(SIGNS), "")
        assert name in [line["name"] for line in table["checks"] if line["status"] == "off"]
        assert table["status"] == "off"


@pytest.mark.slow
def test_ctrl_c_ends_the_server_and_a_dead_server_ends_the_chain(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.wait_for("synth/hq/completions.jsonl")
    (server,) = servers(chain.out)
    assert chain.end(signal.SIGINT) == 130
    assert not Path(f"/proc/{server}").exists()
    table = json.loads((chain.out / "reproduce.json").read_text())
    assert table["status"] == "incomplete" and {line["status"] for line in table["checks"]} == {"not run"}
    chain = Chain(tmp_path)
    chain.wait_for("synth/hq_negatives/completions.jsonl")
    (server,) = servers(chain.out)
    os.kill(server, signal.SIGKILL)
    status, table = chain.finish()
    assert status == 1 and table["stopped"].startswith("synth: chain ended with status ")
    assert "Traceback" not in chain.log.read_text()


@pytest.mark.slow
def test_the_chain_survives_a_kill_in_every_stage(tmp_path: Path) -> None:
    out = killed_and_continued(tmp_path, list(SIGNS))
    assert len(json.loads((out / "reproduce.json").read_text())["checks"]) == len(BREAKAGES)
