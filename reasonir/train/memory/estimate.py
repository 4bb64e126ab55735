"""Memory of one rank before any weight is loaded, and which options to change if it does not fit.

Invariant: pure functions on plain numbers, no torch. `gradcache.py` measures a real graph.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from reasonir.train.config import EngineName
from reasonir.train.memory.sizes import BatchFigures, ModelShape

GIB = 2**30
# Share of the free memory, after a step without kept graphs, that kept graphs may fill. A CPU's memory has other
# users too.
GRAPH_SHARE = {"cuda": 0.8, "cpu": 0.5}
SHARDED = (EngineName.zero3, EngineName.fsdp2)
# Of AdamW's two moments a trained parameter: float32; 8 bits, with a float32 scale of each for 256 numbers.
ADAM_BYTES, ADAM_8BIT_BYTES = 8, 2 + 2 * 4 / 256
# What a plan leaves free before it says "fits": CUDA's context and fragmentation take 1 to 3 GiB.
TIGHT_GIB = 3.0
# Bytes that autograd keeps of a layer for one token with the modules of transformers 5.23; a test measures them
# again. On a CPU in float32, `model/trunk/fused.py` keeps 8 bytes a hidden channel and 4 a feed-forward channel less.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySetting:
    """The quantities that memory depends on.

    arithmetic: "fp32", "autocast" (float32 weights, bfloat16 products) or "bf16" (bfloat16 weights too). frozen_bytes:
    of a weight that does not train. bucket_numbers: that DeepSpeed's reduction buffers hold. eight_bit: whether AdamW
    holds the moments of matrices in 8 bits.
    """

    shape: ModelShape
    batch: BatchFigures
    engine: EngineName
    arithmetic: str
    chunk_tokens: int
    graph_memory_gib: float
    gradient_checkpointing: bool
    offload_optimizer: bool = False
    offload_weights: bool = False
    frozen_bytes: float = 4.0
    bucket_numbers: int = 0
    eight_bit: bool = False

    @property
    def moment_bytes(self) -> float:
        """Bytes of AdamW's moments of all trained weights."""
        # Adapters are fewer than the matrices they are added to.
        matrices = min(self.shape.layers * self.shape.layer_matrix_parameters, self.shape.trained_parameters)
        saved = matrices * (ADAM_BYTES - ADAM_8BIT_BYTES) if self.eight_bit else 0
        return ADAM_BYTES * self.shape.trained_parameters - saved

    @property
    def backward_passes(self) -> int:
        """Work of a backward pass, in forward passes: without gradients of the matrices it is half."""
        return 2 if self.shape.trained_parameters > self.shape.parameters / 2 else 1

    @property
    def loaded_in_parts(self) -> bool:
        """Whether a rank reads its weights one by one from the checkpoint, not the whole model in float32 first."""
        return (self.engine in SHARDED or self.frozen_bytes == 2) and not self.shape.dora

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight, and of its gradient."""
        return 2 if self.arithmetic == "bf16" else 4

    @property
    def graph_bytes(self) -> tuple[float, float]:
        """Bytes of a chunk's graph, and of a pass without a graph, which holds one layer at a time.

        Autocast casts every float32 matrix to bfloat16 for its product. A graph keeps all the copies, a pass without a
        graph those of one layer, because autocast's own cache of copies is off in training.
        """
        shape, tokens = self.shape, max(self.chunk_tokens, self.batch.longest_text)
        per_hidden, per_head, per_inner, per_end = ACTIVATION_BYTES[shape.gated, self.arithmetic]
        channels = (shape.heads + shape.key_value_heads) * shape.head_size
        layer = per_hidden * shape.hidden_size + per_head * channels + per_inner * shape.intermediate_size
        layer += 4 * shape.heads + (8 if shape.gated else 16)  # normaliser of the softmax, statistics of the norms
        casts = self.arithmetic == "autocast" and self.frozen_bytes == 4
        copy = 2 * shape.layer_matrix_parameters if casts else 0
        copies = shape.layers * copy
        if not self.gradient_checkpointing:
            return tokens * (shape.layers * layer + per_end * shape.hidden_size) + copies, tokens * layer + copy
        inputs = shape.layers * self.weight_bytes * shape.hidden_size
        return tokens * (inputs + per_end * shape.hidden_size), tokens * layer + copy

    @property
    def kept_chunks(self) -> int:
        """Chunks whose graph fits graph_memory_gib. The first graph is always kept, unless the limit is 0.

        Sharded engines keep none: a kept graph saves a forward pass, and their ranks must all run the same number.
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
        """Sum on the device, GiB; the CUDA context and fragmentation take 1 to 3 GiB more."""
        return sum(self.device.values()) / GIB


