"""`dry_run=true` prints the paper's run in seconds, without weights, data or files."""

import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kit import fork

# Each starts several commands.
pytestmark = pytest.mark.seconds(15)

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
GIB = 2**20  # ru_maxrss counts KiB


def dry_run(folder: Path, *arguments: str, cold: bool = False) -> str:
    command = ["-m", "reasonir.train", *arguments]
    if cold:
        done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False)
    else:
        done = fork.run(command, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == [], "a dry run writes nothing"
    return done.stdout


def test_the_papers_run(tmp_path: Path) -> None:
    (command,) = re.findall(r"python -m reasonir\.train (\+experiment=vl_hq dry_run=true)", README)
    begun = time.monotonic()
    text = dry_run(tmp_path, *command.split(), cold=True)
    assert time.monotonic() - begun < 20
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2 * GIB
    for part in ["hub:reasonir/reasonir-data:vl:train", "ids looked up in hub:xlangai/BRIGHT", "msmarco_passage.jsonl",
                 "16 a rank = 2,048 / 128 ranks", "steps an epoch", "844.4", "1.18 epochs", "7,504,924,672",
                 "between ranks", "65,536", "fits 79.1 GiB", "hours of computing"]:  # fmt: skip
        assert part in text, part


@pytest.mark.parametrize(("engine", "said"), [("zero3", "largest layer, gathered"), ("ddp", "does NOT fit 79.1 GiB")])
def test_other_engines_on_other_numbers_of_ranks(tmp_path: Path, engine: str, said: str) -> None:
    text = dry_run(tmp_path, "+experiment=hq", "dry_run=true", "planned_ranks=8", f"parallel={engine}")
    assert "256 a rank = 2,048 / 8 ranks" in text and said in text


def test_every_experiment_can_be_planned(tmp_path: Path) -> None:
    from reasonir.core.help import find_configs

    names = sorted(path.stem for path in (find_configs() / "experiment").glob("*.yaml"))
    assert {"vl_hq", "public", "vl", "hq", "eq", "quickstart"} <= set(names)
    for name in names:
        assert "queries a step" in dry_run(tmp_path, f"+experiment={name}", "dry_run=true")
