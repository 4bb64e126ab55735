"""Run folders, metrics.jsonl, wandb."""

import json
from dataclasses import dataclass

import pytest

import reasonir.core.progress
from reasonir.core.errors import UserError
from reasonir.core.progress import Progress
from reasonir.core.run_folder import RunFolder
from reasonir.core.tracking.metrics_log import MetricsLog


@dataclass(kw_only=True, slots=True)
class Options:
    output_dir: str
    seed: int = 0
    steps: int = 1


def test_a_folder_is_claimed_once_and_continued_with_the_same_options(tmp_path):
    folder = str(tmp_path / "run")
    run = RunFolder(folder, Options(output_dir=folder), resume=False)
    assert not run.path.exists(), "claiming writes nothing"
    run.start()
    run.finish(inputs=[], counts={"rows": 1}, note="x")
    manifest = json.loads((run.path / "manifest.json").read_text())
    assert manifest["counts"] == {"rows": 1}
    assert {"command", "git_commit", "packages", "wall_seconds", "peak_memory_gib", "note"} <= manifest.keys()
    with pytest.raises(UserError, match="resume=true"):
        RunFolder(folder, Options(output_dir=folder), resume=False)
    with pytest.raises(UserError, match=r"seed: 0 -> 3"):
        RunFolder(folder, Options(output_dir=folder, seed=3), resume=True)
    again = RunFolder(folder, Options(output_dir=folder, steps=5), resume=True, ignored=("steps",))
    assert again.finished
    again.start()
    assert not again.finished, "an older manifest no longer counts"


def test_a_run_that_wrote_nothing_binds_nobody(tmp_path):
    """The wrong folder was named at first: the command refused it, and the right one must be taken."""
    folder = str(tmp_path / "run")
    RunFolder(folder, Options(output_dir=folder, seed=1), resume=False).start()
    RunFolder(folder, Options(output_dir=folder, seed=2), resume=False).start()
    (tmp_path / "run" / "rows.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"seed: 2 -> 3"):
        RunFolder(folder, Options(output_dir=folder, seed=3), resume=False)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="other files"):
        RunFolder(str(tmp_path), Options(output_dir=str(tmp_path)), resume=True)


def test_rows_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    log = MetricsLog(tmp_path, None, first_step=0, tracking="none")
    for step in (1, 2, 3):
        log.append({"step": step, "loss": step / 7})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4, "lo')  # the process died while writing
    log = MetricsLog(tmp_path, None, first_step=2, tracking="none")
    log.append({"step": 3, "loss": 0.5})
    log.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[2]["loss"] == 0.5


def test_a_run_that_wandb_refuses_is_logged_without_it(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    log = MetricsLog(tmp_path, Options(output_dir=str(tmp_path)), first_step=0, tracking="wandb")
    log.append({"step": 1, "train/loss_nats": 0.5})
    log.summarise([])
    log.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tracking=wandb ends here, metrics.jsonl goes on: No API key configured")
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "train/loss_nats": 0.5}


def test_progress_is_silent_off_a_terminal_and_speaks_once_a_minute(capsys, monkeypatch):
    progress = Progress("train", 10, "steps")
    progress.update(1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(reasonir.core.progress, "SECONDS_BETWEEN_LOG_LINES", 0.0)
    progress.update(1, "loss 0.5")
    line = capsys.readouterr().err
    assert "2/10 steps" in line
    assert "min left" in line
    assert "loss 0.5" in line
