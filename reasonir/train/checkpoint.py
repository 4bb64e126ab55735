"""Training checkpoints: everything a run needs to go on as if it had never stopped.

Invariant: `checkpoints/step_<n>` is complete or absent: it is written under a scratch name, flushed to disk, then
renamed. Randomness is not stored: each step seeds its own from (seed, step).
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reasonir.schema import UserError

WEIGHTS_FILE, OPTIMIZER_FILE, STATE_FILE = "model.safetensors", "optimizer.pt", "state.json"


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Position of a run. step: optimizer steps done. precision: what `auto` chose at the start."""

    step: int
    precision: str
    tokens: int
    data_fingerprint: str


def save_checkpoint(
    folder: Path, trunk: torch.nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState, keep: int
) -> None:
    """Write `folder/step_<n>` and remove all but the newest `keep` checkpoints."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".step_{state.step}.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    weights = {name: tensor.contiguous() for name, tensor in trunk.state_dict().items()}
    save_file(weights, scratch / WEIGHTS_FILE)
    torch.save(optimizer.state_dict(), scratch / OPTIMIZER_FILE)
    fields = {name: getattr(state, name) for name in TrainingState.__slots__}
    (scratch / STATE_FILE).write_text(json.dumps(fields), encoding="utf-8")
    for file in [*scratch.iterdir(), scratch]:
        _flush_to_disk(file)
    target = folder / f"step_{state.step}"
    shutil.rmtree(target, ignore_errors=True)
    os.replace(scratch, target)
    _flush_to_disk(folder)
    for step, path in list_checkpoints(folder)[:-keep]:
        if step != state.step:
            shutil.rmtree(path)


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Return (step, path) of the complete checkpoints, oldest first."""
    found = []
    for path in folder.glob("step_*"):
        number = path.name.removeprefix("step_")
        if number.isdigit() and (path / STATE_FILE).is_file():
            found.append((int(number), path))
    return sorted(found)


def load_checkpoint(
    path: Path, trunk: torch.nn.Module, optimizer: torch.optim.Optimizer, data_fingerprint: str
) -> TrainingState:
    """Restore weights and optimizer; return where the run stood.

    Raises:
        UserError: written from other data, or by another model.
    """
    from safetensors.torch import load_file

    fields: dict[str, Any] = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
    state = TrainingState(**fields)
    if state.data_fingerprint != data_fingerprint:
        raise UserError(f"{path} was written from other training data; start a new output_dir")
    try:
        trunk.load_state_dict(load_file(path / WEIGHTS_FILE))
        optimizer.load_state_dict(torch.load(path / OPTIMIZER_FILE, weights_only=True))
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{path} does not fit this model: {str(error).splitlines()[0]}") from error
    return state


def remove_partial(folder: Path) -> None:
    """Delete what a killed process left half-written."""
    for path in folder.glob(".step_*.partial"):
        shutil.rmtree(path)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
