"""The CUDA path: torch's variable-length kernel against float64 on the CPU, and a training step."""

import numpy as np
import pytest
import torch

from reasonir.eval.search import exact_top_k
from reasonir.model.attention import Segments, packed_attention
from tests.texts import INSTRUCTION, SENTENCES

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
