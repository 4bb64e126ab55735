"""One rank of the parity table: trains every case on every engine and writes the weights it ended with.

Run by torchrun from test_parity.py, or alone as the reference: python -m tests.distributed.parity_worker OUT ENGINE...
"""

import sys
import warnings
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from reasonir.model.tiny import build_tiny
from reasonir.train.data.batches import GlobalBatch
from reasonir.train.objectives.false_negatives import DropAbove, without_false_negatives
from reasonir.train.objectives.infonce import info_nce
from reasonir.train.optim import build_adamw
from reasonir.train.parallel import engine as engines
from reasonir.train.parallel.engine import open_engine
from reasonir.train.parallel.ranks import Ranks, open_ranks
from reasonir.train.step import TrainingStep
from tests.kit.texts import SENTENCES

QUERIES, DOCUMENTS = 8, 13
CASES = {"plain": 10_000, "chunks": 60, "unequal": 60, "dropping": 60}
"""Chunk budget in tokens by case; `unequal` gives one query as many tokens as all others together."""
DROPPED = "dropped"
"""Beside the weights of the case `dropping`: negatives dropped in each step, over all ranks."""
CLIP = 0.05
OBJECTIVE = partial(info_nce, temperature=0.1)
DROPPING = partial(without_false_negatives, objective=OBJECTIVE, drop=DropAbove(share=0.99))
DRAW = 2
"""Of the batches. AdamW divides a gradient by its own size: an entry whose gradient nearly vanishes has no answer in
float32. With other draws one process alone is up to 6e-7 away from float64; a test asks that this one is not."""


def make_plan(step: int, case: str) -> GlobalBatch:
    """Return a batch of random tokens: shared documents, weights, ignored documents."""
    draw = np.random.default_rng((DRAW, step, len(case)))
    longest = 24 if case != "unequal" else 12
    lengths = draw.integers(4, longest, size=QUERIES + DOCUMENTS)
    if case == "unequal":
        lengths[0], lengths[QUERIES] = 150, 90
    ids = [draw.integers(260, 400, size=n).astype(np.int32) for n in lengths]
    prefixes = draw.integers(0, 3, size=QUERIES + DOCUMENTS)
    positive = draw.integers(0, DOCUMENTS, size=QUERIES)
    ignore = draw.random((QUERIES, DOCUMENTS)) < 0.1
    ignore[np.arange(QUERIES), positive] = False
    weights = draw.uniform(0.5, 2.0, size=QUERIES).astype(np.float32)
    names = [f"rows:{i}" for i in range(QUERIES)]
    return GlobalBatch(step, "rows", ids[:QUERIES], prefixes[:QUERIES], ids[QUERIES:], prefixes[QUERIES:],
                     positive, ignore, weights, names)  # fmt: skip


def build_encoder(adapters: bool) -> Any:
    """Return the same tiny encoder in every process."""
    encoder = build_tiny(
        SENTENCES, vocabulary_size=400, hidden_size=64, intermediate_size=96, layers=2, heads=4, key_value_heads=2
    )
    if adapters:
        from reasonir.model.adapters import add_adapters

        add_adapters(encoder, rank=4, alpha=8.0, dropout=0.0, targets=["all-linear"], dora=False, seed=0)
        with torch.no_grad():  # PEFT's B starts at zero, where A has no gradient
            draw = torch.Generator().manual_seed(1)
            for p in encoder.parameters():
                if p.requires_grad:
                    p.copy_(torch.randn(p.shape, generator=draw) * 0.05)
    return encoder.train()


def deepspeed_json(name: str) -> dict[str, Any]:
    """Return the least that DeepSpeed must be told."""
    return {"zero_optimization": {"stage": int(name[-1])}} if name.startswith("zero") else {}


