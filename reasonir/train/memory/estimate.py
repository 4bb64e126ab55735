"""Memory of one rank, before any weight is loaded, and what to change where it does not fit.

Invariant: pure functions on plain numbers, no torch. Leaves measuring a real graph to `gradcache.py`.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from reasonir.train.config import Engine
from reasonir.train.memory.sizes import BatchFigures, ModelShape

GIB = 2**30
GRAPH_SHARE = {"cuda": 0.8, "cpu": 0.5}
"""Of the memory that a step without kept graphs leaves free, what kept graphs may fill; on a CPU others use it too."""
SHARDED = (Engine.zero3, Engine.fsdp2)
ADAM_BYTES = 8
"""Two float32 moments a trained parameter."""
ACTIVATION_BYTES = {
    # Gated (Llama), or classic (BERT); arithmetic: bytes per hidden channel, per channel of queries and keys (outputs
    # and values double them), per channel of the feed-forward layer; then, once a stack, per hidden channel.
    (True, "fp32"): (24, 8, 16, 10),
    (True, "autocast"): (26, 4, 8, 10),
    (True, "bf16"): (16, 4, 8, 7),
    (False, "fp32"): (16, 8, 8, 4),
    (False, "autocast"): (16, 4, 4, 4),
    (False, "bf16"): (8, 4, 4, 2),
}
"""What autograd keeps of a layer for one token with transformers 5.23's modules (a test measures again). On a CPU in
float32, `model/fused.py` keeps 8 bytes a hidden channel and 4 a channel of the feed-forward layer less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySetting:
    """What memory depends on. arithmetic: fp32; autocast (float32 weights, bfloat16 products); bf16 (weights too)."""

    shape: ModelShape
    batch: BatchFigures
    engine: Engine
    arithmetic: str
    chunk_tokens: int
    graph_memory_gib: float
    gradient_checkpointing: bool
    offload_optimizer: bool = False
    offload_weights: bool = False

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight, and of its gradient."""
        return 2 if self.arithmetic == "bf16" else 4

    @property
    def graph_bytes(self) -> tuple[float, float]:
        """Bytes of a chunk's graph, and of a pass that keeps none: one layer's share.

        Autocast casts every float32 matrix to bfloat16 where it is used; a graph holds on to the copies, a pass that
        keeps none to one layer's (autocast's own cache of copies is off in training).
        """
        shape, tokens = self.shape, max(self.chunk_tokens, self.batch.longest_text)
        per_hidden, per_head, per_inner, per_end = ACTIVATION_BYTES[shape.gated, self.arithmetic]
        channels = (shape.heads + shape.key_value_heads) * shape.head_size
        layer = per_hidden * shape.hidden_size + per_head * channels + per_inner * shape.intermediate_size
        layer += 4 * shape.heads + (8 if shape.gated else 16)  # the softmax's normaliser, the norms' statistics
        copy = 2 * shape.layer_matrix_parameters if self.arithmetic == "autocast" else 0
        copies = shape.layers * copy
        if not self.gradient_checkpointing:
            return tokens * (shape.layers * layer + per_end * shape.hidden_size) + copies, tokens * layer + copy
        inputs = shape.layers * self.weight_bytes * shape.hidden_size
        return tokens * (inputs + per_end * shape.hidden_size), tokens * layer + copy

    @property
    def kept_chunks(self) -> int:
        """Chunks whose graph fits graph_memory_gib; the first is kept in any case, unless that is 0.

        Sharded engines keep none: a kept graph is a forward pass less, on which ranks would have to agree.
        """
        if self.graph_memory_gib <= 0 or self.engine in SHARDED:
            return 0
        fitting = int(self.graph_memory_gib * GIB // self.graph_bytes[0])
        return min(max(fitting, 1), self.batch.rank_chunks)


@dataclass(frozen=True, slots=True)
class MemoryFigures:
    """Bytes of one rank by purpose, on the device and in the host's memory."""

    device: dict[str, float]
    host: dict[str, float]

    @property
    def device_gib(self) -> float:
        """All of it on the device, GiB; without what the CUDA context and fragments take (1 to 3 GiB)."""
        return sum(self.device.values()) / GIB


