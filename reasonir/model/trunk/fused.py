"""Norms, gated units and rotary positions with fewer passes over memory than transformers' modules make.

On a CPU the norm (in float32) and the gated unit are ours; on CUDA all three are Liger's kernels, if `reasonir[cuda]`
is installed. Other devices and dtypes keep transformers' own. Only `forward` methods are replaced: parameters, state
dicts, adapters and shards stay as they are.
Invariant: a module is replaced only if both versions give the same output on random input, up to rounding.

Letters: T tokens, D channels.
"""

import importlib
import sys
from copy import copy
from functools import cache, partial
from types import MethodType
from typing import Any

import torch

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PROBE_ROWS = 4
TOLERANCE = 1e-5
"""Of a comparison in float32 (relative error of one operation: 6e-8). Another formula differs by far more."""


def _on_kernels(tensor: torch.Tensor) -> bool:
    """Return whether Liger's kernels take a tensor; they compute in float32 at most, so float64 is left out."""
    return tensor.is_cuda and tensor.dtype in KERNEL_DTYPES and cuda_kernels() is not None


class _RMSNorm(torch.autograd.Function):
    """y = x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich, arXiv 1910.07467).

    Keeps x and one number for each row; transformers' module keeps another copy of x. Backward pass, with n = x / rms
    and g = dy * weight: dx = (g - n * mean(g * n)) / rms.
    """

    @staticmethod
    def forward(ctx: Any, x_TD: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
        """Normalise rows.

        Args:
            ctx: Keeps what the backward pass reads.
            x_TD: Rows of any leading shape, D channels.
            weight_D: Scale of each channel.
            eps: Added to the mean square, so that a row of zeros stays finite.
        """
        norm_T1 = torch.linalg.vector_norm(x_TD, dim=-1, keepdim=True)
        scale_T1 = norm_T1.square_().div_(x_TD.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x_TD, weight_D, scale_T1)
        return (x_TD * scale_T1).mul_(weight_D)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient_TD,) = gradients
        x_TD, weight_D, scale_T1 = ctx.saved_tensors
        # `work_TD` is dy * n first, and is then overwritten by dx: the only new tensor of the size of x.
        work_TD = (gradient_TD * x_TD).mul_(scale_T1)
        weight_gradient_D = work_TD.flatten(0, -2).sum(dim=0) if ctx.needs_input_grad[1] else None
        mean_T1 = (work_TD @ weight_D).div_(-x_TD.shape[-1]).unsqueeze(-1) * scale_T1
        x_gradient_TD = torch.mul(gradient_TD, weight_D, out=work_TD).addcmul_(x_TD, mean_T1).mul_(scale_T1)
        return x_gradient_TD, weight_gradient_D, None


class _GatedUnit(torch.autograd.Function):
    """silu(gate) * up (Shazeer, arXiv 2002.05202). Keeps its inputs only; transformers' module keeps silu(gate) too."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Return silu(gate) * up.

        Args:
            ctx: Keeps both inputs for the backward pass.
            gate: Output of the gate's linear layer, (T, I).
            up: Output of the other linear layer, (T, I).
        """
        ctx.save_for_backward(gate, up)
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (gradient,) = gradients
        gate, up = ctx.saved_tensors
        gate_gradient = gradient * up
        torch.ops.aten.silu_backward.grad_input(gate_gradient, gate, grad_input=gate_gradient)
        return gate_gradient, torch.nn.functional.silu(gate).mul_(gradient)


def fuse(model: torch.nn.Module) -> int:
    """Replace the forward of every RMSNorm and every gated unit; return how many were replaced.

    Rotary positions are a function of the architecture's Python module. It is replaced there, for tensors on CUDA, and
    so for every model of the process.
    """
    count = 0
    for module in model.modules():
        eps = getattr(module, "variance_epsilon", None)
        if isinstance(eps, float) and _is_rms_norm(module, eps):
            module.forward = MethodType(_norm_forward, module)
            count += 1
        elif _is_gated_unit(module):
            module.forward = MethodType(_gated_forward, module)
            count += 1
    if cuda_kernels() is not None:
        _fuse_rotation(sys.modules[type(model).__module__])
    return count


@cache
def cuda_kernels() -> Any:
    """Return Liger's functions; None without a GPU or without the package."""
    if not torch.cuda.is_available():
        return None
    try:
        return importlib.import_module("liger_kernel.transformers.functional")
    except ImportError:
        return None


