"""Training, top to bottom: `train` is the main path of the stage.

Invariant: the weights after step n are a pure function of configuration, data and machine, however often the run
was interrupted before n.
"""

import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reasonir.model.checkpoint import save_encoder
from reasonir.model.encoder import Encoder
from reasonir.model.precision import choose_precision
from reasonir.model.tiny import build_tiny
from reasonir.runs import MetricsLog, Progress, RunFolder
from reasonir.schema import RunStopped, UserError
from reasonir.train import checkpoint
from reasonir.train.config import TrainConfig
from reasonir.train.data import BatchPlan, MixedBatches, prefetch
from reasonir.train.optim import build_adamw, clip_gradients, gradient_norm, set_learning_rate
from reasonir.train.sources import (
    Documents,
    input_paths,
    mixing_weights,
    open_sources,
    read_all_documents,
    report_rows,
    training_texts,
)
from reasonir.train.step import StepResult, TrainingStep

MAY_CHANGE_ON_RESUME = (
    "output_dir", "resume", "debug", "max_steps", "epochs", "save_every_steps", "keep_checkpoints", "tracking",
    "chunk_tokens", "graph_memory_gib", "data.cache_dir",
)  # fmt: skip


def train(config: TrainConfig) -> None:
    """Train a bi-encoder as `config` says and leave the finished model in `output_dir/model`."""
    run = RunFolder(config.output_dir, config, resume=config.resume, ignored=MAY_CHANGE_ON_RESUME)
    documents = read_all_documents(config.data)
    encoder = load_or_build_encoder(config, documents)
    batches = open_batches(config, encoder, documents)
    total_steps = config.max_steps or max(1, math.ceil(config.epochs * batches.steps_per_epoch))
    embedding_rate = config.embedding_learning_rate or config.learning_rate
    optimizer = build_adamw(encoder, config.learning_rate, embedding_rate, config.weight_decay)
    state, reason = restore_or_begin(run.path, config, encoder, optimizer, batches.fingerprint)
    longest = max(config.query_max_tokens, config.document_max_tokens)
    run.start()
    checkpoint.remove_partial(run.path / "checkpoints")
    if config.model.path is None and not (run.path / "initial_model").exists():
        save_encoder(encoder, str(run.path / "initial_model"), max_tokens=longest)
    print_plan(config, batches, encoder, total_steps, state, reason)
    if state.step < total_steps:
        state = run_steps(run, config, encoder, optimizer, batches, state, total_steps)
    instruction = batches.common_query_instruction
    save_encoder(encoder, str(run.path / "model"), query_instruction=instruction, max_tokens=longest)
    run.finish(
        inputs=input_paths(config.data),
        counts={"steps": state.step, "tokens": state.tokens, "sources": batches.epoch_report(state.step)},
        differences_from_published=report_rows(config.data, batches.stores),
        precision=state.precision,
        model_parameters=sum(p.numel() for p in encoder.parameters()),
    )
    print(f"trained {state.step} steps, {state.tokens / 1e6:.2f} M tokens; model: {run.path / 'model'}")


def load_or_build_encoder(config: TrainConfig, documents: Documents) -> Encoder:
    """Load `model.path`, or build a new model whose tokenizer is learned from the training files."""
    model = config.model
    initial = Path(config.output_dir) / "initial_model"
    if model.path is not None or (config.resume and initial.is_dir()):
        path = model.path if model.path is not None else str(initial)
        encoder = Encoder.from_pretrained(path, dtype=torch.float32, template=model.template.value)
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
        ).to("cuda" if torch.cuda.is_available() else "cpu")
    positions = encoder.max_positions
    for name in ("query_max_tokens", "document_max_tokens"):
        if positions is not None and getattr(config, name) > positions:
            raise UserError(f"{name}={getattr(config, name)}: the model has only {positions} positions")
    if model.dropout is not None:
        set_dropout(encoder.trunk, model.dropout)
    return encoder.train()


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


def restore_or_begin(
    folder: Path, config: TrainConfig, encoder: Encoder, optimizer: torch.optim.Optimizer, data_fingerprint: str
) -> tuple[checkpoint.TrainingState, str]:
    """Load the newest complete checkpoint, or start at step 0; the second value explains the precision."""
    found = checkpoint.list_checkpoints(folder / "checkpoints")
    if found and config.resume:
        return checkpoint.load_checkpoint(found[-1][1], encoder.trunk, optimizer, data_fingerprint), "as it began"
    precision, reason = choose_precision(config.precision.value, encoder.device)
    return checkpoint.TrainingState(0, precision, 0, data_fingerprint), reason


