"""AdamW with moments in 8 bits: bitsandbytes' own numbers, and a checkpoint that restores them bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from reasonir.core.errors import UserError
from reasonir.train import checkpoint
from reasonir.train.config import OptimizerName
from reasonir.train.optim import build_adamw, moments_of, scales_of
from reasonir.train.parallel.engine import Engine
from reasonir.train.parallel.ranks import Ranks

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra adamw-8bit)")

STATE = checkpoint.TrainingState(3, "fp32", 99, "data")


class _As(Ranks):
    """One of several ranks, without a group: enough to say who writes what."""

    def __init__(self, rank: int, world: int) -> None:
        super().__init__(5.0)
        self.rank, self.world = rank, world


def build(encoder: Any) -> torch.optim.Optimizer:
    return build_adamw(encoder, 1e-2, 1e-2, 0.1, kind=OptimizerName.adamw_8bit)


def steps(engine: Engine, seeds: range) -> None:
    for seed in seeds:
        draw = torch.Generator().manual_seed(seed)
        for p in engine.named.values():
            p.grad = torch.randn(p.shape, generator=draw)
        engine.update()


def trained(encoder: Any) -> Engine:
    engine = Engine(encoder, build(encoder), Ranks(5.0), 0.0)
    steps(engine, range(3))
    return engine


def save(engine: Engine, folder: Path, worlds: int) -> checkpoint.CheckpointReader:
    """Save as `worlds` ranks would, rank 0 last: it commits."""
    for rank in reversed(range(worlds)):
        engine.ranks = _As(rank, worlds)
        writer = checkpoint.CheckpointWriter(folder, engine.ranks, keep=2)
        writer.save(engine, STATE)
        writer.wait()
    engine.ranks = Ranks(5.0)
    return checkpoint.CheckpointReader(folder / "step_3")


def test_matrices_alone_are_held_in_8_bits_and_move_as_bitsandbytes_moves_them(tiny: Any) -> None:
    from bitsandbytes.optim import AdamW8bit

    before = {name: p.detach().clone() for name, p in tiny.named_parameters()}
    engine = trained(tiny)
    table = tiny.trunk.get_input_embeddings().weight
    held = {name: moments_of(engine.states[p])[next(iter(moments_of(engine.states[p])))].dtype for name, p in
            tiny.named_parameters()}  # fmt: skip
    large = {name for name, p in tiny.named_parameters() if p.ndim > 1 and p is not table and p.numel() >= 4096}
    assert {name for name, dtype in held.items() if dtype == torch.uint8} == large and large != held.keys()
    assert all(len(scales_of(engine.states[p])) == 2 * (name in large) for name, p in tiny.named_parameters())
    theirs = {name: torch.nn.Parameter(before[name]) for name in large}
    reference = AdamW8bit(theirs.values(), lr=1e-2, weight_decay=0.1)
    for seed in range(3):
        draw = torch.Generator().manual_seed(seed)
        for name, p in tiny.named_parameters():
            gradient = torch.randn(p.shape, generator=draw)
            if name in theirs:
                theirs[name].grad = gradient
        reference.step()
    assert all(torch.equal(theirs[name], dict(tiny.named_parameters())[name]) for name in large)


@pytest.mark.parametrize("worlds", [1, 3])
def test_a_run_continued_from_a_checkpoint_of_replicas_has_the_weights_of_the_unbroken_one(
    tiny: Any, tmp_path: Path, worlds: int
) -> None:
    engine = trained(tiny)
    reader = save(engine, tmp_path, worlds)
    steps(engine, range(3, 6))
    unbroken = {name: p.detach().clone() for name, p in tiny.named_parameters()}
    with torch.no_grad():
        for p in tiny.parameters():
            p.zero_()
    engine.optimizer.state.clear()
    checkpoint.load_weights(reader, tiny)
    checkpoint.load_optimizer(reader, engine)
    reader.close()
    steps(engine, range(3, 6))
    assert all(torch.equal(p, unbroken[name]) for name, p in tiny.named_parameters())


def test_moments_in_other_blocks_are_refused(tiny: Any, tmp_path: Path) -> None:
    engine = trained(tiny)
    reader = save(engine, tmp_path, 1)
    kinds = [kind for kind in reader._runs if kind[0].startswith("scale")]
    assert kinds
    for kind in kinds:
        reader._runs[f"{kind[0]}@64+64-0", kind[1]] = reader._runs.pop(kind)
    with pytest.raises(UserError, match=r"8-bit moments of .* in other blocks; continue adamw_8bit with the engine"):
        checkpoint.load_optimizer(reader, engine)
    reader.close()
