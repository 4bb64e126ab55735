"""Float32 linear layers on CPUs of which torch's matrix products leave AVX-512 unused.

torch multiplies float32 matrices by MKL, which uses AVX2 on processors that are not Intel's. oneDNN's convolutions,
also in torch, use AVX-512 there. With a window of 1 x 1 a convolution is the same product, up to 2.3 times as fast on a
Zen 5 (docs/log.md, 2026-11-26).
Invariant: the processor and the number of rows decide which of the two computes, never a measurement. A resumed run
therefore computes the same numbers as an uninterrupted one. Other files know `speed_up` and `padded_length` only.

Letters: T rows, I inputs, O outputs.
"""

from functools import cache
from pathlib import Path
from types import MethodType
from typing import Any

import torch

PROCESSOR = Path("/proc/cpuinfo")
FEWEST_ROWS = 512
"""With fewer rows, appending rows and preparing a convolution cost much of the gain."""
ROWS_OF_A_STEP = 256
"""Convolutions get multiples of this: oneDNN compiles, and keeps, a program for every number of rows it meets."""
ROWS_OF_AN_IMAGE = 64
"""Rows of one image in the gradient of a weight, which is fast as a sum over images; divides `ROWS_OF_A_STEP`."""


@cache
def _convolution_is_faster() -> bool:
    """Return whether this processor has AVX-512 and is not Intel's."""
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        return "GenuineIntel" not in PROCESSOR.read_text(encoding="utf-8")
    except OSError:
        return False


def speed_up(model: torch.nn.Module) -> int:
    """Let every `torch.nn.Linear` of the model compute by convolution if that is faster; return how many do."""
    if not _convolution_is_faster():
        return 0
    # Not subclasses: their forward computes something else.
    layers: list[torch.nn.Module] = [module for module in model.modules() if type(module) is torch.nn.Linear]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def padded_length(tokens: int, dtype: torch.dtype, device: torch.device) -> int:
    """Return how many rows the layers are fastest with: at least `tokens`, more only where convolutions compute them.

    Args:
        tokens: Rows that there are.
        dtype: Of the rows.
        device: Of the rows.
    """
    return tokens + (-tokens % ROWS_OF_A_STEP if _suit(tokens, dtype, device) else 0)


def _suit(rows: int, dtype: torch.dtype, device: torch.device) -> bool:
    plain = device.type == "cpu" and dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and rows >= FEWEST_ROWS and _convolution_is_faster()


def _forward(self: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    weight, rows = self.weight, x.numel() // x.shape[-1]
    if x.dtype != weight.dtype or rows % ROWS_OF_A_STEP or not _suit(rows, x.dtype, x.device):
        return type(self).forward(self, x)
    output = _Product.apply(x.reshape(-1, x.shape[-1]).contiguous(), weight, self.bias)
    assert isinstance(output, torch.Tensor)
    return output if x.ndim == 2 else output.view(*x.shape[:-1], -1)


class _Product(torch.autograd.Function):
    """x W^T + b in float32 on a CPU. x: (T, I), contiguous; W: (O, I); b: (O) or None."""

    @staticmethod
    def forward(ctx: Any, x_TI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
        """Return x W^T + b, (T, O).

        Args:
            ctx: Keeps x and the weight for the backward pass.
            x_TI: Rows, contiguous.
            weight_OI: The layer's weight.
            bias_O: The layer's bias; None for a layer without one.
        """
        # The parameter itself, not a view: sharded engines free its storage between the two passes and refill it.
        ctx.save_for_backward(x_TI, weight_OI)
        return _convolve(x_TI, weight_OI, bias_O)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradient_TO = gradients[0].contiguous()
        x_TI, weight_OI = ctx.saved_tensors
        x_asked, weight_asked, bias_asked = ctx.needs_input_grad
        return (
            _convolve(gradient_TO, weight_OI.t().contiguous(), None) if x_asked else None,
            _weight_gradient(gradient_TO, x_TI, weight_OI) if weight_asked else None,
            gradient_TO.sum(dim=0) if bias_asked else None,
        )


def _images(rows_TI: torch.Tensor, height: int) -> torch.Tensor:
    """View rows as images of one column, channels last, without a copy."""
    return rows_TI.view(-1, height, 1, rows_TI.shape[1]).permute(0, 3, 1, 2)


def _convolve(x_TI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
    """Compute x W^T + b as a convolution, outside of autograd. The rows must be contiguous."""
    output: torch.Tensor = torch.ops.aten.mkldnn_convolution(
        _images(x_TI, len(x_TI)), weight_OI[:, :, None, None], bias_O, [0, 0], [1, 1], [1, 1], 1
    )
    rows_TO = output.permute(0, 2, 3, 1).reshape(len(x_TI), len(weight_OI))
    # `set_` gives a tensor with the same storage that autograd does not know as a view: adapters add to it in place.
    own: torch.Tensor = torch.empty(0)
    own.set_(rows_TO)  # type: ignore[call-overload]
    return own


def _weight_gradient(gradient_TO: torch.Tensor, x_TI: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
    images = (_images(rows, ROWS_OF_AN_IMAGE) for rows in (gradient_TO, x_TI))
    _, found, _ = torch.ops.aten.convolution_backward(
        *images, weight_OI[:, :, None, None], None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False]
    )
    result_OI: torch.Tensor = found[:, :, 0, 0]
    return result_OI
