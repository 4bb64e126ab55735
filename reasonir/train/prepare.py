"""Everything a run has before its first step: data, model, position.

Invariant: nothing here depends on which rank runs it; only rank 0 writes. Leaves engines and steps to `loop.py`.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reasonir.core.errors import UserError
from reasonir.core.run_folder import RunFolder
from reasonir.model.adapters import add_adapters, checkpoint_layers
from reasonir.model.encoder import Encoder
from reasonir.model.folders import save_encoder
from reasonir.model.tiny import build_tiny
from reasonir.model.trunk.precision import choose_precision
from reasonir.train import checkpoint
from reasonir.train.config import TrainConfig
from reasonir.train.data.batches import MixedBatches
from reasonir.train.data.sources import Documents, mixing_weights, open_sources, read_all_documents, training_texts
from reasonir.train.parallel.cross_device import attention_share_of
from reasonir.train.parallel.ranks import Ranks

MAY_CHANGE_ON_RESUME = (
    "output_dir", "resume", "debug", "max_steps", "epochs", "save_every_steps", "keep_checkpoints", "tracking",
    "tracking_group", "push_to_hub", "chunk_tokens", "graph_memory_gib", "gradient_checkpointing", "data.cache_dir",
    "dry_run", "planned_ranks", "lora.merge", "model.licence",
)  # fmt: skip
GROUPS_THAT_MAY_CHANGE = ("parallel.",)
"""Checkpoints belong to no engine and no number of ranks."""


@dataclass(slots=True)
class Work:
    """What a rank brings to the engine. run: rank 0's output folder, else None. total_steps: of the whole run."""

    run: RunFolder | None
    encoder: Encoder
    batches: MixedBatches
    total_steps: int
    state: checkpoint.TrainingState
    precision_reason: str
    resumed_from: checkpoint.CheckpointReader | None
    attention_share: float


def prepare(config: TrainConfig, ranks: Ranks) -> Work:
    """Claim the run folder, load data and model, find the checkpoint to go on from. Refusals come before any file."""
    folder = Path(config.output_dir)
    run = None
    if ranks.leads:
        run = RunFolder(config.output_dir, config, resume=config.resume, ignored=MAY_CHANGE_ON_RESUME,
                        ignored_groups=GROUPS_THAT_MAY_CHANGE)  # fmt: skip
    documents = read_all_documents(config.data)
    encoder = load_or_build_encoder(config, documents, built=folder / "initial_model", reuse=not ranks.leads)
    batches = open_batches(config, encoder, documents)
    total_steps = config.max_steps or max(1, math.ceil(config.epochs * batches.steps_per_epoch))
    reader = checkpoint.open_newest(folder / "checkpoints", batches.fingerprint) if config.resume else None
    state, reason = begin(config, encoder, batches.fingerprint) if reader is None else (reader.state, "as it began")
    if run is not None:
        run.start()
        checkpoint.remove_partial(folder / "checkpoints")
        if config.model.path is None and not (folder / "initial_model").exists():
            save_encoder(encoder, str(folder / "initial_model"), max_tokens=longest_input(config))
    adapt(config, encoder)
    if reader is not None:
        checkpoint.load_weights(reader, encoder)
    share = attention_share_of(*trunk_sizes(encoder))
    return Work(run, encoder.train(), batches, total_steps, state, reason, reader, share)


def begin(config: TrainConfig, encoder: Encoder, data_fingerprint: str) -> tuple[checkpoint.TrainingState, str]:
    """Return the state of a run at step 0, and why its precision was chosen."""
    precision, reason = choose_precision(config.precision.value, encoder.device)
    return checkpoint.TrainingState(0, precision, 0, data_fingerprint), reason


def longest_input(config: TrainConfig) -> int:
    """Return the tokens of the longest input that the model is trained on."""
    return max(config.query_max_tokens, config.document_max_tokens)


def adapt(config: TrainConfig, encoder: Encoder) -> None:
    """Put in dropout, adapters and gradient checkpointing as configured."""
    if config.model.dropout is not None:  # before the adapters, which have their own
        set_dropout(encoder.trunk, config.model.dropout)
    if config.lora.rank:
        lora = config.lora
        add_adapters(encoder, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets,
                     dora=lora.dora, seed=config.seed)  # fmt: skip
    if config.gradient_checkpointing:
        checkpoint_layers(encoder)


def trunk_sizes(encoder: Encoder) -> tuple[int, int, int]:
    """Return (parameters of the layers, number of layers, hidden size)."""
    table = encoder.trunk.get_input_embeddings().weight
    parameters = sum(p.numel() for p in encoder.parameters() if p.ndim >= 2 and p is not table)
    return parameters, int(getattr(encoder.trunk.config, "num_hidden_layers", 1)), encoder.dimension


def load_or_build_encoder(
    config: TrainConfig, documents: Documents, *, built: Path, reuse: bool, device: str | None = None
) -> Encoder:
    """Load `model.path`, or build a new model whose tokenizer is learned from the training files.

    Args:
        built: where rank 0 keeps a new model as it was built.
        reuse: load it from there; also done when the run continues.
        device: default "cuda" where there is one.
    """
    model = config.model
    if model.path is not None or (built.is_dir() and (reuse or config.resume)):
        path = model.path if model.path is not None else str(built)
        encoder = Encoder.from_pretrained(path, dtype=torch.float32, device=device, template=model.template.value)
    else:
        encoder = build_tiny(
            training_texts(config.data, documents),
            vocabulary_size=model.vocabulary_size,
            hidden_size=model.hidden_size,
            intermediate_size=model.intermediate_size,
            layers=model.layers,
            heads=model.heads,
            key_value_heads=model.key_value_heads,
            seed=config.seed,
        ).to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    positions = encoder.max_positions or math.inf
    long = [name for name in ("query_max_tokens", "document_max_tokens") if getattr(config, name) > positions]
    if long:
        asked = " and ".join(f"{name}={getattr(config, name)}" for name in long)
        remedy = " ".join(f"{name}={positions}" for name in long)
        raise UserError(f"{asked}: the model has only {positions} positions; give {remedy}")
    return encoder


def set_dropout(trunk: Any, probability: float) -> None:
    """Set every dropout of the model, in modules and in attention."""
    for module in trunk.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = probability
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = probability


def open_batches(config: TrainConfig, encoder: Encoder, documents: Documents) -> MixedBatches:
    """Tokenise the sources, or reuse them from the cache, and mix them."""
    limits = (config.query_max_tokens, config.document_max_tokens)
    stores = open_sources(config.data, documents, encoder.template, *limits)
    weights = mixing_weights(config.data)
    return MixedBatches(stores, weights, config.global_batch_queries, config.negatives_per_query, config.seed)
