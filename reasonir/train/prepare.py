"""What a run has before its first step: data, model, position.

Invariant: nothing here depends on which rank runs it; only rank 0 writes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from reasonir.core.errors import UserError, require
from reasonir.core.run_folder import RunFolder
from reasonir.core.stamp import checksums_inside, read_stamp, unchanged, write_stamp
from reasonir.model.adapters import add_adapters, checkpoint_layers
from reasonir.model.encoder import Encoder
from reasonir.model.folders import save_encoder
from reasonir.model.presets import Preset, PresetOptions
from reasonir.model.tiny import build_tiny
from reasonir.model.trunk.precision import choose_precision, hold_in_bf16
from reasonir.train.checkpoint import (
    CheckpointReader,
    TrainingState,
    load_weights,
    open_newest,
    remove_partial,
    set_damaged_aside,
)
from reasonir.train.config import EngineName, TrainConfig, WeightFormat
from reasonir.train.data.batches import MixedBatches
from reasonir.train.data.hold_out import hold_out
from reasonir.train.data.sources import (
    Source,
    list_sources,
    local_places,
    mixing_weights,
    open_sources,
    read_all_documents,
    report_rows,
    training_texts,
)
from reasonir.train.dev.sets import DevData, DevSet, open_sets, require_place
from reasonir.train.memory.estimate import SHARDED
from reasonir.train.optim import Schedule
from reasonir.train.parallel.cross_device import attention_share_of
from reasonir.train.parallel.ranks import Ranks

# Options that change no weight, or only how far the run goes.
MAY_CHANGE_ON_RESUME = (
    "output_dir", "resume", "debug", "max_steps", "epochs", "save_every_steps", "save_every_minutes",
    "skip_nonfinite_steps", "keep_checkpoints", "tracking", "tracking_group", "push_to_hub", "chunk_tokens",
    "graph_memory_gib", "gradient_checkpointing", "data.cache_dir", "data.processes", "dry_run", "planned_ranks",
    "profile_steps", "planned_gpu", "planned_memory_gib", "planned_mfu", "lora.merge", "model.licence", "export_dtype",
    "dev.keep", "dev.patience",
)  # fmt: skip
# Folder of a new model before its first step: ranks beside rank 0, and a resumed run, begin from it.
INITIAL_MODEL = "initial_model"
# A checkpoint belongs to no engine and no number of ranks.
GROUPS_THAT_MAY_CHANGE = ("parallel.",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a rank brings to the engine.

    run: rank 0's output folder, else None. state: where the run stands.
    resumed_from: the checkpoint that holds the optimizer's state; None at step 0. differences_from_published: a line
    for each difference between the rows found and the rows published, and for rows held out. dev_sets: what the run is
    measured on, none where nothing is. layer_parameters: weights of the layers, without embeddings.
    """

    run: RunFolder | None
    encoder: Encoder
    sources: list[Source]
    batches: MixedBatches
    dev_sets: list[DevSet]
    differences_from_published: list[str]
    schedule: Schedule
    state: TrainingState
    precision_reason: str
    resumed_from: CheckpointReader | None
    layer_parameters: int
    attention_share: float

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.schedule.total_steps


