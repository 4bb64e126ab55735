"""Layers compiled by torch: the numbers of the plain ones, the same with a graph and without."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from reasonir.core.errors import UserError
from reasonir.model.packing import PackedTexts
from reasonir.model.trunk import bidirectional
from reasonir.model.trunk.compiled import compile_layers
from reasonir.train.prepare import set_dropout


@pytest.fixture(autouse=True)
def no_programs_left() -> Iterator[None]:
    yield
    torch.compiler.reset()


CHUNKS = ((40, 31, 30, 7), (9, 9, 9))


def embed_twice(encoder: Any, lengths: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Embed random texts as GradCache does; return both passes' embeddings and the gradient of all weights."""
    draw = np.random.default_rng(len(lengths))
    texts = PackedTexts.of([draw.integers(5, 300, n).astype(np.int32) for n in lengths],
                           np.zeros(len(lengths), dtype=np.int32), "cpu")  # fmt: skip
    encoder.zero_grad()
    torch.manual_seed(5)
    with torch.no_grad():
        bare = encoder(texts)
    torch.manual_seed(5)
    kept = encoder(texts)
    # Between a kept graph and its backward pass other chunks draw numbers.
    torch.manual_seed(99)
    (kept * torch.linspace(-1, 1, kept.numel()).view_as(kept)).sum().backward()
    return bare, kept.detach(), torch.cat([p.grad.flatten() for p in encoder.parameters()])


@pytest.mark.slow
@pytest.mark.seconds(180)
@pytest.mark.filterwarnings("default")  # torch's compiler warns of itself
@pytest.mark.parametrize("adapters", [False, True])
def test_compiled_layers_give_the_plain_embeddings_and_gradients(tiny: Any, adapters: bool) -> None:
    set_dropout(tiny.trunk, 0.1)
    tiny.train()
    plain = [embed_twice(tiny, lengths) for lengths in CHUNKS]
    if adapters:
        from reasonir.model.adapters import add_adapters

        add_adapters(tiny, rank=4, alpha=8, dropout=0.1, targets=["all-linear"], dora=False, seed=0)
        for name, p in tiny.named_parameters():
            p.requires_grad_(True)
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.1)
        plain = [embed_twice(tiny, lengths) for lengths in CHUNKS]
    from torch._dynamo.utils import counters

    counters.clear()
    assert compile_layers(tiny.trunk, "fp32") == 2
    for lengths, (_, embeddings, gradient) in zip(CHUNKS, plain, strict=True):
        bare, kept, found = embed_twice(tiny, lengths)
        assert torch.equal(bare, kept), "GradCache needs both passes to agree"
        assert torch.allclose(kept, embeddings, atol=1e-6, rtol=0)
        assert float((found - gradient).norm() / gradient.norm()) < 1e-5
    programs = counters["stats"]["unique_graphs"]
    assert 0 < programs <= 30, "layers or chunks share no programs"


@pytest.mark.parametrize(("break_it", "precision", "message"), [
    (lambda trunk: setattr(trunk.config, "num_hidden_layers", 9), "fp32", "LlamaModel cannot be compiled"),
    (lambda trunk: bidirectional.pad_from_now_on(trunk, "a test"), "fp32", "cannot be compiled layer by layer"),
    (lambda trunk: None, "bf16", "a CPU compiles float32 alone; give precision=fp32"),
])  # fmt: skip
def test_what_cannot_be_compiled_is_refused(tiny: Any, break_it: Any, precision: str, message: str) -> None:
    break_it(tiny.trunk)
    with pytest.raises(UserError, match=message):
        compile_layers(tiny.trunk, precision)


def test_a_missing_compiler_is_named(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("No working C++ compiler found\nmore")

    monkeypatch.setattr(torch, "compile", lambda function: without)
    with pytest.raises(UserError, match=r"does not work here \(No working C\+\+ compiler found\); it needs a C\+\+"):
        compile_layers(tiny.trunk, "fp32")
