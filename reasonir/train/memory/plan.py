"""The plan of a run, before any weight is loaded: steps, tokens, bytes between ranks, memory of a rank; and its page.

Invariant: pure functions on plain numbers, no torch, no network; the same figures on a laptop as on the cluster.
`sizes.py` counts parameters and texts, `estimate.py` memory.

Letters: B queries and N documents of a global batch, W ranks, D embedding dimension, P parameters, T trained ones.
"""

from dataclasses import dataclass, replace
from typing import Any

from reasonir.core.fields import Precision
from reasonir.train.config import EngineName, GatherPrecision, OptimizerName, PlannedGpu, TrainConfig, WeightFormat
from reasonir.train.memory.estimate import (
    GIB,
    GRAPH_SHARE,
    SHARDED,
    TIGHT_GIB,
    MemoryFigures,
    MemorySetting,
    plan_memory,
    recommend_engine,
    suggest_savings,
)
from reasonir.train.memory.gpus import GPUS, Device
from reasonir.train.memory.sizes import BatchFigures, ModelShape, plan_batch, read_shape, with_adapters


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficFigures:
    """Of one rank and step: bytes received (as many are sent), entries of its block of scores."""

    documents_bytes: float
    document_gradients_bytes: float
    gradients_bytes: float
    weights_bytes: float
    scores: int


