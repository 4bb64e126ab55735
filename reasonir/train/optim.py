"""AdamW, its schedule, and the gradient norm.

Invariant: the learning rate is a pure function of the step.
"""

from collections.abc import Iterable

import torch


def build_adamw(module: torch.nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters; vectors (norms, biases) are not decayed."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, fused=True)


def learning_rate_at(step: int, peak: float, warmup_steps: int) -> float:
    """Return the rate of step 0, 1, ...: linear to `peak` over `warmup_steps`, then constant."""
    return peak * min(1.0, (step + 1) / max(warmup_steps, 1))


def gradient_norm(parameters: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the 2-norm over all gradients."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def clip_gradients(parameters: Iterable[torch.Tensor], norm: torch.Tensor, limit: float) -> None:
    """Scale all gradients by limit / norm where the norm exceeds the limit; 0 clips nothing."""
    if limit > 0:
        torch.nn.utils.clip_grads_with_norm_(list(parameters), limit, norm)
