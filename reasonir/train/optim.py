"""AdamW, its moments in a checkpoint, and its schedule.

Invariants: the learning rate is a pure function of the step and the length of the run. What `moments_of` and
`scales_of` return is all the state that AdamW has beside its count of steps.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from reasonir.core.errors import UserError
from reasonir.train.config import OptimizerName, ScheduleName

# Names in a checkpoint: of moments in float32, of moments in 8 bits, and of the largest number of each of their blocks.
MOMENTS, CODES, SCALES = ("exp_avg", "exp_avg_sq"), ("exp_avg_8bit", "exp_avg_sq_8bit"), ("scale", "scale_sq")


def build_adamw(
    encoder: Any,
    learning_rate: float,
    embedding_rate: float,
    weight_decay: float,
    *,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
    kind: OptimizerName = OptimizerName.adamw,
) -> torch.optim.Optimizer:
    """Return AdamW over the trainable parameters. Each group keeps its peak rate under `peak`.

    With moments in 8 bits those of vectors and of the token embeddings stay float32, as their authors advise (Dettmers
    et al., arXiv 2110.02861).

    Args:
        encoder: The model, with adapters if there are any.
        learning_rate: Peak rate.
        embedding_rate: Peak rate of the token embeddings.
        weight_decay: Decoupled decay of matrices; vectors (norms, biases) do not decay.
        betas: Decay of the averages of gradients and of their squares.
        eps: Added to the denominator.
        kind: torch's AdamW, or that of bitsandbytes with moments in 8 bits.
    """
    trainable = [p for p in encoder.parameters() if p.requires_grad]
    # By identity: the table has another name in each model family.
    table = encoder.trunk.get_input_embeddings().weight
    # DeepSpeed's stage 3 may hold partitions already, and knows the whole shapes.
    vectors = {p for p in trainable if len(getattr(p, "ds_shape", p.shape)) < 2}
    matrices = [p for p in trainable if p not in vectors and p is not table]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "peak": learning_rate, "optim_bits": 8},
        {"params": [p for p in trainable if p is table], "peak": embedding_rate},
        {"params": [p for p in trainable if p in vectors], "peak": learning_rate, "weight_decay": 0.0},
    ]
    # With adapters the table and the vectors are frozen, and their groups empty.
    groups = [group for group in groups if group["params"]]
    options: dict[str, Any] = {"lr": learning_rate, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
    if kind is OptimizerName.adamw_8bit:
        optimizer: torch.optim.Optimizer = _eight_bit_adamw()(groups, **options)
        return optimizer
    for group in groups:
        group.pop("optim_bits", None)
    return torch.optim.AdamW(groups, fused=True, **options)


@cache
def _eight_bit_adamw() -> Any:
    """Return AdamW of bitsandbytes whose groups say in `optim_bits` how their moments are held: 8 bits, or float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a machine without a GPU
        from bitsandbytes.optim import AdamW8bit

    class EightBitAdamW(AdamW8bit):
        def get_config(self, gindex: int, pindex: int, group: dict[str, Any]) -> dict[str, Any]:
            """Return bitsandbytes' settings of a weight, with the bits of its moments.

            Args:
                gindex: Number of the weight's group.
                pindex: Its number within the group.
                group: The group.
            """
            return {**super().get_config(gindex, pindex, group), "optim_bits": group.get("optim_bits", 32)}

        def make_moments(self, weight: torch.Tensor) -> None:
            """Make the moments of a weight before its first step, for those of a checkpoint to be put into."""
            for g, group in enumerate(self.param_groups):
                for i, p in enumerate(group["params"]):
                    if p is weight:
                        self.init_state(group, p, g, i)

    return EightBitAdamW


def moments_of(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return a weight's two moments by their names in a checkpoint; nothing before its first step."""
    own = [state[name] for name in ("state1", "state2") if name in state]
    if own:
        return dict(zip(CODES if own[0].dtype == torch.uint8 else MOMENTS, own, strict=True))
    return {name: state[name] for name in MOMENTS if name in state}


def scales_of(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the largest number of each block of a weight's moments by its name in a checkpoint; none in float32."""
    names = zip(SCALES, ("absmax1", "absmax2"), strict=True)
    return {name: state[own] for name, own in names if own in state}


def prepare_state(optimizer: Any, weight: torch.Tensor, step: int) -> dict[str, Any]:
    """Return a weight's state with its count of steps; moments that the optimizer has not made yet are made.

    Args:
        optimizer: From `build_adamw`.
        weight: That it updates.
        step: Steps that it has made.
    """
    state: dict[str, Any] = optimizer.state[weight]
    if hasattr(optimizer, "make_moments"):
        if not state:
            optimizer.make_moments(weight)
        state["step"] = step
        return state
    # As torch.optim.AdamW does: a fused one keeps `step` on the device of the weight.
    device = weight.device if optimizer.param_groups[0].get("fused") else "cpu"
    state["step"] = torch.tensor(float(step), dtype=torch.float32, device=device)
    for name in MOMENTS:
        if name not in state:
            state[name] = torch.zeros_like(weight, memory_format=torch.preserve_format)
    return state


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
