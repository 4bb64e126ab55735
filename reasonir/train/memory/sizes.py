"""Sizes of a model and of a batch from the options alone: parameters, how many of them train, texts, tokens, steps.

Invariant: no weight and no torch; the network only where a caller asks for a hub model's config.json. Tokens and chunks
are upper limits: every text at its maximum.
"""

import json
import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError

# Families with learned positions, by transformers' names, and how many of the table's rows stand before the text's.
POSITIONS_BEFORE_TEXT = {
    "bert": 0, "distilbert": 0, "electra": 0, "albert": 0, "gpt2": 0, "opt": 0,
    "roberta": 2, "xlm-roberta": 2, "camembert": 2, "mpnet": 2,
}  # fmt: skip


# The width of the feed-forward layers, by the names of different families.
INNER_SIZES = ("intermediate_size", "d_ff", "n_inner", "ffn_dim", "ffn_hidden_size", "hidden_dim")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of a trunk.

    gated: three feed-forward matrices and RMS norms as in Llama, else two with biases as in BERT. matrices: name within
    a layer -> (inputs, outputs). prefix: of the layers' names. exact: whether the family is known, so that the counts
    are exact. dora: whether adapters learn magnitudes too.
    """

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary_size: int
    gated: bool
    parameters: int
    trained_parameters: int
    matrices: dict[str, tuple[int, int]]
    prefix: str
    exact: bool
    source: str
    dora: bool = False
    positions: int | None = None

    @property
    def layer_matrix_parameters(self) -> int:
        """Entries of one layer's matrices."""
        return sum(rows * columns for rows, columns in self.matrices.values())

    @property
    def largest_unit(self) -> int:
        """Parameters of the largest part that a sharded engine gathers at once: a layer, or the embeddings."""
        return max(self.layer_matrix_parameters, self.vocabulary_size * self.hidden_size)

    @property
    def largest_weight(self) -> int:
        """Entries of the largest matrix, or of the embeddings."""
        return max(self.vocabulary_size * self.hidden_size, *(a * b for a, b in self.matrices.values()))


def read_shape(model_path: str | None, new: dict[str, int], *, fetch: bool = False) -> ModelShape:
    """Return the sizes in the config.json of a folder or of a hub id; where it is not there, those of a new Llama.

    Args:
        model_path: Folder or hub id; None is a new Llama.
        new: The new Llama's sizes, by the names of the options.
        fetch: Whether a hub's file may be fetched; else the local cache answers.
    """
    file = None if model_path is None else _find_config_file(model_path, fetch)
    if file is not None:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"model.path={model_path}: {file} cannot be read ({error})") from error
        return shape_of_json(content, str(file))
    written = {"model_type": "llama", "rms_norm_eps": 1e-6, "hidden_size": new["hidden_size"],
               "intermediate_size": new["intermediate_size"], "num_hidden_layers": new["layers"],
               "num_attention_heads": new["heads"], "num_key_value_heads": new["key_value_heads"],
               "vocab_size": new["vocabulary_size"]}  # fmt: skip
    absent = "" if model_path is None else f" ({model_path} is not on this machine)"
    return shape_of_json(written, f"the options model.*{absent}")


def _find_config_file(path: str, fetch: bool) -> Path | None:
    """Return the config.json of a model folder, or of a hub id; None if it is not there."""
    folder = Path(path).expanduser()
    if (folder / "config.json").is_file():
        return folder / "config.json"
    if folder.exists() or path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise UserError(f"model.path={path}: no such model folder (config.json is missing)")
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    read = hf_hub_download if fetch else try_to_load_from_cache
    try:
        found = read(path.removeprefix("hub:"), "config.json")
    # It does not even look like a hub id; or the hub does not answer, which loading the model will say better.
    except (ValueError, OSError):
        return None
    return Path(found) if isinstance(found, str) else None


