"""The padded form of packed attention, for cards that the kernel refuses, and soft-capped attention's memory."""

import pytest
import torch
import transformers
from transformers import AutoModel

from reasonir.model.trunk import attention
from reasonir.model.trunk.attention import PACKED_ATTENTION, Segments, register
from reasonir.model.trunk.bidirectional import forward_packed
from reasonir.train.gradcache import SavedBytes

LENGTHS = [9, 9, 4, 1, 17]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 3])
def test_one_padded_call_equals_a_call_for_each_length(causal, window):
    """Output and gradients, with fewer key-value heads and rows behind the last text."""
    torch.manual_seed(0)
    found = []
    q, k, v = (torch.randn(sum(LENGTHS) + 3, heads, 8, dtype=torch.float64) for heads in (4, 2, 2))
    for attend in (attention._per_run, attention._padded):
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        more = (None,) if attend is attention._per_run else ()
        out = attend(*inputs, Segments.of(LENGTHS), None, window, causal, 0.0, *more)
        out.square().sum().backward()
        found.append([out, *(x.grad for x in inputs)])
    assert found[0][0].abs().max() > 0.1
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("dtype", "channels", "value_channels", "capability", "takes"),
    [(torch.bfloat16, 128, 128, 8, True), (torch.float16, 64, 64, 9, True), (torch.bfloat16, 128, 128, 7, False),
     (torch.float32, 128, 128, 9, False), (torch.bfloat16, 512, 512, 9, False), (torch.bfloat16, 20, 20, 9, False),
     (torch.bfloat16, 192, 128, 9, False)],
)  # fmt: skip
def test_the_kernel_is_called_only_with_what_it_takes(monkeypatch, dtype, channels, value_channels, capability, takes):
    monkeypatch.setattr(attention, "has_fast_bfloat16", lambda device: capability >= 8)
    query, value = torch.empty(3, 2, channels, dtype=dtype), torch.empty(3, 2, value_channels, dtype=dtype)
    assert attention._kernel_takes(query, value) == takes


def test_attention_is_computed_in_float32_under_autocast_on_a_cpu(tiny, monkeypatch):
    """Its gradient there is faster than bfloat16's; products of linear layers stay bfloat16."""
    real, dtypes, products = attention.scaled_dot_product_attention, [], []

    def attend(query, key, value, **options):
        assert not torch.is_autocast_enabled("cpu")
        dtypes.extend(x.dtype for x in (query, key, value))
        return real(query, key, value, **options)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", attend)
    for module in tiny.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda *call: products.append(call[-1].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        forward_packed(tiny.trunk, torch.arange(20), Segments.of([9, 4, 7])).sum().backward()
    assert set(dtypes) == {torch.float32} and set(products) == {torch.bfloat16}


def gemma2(tokens: int, autocast: bool = False) -> tuple[int, torch.Tensor]:
    """Return the bytes that a graph of one text keeps, and the gradient of the embeddings."""
    register()
    config = transformers.Gemma2Config(vocab_size=400, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                                       num_attention_heads=8, num_key_value_heads=4, head_dim=8, sliding_window=4096,
                                       query_pre_attn_scalar=8)  # fmt: skip
    config.is_causal = False
    torch.manual_seed(0)
    model = AutoModel.from_config(config, attn_implementation=PACKED_ATTENTION).train()
    saved = SavedBytes(list(model.parameters()))
    with saved.hooks, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        states = forward_packed(model, torch.arange(tokens) % 390, Segments.of([tokens]))
    # Not the sum of squares, which the last norm makes the same for all weights.
    (states.float() * torch.randn(states.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    return saved.total, model.get_input_embeddings().weight.grad


def test_a_graph_of_soft_capped_attention_grows_with_the_tokens_not_with_their_square():
    small, large = gemma2(64)[0], gemma2(256)[0]
    assert large < 4.2 * small


def test_soft_capped_attention_computed_again_has_the_same_gradient(monkeypatch):
    for autocast in (False, True):
        again = gemma2(40, autocast)[1]
        with monkeypatch.context() as patched:
            patched.setattr(attention._SoftCapped, "apply", attention._soft_capped)
            kept = gemma2(40, autocast)[1]
        assert torch.allclose(again, kept, rtol=1e-4, atol=1e-6)
        assert kept.abs().max() > 1e-2
