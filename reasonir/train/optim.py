"""AdamW and its schedule. Invariant: the learning rate is a pure function of the step and the length of the run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from reasonir.core.errors import UserError
from reasonir.train.config import ScheduleName


def build_adamw(
    encoder: Any,
    learning_rate: float,
    embedding_rate: float,
    weight_decay: float,
    *,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters. Each group keeps its peak rate under `peak`.

    Args:
        encoder: The model, with adapters if there are any.
        learning_rate: Peak rate.
        embedding_rate: Peak rate of the token embeddings.
        weight_decay: Decoupled decay of matrices; vectors (norms, biases) do not decay.
        betas: Decay of the averages of gradients and of their squares.
        eps: Added to the denominator.
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
    first, second = betas
    return torch.optim.AdamW(
        groups, lr=learning_rate, betas=(first, second), eps=eps, weight_decay=weight_decay, fused=True
    )


@dataclass(frozen=True, slots=True)
class Schedule:
    """The learning rate of every step of a run, as a share of its peak.

    Steps are counted from 0: a warm-up of w steps gives step s the share (s + 1) / w. Afterwards x is the part of the
    decay that lies before the step. Of what is above `final_ratio`, 1 - x remains (linear, wsd), or (1 + cos(pi x)) / 2
    (cosine), as in transformers' schedules of these names.

    warmup_steps: may be more than all steps. decay_ratio: share of all steps over which wsd falls. final_ratio: share
    of the peak that the rate falls towards.
    """

    name: ScheduleName
    warmup_steps: int
    total_steps: int
    decay_ratio: float = 0.1
    final_ratio: float = 0.0

    def share_at(self, step: int) -> float:
        """Return the share of the peak in a step."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.name is ScheduleName.constant:
            return 1.0
        begin = self.warmup_steps
        if self.name is ScheduleName.wsd:
            begin = max(begin, self.total_steps - math.ceil(round(self.decay_ratio * self.total_steps, 6)))
        passed = max(0, step - begin) / max(1, self.total_steps - begin)
        left = (1 + math.cos(math.pi * passed)) / 2 if self.name is ScheduleName.cosine else 1 - passed
        return left * (1 - self.final_ratio) + self.final_ratio

    def set_rates(self, groups: list[dict[str, Any]], step: int) -> float:
        """Set the rate of every optimizer group, whose `peak` is its highest, and return the first group's."""
        for group in groups:
            group["lr"] = group["peak"] * self.share_at(step)
        return float(groups[0]["lr"])

    def require_same_past(self, steps_done: int, before: "Schedule") -> None:
        """Refuse to continue a run whose finished steps would have had other rates in a run of this length.

        Args:
            steps_done: Steps of the run so far.
            before: The schedule that they followed.
        """
        if any(self.share_at(step) != before.share_at(step) for step in range(steps_done)):
            raise UserError(
                f"the {steps_done} steps done had the rates of a run of {before.total_steps} steps, a run of "
                f"{self.total_steps} has others (schedule={self.name}, or warmup_ratio); give "
                f"max_steps={before.total_steps}, or a new output_dir. Before its decay schedule=wsd with warmup_steps "
                "takes any length"
            )
