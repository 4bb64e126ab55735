"""Engines: which rank holds which weights, gradients and optimizer state, and how the ranks make one step of them.

Only this file knows torch's and DeepSpeed's machinery. Invariant: every rank passes its share of the global mean loss
to `backward`. After `update`, every engine has applied the gradient of the sum of all shares (not 1/W of it, not W
times), clipped by its true global norm.

Letters: W ranks.
"""

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from reasonir.core.errors import UserError
from reasonir.model.encoder import Encoder
from reasonir.train.parallel.ranks import Ranks

# Numbers of an 8-bit moment that share a scale (bitsandbytes).
BLOCK = 256
BuildOptimizer = Callable[[Encoder], torch.optim.Optimizer]
# Keys of DeepSpeed's JSON that follow from the run's own options.
FILLED_IN = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping",
             "optimizer", "scheduler", "fp16")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive numbers of one weight that this rank holds: weight.flatten()[start : start + count].

    holder: the tensor that the optimizer updates and keeps state of. The numbers are
    holder.flatten()[offset : offset + count].
    """

    name: str
    start: int
    count: int
    holder: torch.Tensor
    offset: int


class Engine:
    """One process, or replicas: every rank holds everything, and a step has one all-reduce of the gradient.

    lockstep: whether ranks must run the same number of forward passes. whole: whether a rank holds all weights.
    """

    lockstep = False
    whole = True

    def __init__(self, encoder: Encoder, optimizer: torch.optim.Optimizer, ranks: Ranks, limit: float) -> None:
        """Take over the encoder's gradients.

        Args:
            encoder: The model that trains.
            optimizer: Over its trainable weights.
            ranks: All ranks of the run.
            limit: Largest global gradient norm; 0 allows any.
        """
        self.embed: torch.nn.Module = encoder
        self.optimizer, self.ranks, self.limit = optimizer, ranks, limit
        self.named: dict[str, Any] = _trained_weights(encoder)
        self.parameters = list(encoder.parameters())
        self._buffers = self._lay_out_gradients() if ranks.world > 1 else []

    def _lay_out_gradients(self) -> list[torch.Tensor]:
        """Put the gradients of all weights into one buffer: one collective reduces them, and nothing is copied."""
        buffers = []
        for dtype in {p.dtype for p in self.named.values()}:
            weights = [p for p in self.named.values() if p.dtype == dtype]
            buffer = torch.zeros(sum(p.numel() for p in weights), dtype=dtype, device=weights[0].device)
            for p, gradient in zip(weights, buffer.split([p.numel() for p in weights]), strict=True):
                p.grad = gradient.view_as(p)
            buffers.append(buffer)
        return buffers

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups, for their learning rates."""
        return self.optimizer.param_groups

    def begin(self) -> None:
        """Set the gradients of the previous step to zero."""
        for buffer in self._buffers:
            buffer.zero_()
        if not self._buffers:
            self.optimizer.zero_grad(set_to_none=True)

    def backward(self, share: torch.Tensor) -> None:
        """Add the gradient of one chunk's share of the loss."""
        share.backward()

    def restart(self) -> None:
        """Forget what this rank's `backward` has added in this step. Never called on a lockstep engine."""
        self.begin()

    def discard(self) -> None:
        """Throw the step's gradient away in place of `update`. Collective."""
        # The next `begin` sets it to zero.

    def update(self) -> float:
        """Reduce, clip and apply the gradient; return its global 2-norm. If the norm is not finite, apply nothing.

        Collective.
        """
        for buffer in self._buffers:
            dist.all_reduce(buffer)
        parameters = list(self.named.values())
        norm = self._norm(parameters)
        if math.isfinite(norm):
            clip_gradients(parameters, torch.tensor(norm, device=self.ranks.device), self.limit)
            self.optimizer.step()
        return norm

    def _norm(self, parameters: Sequence[torch.Tensor]) -> float:
        return float(gradient_norm(parameters))

    @property
    def states(self) -> dict[torch.Tensor, dict[str, Any]]:
        """The optimizer's state by the tensor it updates: a weight, or a flat partition under ZeRO."""
        return self.optimizer.state

    def take_over_pieces(self) -> None:
        """Let the next forward pass see what was written into the numbers that `pieces` yields."""

    def pieces(self, *, share: bool) -> Iterator[Piece]:
        """Yield the numbers of the trained weights that this rank holds.

        Args:
            share: Yield this rank's share only, so that all ranks together yield each number once.
        """
        rank, world = (self.ranks.rank, self.ranks.world) if share else (0, 1)
        for name, p in self.named.items():
            # Whole blocks, so that no two ranks write the scale of the same one.
            start = p.numel() * rank // world // BLOCK * BLOCK
            stop = p.numel() if rank + 1 == world else p.numel() * (rank + 1) // world // BLOCK * BLOCK
            if stop > start:
                yield Piece(name, start, stop - start, p, start)