def run_case(
    name: str, case: str, adapters: bool, optimizer: str, ranks: Ranks, dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """Train one case and return its weights, whole, by name, with the loss and gradient norm of each step."""
    encoder = build_encoder(adapters).to(ranks.device, dtype)

    def build(encoder: Any) -> torch.optim.Optimizer:
        if optimizer == "sgd":
            return torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.5)
        return build_adamw(encoder, 1e-4, 2e-4, 0.01)

    limit = 0.0 if optimizer == "sgd" else CLIP
    engine = open_engine(name, encoder, build, ranks, max_gradient_norm=limit, deepspeed=deepspeed_json(name))
    objective = DROPPING if case == "dropping" else OBJECTIVE
    compute = TrainingStep(engine, ranks, objective, chunk_tokens=CASES[case], graph_memory_gib=0.0, precision="fp32")
    curve, dropped = [], []
    for step in range(1 if optimizer == "sgd" else 5):
        engine.begin()
        result = compute(make_plan(step, case))
        norm = engine.update()
        loss, *counts = ranks.sum([result.loss_nats, *result.counts.values()])
        curve += [loss, norm]
        dropped += counts
    weights = {n: torch.zeros(shape) for n, shape in shapes(adapters).items()}
    counted = {DROPPED: torch.tensor(dropped)} if dropped else {}
    own = []
    for piece in engine.pieces(share=True):
        numbers = engines.local(piece.holder).detach().reshape(-1)[piece.offset : piece.offset + piece.count]
        own.append((piece.name, piece.start, numbers.cpu().clone()))
    for name, start, numbers in (piece for pieces in ranks.gather(own) for piece in pieces):
        weights[name].view(-1)[start : start + len(numbers)] = numbers
    return {**weights, **counted, "curve": torch.tensor(curve, dtype=torch.float64)}


def shapes(adapters: bool) -> dict[str, torch.Size]:
    """Return the shapes of the trained weights by name."""
    return {name: p.shape for name, p in build_encoder(adapters).named_parameters() if p.requires_grad}


REDUCTIONS = ("all_reduce", "reduce_scatter_tensor", "reduce_scatter_single", "reduce_scatter", "reduce",
              "all_to_all_single")  # fmt: skip


def count_reductions() -> Counter:
    """Count, from now on, torch's collectives that add up tensors, by name and how many numbers they add."""
    counts: Counter = Counter()
    for name in REDUCTIONS:
        real = getattr(dist, name, None)
        if real is None:
            continue

        def counted(*args: Any, real: Any = real, name: str = name, **kwargs: Any) -> Any:
            tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor)]
            counts[name, max(t.numel() for t in tensors)] += 1
            return real(*args, **kwargs)

        setattr(dist, name, counted)
    return counts


def count_step(name: str, ranks: Ranks, counts: Counter) -> dict[str, Any]:
    """Return the reductions of one whole step with several chunks.

    Sharded engines keep references to torch's functions, so their reduce-scatters are counted by the profiler.
    """
    encoder = build_encoder(False).to(ranks.device)
    engine = open_engine(name, encoder, lambda e: build_adamw(e, 1e-4, 1e-4, 0.0), ranks, max_gradient_norm=CLIP,
                         deepspeed=deepspeed_json(name))  # fmt: skip
    compute = TrainingStep(
        engine, ranks, OBJECTIVE, chunk_tokens=CASES["chunks"], graph_memory_gib=0.0, precision="fp32"
    )
    for step in range(2):
        counts.clear()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            engine.begin()
            result = compute(make_plan(step, "chunks"))
            engine.update()
    scatters = sum(event.name == "c10d::_reduce_scatter_base_" for event in profile.events())
    return {"reductions": dict(counts), "reduce_scatters": scatters, "chunks": result.cache.replayed_chunks}


def main(arguments: list[str]) -> None:
    out, names, tunings = Path(arguments[0]), arguments[1].split(","), arguments[2].split(",")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with open_ranks(60.0) as ranks:
        for name in names:
            found = {}
            for tuning in tunings:
                for case in CASES:
                    for optimizer in ("sgd", "adamw"):
                        key = f"{tuning}-{case}-{optimizer}"
                        found[key] = run_case(name, case, tuning == "lora", optimizer, ranks)
            if ranks.leads:
                torch.save(found, out / f"{name}-{ranks.world}.pt")
        if ranks.world > 1:
            counts = count_reductions()
            counted = {name: count_step(name, ranks, counts) for name in names}
            if ranks.leads:
                torch.save(counted, out / f"counts-{ranks.world}.pt")


if __name__ == "__main__":
    main(sys.argv[1:])
