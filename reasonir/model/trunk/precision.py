"""Chooses between float32 and bfloat16 products under autocast, and kernels that repeat their results.

On a CPU `auto` times one packed chunk of the model in both and gives the reason. A resumed run keeps the precision it
began with.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from typing import Any

import torch

from reasonir.core.errors import UserError
from reasonir.model.trunk.attention import Segments, has_fast_bfloat16
from reasonir.model.trunk.bidirectional import forward_packed
from reasonir.model.trunk.linear import speed_up

SPEEDUP_NEEDED = 1.1
"""A chunk must be this many times as fast in bfloat16: below, its rounding buys nothing."""
PRODUCTS_NEEDED = 1.5
"""Where bfloat16 products are not this many times as fast, no chunk can be, and none is timed."""
TEXT_TOKENS = (256, 128, 64, 32)
"""Lengths of the texts of the chunk that is timed, in turn."""
CHUNK_TOKENS = (480, 1_920)
"""Fewest and most tokens of that chunk."""
CHUNK_FLOPS = 2e11
"""Floating-point operations of one timed pass, within those limits: about a second of two cores in float32."""
TRIES = 4


def choose_precision(requested: str, device: torch.device, trunk: Any, *, backward: bool) -> tuple[str, str]:
    """Return ("fp32" or "bf16", the reason in words).

    Args:
        requested: "auto", "fp32" or "bf16".
        device: Where the model computes.
        trunk: The model, as `prepare_trunk` leaves it.
        backward: Whether the passes to come include backward passes.

    Raises:
        UserError: bf16 is requested of a GPU without bfloat16 units.
    """
    # An older card emulates bfloat16: torch runs it, slower than float32.
    lacking = device.type == "cuda" and not has_fast_bfloat16(device)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    if requested != "auto":
        if requested == "bf16" and lacking:
            raise UserError(f"precision=bf16: {card} has no bfloat16 arithmetic; use precision=fp32")
        return requested, "as asked"
    if device.type == "cuda":
        return ("fp32", f"{card} has no bfloat16 arithmetic") if lacking else ("bf16", card)
    if device.type != "cpu":
        return "fp32", f"{device.type} device"
    return _choose_on_cpu(trunk, backward)


def _choose_on_cpu(trunk: Any, backward: bool) -> tuple[str, str]:
    if any(parameter.is_meta for parameter in trunk.parameters()):
        return "fp32", "weights that are read in shards are not timed; precision=bf16 asks for it"
    products = bf16_speedup_of_products()
    if products < PRODUCTS_NEEDED:
        return "fp32", f"bf16 products run {products:.1f} x as fast as fp32 here, {PRODUCTS_NEEDED:g} x needed"
    chunk = bf16_speedup_of_chunk(trunk, backward)
    passes = "forward and backward" if backward else "forward"
    reason = f"a chunk runs {chunk:.1f} x as fast as in fp32 here, {passes}, {SPEEDUP_NEEDED:g} x needed"
    return "bf16" if chunk >= SPEEDUP_NEEDED else "fp32", reason


def bf16_speedup_of_products() -> float:
    """Measure how many times as fast bfloat16 linear layers are as float32 on this CPU, without casts (about 0.1 s)."""
    computations: dict[str, Callable[[], Any]] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        layer = torch.nn.Linear(768, 768, bias=False).to(dtype)
        speed_up(layer)
        computations[name] = partial(layer, torch.randn(1024, 768).to(dtype))
    with torch.no_grad():
        seconds = _best_seconds(computations, tries=10)
    return seconds["fp32"] / seconds["bf16"]


def bf16_speedup_of_chunk(trunk: Any, backward: bool) -> float:
    """Measure how many times as fast a packed chunk runs in bfloat16 as in float32; no weight and no state changes.

    Args:
        trunk: The model, on a CPU.
        backward: Whether the backward pass is timed too.
    """
    weights = [parameter for parameter in trunk.parameters() if parameter.requires_grad]
    fewest, most = CHUNK_TOKENS
    operations = (6 if backward else 2) * sum(parameter.numel() for parameter in trunk.parameters())
    room = min(most, max(fewest, int(CHUNK_FLOPS / operations)))
    # RoBERTa's first two positions stand for no token.
    longest = (getattr(trunk.config, "max_position_embeddings", None) or max(TEXT_TOKENS) + 2) - 2
    lengths: list[int] = []
    for length in cycle(min(tokens, longest) for tokens in TEXT_TOKENS):
        if sum(lengths) + length > room:
            break
        lengths.append(length)
    # Any token id does: 7 stands in every vocabulary.
    token_ids, segments = torch.full((sum(lengths),), 7), Segments.of(lengths)

    def compute(low: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=low), torch.set_grad_enabled(backward):
            states_TD = forward_packed(trunk, token_ids, segments)
        if backward and weights:
            torch.autograd.grad(states_TD.float().sum(), weights, allow_unused=True)

    # Dropout draws numbers: the run's own draws must not depend on a measurement.
    with torch.random.fork_rng(devices=[]):
        seconds = _best_seconds({"fp32": partial(compute, low=False), "bf16": partial(compute, low=True)}, TRIES)
    return seconds["fp32"] / seconds["bf16"]


def _best_seconds(computations: dict[str, Callable[[], Any]], tries: int) -> dict[str, float]:
    """Return the shortest time of each; they take turns, so that other load on the machine slows all."""
    seconds = dict.fromkeys(computations, float("inf"))
    for _ in range(tries):
        for name, compute in computations.items():
            begun = time.perf_counter()
            compute()
            seconds[name] = min(seconds[name], time.perf_counter() - begun)
    return seconds


@contextmanager
def repeatable_kernels(wanted: bool) -> Iterator[None]:
    """Let torch take kernels meanwhile that give the same bytes every time, where it knows slower and faster ones.

    On CUDA the faster ones add up in no fixed order: FlashAttention's backward pass, sums over indices. A CPU has none.
    Set it before the process first uses its GPU.

    Args:
        wanted: False changes nothing.
    """
    if not wanted:
        yield
        return
    # cuBLAS repeats its results only with a workspace of fixed size.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    memory: Any = torch.utils.deterministic
    before, filled = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory before it is written.
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = filled


def hold_in_bf16(trunk: Any) -> None:
    """Round matrices and embeddings of a trunk to bfloat16, in place; vectors, such as norms, stay float32.

    Under autocast the numbers are then those of the rounded weights in float32: autocast rounds matrices before each
    product anyway, and embeddings are widened again. A trunk without weights gets the number formats alone.
    """
    for parameter in trunk.parameters():
        if parameter.ndim > 1 and parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.bfloat16)
    for module in trunk.modules():
        if isinstance(module, torch.nn.Embedding):
            module.register_forward_hook(lambda _, __, output: output.float())
