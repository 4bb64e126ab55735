"""Weights that do not train may be held in bfloat16: the same bytes in every step, half the memory."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from reasonir.model import Encoder
from reasonir.model.adapters import add_adapters
from reasonir.model.packing import PackedTexts
from reasonir.model.tiny import build_tiny
from reasonir.model.trunk.precision import hold_in_bf16
from reasonir.train.gradcache import SavedBytes
from reasonir.train.optim import build_adamw
from reasonir.train.parallel.engine import open_engine
from reasonir.train.parallel.ranks import Ranks
from tests.kit.texts import SENTENCES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("frozen") / "model")
    encoder = build_tiny(SENTENCES, vocabulary_size=400, hidden_size=32, intermediate_size=48, layers=2, heads=4)
    encoder.trunk.to(torch.bfloat16)
    encoder.save_pretrained(path)
    return path


def train(folder: str, engine_name: str, frozen: str) -> tuple[Any, list[torch.Tensor], int]:
    """Three steps of adapters under autocast: the engine, the embeddings of each step, the bytes that a graph holds."""
    halved = frozen == "bf16"
    encoder = Encoder.from_pretrained(folder, dtype=torch.float32, device="cpu", in_shards=halved)
    assert (encoder.stored is not None) == halved
    if halved:
        hold_in_bf16(encoder.trunk)
    add_adapters(encoder, rank=4, alpha=8.0, dropout=0.1, targets=["all-linear"], dora=False, seed=0)
    engine = open_engine(engine_name, encoder.train(), lambda e: build_adamw(e, 1e-2, 1e-2, 0.0), Ranks(60.0),
                         max_gradient_norm=1.0, precision="bf16")  # fmt: skip
    torch.manual_seed(0)
    packed = PackedTexts.of([np.arange(9) + 300, np.arange(4) + 320], [0, 1])
    # A sharded weight has no storage of its own whose bytes could be counted.
    found, held = [], SavedBytes(engine.parameters if engine_name == "single" else [])
    for step in range(3):
        engine.begin()
        counted = step == 0 and engine_name == "single"
        with held.hooks if counted else nullcontext(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            embeddings = engine.embed(packed)
        found.append(embeddings.detach().clone())
        engine.backward((embeddings * torch.linspace(-1, 1, embeddings.numel()).view_as(embeddings)).sum())
        engine.update()
    return encoder, found, held.total


@pytest.mark.parametrize("engine", ["single", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_a_step_has_the_same_bytes_and_no_copies_of_matrices(folder: str, engine: str) -> None:
    whole, expected, copies = train(folder, engine, "fp32")
    halved, found, held = train(folder, engine, "bf16")
    assert not torch.equal(expected[0], expected[2]), "nothing was learned"
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    weights = dict(whole.named_parameters())
    for name, p in halved.named_parameters():
        assert p.dtype == (torch.bfloat16 if not p.requires_grad and p.ndim > 1 else torch.float32), name
        assert engine != "single" or torch.equal(p.float(), weights[name]), name
    # The first layer's input needs no gradient, so its graph keeps no q, k and v.
    kept = [p.numel() for n, p in whole.named_parameters() if "base_layer" in n and "layers.0.self_attn" not in n]
    output = whole.trunk.layers[0].self_attn.o_proj.base_layer.weight.numel()
    if engine == "single":
        assert copies - held == 2 * (sum(kept) + output)
