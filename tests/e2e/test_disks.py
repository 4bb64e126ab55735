"""Output folders and disks as they are: names that are paths, a second process, a full disk, a damaged artefact."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reasonir.eval import cli as eval_cli
from reasonir.synth import cli as synth_cli
from reasonir.train import cli as train_cli
from tests.kit.dev_runs import measured_training
from tests.kit.full_disk import little_room
from tests.kit.servers import ScriptedServer
from tests.kit.texts import SENTENCES, tiny_training, write_rows

# Each starts several commands.
pytestmark = pytest.mark.seconds(20)

TELLS_OF_THE_RUN = ("manifest.json", "config.yaml", "metrics.jsonl", "metrics.png", "README.md")
PROGRAMS = {"eval": eval_cli.main, "synth": synth_cli.main, "train": train_cli.main}


def run(program: str, arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    """Run a command in this process; return what it printed, or its one line where it should fail."""
    with pytest.raises(SystemExit) as ended:
        PROGRAMS[program](arguments)
    captured = capsys.readouterr()
    assert ended.value.code == code, captured.err
    assert "Traceback" not in captured.err
    if code:
        (line,) = [line for line in captured.err.splitlines() if ": error: " in line]
        return line
    return captured.out


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of every file but those that tell of times and of the folder."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name not in TELLS_OF_THE_RUN
    }


def bm25(data: Path, out: Path | str, *more: str) -> list[str]:
    return ["bright", f"data.dir={data}", "retriever=bm25", f"output_dir={out}", *more]


# --- names are not paths ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["{data}/physics", "../elsewhere/physics", "..", "."])
def test_a_task_that_is_a_path_is_refused(
    bright_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str
) -> None:
    shutil.copytree(bright_folder, tmp_path / "elsewhere")
    before = files_of(tmp_path)
    name = task.format(data=bright_folder)
    said = run("eval", bm25(bright_folder, tmp_path / "out", f"tasks=[{name}]"), capsys, code=2)
    assert "must be a name, not a path" in said
    assert files_of(tmp_path) == before and not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["fuse", "compare", "report", "rerank"])
def test_results_of_others_name_no_place(
    bright_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """A downloaded folder of results calls its task by the path of another folder."""
    run("eval", bm25(bright_folder, tmp_path / "a"), capsys)
    task = next(iter(json.loads((tmp_path / "a" / "results.json").read_text())["tasks"]))
    shutil.copytree(tmp_path / "a" / task, tmp_path / "victim")
    content = json.loads((tmp_path / "a" / "results.json").read_text())
    content["tasks"] = {str(tmp_path / "victim"): content["tasks"][task]}
    for name in ("manifest.json", "config.yaml"):
        (tmp_path / "a" / name).unlink()
    (tmp_path / "a" / "results.json").write_text(json.dumps(content))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    before = files_of(tmp_path)
    both = f"[{tmp_path}/a,{tmp_path}/b]"
    options = {
        "fuse": [f"runs={both}", f"output={tmp_path}/out"],
        "compare": [f"results={both}", f"output_dir={tmp_path}/out"],
        "report": [f"results={both}", f"output={tmp_path}/out/report.html"],
        "rerank": [f"run={tmp_path}/a", f"data.dir={bright_folder}", f"output_dir={tmp_path}/out",
                   "generator.base_url=http://127.0.0.1:9/v1", "generator.model=m"],
    }  # fmt: skip
    assert "must be a name, not a path" in run("eval", [command, *options[command]], capsys, code=2)
    assert files_of(tmp_path) == before


# --- one process at a time --------------------------------------------------------------------------------------------

HOLD = """
import pathlib, sys
from reasonir.core.files import lock_folder
held = lock_folder(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_by_another(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdin is not None and other.stdout is not None
    assert other.stdout.readline() == "held\n"
    try:
        yield
    finally:
        other.stdin.close()
        other.wait()
        other.stdout.close()


Made = Callable[[Path], tuple[str, list[str]]]
ASKED = ["generator.base_url=http://127.0.0.1:9/v1", "generator.model=m"]


def commands(root: Path, model: Path, bright: Path, beir: Path) -> dict[str, tuple[str, list[str]]]:
    """Return every command that writes a folder, without the option that names it."""
    corpus = write_rows(root / "corpus.jsonl", [{"id": f"d{n}", "content": text} for n, text in enumerate(SENTENCES)])
    rows = [{"query": text[:20], "pos": [["", text]], "neg": []} for text in SENTENCES]
    write_rows(root / "rows.jsonl", rows)
    ids = [{"query": text[:20], "pos": [["", f"d{n}"]], "neg": []} for n, text in enumerate(SENTENCES)]
    write_rows(root / "ids.jsonl", ids)
    questions = [{"id": f"m{n}", "question": f"What {n}?", "options": ["a", "b"], "answer": "B"} for n in range(3)]
    write_rows(root / "questions.jsonl", questions)
    small = [f"model.path={model}", f"cache_dir={root}/cache"]
    data = f"data.dir={bright}"
    return {
        "bright": ("eval", ["bright", data, "retriever=bm25"]),
        "bright dense": ("eval", ["bright", data, *small]),
        "beir": ("eval", ["beir", f"data.dir={beir}", "split=dev", "retriever=bm25"]),
        "encode": ("eval", ["encode", f"input={corpus}", *small]),
        "compare": ("eval", ["compare", f"results=[{root}/a,{root}/b]"]),
        "fuse": ("eval", ["fuse", f"runs=[{root}/a,{root}/b]"]),
        "contamination": ("eval", ["contamination", f"rows=[{root}/rows.jsonl]", data]),
        "datastore": ("eval", ["datastore", f"source=[{corpus}]"]),
        "rewrite": ("eval", ["rewrite", data, "name=mine", *ASKED]),
        "rerank": ("eval", ["rerank", f"run={root}/a", "method=pointwise", *ASKED]),
        "multiple_choice": ("eval", ["multiple_choice", f"data.file={root}/questions.jsonl", *ASKED]),
        "hq": ("synth", ["recipe=hq", f"corpus={corpus}", *ASKED]),
        "filter": ("synth", ["recipe=filter", f"corpus={corpus}", "min_words=1"]),
        "mine": ("synth", ["recipe=mine", f"rows={root}/ids.jsonl", f"corpus={corpus}"]),
        "split": ("synth", ["recipe=split", f"rows={root}/ids.jsonl", f"corpus={corpus}", "test_share=0.4"]),
        "train": ("train", tiny_training(root, 2)),
    }


NAMES = (
    "bright", "bright dense", "beir", "encode", "compare", "fuse", "contamination", "datastore", "rewrite", "rerank",
    "multiple_choice", "hq", "filter", "mine", "split", "train",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_second_process_is_refused(
    name: str, bright_folder: Path, beir_folder: Path, tiny_model: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    found = commands(tmp_path, tiny_model, bright_folder, beir_folder)
    assert found.keys() == set(NAMES)
    if name in ("compare", "fuse", "rerank"):
        run("eval", bm25(bright_folder, tmp_path / "a"), capsys)
        run("eval", bm25(bright_folder, tmp_path / "b", "top=3"), capsys)
    program, arguments = found[name]
    out = tmp_path / "out"
    option = "output" if name == "fuse" else "output_dir"
    with held_by_another(out):
        said = run(program, [*arguments, f"{option}={out}"], capsys, code=2)
        assert f"{out}: another run writes here; wait for it" in said
        # What a command caches in its folder before it begins hurts nobody: names are keys.
        assert {file.name for file in out.iterdir()} <= {"embeddings"}
    if not {"rewrite", "rerank", "multiple_choice", "hq"} & {name}:  # their server is not there
        run(program, [*arguments, f"{option}={out}"], capsys)


# --- disks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bright", "encode", "datastore", "filter", "mine", "split"])
@pytest.mark.parametrize("size", [0, 700])
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    name: str, size: int, bright_folder: Path, beir_folder: Path, tiny_model: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    program, arguments = commands(tmp_path, tiny_model, bright_folder, beir_folder)[name]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    with little_room(size):
        said = run(program, [*arguments, f"output_dir={broken}"], capsys, code=1)
    assert "File too large" in said and "same command" in said and str(tmp_path) in said
    assert not [file for file in tmp_path.rglob("*.partial*") if not file.name.startswith(".step_")]
    run(program, [*arguments, f"output_dir={broken}"], capsys)
    run(program, [*arguments, f"output_dir={whole}"], capsys)
    assert files_of(broken) == files_of(whole)


@pytest.mark.parametrize("kind", ["name too long", "link loop", "no rights"])
def test_what_the_system_refuses_is_one_line(
    bright_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = tmp_path / {"name too long": "x" * 300, "link loop": "loop", "no rights": "locked"}[kind]
    if kind == "link loop":
        out.symlink_to(out)
        out = out / "inside"
    if kind == "no rights":  # of root the system asks for none
        plain = Path.mkdir

        def mkdir(self: Path, *args: int, **more: bool) -> None:
            if self == out:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
            plain(self, *args, **more)

        monkeypatch.setattr(Path, "mkdir", mkdir)
    said = run("eval", bm25(bright_folder, out), capsys, code=1)
    reason = {"name too long": "File name too long; give a shorter name", "link loop": "symbolic links",
              "no rights": "Permission denied; get the rights to it"}[kind]  # fmt: skip
    assert str(out) in said and reason in said


# --- what is read again -----------------------------------------------------------------------------------------------


def test_a_corpus_that_changed_is_refused_by_a_run_that_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": f"d{n}", "content": text} for n, text in enumerate(SENTENCES)]
    corpus = write_rows(tmp_path / "corpus.jsonl", rows)
    with ScriptedServer(lambda body, earlier: "no JSON") as server:
        command = ["recipe=hq", f"corpus={corpus}", f"generator.base_url={server.url}", "generator.model=m",
                   "generator.max_attempts=1", "give_up_after=null", "report=false",
                   f"output_dir={tmp_path}/out"]  # fmt: skip
        run("synth", command, capsys)
        before = files_of(tmp_path / "out")
        assert before["rejections.jsonl"]
        write_rows(corpus, [{**rows[0], "content": "Mountains are high."}, *rows[1:]])
        assert "corpus.jsonl: the input changed since" in run("synth", command, capsys, code=2)
        assert files_of(tmp_path / "out") == before and (tmp_path / "out" / "manifest.json").exists()
        write_rows(corpus, rows)
        run("synth", command, capsys)
        assert files_of(tmp_path / "out") == before
        # A finished file that was damaged is refused, not gone on with.
        file = tmp_path / "out" / "rejections.jsonl"
        file.write_bytes(file.read_bytes().replace(b"no JSON", b"no JSOM", 1))
        assert "rejections.jsonl is not what its command wrote" in run("synth", command, capsys, code=2)


def test_dev_queries_that_changed_are_refused_by_a_training_that_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*measured_training(tmp_path, 4), f"output_dir={tmp_path}/out", "resume=true"]
    run("train", [*command, "max_steps=2"], capsys)
    file = tmp_path / "dev" / "queries.jsonl"
    before = file.read_text()
    file.write_text(before.replace("about 1", "about 2"))
    assert "dev: the input changed since" in run("train", command, capsys, code=2)
    file.write_text(before)
    run("train", command, capsys)