def _read_size(content: dict[str, Any], source: str, name: str, *others: str, default: int | None = None) -> int:
    """Return a size that has one of several names, or refuse to plan without it."""
    found = next((content[key] for key in (name, *others) if content.get(key) is not None), default)
    if found is None:
        raise UserError(f"{source} gives no {name}; the run cannot be planned from it")
    return int(found)


def shape_of_json(content: dict[str, Any], source: str) -> ModelShape:
    """Read sizes from a transformers config.json and count parameters.

    Llama's family: V h + h + layers (matrices, biases, 2 h of norms). BERT's: (V + positions + types) h + 2 h +
    layers (matrices, biases, 4 h of norms) + a pooler of h^2 + h that is never trained. Other families are counted
    like the one they resemble (`exact` is False).
    """
    # Of a multimodal model the text tower is trained.
    content = content.get("text_config") or content

    read = partial(_read_size, content, source)
    # The other names, also of `INNER_SIZES`, are T5's, GPT-2's and DistilBERT's.
    kind = content.get("model_type", "")
    hidden = read("hidden_size", "d_model", "n_embd", "dim")
    wide_by_rule = 4 * hidden if kind in ("gpt2", "falcon", "bloom") else None
    inner = read(*INNER_SIZES, default=wide_by_rule)
    layers = read("num_hidden_layers", "num_layers", "n_layer", "n_layers")
    heads = read("num_attention_heads", "num_heads", "n_head", "n_heads")
    vocabulary = read("vocab_size")
    # Keys that older configurations lack: as many key-value heads as heads, hidden / heads channels each.
    key_value_heads = content.get("num_key_value_heads") or heads
    head = content.get("head_dim") or hidden // heads
    wide, narrow = heads * head, key_value_heads * head
    gated = "rms_norm_eps" in content
    if gated:
        matrices = {"self_attn.q_proj": (hidden, wide), "self_attn.k_proj": (hidden, narrow),
                    "self_attn.v_proj": (hidden, narrow), "self_attn.o_proj": (wide, hidden),
                    "mlp.gate_proj": (hidden, inner), "mlp.up_proj": (hidden, inner),
                    "mlp.down_proj": (inner, hidden)}  # fmt: skip
        # Qwen2 always has biases on queries, keys and values, without saying so in its configuration.
        bias = wide + 2 * narrow if kind == "qwen2" or content.get("attention_bias") else 0
        bias += hidden if kind != "qwen2" and content.get("attention_bias") else 0
        bias += 2 * inner + hidden if content.get("mlp_bias") else 0
        # Two norms a layer; Qwen3 has two more over the channels of a head.
        small = bias + 2 * hidden + (2 * head if kind == "qwen3" else 0)
        outside, frozen = (vocabulary + 1) * hidden, 0
    else:
        matrices = {"attention.self.query": (hidden, wide), "attention.self.key": (hidden, narrow),
                    "attention.self.value": (hidden, narrow), "attention.output.dense": (wide, hidden),
                    "intermediate.dense": (hidden, inner), "output.dense": (inner, hidden)}  # fmt: skip
        small = sum(outputs for _, outputs in matrices.values()) + 4 * hidden
        positions = content.get("max_position_embeddings", 0) + content.get("type_vocab_size", 0)
        outside, frozen = (vocabulary + positions + 2) * hidden, hidden * (hidden + 1)
    before = POSITIONS_BEFORE_TEXT.get(kind)
    positions = None if before is None else read("max_position_embeddings", "n_positions") - before
    trained = outside + layers * (sum(a * b for a, b in matrices.values()) + small)
    return ModelShape(
        hidden_size=hidden, intermediate_size=inner, layers=layers, heads=heads, key_value_heads=key_value_heads,
        head_size=head, vocabulary_size=vocabulary, gated=gated, parameters=trained + frozen,
        trained_parameters=trained, matrices=matrices, prefix="layers" if gated else "encoder.layer",
        exact=kind in ("llama", "mistral", "qwen2", "qwen3", "bert"), source=source, positions=positions,
    )  # fmt: skip