class FullyShardedEngine(Engine):
    """torch's FSDP2: weights, gradients and optimizer in shards along the first dimension, gathered layer by layer."""

    lockstep = True
    whole = False

    def __init__(self, encoder: Encoder, build: BuildOptimizer, ranks: Ranks, limit: float, precision: str) -> None:
        """Shard the encoder in place, then build the optimizer over the shards."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        mesh = init_device_mesh(ranks.device.type, (ranks.world,))
        low = torch.bfloat16 if precision == "bf16" else None
        policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32)
        for block in _blocks(encoder.trunk):
            fully_shard(block, mesh=mesh, mp_policy=policy)
        sharded: Any = fully_shard(encoder, mesh=mesh, mp_policy=policy)
        _read_own_rows(encoder, ranks)
        self.embed = sharded
        self.optimizer, self.ranks, self.limit = build(encoder), ranks, limit
        self.named, self.parameters = _trained_weights(encoder), list(encoder.parameters())
        self._buffers = []

    def backward(self, share: torch.Tensor) -> None:
        """Add the gradient of one chunk's share of the loss."""
        # FSDP2 averages over ranks, and gloo knows no other factor: W shares of W / W give the sum.
        (share * self.ranks.world).backward()

    def _norm(self, parameters: Sequence[torch.Tensor]) -> float:
        norm: Any = gradient_norm(parameters)
        return float(norm.full_tensor())

    def pieces(self, *, share: bool) -> Iterator[Piece]:
        """Yield this rank's rows of every weight."""
        for name, p in self.named.items():
            width = p[0].numel() if p.ndim > 1 else 1
            count = local(p).numel()
            if count:
                yield Piece(name, _first_row(p, self.ranks) * width, count, p, 0)


