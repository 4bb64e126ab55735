"""AdamW, its schedule, and the gradient norm.

Invariant: the learning rate is a pure function of the step.
"""

from typing import Any

import torch


def build_adamw(encoder: Any, learning_rate: float, embedding_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters; vectors (norms, biases) are not decayed.

    Each group keeps its peak rate under `peak`; token embeddings have one of their own.
    """
    trainable = [p for p in encoder.parameters() if p.requires_grad]
    table = encoder.trunk.get_input_embeddings().weight
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2 and p is not table], "peak": learning_rate},
        {"params": [p for p in trainable if p is table], "peak": embedding_rate},
        {"params": [p for p in trainable if p.ndim < 2], "peak": learning_rate, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=learning_rate, weight_decay=weight_decay, fused=True)


def set_learning_rate(groups: list[dict[str, Any]], step: int, warmup_steps: int) -> float:
    """Set every group's rate for step 0, 1, ...: linear to its peak, then constant; return the first group's."""
    for group in groups:
        group["lr"] = learning_rate_at(step, group["peak"], warmup_steps)
    return float(groups[0]["lr"])


def learning_rate_at(step: int, peak: float, warmup_steps: int) -> float:
    """Return the rate of step 0, 1, ...: linear to `peak` over `warmup_steps`, then constant."""
    return peak * min(1.0, (step + 1) / max(warmup_steps, 1))
