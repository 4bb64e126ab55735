"""Training, top to bottom: `train` is the main path of the stage.

Invariant: the weights after step n are a pure function of configuration, data, number of ranks and machine, however
often the run was interrupted before n.
"""

import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reasonir.core.errors import RunStopped, UserError
from reasonir.core.prefetch import prefetch
from reasonir.core.processes import world_size
from reasonir.core.progress import Progress
from reasonir.core.run_folder import peak_memory_gib
from reasonir.core.tracking import MetricsLog
from reasonir.model.adapters import merge_adapters, save_adapters
from reasonir.model.encoder import Encoder
from reasonir.model.folders import save_encoder
from reasonir.train import checkpoint
from reasonir.train.card import read_measurements, restore_measurements, write_card
from reasonir.train.config import GatherPrecision, TrainConfig
from reasonir.train.data.batches import BatchPlan
from reasonir.train.data.sources import describe_format, describe_sources, input_paths, published_total, report_rows
from reasonir.train.memory.graph_budget import device_memory_gib, graph_allowance, keep_freed_memory
from reasonir.train.memory.plan import plan_run
from reasonir.train.optim import build_adamw, set_learning_rate
from reasonir.train.parallel.engine import Engine, open_engine
from reasonir.train.parallel.ranks import Ranks, open_ranks
from reasonir.train.prepare import Work, adapt, load_or_build_encoder, longest_input, prepare
from reasonir.train.push import push
from reasonir.train.step import StepResult, TrainingStep, largest_texts

SECONDS_OF_ONE_REQUEST = 2.0
BATCHES_AHEAD = 2


def train(config: TrainConfig) -> None:
    """Train a bi-encoder as `config` says and leave the finished model in `output_dir/model`."""
    if config.dry_run:
        ranks_planned = config.planned_ranks or world_size()
        print(plan_run(config, ranks_planned, published_total(config.data), describe_sources(config.data)))
        return
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        config.resume = True  # torchrun starts the ranks again after a failure
    with open_ranks(config.parallel.collective_timeout_seconds) as ranks:
        with ranks.leader_first("preparing data and model"):
            work = prepare(config, ranks)
        engine, compute = start_engine(config, ranks, work)
        state = work.state
        if state.step < work.total_steps:
            state = run_steps(config, ranks, work, engine, compute)
        with ranks.leader_first("writing the model"):  # the others stay: one that ends early could take it along
            if ranks.leads:
                finish(config, work, engine, state)
        ranks.barrier()


def start_engine(config: TrainConfig, ranks: Ranks, work: Work) -> tuple[Engine, TrainingStep]:
    """Hand the model to the engine, try the largest texts, and take up the optimizer of the checkpoint."""
    ranks.phase("starting the engine")
    if ranks.device.type == "cpu":
        keep_freed_memory()
    work.state = ranks.gather(work.state)[0]  # `auto` precision is a measurement: rank 0's counts
    embedding_rate = config.embedding_learning_rate or config.learning_rate

    def build(encoder: Encoder) -> torch.optim.Optimizer:
        return build_adamw(encoder, config.learning_rate, embedding_rate, config.weight_decay)

    if ranks.leads:
        print_plan(config, ranks, work)
    precision = work.state.precision
    engine = open_engine(
        config.parallel.engine.value,
        work.encoder,
        build,
        ranks,
        max_gradient_norm=config.max_gradient_norm,
        precision=precision,
        deepspeed=config.parallel.deepspeed,
    )
    compute = TrainingStep(
        engine,
        ranks,
        chunk_tokens=config.chunk_tokens,
        temperature=config.temperature,
        graph_memory_gib=config.graph_memory_gib,
        precision=precision,
        wire=torch.bfloat16 if config.parallel.gather_precision is GatherPrecision.bf16 else torch.float32,
        attention_share=work.attention_share,
    )
    if work.state.step < work.total_steps:
        try_largest_texts(config, ranks, engine, compute)
        if config.graph_memory_gib is None and not engine.lockstep:
            allow_graphs(ranks, compute)
        if work.resumed_from is not None:
            checkpoint.load_optimizer(work.resumed_from, engine)
    if work.resumed_from is not None:
        work.resumed_from.close()
    return engine, compute