def print_plan(
    config: TrainConfig,
    batches: MixedBatches,
    encoder: Encoder,
    total_steps: int,
    state: checkpoint.TrainingState,
    reason: str,
) -> None:
    """Say what is about to run and where each derived number comes from."""
    for store in batches.stores:
        cut = f"{store.truncated_queries} queries and {store.truncated_documents} documents cut"
        print(f"source {store.path}: {store.rows} rows, {store.tokens / 1e6:.2f} M tokens, {cut}")
    for line in report_rows(config.data, batches.stores):
        print(line)
    print(
        f"{batches.rows} rows / {config.global_batch_queries} queries a step = {batches.steps_per_epoch:.1f} steps "
        f"an epoch; {total_steps} steps = {total_steps / batches.steps_per_epoch:.2f} epochs"
    )
    parameters = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    print(f"{parameters / 1e6:.1f} M parameters on {encoder.device}, precision {state.precision} ({reason})")
    if state.step:
        print(f"continuing after step {state.step}")


def run_steps(
    run: RunFolder,
    config: TrainConfig,
    encoder: Encoder,
    optimizer: torch.optim.Optimizer,
    batches: MixedBatches,
    state: checkpoint.TrainingState,
    total_steps: int,
) -> checkpoint.TrainingState:
    """Run optimizer steps until `total_steps`; save on schedule, at the end and when asked to stop."""
    compute = TrainingStep(
        encoder,
        chunk_tokens=config.chunk_tokens,
        temperature=config.temperature,
        graph_memory_gib=config.graph_memory_gib,
        precision=state.precision,
    )
    metrics = MetricsLog(run.path, config, first_step=state.step, tracking=config.tracking.value)
    progress = Progress("train", total_steps, "steps", done=state.step)
    plans = prefetch(batches, state.step, total_steps)
    with stop_requests() as asked, closing(metrics), closing(progress), closing(plans):
        for plan in plans:
            row = optimizer_step(config, compute, optimizer, plan)
            tokens = state.tokens + row["train/tokens"]
            state = checkpoint.TrainingState(plan.step + 1, state.precision, tokens, state.data_fingerprint)
            metrics.append(row)
            rate, real = row["train/tokens_per_second"], row["train/real_token_fraction"]
            progress.update(1, f"loss {row['train/loss_nats']:.3f}, {rate:.0f} tokens/s, {real:.0%} real")
            due = config.save_every_steps and state.step % config.save_every_steps == 0
            if due or asked or state.step == total_steps:
                folder = run.path / "checkpoints"
                checkpoint.save_checkpoint(folder, encoder.trunk, optimizer, state, config.keep_checkpoints)
            if asked and state.step < total_steps:
                print(f"stopped after step {state.step}, saved; resume=true continues", file=sys.stderr)
                sys.exit(128 + asked[0])
    return state


def optimizer_step(
    config: TrainConfig, compute: TrainingStep, optimizer: torch.optim.Optimizer, plan: BatchPlan
) -> dict[str, Any]:
    """Compute the gradient of one global batch and apply it; return the metrics row.

    Raises:
        RunStopped: before the optimizer touches the weights, when loss or gradient is not finite.
    """
    begun = time.perf_counter()
    torch.manual_seed(int(np.random.SeedSequence((config.seed, plan.step)).generate_state(1, np.uint64)[0] >> 1))
    optimizer.zero_grad(set_to_none=True)
    result = compute(plan)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = gradient_norm(parameters)
    if not (math.isfinite(result.loss_nats) and math.isfinite(float(norm))):
        raise RunStopped(describe_failure(plan, result, float(norm)))
    clip_gradients(parameters, norm, config.max_gradient_norm)
    rate = set_learning_rate(optimizer, plan.step, config.warmup_steps)
    optimizer.step()
    seconds = time.perf_counter() - begun
    return {
        "step": plan.step + 1,
        "train/loss_nats": result.loss_nats,
        "train/grad_norm": float(norm),
        "train/learning_rate": rate,
        "train/tokens": result.tokens,
        "train/step_seconds": round(seconds, 4),
        "train/tokens_per_second": round(result.tokens / seconds, 1),
        "train/real_token_fraction": 1.0,  # a packed stream holds no padding
        "train/source": plan.source,
        "train/kept_chunks": result.cache.kept_chunks,
        "train/replayed_chunks": result.cache.replayed_chunks,
    }


def describe_failure(plan: BatchPlan, result: StepResult, norm: float) -> str:
    """Name the step and the rows behind a loss or gradient that is not finite."""
    rows = result.bad_rows or range(len(plan.row_names))
    names = ", ".join(plan.row_names[i] for i in list(rows)[:4])
    more = f" and {len(rows) - 4} more" if len(rows) > 4 else ""
    return (
        f"step {plan.step + 1}: loss {result.loss_nats}, gradient norm {norm}; the weights were not touched. "
        f"Rows: {names}{more}. Lower learning_rate or look at these rows; resume=true goes on from the last checkpoint"
    )


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect SIGTERM and Ctrl-C into a list instead of dying; a second Ctrl-C interrupts at once."""
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        print("stopping after this step; once more to stop at once", file=sys.stderr)

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
