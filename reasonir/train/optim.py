"""AdamW and its schedule. Invariant: the learning rate is a pure function of the step."""

from typing import Any

import torch


def build_adamw(encoder: Any, learning_rate: float, embedding_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters. Each group keeps its peak rate under `peak`.

    Args:
        encoder: The model, with adapters if there are any.
        learning_rate: Peak rate.
        embedding_rate: Peak rate of the token embeddings.
        weight_decay: Decoupled decay of matrices; vectors (norms, biases) do not decay.
    """
    trainable = [p for p in encoder.parameters() if p.requires_grad]
    # By identity: the table has another name in each model family.
    table = encoder.trunk.get_input_embeddings().weight
    # DeepSpeed's stage 3 may hold partitions already, and knows the whole shapes.
    vectors = {p for p in trainable if len(getattr(p, "ds_shape", p.shape)) < 2}
    groups = [
        {"params": [p for p in trainable if p not in vectors and p is not table], "peak": learning_rate},
        {"params": [p for p in trainable if p is table], "peak": embedding_rate},
        {"params": [p for p in trainable if p in vectors], "peak": learning_rate, "weight_decay": 0.0},
    ]
    # With adapters the table and the vectors are frozen, and their groups empty.
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=learning_rate, weight_decay=weight_decay, fused=True)


def set_learning_rate(groups: list[dict[str, Any]], step: int, warmup_steps: int) -> float:
    """Set the rate of every group for a step, and return the first group's.

    Args:
        groups: Of the optimizer; `peak` is a group's highest rate.
        step: Counted from 0.
        warmup_steps: Steps of linear warm-up.
    """
    for group in groups:
        group["lr"] = learning_rate_at(step, group["peak"], warmup_steps)
    return float(groups[0]["lr"])


def learning_rate_at(step: int, peak: float, warmup_steps: int) -> float:
    """Return the rate of a step: linear to `peak` over the warm-up, then constant.

    Args:
        step: Counted from 0; the first step has a rate above 0.
        peak: Highest rate.
        warmup_steps: Steps of the warm-up; 0 starts at the peak.
    """
    return peak * min(1.0, (step + 1) / max(warmup_steps, 1))