def with_adapters(shape: ModelShape, *, rank: int, targets: list[str], dora: bool) -> ModelShape:
    """Return the shape with low-rank adapters as all that trains.

    An adapter adds rank (inputs + outputs) parameters to a matrix, DoRA its outputs besides.

    Args:
        shape: The model without adapters.
        rank: 0 is no adapter, and the shape as it is.
        targets: Names of the linear layers, whole or from a dot on; "all-linear" is every one.
        dora: Whether the magnitude of each output is learned too.
    Raises:
        UserError: The model has no layer of such a name.
    """
    if not rank:
        return shape
    added, used = 0, set()
    for name, (inputs, outputs) in shape.matrices.items():
        for layer in range(shape.layers):
            full = f"{shape.prefix}.{layer}.{name}"
            meant = {target for target in targets if target in ("all-linear", full) or full.endswith(f".{target}")}
            used |= meant
            added += (rank * (inputs + outputs) + outputs * dora) if meant else 0
    unknown = [target for target in targets if target not in used]
    if unknown and shape.exact:
        there = ", ".join(sorted({name.split(".")[-1] for name in shape.matrices}))
        raise UserError(f"lora.targets: the model has no linear layer {unknown[0]!r}; there are {there}, all-linear")
    return replace(shape, parameters=shape.parameters + added, trained_parameters=added, dora=dora)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFigures:
    """A global batch over the ranks. rank_*: of one rank and step, at most. None: the number of rows is unknown."""

    queries: int
    documents: int
    ranks: int
    rank_queries: int
    rank_documents: int
    rank_tokens: int
    rank_chunks: int
    longest_text: int
    step_tokens: int
    rows: int | None
    average_queries: float
    steps_per_epoch: float | None
    steps: int | None
    epochs: float | None
    run_tokens: int | None


def plan_batch(
    *,
    queries: int,
    negatives_per_query: int,
    query_max_tokens: int,
    document_max_tokens: int,
    chunk_tokens: int,
    ranks: int,
    rows: int | None,
    max_steps: int | None,
    epochs: float,
    average_queries: float | None = None,
) -> BatchFigures:
    """Count what a step and the run hold at most: each query brings 1 + negatives documents of full length.

    Args:
        queries: Of the largest global batch.
        negatives_per_query: Hard negatives of each query.
        query_max_tokens: Tokens of a query's input.
        document_max_tokens: Tokens of a document's input.
        chunk_tokens: Tokens of one forward pass.
        ranks: Ranks of the run.
        rows: Of all sources; None if unknown.
        max_steps: Optimizer steps; None takes epochs x rows / queries, rounded up.
        epochs: Passes over all rows.
        average_queries: Of a global batch, over all sources; None if all are as large.
    """
    documents = queries * (1 + negatives_per_query)
    local_queries, local_documents = math.ceil(queries / ranks), math.ceil(documents / ranks)
    lengths = [query_max_tokens] * local_queries + [document_max_tokens] * local_documents
    # As `token_budget_chunks` cuts them, longest first. Shorter texts never need more chunks.
    chunks, filled = 0, math.inf
    for length in sorted(lengths, reverse=True):
        if filled + length > chunk_tokens:
            chunks, filled = chunks + 1, 0
        filled += length
    average_queries = average_queries or queries
    per_epoch = None if rows is None else rows / average_queries
    steps = max_steps or (None if per_epoch is None else max(1, math.ceil(epochs * per_epoch)))
    step_tokens = queries * query_max_tokens + documents * document_max_tokens
    return BatchFigures(
        queries=queries, documents=documents, ranks=ranks, rank_queries=local_queries, rank_documents=local_documents,
        rank_tokens=sum(lengths), rank_chunks=chunks, longest_text=max(query_max_tokens, document_max_tokens),
        average_queries=average_queries,
        step_tokens=step_tokens, rows=rows, steps_per_epoch=per_epoch, steps=steps,
        epochs=steps / per_epoch if steps and per_epoch else None, run_tokens=steps * step_tokens if steps else None,
    )  # fmt: skip