def plan_traffic(
    shape: ModelShape,
    batch: BatchFigures,
    *,
    engine: EngineName,
    entry_bytes: int,
    weight_bytes: int,
    gradient_bytes: int,
    forward_passes: int,
    backward_passes: int,
) -> TrafficFigures:
    """Count the bytes between ranks. r = (W - 1) / W is the share of anything that the other ranks hold.

    documents: N D r entries, and as many for their gradients (reduce-scatter).
    gradients: ddp, zero1, zero2 one ring all-reduce a step, 2 r T (DeepSpeed's default,
    use_multi_rank_bucket_allreduce); zero3, fsdp2 one reduce-scatter a backward pass, r T.
    weights: zero1, zero2 all-gather the updated weights, r T; zero3, fsdp2 gather all weights in every pass of a chunk,
    (forward + backward passes) r P. A layer that is computed again in the backward pass is gathered already.
    scores: B/W x N.

    Args:
        shape: Sizes of the model.
        batch: Texts of a step.
        engine: Which rank holds what.
        entry_bytes: Of a number in an embedding.
        weight_bytes: Of a weight as it travels.
        gradient_bytes: Of a weight's gradient.
        forward_passes: Of this rank's chunks in one step.
        backward_passes: Of this rank's chunks in one step.
    """
    # A ring: every rank receives all shards but its own.
    share = (batch.ranks - 1) / batch.ranks
    trained, everything = shape.trained_parameters, shape.parameters
    documents = batch.documents * shape.hidden_size * share * entry_bytes
    gradients = weights = 0.0
    if engine in SHARDED:
        gradients = backward_passes * trained * share * gradient_bytes
        weights = (forward_passes + backward_passes) * everything * share * weight_bytes
    elif engine is not EngineName.single:
        gradients = 2 * trained * share * gradient_bytes
        weights = 0.0 if engine is EngineName.ddp else trained * share * weight_bytes
    return TrafficFigures(
        documents_bytes=documents, document_gradients_bytes=documents, gradients_bytes=gradients,
        weights_bytes=weights, scores=batch.rank_queries * batch.documents,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFigures:
    """All figures of the page. sources: a line on each data source. schedule: lines on the learning rate. mfu: share of
    the device's peak for the hours."""

    setting: MemorySetting
    traffic: TrafficFigures
    memory: MemoryFigures
    sources: list[str]
    learning_rate: float
    schedule: list[str]
    gather_precision: str
    device: Device
    mfu: float
    kept_checkpoints: int
    suggestions: list[str]
    recommendation: list[str]


def plan_figures(
    config: TrainConfig,
    ranks: int,
    rows: int | None,
    sources: list[str],
    device: Device = GPUS[PlannedGpu.h100],
    average_queries: float | None = None,
) -> RunFigures:
    """Derive every figure of a run from its options.

    Args:
        config: The run's options.
        ranks: Processes, one a device.
        rows: Rows of all sources, as published; None if the rows of one are unknown.
        sources: A line on each, for the page.
        device: What each of them computes on.
        average_queries: Of a batch, over all sources; None if all are as large.
    """
    shape, lora = read_shape(config.model.path, config.model.sizes), config.lora
    shape = with_adapters(shape, rank=lora.rank, targets=lora.targets, dora=lora.dora)
    # Of sources with batches of their own the largest batch is planned.
    lengths = config.lengths
    queries, negatives = max(config.batch_sizes, key=lambda size: size[0] * (lengths[0] + (1 + size[1]) * lengths[1]))
    batch = plan_batch(
        queries=queries, negatives_per_query=negatives, average_queries=average_queries,
        query_max_tokens=lengths[0], document_max_tokens=lengths[1], chunk_tokens=config.chunk_tokens, ranks=ranks,
        rows=rows, max_steps=config.max_steps, epochs=config.epochs,
    )  # fmt: skip
    engine, json_options = config.parallel.engine, config.parallel.deepspeed
    zero = json_options.get("zero_optimization", {})
    half = engine.startswith("zero") and json_options.get("bf16", {}).get("enabled") is True
    setting = MemorySetting(
        shape=shape, batch=batch, engine=engine, chunk_tokens=config.chunk_tokens,
        arithmetic="fp32" if config.precision is Precision.fp32 else "bf16" if half else "autocast",
        graph_memory_gib=config.graph_memory_gib or 0.0, gradient_checkpointing=config.gradient_checkpointing,
        offload_optimizer=zero.get("offload_optimizer", {}).get("device", "none") != "none",
        offload_weights=zero.get("offload_param", {}).get("device", "none") != "none",
        frozen_bytes=_frozen_bytes(config.model.dtype, shape), bucket_numbers=_bucket_numbers(zero),
        eight_bit=config.optimizer is OptimizerName.adamw_8bit,
    )  # fmt: skip
    # The run measures what is free; the plan takes the smaller of the two shares.
    if config.graph_memory_gib is None:
        free = device.memory_gib - plan_memory(setting).device_gib
        setting = replace(setting, graph_memory_gib=max(0.0, GRAPH_SHARE["cpu"] * free))
    traffic = plan_traffic(
        shape, batch, engine=engine, entry_bytes=2 if config.parallel.gather_precision is GatherPrecision.bf16 else 4,
        weight_bytes=_gathered_bytes(engine, config.precision, setting), gradient_bytes=setting.weight_bytes,
        forward_passes=2 * batch.rank_chunks - setting.kept_chunks, backward_passes=batch.rank_chunks,
    )  # fmt: skip
    return RunFigures(
        setting=setting, traffic=traffic, memory=plan_memory(setting), sources=sources,
        learning_rate=config.learning_rate, schedule=config.describe_schedule(batch.steps), device=device,
        gather_precision=config.parallel.gather_precision.value, kept_checkpoints=config.keep_checkpoints,
        suggestions=suggest_savings(setting, device.memory_gib), mfu=config.planned_mfu,
        recommendation=recommend_engine(setting, device.memory_gib),
    )  # fmt: skip


def _gathered_bytes(engine: EngineName, precision: Precision, setting: MemorySetting) -> int:
    # The mixed-precision policy of fsdp2 gathers weights in bfloat16 (parallel/engine.py).
    return 2 if engine is EngineName.fsdp2 and precision is not Precision.fp32 else setting.weight_bytes


def _frozen_bytes(dtype: WeightFormat, shape: ModelShape) -> float:
    """Return the bytes of a weight that does not train, on average."""
    if dtype is not WeightFormat.nf4:
        return 2.0 if dtype is WeightFormat.bf16 else 4.0
    # Four bits, and 8 + 32 / 256 bits of scale for 64 weights; embeddings are bfloat16.
    matrices = shape.layers * shape.layer_matrix_parameters
    return 2.0 + (0.5 + 8.125 / 8 / 64 - 2.0) * matrices / max(shape.parameters - shape.trained_parameters, 1)


def _bucket_numbers(zero: dict[str, Any]) -> int:
    """Return how many numbers DeepSpeed's buffers for reductions hold: it allocates them whole."""
    size = int(zero.get("reduce_bucket_size", 500_000_000)) if zero.get("contiguous_gradients", True) else 0
    return (1 + bool(zero.get("overlap_comm"))) * size if zero.get("stage") else 0


def render_plan(plan: RunFigures) -> str:
    """Lay the figures out as one page of text."""
    blocks = [_batch_lines(plan), _compute_lines(plan), _traffic_lines(plan), _memory_lines(plan)]
    if plan.setting.batch.ranks == 1:
        del blocks[2]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _line(name: str, value: str, note: str = "") -> str:
    return f"  {name:<27}{value:>22}  {note}".rstrip()


def _batch_lines(plan: RunFigures) -> list[str]:
    batch, shape = plan.setting.batch, plan.setting.shape
    lines = ["data", *(f"  {line}" for line in plan.sources), ""]
    each = f"{batch.queries:,} / {batch.ranks:,} ranks"
    most = "" if batch.average_queries == batch.queries else "<= "
    lines += [
        _line("queries a step", f"{most}{batch.queries:,}", f"{batch.rank_queries:,} a rank = {each}"),
        _line("documents a step", f"{most}{batch.documents:,}", f"{batch.rank_documents:,} a rank"),
        _line("tokens a step", f"<= {batch.step_tokens:,}", f"<= {batch.rank_tokens:,} a rank"),
        _line("chunks a rank and step", f"<= {batch.rank_chunks:,}", f"of {plan.setting.chunk_tokens:,} tokens"),
    ]
    if batch.steps_per_epoch is not None:
        note = f"{batch.rows:,} rows / {batch.average_queries:,.6g} queries"
        lines.append(_line("steps an epoch", f"{batch.steps_per_epoch:,.1f}", note))
    if batch.steps is not None and batch.run_tokens is not None:
        note = "" if batch.epochs is None else f"{batch.epochs:.2f} epochs"
        lines += [_line("steps", f"{batch.steps:,}", note), _line("tokens of the run", f"<= {batch.run_tokens:,}")]
    first, *warnings = plan.schedule
    lines += [_line("learning rate", f"{plan.learning_rate:g}", first), *(f"  {line}" for line in warnings)]
    lines += [
        "",
        f"model: sizes from {shape.source}" + ("" if shape.exact else " (unknown family: estimated)"),
        _line("parameters", f"{shape.parameters:,}", f"{shape.layers} layers, dimension {shape.hidden_size:,}"),
        _line("trained", f"{shape.trained_parameters:,}", f"{shape.trained_parameters / shape.parameters:.2%}"),
    ]
    return lines


def _compute_lines(plan: RunFigures) -> list[str]:
    setting, batch = plan.setting, plan.setting.batch
    kept, more = setting.kept_chunks, int(setting.gradient_checkpointing)
    # Forward passes: a kept chunk 1, a replayed chunk 2; recomputed layers add one; then the backward pass.
    backward = setting.backward_passes
    once, twice = 1 + more + backward, 2 + more + backward
    passes = (kept * once + (batch.rank_chunks - kept) * twice) / batch.rank_chunks
    work = 2 * setting.shape.layers * setting.shape.layer_matrix_parameters * batch.rank_tokens * passes
    counts = "two" if backward == 2 else "one: most weights are frozen"
    lines = [
        f"computing (in forward passes; a backward pass counts as {counts})",
        _line("chunks with kept graph", f"{kept:,} of {batch.rank_chunks:,}", f"{once} passes each"),
        _line("chunks computed twice", f"{batch.rank_chunks - kept:,}", f"{twice} passes each (GradCache)"),
        _line("operations a rank and step", f"<= {work:.2e}", f"{passes:.2f} passes; matrices of the layers only"),
        f"  gradient_checkpointing={str(bool(more)).lower()}; true costs one more pass: {3 + backward} instead of "
        f"{2 + backward}, {2 + backward} instead of {1 + backward} with a kept graph",
    ]
    if plan.device.peak_flops is not None and batch.steps is not None:
        hours = work * batch.steps / (plan.device.peak_flops * plan.mfu) / 3600
        note = f"at {plan.mfu:.0%} of {plan.device.name}'s {plan.device.peak_flops / 1e12:,.0f} TFLOP/s (planned_mfu)"
        lines.append(_line("hours of computing", f"<= {hours:,.1f}", note))
    return lines


def _traffic_lines(plan: RunFigures) -> list[str]:
    traffic, batch = plan.traffic, plan.setting.batch
    rows = {
        f"documents ({plan.gather_precision})": traffic.documents_bytes,
        "gradients of documents": traffic.document_gradients_bytes,
        "gradients of weights": traffic.gradients_bytes,
        "weights": traffic.weights_bytes,
    }
    engine = f"parallel={plan.setting.engine}, {batch.ranks:,} rank{'s' if batch.ranks > 1 else ''}"
    return [
        f"between ranks, received by each in a step ({engine})",
        *(_line(name, f"{value / 1e6:,.2f} MB") for name, value in rows.items()),
        _line(
            "scores a rank", f"{traffic.scores:,}", f"{batch.rank_queries:,} queries x {batch.documents:,} documents"
        ),
    ]


def _memory_lines(plan: RunFigures) -> list[str]:
    setting, memory, device = plan.setting, plan.memory, plan.device
    left = device.memory_gib - memory.device_gib
    lines = [f"memory of a rank ({setting.arithmetic}, {setting.weight_bytes} bytes a weight)"]
    lines += [_line(name, f"{value / GIB:,.2f} GiB") for name, value in memory.device.items() if value]
    verdict = "fits" if left >= TIGHT_GIB else "tight in" if left >= 0 else "does NOT fit"
    lines.append(
        _line("total", f"{memory.device_gib:,.2f} GiB", f"{verdict} {device.memory_gib:.1f} GiB ({device.name})")
    )
    lines += [_line(f"{name}, on the host", f"{value / GIB:,.2f} GiB") for name, value in memory.host.items()]
    lines += _storage_lines(plan)
    if setting.shape.dora:  # measured on Llamas of 128 and 512 channels
        lines.append("  DoRA's graphs keep more, not counted: another copy of the matrices, up to 2/3 more activations")
    if left < 0:
        lines.append("to make it fit, in this order:" if plan.suggestions else "no option here makes it smaller")
        lines += [f"  {text}" for text in plan.suggestions]
    if plan.recommendation:
        lines.append("or, with other rounding:" if left < 0 else "less between ranks, with other rounding:")
        lines += [f"  {text}" for text in plan.recommendation]
    return lines


def _storage_lines(plan: RunFigures) -> list[str]:
    """Say what the host holds while the model is loaded and written, and what a checkpoint takes on the disk."""
    setting, shape = plan.setting, plan.setting.shape
    whole, saved = 4 * shape.parameters / GIB, (4 * shape.trained_parameters + setting.moment_bytes) / GIB
    loading, what = 4 * shape.largest_weight / GIB, "largest weight"
    if not setting.loaded_in_parts:
        loading, what = whole, "whole model in float32"
    return [
        _line("host, loading", f"{loading:,.2f} GiB", f"each rank: the {what}"),
        _line("host, writing the model", f"{whole:,.2f} GiB", "rank 0, unless it holds all weights already"),
        _line("a checkpoint on disk", f"{saved:,.2f} GiB", f"{plan.kept_checkpoints} kept, and one being written"),
    ]
