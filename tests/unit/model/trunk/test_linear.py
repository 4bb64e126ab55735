"""Linear layers by convolution equal torch's own, and stay out of the way where they are no gain."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from reasonir.model.packing import PackedTexts
from reasonir.model.tiny import build_tiny
from reasonir.model.trunk import linear
from reasonir.model.trunk.linear import FEWEST_ROWS, speed_up


@pytest.fixture
def convolving(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor where convolutions are faster, wherever the test runs."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("torch without oneDNN")
    monkeypatch.setattr(linear, "_convolution_is_faster", lambda: True)


def results(layer: torch.nn.Linear, x: torch.Tensor, gradient: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    output = layer(x)
    output.backward(gradient)
    assert x.grad is not None
    return [output.detach(), x.grad, *(p.grad for p in layer.parameters() if p.grad is not None)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(512,), (1, 1024), (3, 256), (2, 320, 2)])
def test_output_and_gradients_equal_float64(convolving: None, shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    plain = torch.nn.Linear(48, 80, bias=bias)
    fast, exact = copy.deepcopy(plain), copy.deepcopy(plain).double()
    assert speed_up(torch.nn.Sequential(fast)) == 1
    x, gradient = torch.randn(*shape, 48), torch.randn(*shape, 80)
    assert "Product" in str(fast(x).grad_fn) or "Product" in str(fast(x).grad_fn.next_functions)
    found, theirs, truth = (
        results(layer, x.to(dtype), gradient.to(dtype))
        for layer, dtype in ((fast, torch.float32), (plain, torch.float32), (exact, torch.float64))
    )
    assert len(found) == len(truth) == 3 + bias
    for ours, other, true in zip(found, theirs, truth, strict=True):
        error, usual = (float((value - true).norm() / true.norm()) for value in (ours, other))
        # oneDNN sums in an order that differs by processor: 1.0 to 2.6 times the error of torch were seen.
        assert error < max(3 * usual, 3e-7)


def test_a_frozen_weight_gets_no_gradient_and_an_output_can_be_added_to(convolving: None) -> None:
    layer = torch.nn.Linear(16, 16)
    speed_up(layer)
    layer.requires_grad_(False)
    x, more = torch.randn(FEWEST_ROWS, 16, requires_grad=True), torch.randn(16, 16, requires_grad=True)
    layer(x).addmm_(x, more).sum().backward()
    assert layer.weight.grad is None and more.grad is not None
    expected = (layer.weight + more.detach().t()).sum(0).expand(FEWEST_ROWS, 16)
    assert x.grad is not None and torch.allclose(x.grad, expected, atol=1e-5)


def test_torch_computes_few_rows_odd_numbers_and_other_precisions(convolving: None) -> None:
    layer = torch.nn.Linear(16, 8)
    speed_up(layer)
    few, odd, enough = (torch.randn(rows, 16) for rows in (FEWEST_ROWS // 2, FEWEST_ROWS + 1, FEWEST_ROWS))
    assert "Product" in str(layer(enough).grad_fn)
    for rows in (few, odd):
        assert "Addmm" in str(layer(rows).grad_fn)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(enough).dtype == torch.bfloat16
    assert layer.double()(enough.double()).dtype == torch.float64


def test_a_filled_stream_gives_the_embeddings_and_gradients_of_the_texts(convolving: None) -> None:
    lengths = [300, 300, 190, 7, 1]
    draw = np.random.default_rng(0)
    ids = [draw.integers(5, 250, length).astype(np.int32) for length in lengths]
    found = []
    for dtype in (torch.float32, torch.float64):
        encoder = build_tiny(["some text"], vocabulary_size=300, hidden_size=64, intermediate_size=96, layers=2)
        texts = PackedTexts.of(ids, [2, 0, 0, 0, 0])
        states: list[torch.Tensor] = []
        encoder.trunk.norm.register_forward_hook(lambda _module, _inputs, output, states=states: states.append(output))
        embeddings_BD = encoder.to(dtype)(texts)
        rows = states[0].shape[1]
        assert rows == (1024 if dtype == torch.float32 else sum(lengths))
        embeddings_BD[:, 0].sum().backward()
        found.append([embeddings_BD.detach(), *(p.grad for p in encoder.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) == 1 + 2 * 9 + 2
    for ours, exact in zip(*found, strict=True):
        assert float((ours - exact).norm()) < 1e-5 * float(exact.norm())


@pytest.mark.parametrize(
    ("capability", "vendor", "faster"),
    [("AVX512", "AuthenticAMD", True), ("AVX512", "GenuineIntel", False), ("AVX2", "AuthenticAMD", False)],
)
def test_the_processor_decides(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capability: str, vendor: str, faster: bool
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(linear, "PROCESSOR", tmp_path / "cpuinfo")
    linear._convolution_is_faster.cache_clear()
    try:
        assert not linear._convolution_is_faster(), "a system that does not say which processor it has"
        linear.PROCESSOR.write_text(f"processor : 0\nvendor_id : {vendor}\n")
        linear._convolution_is_faster.cache_clear()
        assert linear._convolution_is_faster() is faster
        assert speed_up(torch.nn.Linear(2, 2)) == faster
    finally:
        linear._convolution_is_faster.cache_clear()


@pytest.mark.parametrize(("tokens", "computed"), [(FEWEST_ROWS - 1, FEWEST_ROWS - 1), (512, 512), (600, 768)])
def test_packed_texts_say_how_many_tokens_are_computed(convolving: None, tokens: int, computed: int) -> None:
    assert PackedTexts.of([np.arange(tokens)], [0]).computed_tokens == computed