def _norm_forward(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    weight = self.weight
    if hidden_states.device.type == "cpu" and hidden_states.dtype == weight.dtype == torch.float32:
        output = _RMSNorm.apply(hidden_states, weight, self.variance_epsilon)
        assert isinstance(output, torch.Tensor)
        return output
    if hidden_states.dtype == weight.dtype and _on_kernels(hidden_states):
        # The last argument, in_place=False: the kernel would overwrite a gradient that a residual may share.
        fused: torch.Tensor = cuda_kernels().liger_rms_norm(
            hidden_states, weight, self.variance_epsilon, 0.0, "llama", False
        )
        return fused
    return type(self).forward(self, hidden_states)


def _gated_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    """down(silu(gate(x)) * up(x))."""
    gate, up = self.gate_proj(x), self.up_proj(x)
    if gate.device.type == "cpu" and gate.dtype in (torch.float32, torch.bfloat16):
        product = _GatedUnit.apply(gate, up)
    else:
        product = cuda_kernels().liger_swiglu(gate, up) if _on_kernels(gate) else self.act_fn(gate) * up
    output: torch.Tensor = self.down_proj(product)
    return output


@torch.no_grad()
def _is_gated_unit(module: Any) -> bool:
    """Return whether a module is a gated unit with SiLU: compare it with the formula on random rows.

    Small linear functions stand in for its layers, whose weights may be quantised or not loaded yet.
    """
    if {name for name, _ in module.named_children()} != {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        return False
    draw = torch.Generator().manual_seed(0)
    x, *weights = (torch.randn(PROBE_ROWS, PROBE_ROWS, generator=draw) for _ in range(4))
    gate, up, down = (partial(torch.nn.functional.linear, weight=weight) for weight in weights)
    probe = copy(module)
    probe._modules = {**module._modules, "gate_proj": gate, "up_proj": up, "down_proj": down}
    return torch.allclose(probe(x), down(torch.nn.functional.silu(gate(x)) * up(x)), rtol=TOLERANCE, atol=TOLERANCE)


def _fuse_rotation(architecture: Any) -> None:
    """Replace `apply_rotary_pos_emb` of a Python module of transformers if it rotates halves, as Llama's does."""
    theirs = getattr(architecture, "apply_rotary_pos_emb", None)
    # A function with the attribute `theirs` is our replacement from an earlier model.
    if theirs is None or hasattr(theirs, "theirs"):
        return
    # Other architectures interleave channels or take other arguments: compare with the formula on random input.
    draw = torch.Generator().manual_seed(0)
    q, k = torch.randn(1, 4, 3, 8, generator=draw), torch.randn(1, 2, 3, 8, generator=draw)
    half = torch.randn(1, 3, 4, generator=draw)
    cos, sin = torch.cat((half, half), -1).cos(), torch.cat((half, half), -1).sin()

    def halves(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat((-second, first), -1) * sin

    try:
        found = theirs(q, k, cos, sin)
    except (TypeError, ValueError, RuntimeError):
        return
    if not all(torch.allclose(a, halves(b), atol=TOLERANCE) for a, b in zip(found, (q, k), strict=True)):
        return

    def rotate(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *rest: Any, **more: Any) -> Any:
        """Return queries and keys turned by their positions.

        Args:
            q: Queries (batch, heads, tokens, channels).
            k: Keys, of the same shape but for the number of heads.
            cos: Cosines of the angles (batch, tokens, channels).
            sin: Sines of the same angles.
            *rest: Further arguments, which only the architecture's own function knows.
            **more: The same by name.
        """
        # A call with further arguments means something that the kernel does not compute.
        if _on_kernels(q) and not rest and not more:
            return cuda_kernels().liger_rope(q, k, cos, sin)
        return theirs(q, k, cos, sin, *rest, **more)

    rotate.theirs = theirs  # type: ignore[attr-defined]
    architecture.apply_rotary_pos_emb = rotate


def _is_rms_norm(module: torch.nn.Module, eps: float) -> bool:
    """Return whether a module computes `_RMSNorm`: compare output and gradients on random rows, float32 on a CPU."""
    names = [name for name, _ in module.named_parameters()]
    if names != ["weight"] or next(module.parameters()).ndim != 1 or next(module.buffers(), None) is not None:
        return False
    draw = torch.Generator().manual_seed(0)
    channels = next(module.parameters()).shape[0]
    x, gradient = (torch.randn(PROBE_ROWS, channels, generator=draw) for _ in range(2))
    weight = torch.rand(channels, generator=draw) + 0.5
    found = []
    for compute in (
        lambda x, weight: torch.func.functional_call(module, {"weight": weight}, (x,)),
        lambda x, weight: _RMSNorm.apply(x, weight, eps),
    ):
        inputs = (x.clone().requires_grad_(), weight.clone().requires_grad_())
        with torch.enable_grad():
            try:
                output = compute(*inputs)
            except TypeError:  # a norm that takes more than its input, such as a gate
                return False
            if not isinstance(output, torch.Tensor) or output.shape != x.shape:
                return False
            found.append((output.detach(), *torch.autograd.grad(output, inputs, gradient)))
    return all(torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE) for a, b in zip(*found, strict=True))
