"""Fused arithmetic equals transformers' own, and is used only where it does."""

import copy

import pytest
import torch

from reasonir.model.trunk.fused import _GatedUnit, _RMSNorm, fuse


@pytest.mark.parametrize("shape", [(1, 7, 8), (1, 5, 3, 8), (6, 8)])
def test_output_and_gradient_equal_transformers(shape: tuple[int, ...]) -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    plain = LlamaRMSNorm(8, eps=1e-5)
    torch.nn.init.normal_(plain.weight)
    fused = copy.deepcopy(plain)
    assert fuse(torch.nn.Sequential(fused)) == 1
    assert copy.deepcopy(fused).forward.__self__ is not fused, "a copy computes with its own weight"
    x, gradient = torch.randn(shape), torch.randn(shape)
    results = []
    for module in (plain, fused):
        inputs = x.clone().requires_grad_()
        output = module(inputs)
        output.backward(gradient)
        results.append((output, inputs.grad, module.weight.grad))
    assert "RMSNorm" in type(results[1][0].grad_fn).__name__
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=2e-6, rtol=1e-6)


def test_a_gated_unit_equals_transformers_and_keeps_its_inputs_only() -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaMLP

    plain = LlamaMLP(LlamaConfig(hidden_size=8, intermediate_size=12, num_attention_heads=1))
    fused = copy.deepcopy(plain)
    assert fuse(torch.nn.Sequential(fused)) == 1
    x, gradient = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    results, kept = [], []
    for module in (plain, fused):
        inputs, seen = x.clone().requires_grad_(), set()
        with torch.autograd.graph.saved_tensors_hooks(lambda t, seen=seen: (seen.add(t.data_ptr()), t)[1], lambda t: t):
            output = module(inputs)
        output.backward(gradient)
        kept.append(len(seen))
        results.append((output, inputs.grad, *(weight.grad for weight in module.parameters())))
    assert kept[0] - kept[1] == 1
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert fused.to(torch.bfloat16)(x.to(torch.bfloat16)).dtype == torch.bfloat16
    other = LlamaMLP(LlamaConfig(hidden_size=8, intermediate_size=12, num_attention_heads=1, hidden_act="gelu"))
    assert fuse(torch.nn.Sequential(other)) == 0, "another activation"


def test_gradients_in_float64() -> None:
    gate, up = (torch.randn(5, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(_GatedUnit.apply, (gate, up))
    x, weight = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((5, 6), (6,)))
    assert torch.autograd.gradcheck(lambda x, weight: _RMSNorm.apply(x, weight, 1e-6), (x, weight))


def test_frozen_weight_and_other_dtypes() -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    module = LlamaRMSNorm(8)
    fuse(torch.nn.Sequential(module))
    module.weight.requires_grad_(False)
    x = torch.randn(1, 3, 8, requires_grad=True)
    module(x).sum().backward()
    assert x.grad is not None and module.weight.grad is None
    low = module.to(torch.bfloat16)(x.detach().to(torch.bfloat16))
    assert low.dtype == torch.bfloat16 and low.grad_fn is None


def test_a_norm_that_computes_something_else_stays() -> None:
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    class Shifted(LlamaRMSNorm):
        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            return super().forward(hidden_states) + 1e-3

    class Clipped(LlamaRMSNorm):
        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            return super().forward(hidden_states.detach()) + 0 * hidden_states

    assert fuse(torch.nn.Sequential(Gemma2RMSNorm(8), Shifted(8), Clipped(8), torch.nn.LayerNorm(8))) == 0
