"""A tracked run, interrupted and resumed, is one run of wandb that holds every step and nothing of the machine."""

import json
import re
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.kit.launch import ROOT, environment, launch
from tests.kit.texts import tiny_training

pytest.importorskip("wandb")

STEPS = 6
BLOCK_BYTES, HEADER_BYTES = 32_768, 7
WHOLE, LAST = 1, 4
SECRETS = {
    "WANDB_API_KEY": "5ec4e7" * 6 + "cafe", "HF_TOKEN": "hf_sesame", "SOME_PASSWORD": "open sesame",
    "WANDB_HOST": "sesame.host", "WANDB_USERNAME": "sesame-user", "WANDB_NOTEBOOK_NAME": "sesame-notebook",
}  # fmt: skip
PROGRAM = """
import os, signal, sys
import psutil
import reasonir.train.loop as loop

fault, at = sys.argv[1], int(sys.argv[2])
plain = loop.optimizer_step

def step(ranks, engine, compute, batch, asked, **options):
    done = plain(ranks, engine, compute, batch, asked, **options)
    if batch.step + 1 == at and fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if batch.step + 1 == at and fault == "without wandb's process":
        core = [child for child in psutil.Process().children() if "wandb" in child.name()]
        assert core
        for child in core:
            child.kill()
            child.wait()
    return done

loop.optimizer_step = step
from reasonir.train.cli import main
main(sys.argv[3:])
"""


def read_records(path: Path) -> list:
    """Read an offline file: wandb's own records, framed as LevelDB frames its log."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data.startswith(b":W&B")
    at, body, records = HEADER_BYTES, b"", []
    while at + HEADER_BYTES <= len(data):
        left = BLOCK_BYTES - at % BLOCK_BYTES
        if left < HEADER_BYTES:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER_BYTES])
        body += data[at + HEADER_BYTES : at + HEADER_BYTES + length]
        at += HEADER_BYTES + length
        if kind in (WHOLE, LAST):
            records.append(Record.FromString(body))
            body = b""
    return records


def history_of(records: list) -> list[dict]:
    rows = [record.history.item for record in records if record.WhichOneof("record_type") == "history"]
    return [{"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row} for row in rows]


def offline_folders(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime_ns)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory) -> Path:
    """A run that SIGKILL ends in step 5, four steps saved, and that two ranks finish."""
    root = tmp_path_factory.mktemp("study")
    folder = root / "run"
    options = [*tiny_training(root, STEPS), f"output_dir={folder}", "resume=true", "tracking=wandb"]
    offline = {"WANDB_MODE": "offline", **SECRETS}
    first = launch(1, ["-c", PROGRAM, "killed", "5", *options], **offline)
    assert first.returncode == -signal.SIGKILL, first.stdout
    assert len(offline_folders(folder)) == 1
    second = launch(2, ["-m", "reasonir.train", *options, "parallel=ddp"], **offline)
    assert second.returncode == 0, second.stdout
    assert "continuing after step 4" in second.stdout
    assert "tracking=wandb ends" not in second.stdout
    return folder


@pytest.mark.seconds(60)
def test_a_killed_and_resumed_run_is_one_run_with_every_step_once(resumed):
    identifier = (resumed / "wandb_id.txt").read_text()
    folders = offline_folders(resumed)
    assert len(folders) == 2, "one of each process; of two ranks the first alone tracks"
    assert all(path.name.endswith(f"-{identifier}") for path in folders)
    records = read_records(next(folders[-1].glob("*.wandb")))
    (run,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert (run.run_id, run.run_group, run.display_name) == (identifier, resumed.parent.name, "run")
    assert (run.project, run.resume) == ("reasonir", True)
    rows = [json.loads(line) for line in (resumed / "metrics.jsonl").read_text().splitlines()]
    sent = history_of(records)
    assert [row["_step"] for row in sent] == [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["train/loss_nats"] for row in sent] == [row["train/loss_nats"] for row in rows]
    assert len({row["train/loss_nats"] for row in sent}) == STEPS


def test_it_holds_the_resolved_configuration_tables_and_plots(resumed):
    folder = offline_folders(resumed)[-1]
    records = read_records(next(folder.glob("*.wandb")))
    (run,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    config = {item.key: json.loads(item.value_json) for item in run.config.update if item.key != "_wandb"}
    assert config == yaml.safe_load((resumed / "config.yaml").read_text())
    assert config["parallel"]["engine"] == "ddp"
    last = history_of(records)[-1]
    table = json.loads((folder / "files" / last["train/sources/path"]).read_text())
    used = json.loads((resumed / "manifest.json").read_text())["counts"]["sources"]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert rows == [{**source, "path": Path(source["path"]).name} for source in used]
    assert sum(row["rows_drawn"] for row in rows) == 4 * STEPS
    curves = json.loads((folder / "files" / last["train/loss_by_source_table/path"]).read_text())
    assert sorted(row[0] for row in curves["data"]) == list(range(1, STEPS + 1))
    told = [record.config.update for record in records if record.WhichOneof("record_type") == "config"]
    plots = {tuple(item.nested_key)[-1] for update in told for item in update if "visualize" in item.nested_key}
    assert plots == {"train/loss_by_source", "train/rows_drawn_by_source"}


def test_no_file_names_the_machine_or_holds_a_value_of_the_environment(resumed):
    files = [path for path in (resumed / "wandb").rglob("*") if path.is_file() and not path.is_symlink()]
    assert {".wandb", ".log", ".json"} <= {path.suffix for path in files}
    assert not {"wandb-metadata.json", "requirements.txt", "output.log", "diff.patch"} & {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        for name, value in SECRETS.items():
            assert value.encode() not in content, f"{path.name} holds {name}"
        assert str(ROOT).encode() not in content, f"{path.name} says where the code lies"
        text = str(read_records(path)) if path.suffix == ".wandb" else path.read_text()
        assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text), f"{path.name} names the host"


@pytest.mark.slow
def test_a_run_whose_wandb_dies_goes_on_and_says_so_once(tmp_path):
    options = [*tiny_training(tmp_path, 4), f"output_dir={tmp_path}/run", "tracking=wandb", "save_every_steps=0"]
    command = [sys.executable, "-c", PROGRAM, "without wandb's process", "2", *options]
    done = subprocess.run(
        command, env=environment(WANDB_MODE="offline"), capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("tracking=wandb ends here, metrics.jsonl goes on: ") == 1
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4
    assert (tmp_path / "run" / "manifest.json").is_file()