def plan_memory(setting: MemorySetting) -> MemoryFigures:
    """Count the memory of one rank.

    w = 4 bytes a weight (2 with bfloat16 weights), T w of gradients, 8 T of AdamW's moments and 4 T of float32
    weights beside them where the weights are bfloat16 and always under zero1, zero2 (DeepSpeed keeps its own).
    Shards: zero1 the optimizer / W; zero2 that and T w / W of reduced gradients, beside the whole gradient, which
    GradCache accumulates before the one reduction of a step; zero3, fsdp2 everything / W, plus the largest layer
    whole, with its gradient. Activations: `MemorySetting.graph_bytes` of the kept chunks, whose backward passes come
    first, or of the one that is replayed; beside them the pass without a graph, or the layer that is recomputed.
    """
    shape, batch, engine, ranks = setting.shape, setting.batch, setting.engine, setting.batch.ranks
    trained, sharded = shape.trained_parameters, engine in SHARDED
    own_copy = setting.arithmetic == "bf16" or engine in (Engine.zero1, Engine.zero2)
    gradients = trained * setting.weight_bytes * {Engine.zero2: 1 + 1 / ranks}.get(engine, 1 / ranks if sharded else 1)
    graph, bare = setting.graph_bytes
    kept = setting.kept_chunks
    beside = setting.gradient_checkpointing or 0 < kept < batch.rank_chunks
    rows, documents = batch.rank_queries + batch.rank_documents, batch.documents if ranks > 1 else 0
    weights = shape.parameters * setting.weight_bytes / (ranks if sharded else 1)
    optimizer = trained * (ADAM_BYTES + 4 * own_copy) / (1 if engine in (Engine.single, Engine.ddp) else ranks)
    figures = {
        "weights": weights,
        "gradients": gradients,
        "optimizer state": optimizer,
        "largest layer, gathered": 2 * shape.largest_unit * setting.weight_bytes if sharded else 0.0,
        "graphs of chunks": max(kept, 1) * graph,
        "pass without a graph": bare if beside else 0.0,
        "embeddings and scores": 8 * shape.hidden_size * (rows + documents) + 12 * batch.rank_queries * batch.documents,
    }
    moved = {"optimizer state": setting.offload_optimizer, "weights": setting.offload_weights}
    host = {name: figures.pop(name) for name, there in moved.items() if there}
    return MemoryFigures(figures, host)


def suggest_savings(setting: MemorySetting, device_memory_gib: float) -> list[str]:
    """Return what to change, gentlest first, until the run fits the device; [] where it does.

    Each line counts on those before it. Chunks, graphs and recomputing cost time only; no result changes.
    """
    batch = setting.batch
    lines: list[str] = []
    doubled = replace(
        batch,
        ranks=2 * batch.ranks,
        rank_queries=math.ceil(batch.rank_queries / 2),
        rank_documents=math.ceil(batch.rank_documents / 2),
        rank_chunks=math.ceil(batch.rank_chunks / 2),
    )
    options: list[tuple[str, dict[str, Any]]] = [
        (f"chunk_tokens={batch.longest_text}", {"chunk_tokens": batch.longest_text}),
        ("graph_memory_gib=0", {"graph_memory_gib": 0.0}),
        ("gradient_checkpointing=true", {"gradient_checkpointing": True}),
        ("parallel=zero3", {"engine": Engine.zero3}),
        (f"{2 * batch.ranks} ranks (with parallel=zero3 or fsdp2)", {"batch": doubled}),
    ]
    while (before := plan_memory(setting).device_gib) > device_memory_gib:
        tried = [(text, replace(setting, **change)) for text, change in options]
        saving = [(text, new) for text, new in tried if before - plan_memory(new).device_gib >= 0.05]
        if not saving:
            break
        text, setting = saving[0]
        options = [option for option in options if option[0] != text]
        lines.append(f"{text}: {plan_memory(setting).device_gib:,.1f} GiB instead of {before:,.1f}")
    return lines
