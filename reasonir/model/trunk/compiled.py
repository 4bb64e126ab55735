"""Compiles the layers of a trunk with torch.compile, which saves passes over memory between matrix products.

Every layer is compiled by itself, and equal layers share their programs. Attention stays outside: it computes runs
of equal lengths, and a program for one set of lengths is of no use to the next chunk.
Invariant: a pass with a graph gives the bytes of the pass without one, dropout included; GradCache relies on it. They
are those of the plain layers up to rounding.
"""

from typing import Any

import torch

from reasonir.core.errors import UserError
from reasonir.model.trunk.attention import PACKED_ATTENTION, packed_attention
from reasonir.model.trunk.bidirectional import padded_because

OPTIONS: dict[str, Any] = {
    # Dropout draws from torch's generator, whose state the two passes of a chunk share.
    "fallback_random": True,
    # Else bfloat16 is rounded only where a program stores it: with a graph in other places than without one.
    "emulate_precision_casts": True,
}


def compile_layers(trunk: Any, precision: str) -> int:
    """Let a trunk's layers run compiled from their next pass on, which compiles them; return how many there are.

    Args:
        trunk: The model, where it will compute.
        precision: "fp32" or "bf16" (autocast).
    Raises:
        UserError: The model pads its texts or has no stack of layers, a CPU would compute in bfloat16, or torch finds
            no compiler.
    """
    from transformers import AttentionInterface

    count = getattr(trunk.config, "num_hidden_layers", None)
    stacks = (m for m in trunk.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count)
    stack = next(stacks, None)
    if stack is None or padded_because(trunk) is not None:
        raise UserError(f"compile=true: {type(trunk).__name__} cannot be compiled layer by layer; give compile=false")
    if precision == "bf16" and trunk.device.type == "cpu":
        # A step could no longer share one bfloat16 copy of each weight.
        raise UserError("compile=true: a CPU compiles float32 alone; give precision=fp32")
    _try_compiler(trunk.device)
    AttentionInterface.register(PACKED_ATTENTION, torch.compiler.disable(packed_attention))
    for layer in stack:
        layer.compile(dynamic=True, options=OPTIONS)
    return len(stack)


def _try_compiler(device: torch.device) -> None:
    """Compile a sum: what is missing is said before the model's first pass."""
    try:
        torch.compile(lambda x: x + 1)(torch.ones(2, device=device))
    except Exception as error:  # torch raises another class for every compiler that it does not find
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"compile=true: torch.compile does not work here ({reason}); it needs a C++ compiler, on a GPU triton too"
        ) from error
