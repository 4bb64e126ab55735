"""AdamW with 8-bit moments on several ranks: a run that is continued ends with the bytes of the unbroken one."""

import re
from pathlib import Path

import pytest

from tests.kit.launch import launch
from tests.kit.texts import tiny_training

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra adamw-8bit)")
pytestmark = [pytest.mark.slow, pytest.mark.seconds(60)]

STEPS = 4
# 64 x 97 numbers are no whole blocks of 256.
LARGER = ["optimizer=adamw_8bit", "model.hidden_size=64", "model.intermediate_size=97"]


def train(folder: Path, options: list[str], engine: str, ranks: int, steps: int = STEPS) -> tuple[int, str]:
    more = [f"output_dir={folder}", f"parallel={engine}", "resume=true", f"max_steps={steps}"]
    done = launch(ranks, ["-m", "reasonir.train", *options, *more])
    return done.returncode, done.stdout


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("engine", "ranks"), [("single", 1), ("ddp", 2), ("zero1", 2), ("zero2", 2), ("zero3", 2)])
def test_a_continued_run_ends_byte_equal(tmp_path: Path, engine: str, ranks: int) -> None:
    options = [*tiny_training(tmp_path, STEPS), *LARGER]
    code, said = train(tmp_path / "unbroken", options, engine, ranks)
    assert code == 0, said[-4000:]
    for steps in (2, STEPS):
        code, said = train(tmp_path / "broken", options, engine, ranks, steps)
        assert code == 0, said[-4000:]
    assert "continuing after step 2" in said
    assert weights(tmp_path / "broken") == weights(tmp_path / "unbroken")


def test_replicas_are_continued_by_any_number_of_ranks_and_partitions_are_not(tmp_path: Path) -> None:
    options = [*tiny_training(tmp_path, STEPS), *LARGER]
    for engine, code, found in (
        ("ddp", 0, "continuing after step 2"),
        ("zero1", 2, "8-bit moments of .* other blocks"),
    ):
        assert train(tmp_path / engine, options, engine, 2, 2)[0] == 0
        done, said = train(tmp_path / engine, options, "single", 1)
        assert done == code and re.search(found, said) and "Traceback" not in said, said[-4000:]