class ZeroEngine(Engine):
    """DeepSpeed's ZeRO stages 1 to 3.

    Stages 1 and 2 add up the chunks' gradients locally and reduce them once at the end of the step
    (`coalesce_grad_reduction`). Without it they would keep the last chunk's gradient only. Stage 3 has no room for
    whole gradients and reduces those of every chunk.
    """

    def __init__(
        self, encoder: Encoder, build: BuildOptimizer, ranks: Ranks, limit: float, json: dict[str, Any], precision: str
    ) -> None:
        """Hand encoder and optimizer to DeepSpeed, with the user's JSON completed by the run's own options."""
        self.ranks = ranks
        self.stage = int(json["zero_optimization"]["stage"])
        self.lockstep, self.whole = self.stage == 3, self.stage < 3
        # Later keys win: what follows from the run's options cannot be overridden.
        complete = {
            "torch_autocast": {"enabled": precision == "bf16", "dtype": "bfloat16", "lower_precision_safe_modules": []},
            **json,
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": limit,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 2**40,  # never
        }
        # bfloat16 weights need no autocast.
        if json.get("bf16", {}).get("enabled"):
            complete["torch_autocast"]["enabled"] = False
        deepspeed = _import_deepspeed(ranks.device)
        if self.stage == 3:
            _partition_as_read(encoder, ranks.device, complete, deepspeed)
        else:
            _read_own_rows(encoder, ranks)
        self.named, self.parameters = _trained_weights(encoder), list(encoder.parameters())
        self.wrapped, *_ = deepspeed.initialize(
            model=encoder, optimizer=build(encoder), config=complete, dist_init_required=False
        )
        self.embed = self.wrapped
        self.zero = self.wrapped.optimizer
        self.optimizer = self.zero.optimizer
        self._open = ExitStack()

    def begin(self) -> None:
        """Set the gradients of the previous step to zero; stages 1 and 2 hold reductions back until `update`."""
        if self.stage < 3:
            self._open = ExitStack()
            self._open.enter_context(self.wrapped.coalesce_grad_reduction())

    def backward(self, share: torch.Tensor) -> None:
        """Add the gradient of one chunk's share of the loss."""
        # DeepSpeed averages over ranks: W shares of W / W give the sum.
        self.wrapped.backward(share * self.ranks.world, scale_wrt_gas=False)

    def restart(self) -> None:
        """Forget what this rank's `backward` has added: until `update` it lies in the weights' own gradients."""
        for p in self.named.values():
            p.grad = None

    def discard(self) -> None:
        """Throw the gradient away as DeepSpeed does after an overflow, which cleans all its buffers."""
        check = "check_overflow" if self.stage < 3 else "_overflow_check_and_loss_scale_update"
        asks = self.zero.check_grad_overflow if self.stage < 3 else None
        setattr(self.zero, check, lambda *_, **__: setattr(self.zero, "overflow", True))
        self.zero.check_grad_overflow = True
        self._open.close()
        self.wrapped.step()
        # The class's own method is found again.
        delattr(self.zero, check)
        self.zero.check_grad_overflow = asks

    def update(self) -> float:
        """Reduce, clip and apply the gradient; return its global 2-norm. DeepSpeed skips a norm that is not finite."""
        self._open.close()
        self.wrapped.step()
        # A negative norm stands for one that is not finite; DeepSpeed has skipped the step.
        norm = float(self.wrapped.get_global_grad_norm())
        return norm if norm >= 0 else math.nan

    def take_over_pieces(self) -> None:
        """Copy the float32 partitions of stage 3 into those that the layers are gathered from. Collective."""
        if self.stage < 3:
            return
        for group in range(len(self.zero.fp32_partitioned_groups_flat)):
            self.zero._reassign_or_swap_out_partitioned_parameters(group)
        # Small weights stay gathered: their old numbers are let go, and gathered again.
        if small := self.zero.persistent_parameters:
            small[0].partition(small)
            small[0].all_gather(small)

    def pieces(self, *, share: bool) -> Iterator[Piece]:
        """Yield this rank's part of the flat float32 partitions."""
        # DeepSpeed knows parameters by identity only. Its flat partitions hold the exact float32 weights.
        names = {id(p): name for name, p in self.named.items()}
        if self.stage < 3:
            for group, flat in zip(self.zero.bit16_groups, self.zero.single_partition_of_fp32_groups, strict=True):
                for p in group:
                    if p._hp_mapping is not None:
                        here, there = p._hp_mapping.lp_fragment_address, p._hp_mapping.hp_fragment_address
                        yield Piece(names[id(p)], here.start, here.numel, flat, there.start)
            return
        for name, p in self.named.items():
            group_index, offset, count = self.zero.grad_position[self.zero.get_param_id(p)]
            start = count * self.ranks.rank
            if p.ds_numel > start:  # the last ranks hold padding only
                flat = self.zero.fp32_partitioned_groups_flat[group_index]
                yield Piece(name, start, min(count, p.ds_numel - start), flat, offset)


def open_engine(
    name: str,
    encoder: Encoder,
    build: BuildOptimizer,
    ranks: Ranks,
    *,
    max_gradient_norm: float,
    precision: str = "fp32",
    deepspeed: dict[str, Any] | None = None,
) -> Engine:
    """Return the engine called `name`, over the encoder's trainable weights.

    Args:
        name: single, ddp, zero1, zero2, zero3 or fsdp2.
        encoder: The model that trains.
        build: Makes the optimizer, once the weights are where the engine wants them.
        ranks: All ranks of the run.
        max_gradient_norm: Gradients of a larger global norm are scaled down to it; 0 never clips.
        precision: "fp32" or "bf16" (autocast).
        deepspeed: DeepSpeed's JSON, for the ZeRO stages.
    Raises:
        UserError: The DeepSpeed JSON contradicts the run.
    """
    if name in ("single", "ddp"):
        _read_own_rows(encoder, ranks)
        return Engine(encoder, build(encoder), ranks, max_gradient_norm)
    _join_alone(ranks)
    if name == "fsdp2":
        return FullyShardedEngine(encoder, build, ranks, max_gradient_norm, precision)
    json = deepspeed or {}
    if taken := [key for key in FILLED_IN if key in json]:
        raise UserError(f"parallel.deepspeed.{taken[0]}: this follows from the run's own options; remove it")
    stage = json.get("zero_optimization", {}).get("stage")
    if f"zero{stage}" != name:
        raise UserError(f"parallel.deepspeed.zero_optimization.stage={stage} contradicts engine {name}")
    return ZeroEngine(encoder, build, ranks, max_gradient_norm, json, precision)