def print_plan(config: TrainConfig, ranks: Ranks, work: Work) -> None:
    """Say what is about to run: data, steps, bytes between ranks, memory of a rank."""
    batches, state = work.batches, work.state
    sources = [
        f"source {store.path}: {store.rows:,} rows, {store.tokens / 1e6:.2f} M tokens, "
        f"{store.truncated_queries} queries and {store.truncated_documents} documents cut{describe_format(store)}"
        for store in batches.stores
    ]
    sources += report_rows(config.data, batches.stores)
    print(plan_run(config, ranks.world, batches.rows, sources, device_memory_gib(ranks.device)))
    print(
        f"{ranks.world} x {ranks.device.type}, engine {config.parallel.engine}, "
        f"precision {state.precision} ({work.precision_reason})"
    )
    if state.step:
        print(f"continuing after step {state.step}")


def try_largest_texts(config: TrainConfig, ranks: Ranks, engine: Engine, compute: TrainingStep) -> None:
    """Run one step on the largest texts, with a gradient of zero and a rate of zero: it changes nothing.

    Every buffer of a step is allocated here, so memory that does not suffice fails before the first real step.

    Raises:
        UserError: out of memory; names what to lower.
    """
    plan = largest_texts(config.query_max_tokens, config.document_max_tokens, config.chunk_tokens, ranks.world)
    for group in engine.param_groups:
        group["lr"] = 0.0
    try:
        engine.begin()
        compute(plan, scale=0.0)
        ranks.phase("trying the optimizer")
        engine.update()
    except (torch.cuda.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.cuda.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise UserError(out_of_memory(config)) from error
    for state in engine.states.values():
        state["step"].zero_()
    if ranks.leads:
        peak = torch.cuda.max_memory_allocated() / 2**30 if ranks.device.type == "cuda" else peak_memory_gib()
        print(f"largest texts fit: a chunk of {plan_tokens(plan, ranks.world)} tokens, peak memory {peak:.2f} GiB")


def allow_graphs(ranks: Ranks, compute: TrainingStep) -> None:
    """Let kept graphs fill what is free now; bytes a token were measured on the largest texts."""
    compute.budget.limit_bytes = graph_allowance(ranks.device)
    if ranks.leads:
        kib = (compute.budget.bytes_per_token or 0.0) / 1024
        print(f"kept graphs may fill {compute.budget.limit_bytes / 2**30:.2f} GiB, {kib:,.1f} KiB a token measured")


def plan_tokens(plan: BatchPlan, world: int) -> int:
    """Return the tokens a rank has of a batch."""
    return sum(len(ids) for ids in (*plan.query_ids, *plan.document_ids)) // world


def out_of_memory(config: TrainConfig) -> str:
    """Say which number to lower."""
    remedies = []
    longest = longest_input(config)
    if config.chunk_tokens > longest:
        remedies.append(f"lower chunk_tokens (now {config.chunk_tokens}; a single text needs {longest})")
    if config.graph_memory_gib:
        remedies.append(f"lower graph_memory_gib (now {config.graph_memory_gib:g})")
    if config.graph_memory_gib is None:
        remedies.append("set graph_memory_gib=0")
    if not config.gradient_checkpointing:
        remedies.append("set gradient_checkpointing=true (one more forward pass)")
    remedies.append("shard with parallel=zero3 or fsdp2, or train adapters with lora=lora")
    return f"out of memory on the largest texts of a step: {'; '.join(remedies)}"


def run_steps(
    config: TrainConfig, ranks: Ranks, work: Work, engine: Engine, compute: TrainingStep
) -> checkpoint.TrainingState:
    """Run optimizer steps until the last; save on schedule, at the end and when any rank is asked to stop."""
    state, total = work.state, work.total_steps
    log = StepLog(config, ranks, state, total)
    writer = checkpoint.CheckpointWriter(Path(config.output_dir) / "checkpoints", ranks, config.keep_checkpoints)
    plans = prefetch(work.batches.batch, range(state.step, total), BATCHES_AHEAD)
    with stop_requests() as asked, closing(log), closing(plans):
        for plan in plans:
            try:
                row, stopping = optimizer_step(config, ranks, engine, compute, plan, asked)
            except RunStopped:  # on every rank alike: the checkpoint before is written to its end, then all leave
                writer.wait()
                ranks.barrier()
                raise
            state = replace(state, step=plan.step + 1, tokens=state.tokens + row["train/tokens"])
            log.append(row)
            writer.check()
            due = config.save_every_steps and state.step % config.save_every_steps == 0
            if due or stopping or state.step == total:
                ranks.phase(f"step {state.step}: saving")
                writer.save(engine, state)
            if stopping and state.step < total:
                break
        if state.step == total:
            log.summarise(work)
        ranks.phase("finishing the checkpoint", limited=False)
        writer.wait()
        ranks.barrier()
        if state.step < total:
            if ranks.leads:
                print(f"stopped after step {state.step}, saved; resume=true continues", file=sys.stderr)
            sys.exit(128 + (asked[0] if asked else signal.SIGTERM))
    return state


class StepLog:
    """Metrics and progress, on rank 0; nothing elsewhere."""

    def __init__(self, config: TrainConfig, ranks: Ranks, state: checkpoint.TrainingState, total: int) -> None:
        """Open both where rank 0 is."""
        self._open = ranks.leads
        if self._open:
            folder = Path(config.output_dir)
            self._metrics = MetricsLog(folder, config, first_step=state.step, tracking=config.tracking.value)
            self._progress = Progress("train", total, "steps", done=state.step)

    def append(self, row: dict[str, Any]) -> None:
        """Write a step's row."""
        if self._open:
            self._metrics.append(row)
            rate, real = row["train/tokens_per_second"], row["train/real_token_fraction"]
            self._progress.update(1, f"loss {row['train/loss_nats']:.3f}, {rate:.0f} tokens/s, {real:.0%} real")

    def summarise(self, work: Work) -> None:
        """Track what the finished run used of every source."""
        if self._open:
            self._metrics.summarise(work.batches.epoch_report(work.total_steps))

    def close(self) -> None:
        """Close both."""
        if self._open:
            self._metrics.close()
            self._progress.close()


def optimizer_step(
    config: TrainConfig, ranks: Ranks, engine: Engine, compute: TrainingStep, plan: BatchPlan, asked: list[int]
) -> tuple[dict[str, Any], bool]:
    """Compute the gradient of one global batch and apply it; return the metrics row, and whether any rank must stop.

    Raises:
        RunStopped: on every rank, before the optimizer touches the weights, when loss or gradient is not finite.
    """
    begun = time.perf_counter()
    seeds = np.random.SeedSequence((config.seed, plan.step, ranks.rank))
    torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> 1))
    engine.begin()
    rate = set_learning_rate(engine.param_groups, plan.step, config.warmup_steps)
    result = compute(plan)
    ranks.phase(f"step {plan.step + 1}: reducing the gradient")
    loss, tokens, stopping = ranks.sum([result.loss_nats, result.tokens, len(asked)])
    norm = engine.update() if math.isfinite(loss) else math.nan
    if not math.isfinite(norm):
        raise RunStopped(describe_failure(plan, loss, norm, ranks.gather(result)))
    seconds = time.perf_counter() - begun
    row = {
        "step": plan.step + 1,
        "train/loss_nats": loss,
        "train/grad_norm": norm,
        "train/learning_rate": rate,
        "train/tokens": int(tokens),
        "train/step_seconds": round(seconds, 4),
        "train/tokens_per_second": round(tokens / seconds, 1),
        "train/real_token_fraction": 1.0,  # no text is padded; what linear.py fills up is not counted
        "train/source": plan.source,
        "train/load_spread": round(result.load_spread, 5),
        "train/kept_chunks": result.cache.kept_chunks,
        "train/replayed_chunks": result.cache.replayed_chunks,
    }
    return row, stopping > 0


