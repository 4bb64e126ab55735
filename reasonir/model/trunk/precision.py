"""Chooses between float32 and bfloat16 products under autocast.

On a CPU `auto` measures both and gives the reason. A resumed run keeps the precision it began with.
"""

import time
from typing import Any

import torch

from reasonir.core.errors import UserError
from reasonir.model.trunk.attention import has_fast_bfloat16
from reasonir.model.trunk.linear import speed_up

BF16_SPEEDUP_NEEDED = 3.0
"""bf16 products must be this many times as fast on a CPU: below, casts cost much of the gain. AMX reaches 4 to 8."""


def choose_precision(requested: str, device: torch.device) -> tuple[str, str]:
    """Return ("fp32" or "bf16", the reason in words).

    Args:
        requested: "auto", "fp32" or "bf16".
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
    ratio = bf16_speedup()
    chosen = "bf16" if ratio >= BF16_SPEEDUP_NEEDED else "fp32"
    return chosen, f"bf16 products run {ratio:.1f} x as fast as fp32 here, {BF16_SPEEDUP_NEEDED:g} x needed"


def bf16_speedup() -> float:
    """Measure how many times as fast bfloat16 linear layers are as float32 on this CPU, without casts (about 0.1 s)."""
    dtypes = (torch.float32, torch.bfloat16)
    layers = {dtype: torch.nn.Linear(768, 768, bias=False).to(dtype) for dtype in dtypes}
    for layer in layers.values():
        speed_up(layer)
    inputs = {dtype: torch.randn(1024, 768).to(dtype) for dtype in dtypes}
    seconds = dict.fromkeys(dtypes, float("inf"))
    # The two take turns, so that other load on the machine slows both; the best of ten tries counts.
    with torch.no_grad():
        for _ in range(10):
            for dtype, layer in layers.items():
                begun = time.perf_counter()
                layer(inputs[dtype])
                seconds[dtype] = min(seconds[dtype], time.perf_counter() - begun)
    return seconds[torch.float32] / seconds[torch.bfloat16]


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