def plan_memory(setting: MemorySetting) -> MemoryFigures:
    """Count the memory of one rank. P parameters, T of them trained, W ranks, w bytes a weight (4, or 2 in bfloat16).

    Weights P w, gradients T w, AdamW's moments 8 T (`MemorySetting.moment_bytes`). With bfloat16 weights, and always
    under zero1 and zero2, DeepSpeed keeps float32 weights of its own: 4 T. Shards: zero1 divides the optimizer by W.
    zero2 does too and adds T w / W of reduced gradients; the whole gradient stays, because GradCache accumulates it
    before the one reduction of a step.
    zero3 and fsdp2 divide everything by W and gather the largest layer whole, with its gradient. Activations:
    `MemorySetting.graph_bytes` of the kept chunks, or of the chunk that is replayed; beside them one pass without a
    graph, or the layer that is computed again.
    """
    shape, batch, engine, ranks = setting.shape, setting.batch, setting.engine, setting.batch.ranks
    trained, sharded = shape.trained_parameters, engine in SHARDED
    own_copy = setting.arithmetic == "bf16" or engine in (EngineName.zero1, EngineName.zero2)
    gradients = (
        trained * setting.weight_bytes * {EngineName.zero2: 1 + 1 / ranks}.get(engine, 1 / ranks if sharded else 1)
    )
    # Kept chunks are first in the backward order and free their graphs, so a replayed chunk's graph is not added.
    graph, bare = setting.graph_bytes
    kept = setting.kept_chunks
    beside = setting.gradient_checkpointing or 0 < kept < batch.rank_chunks
    rows, documents = batch.rank_queries + batch.rank_documents, batch.documents if ranks > 1 else 0
    frozen = (shape.parameters - trained) * min(setting.frozen_bytes, setting.weight_bytes)
    weights = (trained * setting.weight_bytes + frozen) / (ranks if sharded else 1)
    optimizer = setting.moment_bytes + trained * 4 * own_copy
    optimizer /= 1 if engine in (EngineName.single, EngineName.ddp) else ranks
    figures = {
        "weights": weights,
        "gradients": gradients,
        "optimizer state": optimizer,
        "DeepSpeed's bucket": setting.bucket_numbers * setting.weight_bytes,
        "largest layer, gathered": 2 * shape.largest_unit * setting.weight_bytes if sharded else 0.0,
        "graphs of chunks": max(kept, 1) * graph,
        "pass without a graph": bare if beside else 0.0,
        "embeddings and scores": 8 * shape.hidden_size * (rows + documents) + 12 * batch.rank_queries * batch.documents,
    }
    # Offloaded by DeepSpeed's JSON.
    moved = {"optimizer state": setting.offload_optimizer, "weights": setting.offload_weights}
    host = {name: figures.pop(name) for name, there in moved.items() if there}
    return MemoryFigures(figures, host)


def suggest_savings(setting: MemorySetting, device_memory_gib: float) -> list[str]:
    """Return which options to change, gentlest first, until the run fits the device; [] if it fits already.

    Each line assumes the changes of the lines before it. None of the changes alters a result.
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
        ("parallel=zero3", {"engine": EngineName.zero3}),
        (f"{2 * batch.ranks} ranks (with parallel=zero3 or fsdp2)", {"batch": doubled}),
    ]
    # A change that saves less than 0.05 GiB is no help worth its time.
    while (before := plan_memory(setting).device_gib) > device_memory_gib:
        tried = [(text, replace(setting, **change)) for text, change in options]
        saving = [(text, new) for text, new in tried if before - plan_memory(new).device_gib >= 0.05]
        if not saving:
            break
        text, setting = saving[0]
        options = [option for option in options if option[0] != text]
        lines.append(f"{text}: {plan_memory(setting).device_gib:,.1f} GiB instead of {before:,.1f}")
    return lines


def recommend_engine(setting: MemorySetting, device_memory_gib: float) -> list[str]:
    """Say where zero2 with bfloat16 weights fits too, and so spares an engine's traffic; [] where it does not."""
    trained, everything = setting.shape.trained_parameters, setting.shape.parameters
    large = plan_memory(setting).device_gib > device_memory_gib
    if setting.batch.ranks == 1 or trained < everything / 2 or not (setting.engine in SHARDED or large):
        return []
    halved = replace(setting, engine=EngineName.zero2, arithmetic="bf16", graph_memory_gib=0.0)
    for more, changed in (("", halved), (" gradient_checkpointing=true", replace(halved, gradient_checkpointing=True))):
        needed = plan_memory(changed).device_gib
        if needed + TIGHT_GIB <= device_memory_gib and changed != setting:
            return [
                f"parallel=zero2 parallel.deepspeed.bf16.enabled=true{more}: {needed:,.1f} GiB",
                f"one reduction a step, not one a chunk ({setting.batch.rank_chunks:,}); gradients add up in bfloat16",
            ]
    return []


def explain_out_of_memory(
    chunk_tokens: int, longest_text: int, graph_memory_gib: float | None, gradient_checkpointing: bool
) -> str:
    """Say which options to lower after the largest texts of a step did not fit.

    Args:
        chunk_tokens: Tokens of one forward pass.
        longest_text: Tokens of the longest text, which is the smallest possible chunk.
        graph_memory_gib: Memory for kept graphs, GiB; None is measured by the run.
        gradient_checkpointing: Whether layers are computed again in the backward pass.
    """
    remedies = []
    if chunk_tokens > longest_text:
        remedies.append(f"lower chunk_tokens (now {chunk_tokens}; a single text needs {longest_text})")
    if graph_memory_gib:
        remedies.append(f"lower graph_memory_gib (now {graph_memory_gib:g})")
    if graph_memory_gib is None:
        remedies.append("set graph_memory_gib=0")
    if not gradient_checkpointing:
        remedies.append("set gradient_checkpointing=true (one more forward pass)")
    remedies.append("shard with parallel=zero3 or fsdp2, or train adapters with lora=lora")
    return f"out of memory on the largest texts of a step: {'; '.join(remedies)}"