def prepare(config: TrainConfig, ranks: Ranks) -> Work:
    """Claim the run folder, load data and model, find the checkpoint to go on from. Refusals come before any file."""
    folder = Path(config.output_dir)
    run = RunFolder(config.output_dir, config, resume=config.resume, ignored=MAY_CHANGE_ON_RESUME,
                    ignored_groups=GROUPS_THAT_MAY_CHANGE) if ranks.leads else None  # fmt: skip
    # 1 data and model: a new tokenizer is learned from the texts, then all texts are tokenised
    require_place(config.dev.dir)
    sources = list_sources(config.data)
    documents = read_all_documents(sources)
    texts = training_texts(sources, documents)
    encoder = _open_encoder(config, _built_before(folder, config.resume, ranks), texts)
    # Families whose positions config.json does not tell are refused here.
    limits: dict[str, Any] = config.with_lengths(encoder.max_positions).limits
    stores = open_sources(sources, documents, encoder.template, cache_dir=config.data.cache_dir,
                          processes=config.data.processes or 1, **limits)  # fmt: skip
    split = hold_out(stores, config.dev.share, config.dev.max_queries, config.seed)
    batches = MixedBatches(split.training, mixing_weights(sources), config.global_batch_queries,
                           config.negatives_per_query, config.seed, batch_sizes=config.batch_sizes)  # fmt: skip
    dev = DevData(**config.dev.data, **limits, seed=config.seed, documents=tuple(config.data.documents or ()))
    dev_sets = open_sets(dev, sources, stores, split.held_out, encoder.template, batches.common_query_instruction,
                         config.data.cache_dir)  # fmt: skip
    require_rows(batches.sizes, batches.rows)
    # 2 position
    reader = _newest_checkpoint(folder / "checkpoints", batches.fingerprint, ranks) if config.resume else None
    state, reason = _position(reader, config.asked_precision, encoder, batches.fingerprint)
    schedule = _schedule(config.rates, config.total_steps(batches.steps_per_epoch), state)
    batches.require_weight(range(state.step, schedule.total_steps))
    # 3 files, after everything that may be refused
    if run is not None:
        # Measurements on other dev queries must not decide which step is the best one.
        run.start(local_places([config.dev.dir] if config.dev.dir else []), begun=state.dev is not None)
        _write_first_files(run, encoder if config.model.path is None else None, max(config.lengths))
    # 4 what trains
    if config.model.dtype is not WeightFormat.fp32:
        hold_in_bf16(encoder.trunk)
    adapt(encoder, config.model.dropout, config.adapters, checkpoint=config.gradient_checkpointing)
    if reader is not None:
        # Not earlier: a checkpoint holds the weights that train, which are the adapters where there are any.
        load_weights(reader, encoder)
    sizes = _trunk_sizes(encoder)
    return Work(
        run=run, encoder=encoder.train(), sources=sources, batches=batches, layer_parameters=sizes[0],
        attention_share=attention_share_of(*sizes), schedule=schedule,
        state=replace(state, planned_steps=schedule.total_steps if config.rates_depend_on_length else None),
        differences_from_published=report_rows(sources, stores, config.data.published_rows) + split.lines,
        dev_sets=dev_sets, precision_reason=reason, resumed_from=reader,
    )  # fmt: skip


def _newest_checkpoint(folder: Path, fingerprint: str, ranks: Ranks) -> CheckpointReader | None:
    """Open the newest whole checkpoint; the first rank sets damaged ones aside."""
    if ranks.leads:
        set_damaged_aside(folder)
    return open_newest(folder, fingerprint)


def require_rows(batch_queries: Sequence[int], rows: int) -> None:
    """Refuse batches larger than all rows, which could only hold rows twice."""
    most = max(batch_queries)
    require(most <= rows, "global_batch_queries", most, f"is more than the {rows} rows; give {rows} or fewer")


def require_rank(adapter_rank: int, width: int) -> None:
    """Refuse adapters of a higher rank than the matrices that they are added to can have."""
    require(adapter_rank <= width, "lora.rank", adapter_rank, f"is above the model's width of {width}")


def _open_encoder(config: TrainConfig, built_before: str | None, texts: Iterable[str]) -> Encoder:
    """Load the model that training begins from; without a path build one, whose tokenizer is learned from the texts."""
    path, frozen = config.model.path or built_before, config.model.dtype
    if path is None:
        preset = PresetOptions(**config.model.embedding).of_new_model()
        return _build_encoder(texts, config.model.sizes, config.seed, preset)
    in_shards = path == config.model.path and _reads_shards(config.parallel.engine, frozen, dora=config.lora.dora)
    # float32 whatever the checkpoint has: bfloat16's 8 bits would round small updates to nothing.
    encoder = Encoder.from_pretrained(
        path,
        dtype=torch.float32,
        **config.model.embedding,
        in_shards=in_shards,
        four_bits=frozen is WeightFormat.nf4,
    )
    if config.model.path is None:
        # MKL rounds by the address of a matrix, and a file's are aligned otherwise than those of the model just built.
        for p in encoder.parameters():
            p.data = p.data.clone()
    return encoder


