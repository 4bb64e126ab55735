"""The CUDA path: torch's variable-length kernel against float64 on the CPU, Liger's kernels, and a training step."""

import copy

import numpy as np
import pytest
import torch

from reasonir.model.adapters import add_adapters
from reasonir.model.encoder import Encoder
from reasonir.model.packing import PackedTexts
from reasonir.model.trunk import fused
from reasonir.model.trunk.attention import Segments, packed_attention
from reasonir.retrieval.top_k import exact_top_k
from reasonir.train.gradcache import GradCache, GraphBudget
from tests.kit.texts import INSTRUCTION, SENTENCES

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 6])
def test_the_kernel_equals_float64_forward_and_backward(window, causal):
    lengths, heads, groups, channels = [17, 3, 64, 64, 1, 30], 4, 2, 32
    draw = torch.Generator().manual_seed(0)
    shapes = [(1, n, sum(lengths), channels) for n in (heads, groups, groups)]
    exact = [torch.randn(s, generator=draw, dtype=torch.float64).requires_grad_() for s in shapes]
    rough = [x.detach().to("cuda", torch.bfloat16).requires_grad_() for x in exact]
    module = torch.nn.Module()
    module.config = type("Config", (), {"sliding_window": window, "is_causal": causal})()
    outputs = []
    for inputs, device in ((exact, "cpu"), (rough, "cuda")):
        segments = Segments.of(lengths, device)
        output, _ = packed_attention(module, *inputs, None, segments=segments, sliding_window=window)
        (output.double() ** 2).sum().backward()
        outputs.append(output.double().cpu())
    assert (outputs[0] - outputs[1]).abs().max() < 3e-2
    for a, b in zip(exact, rough, strict=True):
        assert a.grad.abs().max() > 0
        assert (a.grad - b.grad.double().cpu()).norm() < 3e-2 * a.grad.norm()


def test_bfloat16_embeddings_stay_close_to_the_cpu(tiny):
    on_cpu = tiny.encode(SENTENCES, INSTRUCTION)
    on_gpu = tiny.to("cuda").encode(SENTENCES, INSTRUCTION, precision="bf16")
    assert np.einsum("nd,nd->n", on_cpu, on_gpu).min() > 0.999


def test_search_on_the_gpu_equals_the_cpu_ties_included():
    """Whole numbers, so that products are exact and ties abound."""
    random = np.random.default_rng(0)
    queries, documents = (random.integers(-2, 3, (n, 4)).astype(np.float32) for n in (30, 2_000))
    excluded = [random.choice(2_000, 50, replace=False) for _ in queries]
    results = [exact_top_k(queries, documents, 100, excluded, block_documents=300, device=d) for d in ("cpu", "cuda")]
    for on_cpu, on_gpu in zip(*results, strict=True):
        np.testing.assert_array_equal(on_cpu, on_gpu)


needs_liger = pytest.mark.skipif(fused.cuda_kernels() is None, reason="needs liger-kernel (reasonir[cuda])")


@needs_liger
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_fused_layers_equal_transformers(dtype, tolerance):
    """Output and every gradient of a layer whose norms, gated unit and rotation are Liger's, beside the plain one."""
    from transformers import LlamaConfig
    from transformers.models.llama import modeling_llama

    rotation = getattr(modeling_llama.apply_rotary_pos_emb, "theirs", modeling_llama.apply_rotary_pos_emb)
    config = LlamaConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, vocab_size=100, attn_implementation="sdpa")  # fmt: skip
    config.is_causal = False
    exact = modeling_llama.LlamaModel(config).double()
    found = []
    for wanted in ("plain", "fused"):
        modeling_llama.apply_rotary_pos_emb = rotation
        model = copy.deepcopy(exact).to("cuda", dtype)
        if wanted == "fused":
            assert fused.fuse(model) == 2 * 3 + 1
            assert modeling_llama.apply_rotary_pos_emb is not rotation
        found.append(_states_and_gradients(model))
    modeling_llama.apply_rotary_pos_emb = rotation
    reference = _states_and_gradients(exact)
    for i, (plain, ours) in enumerate(zip(*found, strict=True)):
        off, allowed = ((x - reference[i]).norm() / reference[i].norm() for x in (ours, plain))
        assert off < max(tolerance, 1.5 * allowed)


def _states_and_gradients(model: torch.nn.Module) -> list[torch.Tensor]:
    states = model(input_ids=torch.arange(40, device=model.device).view(1, 40)).last_hidden_state
    (states.double() * torch.linspace(-1, 1, 64, dtype=torch.float64, device=model.device)).sum().backward()
    return [states.detach().double().cpu(), *(p.grad.double().cpu() for p in model.parameters())]


@pytest.mark.parametrize("adapted", [False, True])
def test_a_step_in_float32_equals_the_cpu(tiny, adapted):
    """Chunks kept and replayed, adapters too: gradients of the GPU are those of the CPU."""
    if adapted:
        add_adapters(tiny, rank=4, alpha=8.0, dropout=0.0, targets=["all-linear"], dora=False, seed=0)
        for name, weight in tiny.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1)
    on_cpu = _step(tiny, GraphBudget(0))
    for budget in (GraphBudget(0), GraphBudget(10**9)):
        on_gpu = _step(tiny.to("cuda"), budget)
        assert on_cpu.keys() == on_gpu.keys() and len(on_cpu) > 8
        for name, gradient in on_cpu.items():
            assert (gradient - on_gpu[name]).norm() < 1e-4 * gradient.norm(), name


def _step(encoder: Encoder, budget: GraphBudget) -> dict[str, torch.Tensor]:
    encoder.train().zero_grad(set_to_none=True)
    texts = encoder.template.encode([(INSTRUCTION, text) for text in SENTENCES], 160)
    chunks = [
        PackedTexts.of([t.ids for t in part], [t.prefix_tokens for t in part], encoder.device)
        for part in (texts[:3], texts[3:4], texts[4:])
    ]
    parameters = list(encoder.parameters())
    cache = GradCache(embed=encoder, budget=budget, parameters=parameters, device=encoder.device)
    rows, graphs = cache.embed_chunks(chunks)
    weights = torch.linspace(-1, 1, rows.numel(), device=rows.device).view_as(rows)
    (gradient,) = torch.autograd.grad((rows * weights).sum(), rows)
    cache.replay(chunks, graphs, gradient)
    return {name: p.grad.detach().clone().cpu() for name, p in encoder.named_parameters() if p.grad is not None}