def _join_alone(ranks: Ranks) -> None:
    """Open a process group of one rank for a sharded engine that runs without a launcher."""
    if not dist.is_initialized():
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it
        backend = "nccl" if ranks.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def _import_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed without its messages; on a CPU, without a kernel that it would compile and never use here."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # DeepSpeed 0.19 calls names that torch 2.13 has renamed, in every step.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import deepspeed
        from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder
        from deepspeed.utils import logger
    deepspeed.ops.__compatible_ops__[ShareMemCommBuilder.NAME] = False
    logger.setLevel(logging.ERROR)
    return deepspeed


def _first_row(parameter: Any, ranks: Ranks) -> int:
    """Return where this rank's rows begin: FSDP2 gives each ceil(rows / W); the last may have fewer, or none."""
    return min(ranks.rank * -(-parameter.shape[0] // ranks.world), parameter.shape[0])


def _read_own_rows(encoder: Encoder, ranks: Ranks) -> None:
    """Read what this rank holds of a model that has no weights yet, if it is one: its rows, or everything."""
    if encoder.stored is None:
        return
    empty = [name for name, p in encoder.named_parameters() if p.is_meta]
    encoder._apply(lambda tensor: torch.empty_like(tensor, device=ranks.device) if tensor.is_meta else tensor)
    parameters = dict(encoder.named_parameters())
    for name in empty:
        p = parameters[name]
        first = _first_row(p, ranks) if hasattr(p, "to_local") else 0
        encoder.stored.fill(_name_in_checkpoint(name), first, local(p))


def _partition_as_read(encoder: Encoder, device: torch.device, json: dict[str, Any], deepspeed: Any) -> None:
    """Read a model that has no weights yet, layer by layer; DeepSpeed keeps this rank's part of each before the next.

    Collective: DeepSpeed sends each weight from rank 0 to the others.
    """
    if encoder.stored is None:
        return
    half = json.get("bf16", {}).get("enabled")
    # One place for all weights in turn: DeepSpeed copies its part out, and holes of many sizes would fragment the heap.
    largest = max(sum(p.numel() for p in module.parameters(recurse=False)) for module in encoder.modules())
    place = torch.empty(largest, dtype=torch.bfloat16 if half else torch.float32, device=device)
    # Backwards, a module comes after all that it contains, which `Init` then leaves alone.
    for path, module in reversed(list(encoder.named_modules())):
        own, used = list(module.named_parameters(prefix=path, recurse=False)), 0
        for name, p in own:
            if p.is_meta:
                whole = place[used : used + p.numel()].view(p.shape)
                # Frozen weights may be bfloat16 beside float32 ones.
                whole = whole if half or p.dtype == place.dtype else whole.to(p.dtype)
                encoder.stored.fill(_name_in_checkpoint(name), 0, whole)
                weight = torch.nn.Parameter(whole, requires_grad=p.requires_grad)
                setattr(module, name.rpartition(".")[2], weight)
                used += p.numel()
            elif half:
                p.data = p.data.to(torch.bfloat16)
        if own:
            deepspeed.zero.Init(module=module, config_dict_or_path=json, dtype=torch.float32)
        module._buffers = {
            name: buffer if buffer is None else buffer.to(device) for name, buffer in module._buffers.items()
        }


def _name_in_checkpoint(name: str) -> str:
    """Return the trunk's own name of a parameter of the encoder: without adapters around it."""
    return name.removeprefix("trunk.").replace(".base_layer.", ".")


def _blocks(trunk: Any) -> list[torch.nn.Module]:
    """Return the layers that FSDP2 gathers one by one: those the model names, else its longest list of modules."""
    names = set(trunk._no_split_modules or ())
    blocks = [module for module in trunk.modules() if type(module).__name__ in names]
    if blocks:
        return blocks
    stacks = [list(module) for module in trunk.modules() if isinstance(module, torch.nn.ModuleList)]
    return max(stacks, key=len, default=[])


def _trained_weights(encoder: Encoder) -> dict[str, Any]:
    """Return the parameters that learn, by name."""
    return {name: p for name, p in encoder.named_parameters() if p.requires_grad}


def local(tensor: Any) -> torch.Tensor:
    """Return this rank's part of a sharded tensor, or the tensor itself."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def gradient_norm(parameters: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the 2-norm over all gradients."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def clip_gradients(parameters: Iterable[torch.Tensor], norm: torch.Tensor, limit: float) -> None:
    """Scale all gradients by limit / norm if the norm exceeds the limit.

    Args:
        parameters: Their gradients are scaled.
        norm: 2-norm over all gradients.
        limit: Largest norm; 0 clips nothing.
    """
    if limit > 0:
        torch.nn.utils.clip_grads_with_norm_(list(parameters), limit, norm)
