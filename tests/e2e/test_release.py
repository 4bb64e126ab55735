"""What a release uploads: the same bytes whenever it is built, whole, and running from an empty folder."""

import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from scripts import dist

ROOT = Path(__file__).resolve().parents[2]
MODEL = [f"model.{name}" for name in (
    "vocabulary_size=400", "hidden_size=32", "intermediate_size=48", "layers=2", "heads=4", "key_value_heads=2",
)]  # fmt: skip


def tracked_files() -> set[str]:
    return set(dist.git(ROOT, "ls-files").splitlines())


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """The sdist and the wheel."""
    return dist.build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def site(built, tmp_path_factory) -> Path:
    """An empty folder into which the wheel is installed."""
    folder = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(folder)]
    subprocess.run([*install, str(built[1])], check=True, capture_output=True, timeout=300)
    return folder


@pytest.mark.slow
def test_leftovers_and_time_change_no_byte(built, tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(ROOT), str(clone)], check=True, timeout=100)
    for name in tracked_files():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, clone / name)
    dist.git(clone, "add", "-A")
    for leftover in ("build/lib/reasonir/leftover.py", "reasonir/leftover.py", "configs/leftover.yaml"):
        (clone / leftover).parent.mkdir(parents=True, exist_ok=True)
        (clone / leftover).write_text("left: over\n")
    time.sleep(2.1)  # zip counts time in steps of two seconds
    again = dist.build(tmp_path / "dist", clone)
    assert [path.name for path in again] == [path.name for path in built]
    assert [path.read_bytes() == other.read_bytes() for path, other in zip(built, again, strict=True)] == [True, True]


def test_both_hold_what_a_user_needs_and_nothing_else(built):
    sdist, wheel = built
    inside = set(zipfile.ZipFile(wheel).namelist())
    tracked = tracked_files()
    wanted = {name for name in tracked if name.startswith("reasonir/")}
    wanted |= {f"reasonir/{name}" for name in tracked if name.startswith("configs/")}
    assert {name for name in inside if ".dist-info/" not in name} == wanted
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in inside)
    top = sdist.name.removesuffix(".tar.gz")
    with tarfile.open(sdist) as archive:
        packed = {name.removeprefix(f"{top}/") for name in archive.getnames()}
        assert {member.mtime for member in archive.getmembers()} == {int(dist.git(ROOT, "log", "-1", "--format=%ct"))}
    sources = {name for name in tracked if name.startswith(("reasonir/", "configs/"))}
    assert sources | {"LICENSE", "README.md", "pyproject.toml", "PKG-INFO"} <= packed
    assert not any(name.startswith(("tests/", "build/", ".ci/")) for name in packed)


@pytest.mark.slow
def test_the_installed_wheel_works_from_an_empty_folder(site, tmp_path):
    def run(*command: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run(
        sys.executable, "-c", "import reasonir, reasonir.core.command as s; print(reasonir.__file__, s.find_configs())"
    )
    assert where.split() == [str(site / "reasonir" / "__init__.py"), str(site / "reasonir" / "configs")]
    assert "--cfg job" in run(str(site / "bin" / "reasonir-train"), "--help")
    assert not any(tmp_path.iterdir())
    run(sys.executable, "-m", "reasonir.quickstart", "output_dir=world", "scale=0.01")
    steps = ["max_steps=2", "global_batch_queries=4", "query_max_tokens=64", "document_max_tokens=64", *MODEL]
    rows = "data.files=[world/train/office_cases.jsonl]"
    run(str(site / "bin" / "reasonir-train"), "+experiment=quickstart", "output_dir=run", rows, *steps)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    options = ["data.dir=world", "tasks=[office_cases]", "model.path=run/model", "output_dir=results"]
    assert "office_cases: nDCG@10" in run(str(site / "bin" / "reasonir-eval"), "bright", *options)
    assert "hq" in run(str(site / "bin" / "reasonir-synth"), "--help")
