"""`accelerate launch` with the shipped configurations trains the same bytes as torchrun."""

import subprocess
import sys
from pathlib import Path

import pytest

from reasonir.core.help import find_configs
from tests.kit.launch import environment, launch
from tests.kit.texts import tiny_training

CONFIGS = find_configs() / "accelerate"
ENGINES = ["ddp", "zero1", "zero2", "zero3", "fsdp2"]


def test_every_engine_of_several_ranks_has_its_file() -> None:
    assert sorted(path.stem for path in CONFIGS.glob("*.yaml")) == sorted(ENGINES)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_accelerate_and_torchrun_train_the_same_bytes(tmp_path: Path, engine: str) -> None:
    options = [*tiny_training(tmp_path, 3), f"parallel={engine}", f"data.cache_dir={tmp_path}/cache"]
    program = ["-m", "reasonir.train", *options]
    done = launch(2, [*program, f"output_dir={tmp_path}/torchrun"], cold=True, seconds=400)
    assert done.returncode == 0, done.stdout[-4000:]
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    command = [*accelerate, "--config_file", str(CONFIGS / f"{engine}.yaml"), *program]
    ran = subprocess.run([*command, f"output_dir={tmp_path}/accelerate"], stdout=subprocess.PIPE, text=True,
                         stderr=subprocess.STDOUT, env=environment(2), timeout=400, check=False)  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-4000:]
    assert f"2 x cpu, engine {engine}" in ran.stdout
    ends = [
        (tmp_path / launcher / "model" / "model.safetensors").read_bytes() for launcher in ("torchrun", "accelerate")
    ]
    assert ends[0] == ends[1]
    assert ends[0] != (tmp_path / "torchrun" / "initial_model" / "model.safetensors").read_bytes()