def describe_failure(plan: BatchPlan, loss: float, norm: float, results: list[StepResult]) -> str:
    """Name the step, the ranks and the rows behind a loss or gradient that is not finite."""
    guilty = [r for r, result in enumerate(results) if result.bad_rows]
    rows = [i for result in results for i in result.bad_rows] or list(range(len(plan.row_names)))
    names = ", ".join(plan.row_names[i] for i in rows[:4])
    more = f" and {len(rows) - 4} more" if len(rows) > 4 else ""
    on = f" on rank {', '.join(map(str, guilty))}" if guilty and len(results) > 1 else ""
    return (
        f"step {plan.step + 1}: loss {loss}{on}, gradient norm {norm}; the weights were not touched. "
        f"Rows: {names}{more}. Lower learning_rate or look at these rows; resume=true goes on from the last checkpoint"
    )


def finish(config: TrainConfig, work: Work, engine: Engine, state: checkpoint.TrainingState) -> None:
    """Write the finished model with its card, then the manifest; push the model where asked.

    Sharded weights are read back from the checkpoint, on the CPU.
    """
    assert work.run is not None
    folder = Path(config.output_dir)
    encoder = work.encoder
    if not engine.whole or any(p.dtype != torch.float32 for p in encoder.parameters()):
        encoder = load_or_build_encoder(config, {}, built=folder / "initial_model", reuse=True, device="cpu")
        adapt(config, encoder)
        reader = checkpoint.open_newest(folder / "checkpoints", state.data_fingerprint)
        assert reader is not None
        checkpoint.load_weights(reader, encoder)
        reader.close()
    parameters = sum(p.numel() for p in encoder.parameters())
    instruction = work.batches.common_query_instruction
    if config.lora.rank:
        save_adapters(encoder, str(folder / "adapters"), config.model.path or "")
        if config.lora.merge:
            merge_adapters(encoder)
    measured = read_measurements(folder / "model")
    save_encoder(encoder, str(folder / "model"), query_instruction=instruction, max_tokens=longest_input(config))
    write_card(folder / "model", config, work, state, encoder)
    restore_measurements(folder / "model", measured)
    work.run.finish(
        inputs=input_paths(config.data),
        counts={"steps": state.step, "tokens": state.tokens, "sources": work.batches.epoch_report(state.step)},
        differences_from_published=report_rows(config.data, work.batches.stores),
        precision=state.precision,
        model_parameters=parameters,
        ranks=world_size(),
        engine=str(config.parallel.engine),
    )
    print(f"trained {state.step} steps, {state.tokens / 1e6:.2f} M tokens; model: {folder / 'model'}")
    if config.push_to_hub is not None:
        push(folder / "model", config.push_to_hub)


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect SIGTERM and Ctrl-C into a list instead of dying; a second Ctrl-C interrupts at once.

    Two within two seconds are one: at a terminal, ranks get Ctrl-C both directly and from torchrun.
    """
    asked: list[int] = []
    first = [0.0]

    def note(number: int, frame: Any) -> None:
        if asked and number == signal.SIGINT and time.monotonic() - first[0] > SECONDS_OF_ONE_REQUEST:
            raise KeyboardInterrupt
        if not asked:
            first[0] = time.monotonic()
            asked.append(number)
            print("stopping after this step; once more to stop at once", file=sys.stderr)

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
