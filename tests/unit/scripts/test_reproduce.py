"""scripts/reproduce.sh: what it refuses, what its table says of numbers that are right, off or missing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
OWN = ("MODEL", "BASE_URL", "GPQA", "ROWS", "NPROC", "GENERATOR", "CORPUS", "BENCHMARK", "QUESTIONS", "RETRIEVER")


def reproduce(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script in a folder, with nothing of its environment set but what is given."""
    kept = {name: value for name, value in os.environ.items() if name not in OWN}
    command = [str(SCRIPTS / "reproduce.sh"), *arguments]
    whole = {**kept, "PYTHON": sys.executable, **environment}
    return subprocess.run(command, cwd=folder, env=whole, capture_output=True, text=True, check=False, timeout=600)


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["scale=huge"], {}, "scale=huge must be paper, small or tiny"),
        (["scale=tiny", "only=[bright,rank]"], {}, "only=[bright,rank]: rank is no step; there are synth train"),
        (["scale=tiny", "steps=3"], {}, "steps=3 is no option; there are scale=paper|small|tiny"),
        (["scale=tiny", "output_dir="], {}, "output_dir= is no option"),
        ([], {}, "MODEL is missing: name the generator"),
        (["only=[rag]"], {"NPROC": "8"}, "GPQA= is no file"),
        (["only=[rag]"], {"NPROC": "8", "GPQA": "gone.csv"}, "GPQA=gone.csv is no file"),
        (["only=[train]"], {"NPROC": "8", "ROWS": "both"}, "ROWS=both must be ours or release"),
        (["only=[train]"], {"NPROC": "0"}, "scale=paper needs GPUs"),
        (["scale=tiny"], {"MODEL": "a-model"}, "MODEL and BASE_URL are not used by scale=tiny"),
        (["scale=small"], {}, "CORPUS= is not there; name passages"),
        (["scale=small"], {"CORPUS": __file__}, "BENCHMARK= is no task"),
        (["scale=tiny"], {"PYTHON": "/bin/false"}, "/bin/false lacks what reasonir needs"),
        (["scale=tiny"], {"PYTHON": "no-python-of-that-name"}, "PYTHON=no-python-of-that-name is not there"),
    ],
)
def test_a_mistake_is_one_line_and_makes_nothing(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], said: str
) -> None:
    done = reproduce(tmp_path, *arguments, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("reproduce.sh: error: ") and said in line
    assert not any(tmp_path.iterdir())


def test_help_is_the_head_of_the_file(tmp_path: Path) -> None:
    done = reproduce(tmp_path, "--help")
    assert done.returncode == 0 and "scale=tiny" in done.stdout and not done.stdout.startswith("#")


@pytest.mark.seconds(10)  # the world, then two commands
def test_a_step_that_fails_ends_the_chain_and_the_table_says_so(tmp_path: Path) -> None:
    # The step before it was left out: there is no run to rerank.
    done = reproduce(tmp_path, "scale=tiny", "only=[rerank]", f"output_dir={tmp_path}/out")
    assert done.returncode == 1
    found = json.loads((tmp_path / "out" / "reproduce.json").read_text())
    assert found["status"] == "incomplete" and found["stopped"] == "rerank: rules ended with status 2"
    assert {row["step"]: row["state"] for row in found["steps"]}["rerank"] == "not run"
    assert {line["status"] for line in found["checks"]} == {"not run"}
    assert "out/bright/trained: no such" in done.stderr
    assert not any(f"{tmp_path}/out/address" in line for line in _processes()), "the server lives on"


def _processes() -> list[str]:
    lines = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(process.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
        except OSError:
            continue
    return lines


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import reproduce_table

    return reproduce_table


def put(folder: Path, where: tuple[str, ...], points: float) -> None:
    """Write a number where a command of ours would."""
    path = folder / where[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.loads(path.read_text()) if path.exists() else {}
    place = content
    for key in where[1:-1]:
        place = place.setdefault(key, {})
    place[where[-1]] = points / 100
    path.write_text(json.dumps(content))


@pytest.fixture
def as_published(table: Any, tmp_path: Path) -> Path:
    """A folder in which every step gave the paper's numbers."""
    for line in table.PUBLISHED:
        put(tmp_path, line.where, line.points)
    for name, points in (("bright/eq_gpt4", 20.0), ("bright/public", 20.0)):
        put(tmp_path, (f"{name}/results.json", *table.AVERAGE), points)
    (tmp_path / "notes").mkdir()
    for step in table.STEPS:
        (tmp_path / "notes" / step.name).touch()
        (tmp_path / "notes" / f"{step.name}.one").write_text("python -m x\n7\n")
    return tmp_path


def check(folder: Path, steps: str = "synth,train,bright,rewrite,rerank,rag,ablations") -> tuple[int, dict[str, Any]]:
    command = [sys.executable, str(SCRIPTS / "reproduce_table.py"), "check", "paper", str(folder), steps]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads((folder / "reproduce.json").read_text())
    page = (folder / "reproduce.md").read_text()
    assert page in done.stdout
    for line in found["checks"]:
        assert (
            f"| {line['name']} | {line['expected']} | {line['obtained']} | {line['tolerance']} | {line['status']} |"
            in page
        )
    return done.returncode, found


def test_the_paper_s_own_numbers_are_ok(as_published: Path) -> None:
    status, found = check(as_published)
    assert (status, found["status"]) == (0, "ok")
    assert len(found["checks"]) == 17 and {line["status"] for line in found["checks"]} == {"ok"}
    assert {row["seconds"] for row in found["steps"]} == {7}


def test_each_number_can_be_off_and_ends_with_1(table: Any, as_published: Path, tmp_path: Path) -> None:
    for number, line in enumerate(table.PUBLISHED):
        for sign in (-1, 1):
            put(as_published, line.where, line.points + sign * (line.tolerance - 0.01))
            inside = table.report("paper", as_published, ["bright"], "")["checks"][number]
            put(as_published, line.where, line.points + sign * (line.tolerance + 0.01))
            outside = table.report("paper", as_published, ["bright"], "")["checks"][number]
            assert (inside["name"], inside["status"], outside["status"]) == (line.name, "ok", "off")
        put(as_published, line.where, line.points)
    put(as_published, ("bright/public/results.json", *table.AVERAGE), 24.5)
    status, found = check(as_published)
    assert (status, found["status"]) == (1, "off")
    assert [line["name"] for line in found["checks"] if line["status"] == "off"] == [table.ORDERS[1].name]


def test_a_step_that_did_not_run_is_no_success(as_published: Path) -> None:
    (as_published / "notes" / "rag").unlink()
    status, found = check(as_published)
    assert (status, found["status"]) == (1, "incomplete")
    assert {line["status"] for line in found["checks"] if line["step"] == "rag"} == {"not run"}
    status, found = check(as_published, "bright,train")
    assert (status, found["status"]) == (0, "ok")
    assert {row["step"]: row["state"] for row in found["steps"]}["rag"] == "not asked for"


def test_a_number_that_a_step_should_have_written_is_off(as_published: Path) -> None:
    shutil.rmtree(as_published / "reranked")
    status, found = check(as_published)
    (line,) = [line for line in found["checks"] if line["step"] == "rerank"]
    assert status == 1 and line["status"] == "off" and "FileNotFoundError" in line["obtained"]
