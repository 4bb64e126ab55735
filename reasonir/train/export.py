"""The end of a run: the finished model with its card, the manifest, the upload. Rank 0 alone runs it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from reasonir.core.processes import world_size
from reasonir.model.adapters import merge_adapters, save_adapters
from reasonir.model.encoder import Encoder
from reasonir.model.folders import save_encoder
from reasonir.model.sentence_transformers import read_json, trunk_folder
from reasonir.train.card import TrainingFacts, kept_measurements, push, write_card
from reasonir.train.checkpoint import TrainingState, load_weights_of
from reasonir.train.config import DevKeep, ExportDtype, TrainConfig
from reasonir.train.data.sources import input_paths, local_places
from reasonir.train.dev.record import is_spent
from reasonir.train.parallel.engine import Engine
from reasonir.train.prepare import INITIAL_MODEL, Work, adapt

# Options that the card lists: those that decide what was learned.
SETTINGS = (
    "query_max_tokens", "document_max_tokens", "global_batch_queries", "negatives_per_query", "learning_rate",
    "embedding_learning_rate", "schedule", "warmup_steps", "warmup_ratio", "weight_decay", "max_gradient_norm",
    "temperature", "seed",
)  # fmt: skip


def export(config: TrainConfig, work: Work, engine: Engine, state: TrainingState) -> None:
    """Write the finished model with its card, then the manifest; push the model if asked.

    Args:
        config: The run's options.
        work: What was trained.
        engine: Holds the weights.
        state: Where the run ended.
    """
    assert work.run is not None
    folder = Path(config.output_dir)
    encoder, exported = work.encoder, state
    step = state.dev.best_step if state.dev is not None and config.dev.keep is DevKeep.best else state.step
    if step != state.step or not engine.whole or any(p.dtype != torch.float32 for p in encoder.parameters()):
        # A sharded engine holds a part of the weights, bfloat16 weights are rounded, and the best may be older: these
        # are read back from a checkpoint. On the CPU, because the whole model may fit no single GPU.
        path = config.model.path or str(folder / INITIAL_MODEL)
        encoder = Encoder.from_pretrained(path, dtype=torch.float32, device="cpu", **config.model.embedding)
        adapt(encoder, config.model.dropout, config.adapters, checkpoint=config.gradient_checkpointing)
        exported = load_weights_of(folder / "checkpoints", step, encoder)
    # Counted with the adapters, which a merge removes.
    parameters = sum(p.numel() for p in encoder.parameters())
    if config.lora.rank:
        save_adapters(encoder, str(folder / "adapters"), config.model.path or "")
        if config.lora.merge:
            merge_adapters(encoder)
    encoder.trunk.to(_export_dtype(config.export_dtype, config.model.path))
    facts = TrainingFacts(
        name=config.push_to_hub, folder_name=folder.resolve().name, base_path=config.model.path,
        licence=config.model.licence, work=work, state=exported, adapter_rank=config.lora.rank,
        engine=config.parallel.engine.value, settings={name: getattr(config, name) for name in SETTINGS},
    )  # fmt: skip
    with kept_measurements(folder / "model"):
        save_encoder(encoder, str(folder / "model"), query_instruction=work.batches.common_query_instruction,
                     max_tokens=max(config.lengths))  # fmt: skip
        write_card(folder / "model", encoder, facts)
    work.run.finish(
        inputs=[*input_paths(work.sources), *local_places([config.dev.dir] if config.dev.dir else [])],
        counts=state.counts | {"sources": work.batches.epoch_report(state.step)},
        differences_from_published=work.differences_from_published,
        precision=state.precision,
        model_parameters=parameters,
        ranks=world_size(),
        engine=config.parallel.engine.value,
        **_dev_facts(state, exported.step, config.dev.patience),
    )
    which = "" if exported.step == state.step else f" after step {exported.step}, the best"
    print(f"trained {state.step} steps, {state.tokens / 1e6:.2f} M tokens; model{which}: {folder / 'model'}")
    if config.push_to_hub is not None:
        push(folder / "model", config.push_to_hub)


def _dev_facts(state: TrainingState, exported_step: int, patience: int) -> dict[str, Any]:
    """Return what the manifest says of the measurements on dev sets; nothing where there were none."""
    if state.dev is None:
        return {}
    early = f"{state.dev.stale} measurements without a better nDCG@10 (dev.patience={patience})"
    ended = early if is_spent(state.dev, patience) else "all steps are done"
    return {"dev": {**asdict(state.dev), "exported_step": exported_step}, "ended_because": ended}


def _export_dtype(choice: ExportDtype, base_path: str | None) -> torch.dtype:
    """Return the dtype of the finished model's weights; auto is the base model's own, float32 for a new model."""
    if choice is not ExportDtype.auto:
        return torch.bfloat16 if choice is ExportDtype.bf16 else torch.float32
    config = {} if base_path is None else read_json(trunk_folder(base_path), "config.json") or {}
    # A multimodal model names the dtype with its text tower, older files under another key.
    stated = [part.get(key) for part in (config, config.get("text_config") or {}) for key in ("dtype", "torch_dtype")]
    known = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    return next((known[name] for name in stated if name in known), torch.float32)