def _schedule(rates: Callable[[int], dict[str, Any]], total_steps: int, state: TrainingState) -> Schedule:
    """Return the rates of the whole run; refuse a length under which the steps done would have had others."""
    schedule = Schedule(**rates(total_steps))
    schedule.require_same_past(state.step, Schedule(**rates(state.planned_steps or total_steps)))
    return schedule


def _reads_shards(engine: EngineName, frozen: WeightFormat, *, dora: bool) -> bool:
    """Return whether each rank reads its own part of the weights, or all ranks read them in bfloat16."""
    # DoRA's first magnitudes are lengths of whole rows of the weights.
    return (engine in SHARDED or frozen is WeightFormat.bf16) and not dora


def _write_first_files(run: RunFolder, new_model: Encoder | None, max_tokens: int) -> None:
    """Write a new model, and remove what a killed run left half-written."""
    remove_partial(run.path / "checkpoints")
    place = run.path / INITIAL_MODEL
    if new_model is not None and not place.exists():
        save_encoder(new_model, str(place), max_tokens=max_tokens)
        write_stamp(place.with_suffix(".json"), files=checksums_inside(place))


def _built_before(folder: Path, resume: bool, ranks: Ranks) -> str | None:
    """Return the new model of this run, if it stands in the folder already."""
    # The other ranks come here after rank 0 (`leader_first`), which has written it by then.
    place = folder / INITIAL_MODEL
    if not place.is_dir() or not (resume or not ranks.leads):
        return None
    stamp = read_stamp(place.with_suffix(".json"))
    # Folders of older versions have no stamp.
    if place.with_suffix(".json").exists() and (stamp is None or not unchanged(place, stamp["files"])):
        raise UserError(f"{place} is damaged; remove it, and resume=true builds the same model again")
    return str(place)


def _build_encoder(texts: Iterable[str], sizes: dict[str, int], seed: int, preset: Preset) -> Encoder:
    """Build a new model, whose tokenizer is learned from these texts."""
    return build_tiny(texts, **sizes, seed=seed, preset=preset).to("cuda" if torch.cuda.is_available() else "cpu")


def _position(
    reader: CheckpointReader | None, precision: str, encoder: Encoder, data_fingerprint: str
) -> tuple[TrainingState, str]:
    """Return where the run stands, and why it has its precision."""
    if reader is not None:
        # `auto` is not measured again: the run goes on in the precision that it began with.
        return reader.state, "as it began"
    chosen, reason = choose_precision(precision, encoder.device, encoder.trunk, backward=True)
    return TrainingState(0, chosen, 0, data_fingerprint), reason


def adapt(encoder: Encoder, dropout: float | None, adapters: dict[str, Any] | None, *, checkpoint: bool) -> None:
    """Set dropout, add adapters and switch gradient checkpointing on.

    Args:
        encoder: Changed in place.
        dropout: Of the model; None leaves its own.
        adapters: Arguments of `add_adapters`; None adds none.
        checkpoint: Whether the backward pass computes each layer again.
    """
    if dropout is not None:
        # Before the adapters are there: they have a dropout of their own.
        set_dropout(encoder.trunk, dropout)
    if adapters is not None:
        add_adapters(encoder, **adapters)
    if checkpoint:
        checkpoint_layers(encoder)


def set_dropout(trunk: Any, probability: float) -> None:
    """Set every dropout of the model, in modules and in attention."""
    for module in trunk.modules():
        # Attention takes its dropout from an attribute, everything else from modules.
        if isinstance(module, torch.nn.Dropout):
            module.p = probability
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = probability


def _trunk_sizes(encoder: Encoder) -> tuple[int, int, int]:
    """Return (parameters of the layers, number of layers, hidden size)."""
    table = encoder.trunk.get_input_embeddings().weight
    parameters = sum(p.numel() for p in encoder.parameters() if p.ndim >= 2 and p is not table)
    return parameters, int(getattr(encoder.trunk.config, "num_hidden_layers", 1)), encoder.dimension
