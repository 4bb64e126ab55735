"""Run folders, metrics.jsonl, wandb."""

import json
import os
from dataclasses import dataclass

import pytest

import reasonir.core.progress
from reasonir.core.errors import UserError
from reasonir.core.progress import Progress
from reasonir.core.run_folder import RunFolder
from reasonir.core.stamp import checksums
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


def test_one_process_writes_into_a_folder_and_the_next_one_looks_again(tmp_path):
    folder = str(tmp_path / "run")
    first, second = (RunFolder(folder, Options(output_dir=folder, seed=s), resume=True) for s in (1, 2))
    first.start()
    child = os.fork()
    if child == 0:
        try:
            second.start()
        except UserError as error:
            os._exit(7 if "another run writes here" in str(error) else 8)
        os._exit(9)
    # The child inherits this process's table of locks, and must not take its lock for its own.
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    (first.path / "rows.jsonl").write_text("{}")
    first.finish(inputs=[], counts={})
    with pytest.raises(UserError, match=r"seed: 1 -> 2"):
        second.start()
    assert first.finished, "a refused run leaves the folder finished"


def test_a_changed_input_or_output_is_refused_where_work_goes_on(tmp_path):
    folder, corpus = str(tmp_path / "run"), tmp_path / "corpus.jsonl"
    corpus.write_text("a")
    run = RunFolder(folder, Options(output_dir=folder), resume=True)
    run.start([corpus, "hub:a/b"])
    (run.path / "data.jsonl").write_text("row")
    run.finish(inputs=[corpus], counts={}, outputs=checksums(run.path, ["data.jsonl"]))
    RunFolder(folder, Options(output_dir=folder), resume=True).start([corpus], begun=True)
    run.finish(inputs=[corpus], counts={}, outputs=checksums(run.path, ["data.jsonl"]))
    (run.path / "data.jsonl").write_text("rov")
    with pytest.raises(UserError, match=r"data\.jsonl is not what its command wrote; remove it"):
        RunFolder(folder, Options(output_dir=folder), resume=True).start([corpus], begun=True)
    (run.path / "data.jsonl").write_text("row")
    corpus.write_text("b")
    with pytest.raises(UserError, match=r"corpus\.jsonl: the input changed since"):
        RunFolder(folder, Options(output_dir=folder), resume=True).start([corpus], begun=True)
    assert run.finished


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"[1]"])
def test_damaged_options_are_one_line(tmp_path, content):
    (tmp_path / "config.yaml").write_bytes(content)
    (tmp_path / "data.jsonl").write_text("row")
    with pytest.raises(UserError):
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


def test_a_damaged_row_of_metrics_is_left_out_and_said(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"st\xffp": 2}\n{"step": 3}\n{"ste')
    MetricsLog(tmp_path, None, first_step=3, tracking="none").close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 3}\n'
    assert "1 damaged rows are left out" in capsys.readouterr().err


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
