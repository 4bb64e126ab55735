"""Training, top to bottom: `train` is the main path of the stage.

Invariant: the weights after step n depend on configuration, data, number of ranks and machine alone, however often the
run was interrupted before n.
"""

import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from reasonir.core.errors import RunStopped
from reasonir.core.prefetch import prefetch
from reasonir.core.processes import world_size
from reasonir.core.progress import Progress
from reasonir.core.tracking.metrics_log import MetricsLog
from reasonir.model.encoder import Encoder
from reasonir.model.folders import refuse_misfits
from reasonir.model.presets import PresetOptions
from reasonir.model.trunk.bidirectional import attention_of, padded_because, probe_leakage
from reasonir.model.trunk.compiled import compile_layers
from reasonir.model.trunk.precision import repeatable_kernels
from reasonir.train.checkpoint import CheckpointWriter, TrainingState, load_optimizer
from reasonir.train.config import DropBy, GatherPrecision, TrainConfig
from reasonir.train.data.batches import GlobalBatch
from reasonir.train.data.sources import (
    describe_sources,
    describe_stores,
    list_sources,
    published_average,
    published_total,
)
from reasonir.train.dev.measure import DevMeasurements
from reasonir.train.export import export
from reasonir.train.memory.estimate import explain_out_of_memory
from reasonir.train.memory.machine import (
    graph_allowance,
    keep_freed_memory,
    planned_device,
    refuse_out_of_memory,
    stop_out_of_memory,
    this_device,
)
from reasonir.train.memory.measure import Meter, memory_snapshot, peak_flops, peak_gib, profiled
from reasonir.train.memory.plan import plan_figures, render_plan
from reasonir.train.memory.sizes import read_shape
from reasonir.train.objectives import Objective
from reasonir.train.objectives.false_negatives import DropAbove, without_false_negatives
from reasonir.train.objectives.infonce import info_nce
from reasonir.train.optim import Schedule, build_adamw
from reasonir.train.parallel.cross_device import text_cost
from reasonir.train.parallel.engine import Engine, open_engine
from reasonir.train.parallel.ranks import Ranks, open_ranks
from reasonir.train.parallel.stop_requests import stop_requests
from reasonir.train.prepare import Work, prepare, require_rank, require_rows
from reasonir.train.step import StepResult, TrainingStep, largest_batch

# Batches made ahead in a thread: one is ready while the next is made.
PREFETCHED_BATCHES = 2


def train(config: TrainConfig) -> None:
    """Train a bi-encoder as `config` says and leave the finished model in `output_dir/model`."""
    refuse_misfits(config.model.path, PresetOptions(**config.model.embedding))
    shape = read_shape(config.model.path, config.model.sizes, fetch=not config.dry_run)
    require_rank(config.lora.rank, shape.hidden_size)
    config = config.with_lengths(shape.positions)
    if config.dry_run:
        _print_plan(config)
        return
    with (
        repeatable_kernels(config.deterministic),
        open_ranks(config.parallel.collective_timeout_seconds) as ranks,
        memory_snapshot(Path(config.output_dir), ranks.rank, ranks.device),
    ):
        # Ranks that torchrun starts again after a failure continue their run.
        config = replace(config, resume=config.resume or ranks.restarted)
        with ranks.leader_first("preparing data and model"):
            work = prepare(config, ranks)
        # `precision=auto` is a measurement, which ranks may disagree on: rank 0's counts.
        work = replace(work, state=ranks.gather(work.state)[0])
        engine, step = _start_engine(config, ranks, work)
        state = work.state
        objective = partial(info_nce, temperature=config.temperature)
        dev = DevMeasurements(work.dev_sets, ranks, step, objective, **config.dev.pace)
        dev.announce(work.total_steps)
        if state.step < work.total_steps and not dev.ends(state.dev):
            folder = Path(config.output_dir)
            metrics = MetricsLog(folder, config, first_step=state.step,
                                 tracking=config.tracking.value) if ranks.leads else None  # fmt: skip
            state = _run_steps(
                ranks,
                work,
                engine,
                step,
                CheckpointWriter(folder / "checkpoints", ranks, config.keep_checkpoints, dev.keep_best),
                StepLog(metrics, work, _meter(ranks, work, adapters=config.lora.rank > 0), config.profile_steps),
                dev,
                seed=config.seed,
                save_every_steps=config.save_every_steps,
                save_every_minutes=config.save_every_minutes,
                skip_nonfinite_steps=config.skip_nonfinite_steps,
            )
        # The other ranks wait: one that ends early could make the launcher end rank 0 before the model is written.
        with ranks.leader_first("writing the model"):
            if ranks.leads:
                export(config, work, engine, state)
        ranks.barrier()


def _print_plan(config: TrainConfig) -> None:
    """Say what the run would do, from its options and the published sizes of its data."""
    sources, published = list_sources(config.data), config.data.published_rows
    rows = published_total(sources, published)
    lines = describe_sources(sources, published) + config.dev.plan
    ranks_planned = config.planned_ranks or world_size()
    device = planned_device(config.planned_gpu, config.planned_memory_gib, ranks_planned)
    average = published_average(sources, [queries for queries, _ in config.batch_sizes], config.global_batch_queries)
    known = None if average is None else rows
    if rows is not None:
        require_rows([queries for queries, _ in config.batch_sizes], rows)
    print(render_plan(plan_figures(config, ranks_planned, known, lines, device, average)))


def _start_engine(config: TrainConfig, ranks: Ranks, work: Work) -> tuple[Engine, TrainingStep]:
    """Hand the model to the engine, try the largest texts, and load the optimizer of the checkpoint."""
    ranks.phase("starting the engine")
    # 1 say what will run
    if ranks.device.type == "cpu":
        keep_freed_memory()
    if ranks.leads:
        data = describe_stores(work.batches.stores) + work.differences_from_published
        device = this_device(ranks.device)
        batches = work.batches
        print(render_plan(plan_figures(config, ranks.world, batches.rows, data, device, batches.average_queries)))
        _print_start(ranks, work, config.parallel.engine.value)
    # 2 engine and step
    rates = (config.learning_rate, config.embedding_learning_rate or config.learning_rate)
    adamw = partial(build_adamw, betas=config.adam_betas, eps=config.adam_eps, kind=config.optimizer)
    engine = open_engine(
        config.parallel.engine.value, work.encoder, lambda encoder: adamw(encoder, *rates, config.weight_decay), ranks,
        max_gradient_norm=config.max_gradient_norm, precision=work.state.precision, deepspeed=config.parallel.deepspeed,
    )  # fmt: skip
    half = config.parallel.gather_precision is GatherPrecision.bf16
    step = TrainingStep(
        engine,
        ranks,
        _choose_objective(config.temperature, config.negatives.drop_above, config.negatives.drop_by),
        chunk_tokens=config.chunk_tokens,
        graph_memory_gib=config.graph_memory_gib,
        precision=work.state.precision,
        communication_dtype=torch.bfloat16 if half else torch.float32,
        attention_share=work.attention_share,
        padded=padded_because(work.encoder.trunk) is not None,
    )
    # 3 buffers, then the checkpoint's moments: the try has moved the optimizer's state
    if work.state.step < work.total_steps:
        limits = config.lengths
        tried = (config.chunk_tokens, max(limits), config.graph_memory_gib, config.gradient_checkpointing)
        with refuse_out_of_memory(explain_out_of_memory(*tried)):
            _prove_and_compile(work.encoder, engine, work.state.precision, wanted=config.compile)
            _try_largest_texts(ranks, engine, step, largest_batch(*limits, config.chunk_tokens, ranks.world))
        if config.graph_memory_gib is None and not engine.lockstep:
            _fill_free_memory(ranks, step)
        if work.resumed_from is not None:
            load_optimizer(work.resumed_from, engine)
    if work.resumed_from is not None:
        work.resumed_from.close()
    return engine, step


def _choose_objective(temperature: float, drop_above: float | None, drop_by: DropBy) -> Objective:
    """Return the loss of a step, without the negatives above a limit where one is given."""
    loss = partial(info_nce, temperature=temperature)
    if drop_above is None:
        return loss
    drop = DropAbove(share=drop_above) if drop_by is DropBy.share else DropAbove(margin=drop_above)
    return partial(without_false_negatives, objective=loss, drop=drop)


def _print_start(ranks: Ranks, work: Work, engine: str) -> None:
    """Say what computes, in which arithmetic, and where the run continues."""
    arithmetic = f"precision {work.state.precision} ({work.precision_reason})"
    print(f"{ranks.world} x {ranks.device.type}, engine {engine}, {arithmetic}")
    if reason := padded_because(work.encoder.trunk):
        print(f"texts are padded: {reason}")
    if work.state.step:
        print(f"continuing after step {work.state.step}")


def _prove_and_compile(encoder: Encoder, engine: Engine, precision: str, *, wanted: bool) -> None:
    """Probe the model where it trains, then compile its layers if that is wanted.

    Args:
        encoder: In the engine's hands.
        engine: That computes.
        precision: "fp32" or "bf16".
        wanted: Whether layers are compiled.
    """
    _probe_on_device(encoder, engine, precision)
    if wanted:
        count = compile_layers(encoder.trunk, precision)
        if engine.ranks.leads:
            print(f"compiling {count} layers: the first passes take long")


def _probe_on_device(encoder: Encoder, engine: Engine, precision: str) -> None:
    """Run the leak probe again where it computes otherwise than at load: on a GPU with its kernel, or in bfloat16.

    A sharded engine's weights are whole only within its own passes; its kernel is that of the other engines.
    """
    if engine.lockstep or (encoder.device.type == "cpu" and precision == "fp32"):
        return
    with torch.autocast(encoder.device.type, torch.bfloat16, enabled=precision == "bf16"):
        probe_leakage(
            encoder.trunk, f"the model in {precision} on {encoder.device}", attention_of(encoder.trunk.config)
        )


def _try_largest_texts(ranks: Ranks, engine: Engine, step: TrainingStep, batch: GlobalBatch) -> None:
    """Run one step on the largest texts, with a gradient of zero and a rate of zero: it changes no weight.

    It allocates every buffer that a step needs, so memory that does not suffice fails before the first real step.
    """
    for group in engine.param_groups:
        group["lr"] = 0.0
    engine.begin()
    step(batch, scale=0.0)
    ranks.phase("trying the optimizer")
    engine.update()
    for state in engine.states.values():
        state["step"] *= 0  # AdamW's bias correction counts real steps only
    if ranks.leads:
        tokens = sum(len(ids) for ids in (*batch.query_ids, *batch.document_ids)) // ranks.world
        print(f"largest texts fit: a chunk of {tokens} tokens, peak memory {peak_gib(ranks.device):.2f} GiB")


def _fill_free_memory(ranks: Ranks, step: TrainingStep) -> None:
    """Let kept graphs fill what is free now; the largest texts have measured a chunk."""
    step.budget.limit_bytes = graph_allowance(ranks.device)
    if ranks.leads:
        mib = step.budget.bytes_of(step.chunk_tokens) / 2**20
        print(f"kept graphs may fill {step.budget.limit_bytes / 2**30:.2f} GiB, {mib:,.1f} MiB a full chunk")


def _meter(ranks: Ranks, work: Work, *, adapters: bool) -> Meter:
    """Return what measures the steps of this run."""
    peak = peak_flops(ranks.device, work.state.precision)
    return Meter(
        ranks.device,
        forward_flops=lambda tokens: 2 * work.layer_parameters * float(text_cost(tokens, work.attention_share).sum()),
        passes=2 if adapters else 3,
        peak=None if peak is None else peak * ranks.world,
    )


class StepLog:
    """Metrics and progress of the steps, on the rank that has a metrics file; nothing on the others."""

    def __init__(
        self, metrics: MetricsLog | None, work: Work, meter: Meter, profile_steps: list[int] | None = None
    ) -> None:
        """Show progress from where the run stands.

        Args:
            metrics: The file; None on the other ranks.
            work: The run.
            meter: Adds the columns that belong to the loop.
            profile_steps: First and last step of a trace.
        """
        self._metrics, self._work, self._meter, self._profile_steps = metrics, work, meter, profile_steps
        if metrics is not None:
            self._progress = Progress("train", work.total_steps, "steps", done=work.state.step)

    def follow(self, batches: Iterator[GlobalBatch]) -> Iterator[GlobalBatch]:
        """Yield the batches of the steps, measured and, where asked for, profiled."""
        if self._metrics is None:
            return batches
        folder = self._work.run.path if self._work.run is not None else None
        return profiled(self._meter.waiting(batches), self._profile_steps, folder)

    def append(self, row: dict[str, Any]) -> None:
        """Write a step's row."""
        if self._metrics is not None:
            apart = row.get("dev/seconds", 0.0)
            row |= self._meter.columns(row["train/tokens"], row["train/step_seconds"], apart)
            self._metrics.append(row)
            rate, real = row["train/tokens_per_second"], row["train/real_token_fraction"]
            loss = "skipped" if row["train/loss_nats"] is None else f"loss {row['train/loss_nats']:.3f}"
            note = f"{loss}, {rate:.0f} tokens/s, {real:.0%} real"
            waited = row["train/data_wait_seconds"]
            slow = f", {waited:.1f} s waiting for data" if waited > 0.1 * row["train/step_seconds"] else ""
            self._progress.update(1, note + slow)

    def summarise(self, steps: int) -> None:
        """Track what the finished run used of every source in so many steps."""
        if self._metrics is not None:
            self._metrics.summarise(self._work.batches.epoch_report(steps))

    def close(self) -> None:
        """End the metrics file and the progress line."""
        if self._metrics is not None:
            self._metrics.close()
            self._progress.close()


def _run_steps(
    ranks: Ranks,
    work: Work,
    engine: Engine,
    step: TrainingStep,
    writer: CheckpointWriter,
    log: StepLog,
    dev: DevMeasurements,
    *,
    seed: int,
    save_every_steps: int,
    save_every_minutes: float,
    skip_nonfinite_steps: int,
) -> TrainingState:
    """Run optimizer steps until the last, or until `dev` ends them; save on schedule, at the end, and before any stop.

    Raises:
        SystemExit: The run was asked to stop; 128 + the signal's number, after a checkpoint.
    """
    state, total = work.state, work.total_steps
    writer.saved_step = state.step
    # A batch depends on its step alone, so that a resumed run begins at any step.
    batches = prefetch(work.batches.batch, range(state.step, total), PREFETCHED_BATCHES)
    with stop_requests() as asked, closing(log), closing(batches):
        for batch in log.follow(batches):
            wishes = Wishes(bool(asked), _minutes_since(writer.saved_at) >= (save_every_minutes or math.inf))
            may_skip = state.skipped_steps < skip_nonfinite_steps
            with _saved_if_stopped(ranks, engine, writer, state):
                done = optimizer_step(
                    ranks, engine, step, batch, wishes, seed=seed, schedule=work.schedule, may_skip=may_skip
                )
            state = state.after(batch.step + 1, done.row["train/tokens"], skipped=done.skipped)
            if dev.due(state.step, total):
                state = replace(state, dev=dev.measure(state.step, state.dev, done.row))
            log.append(done.row)
            # A checkpoint that failed in the thread ends the run at the next step, not at the next checkpoint.
            writer.check()
            due = done.wishes.save or (save_every_steps and state.step % save_every_steps == 0)
            last = state.step == total or dev.ends(state.dev)
            if due or done.wishes.stop or last or dev.wants_kept(state.dev, state.step):
                ranks.phase(f"step {state.step}: saving")
                writer.save(engine, state)
            if (done.wishes.stop or last) and state.step < total:
                break
        if last:
            log.summarise(state.step)
        _save_before_leaving(ranks, engine, writer, state)
        if not last:
            _leave_early(ranks, state, asked)
    return state


@contextmanager
def _saved_if_stopped(ranks: Ranks, engine: Engine, writer: CheckpointWriter, state: TrainingState) -> Iterator[None]:
    """Save the state before a step that stops the run: all ranks are here, with the weights of the step before."""
    try:
        yield
    except RunStopped:
        _save_before_leaving(ranks, engine, writer, state)
        raise


def _leave_early(ranks: Ranks, state: TrainingState, asked: list[int]) -> NoReturn:
    if ranks.leads:
        print(f"stopped after step {state.step}, saved; resume=true continues", file=sys.stderr)
    sys.exit(128 + (asked[0] if asked else signal.SIGTERM))


def _minutes_since(moment: float) -> float:
    return (time.monotonic() - moment) / 60


def _save_before_leaving(ranks: Ranks, engine: Engine, writer: CheckpointWriter, state: TrainingState) -> None:
    """Save the state unless it is saved, and wait until the disk has it. Collective."""
    # Without a limit: a slow disk is no hung rank.
    ranks.phase("finishing the checkpoint", limited=False)
    if state.step != writer.saved_step:
        writer.save(engine, state)
    writer.wait()
    ranks.barrier()


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a rank, or after a step any rank, asks for once the step is done: to stop, to save."""

    stop: bool
    save: bool


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """A finished step. row: of metrics.jsonl. skipped: whether its gradient was thrown away."""

    row: dict[str, Any]
    wishes: Wishes
    skipped: bool


def optimizer_step(
    ranks: Ranks,
    engine: Engine,
    step: TrainingStep,
    batch: GlobalBatch,
    wishes: Wishes,
    *,
    seed: int,
    schedule: Schedule,
    may_skip: bool,
) -> StepOutcome:
    """Compute the gradient of one global batch and apply it.

    Collective.

    Args:
        ranks: All ranks of the run.
        engine: Applies the gradient.
        step: Computes the gradient.
        batch: The same on all ranks.
        wishes: Of this rank. Any rank may stop the run; rank 0's clock decides when to save.
        seed: Seed of dropout.
        schedule: Gives the step its learning rate.
        may_skip: Whether a loss or gradient that is not finite is passed over.
    Raises:
        RunStopped: On every rank, before the optimizer touches the weights, if loss or gradient is not finite, or if a
            process of one rank lacks memory.
    """
    begun = time.perf_counter()
    _seed_dropout(seed, batch.step, ranks.rank)
    engine.begin()
    rate = schedule.set_rates(engine.param_groups, batch.step)
    with stop_out_of_memory(batch.step + 1, alone=ranks.world == 1):
        result = step(batch)
    ranks.phase(f"step {batch.step + 1}: reducing the gradient")
    asked = [float(wishes.stop), float(wishes.save and ranks.leads)]
    loss, tokens, stop, save, *counts = ranks.sum([result.loss_nats, result.tokens, *asked, *result.counts.values()])
    norm = _apply(engine, loss)
    if skipped := not math.isfinite(norm):
        failure = _describe_failure(batch, loss, norm, ranks.gather(result))
        if not may_skip:
            raise RunStopped(f"{failure}. {_what_to_do(batch)}")
        if ranks.leads:
            print(f"skipped: {failure}", file=sys.stderr)
    seconds = time.perf_counter() - begun
    row = {
        "step": batch.step + 1,
        # JSON has no NaN.
        "train/loss_nats": None if skipped else loss,
        "train/grad_norm": None if skipped else norm,
        "train/learning_rate": rate,
        "train/tokens": int(tokens),
        "train/step_seconds": round(seconds, 4),
        "train/tokens_per_second": round(tokens / seconds, 1),
        "train/real_token_fraction": round(result.real_fraction, 4),
        "train/source": batch.source,
        "train/load_spread": round(result.load_spread, 5),
        "train/kept_chunks": result.cache.kept_chunks,
        "train/replayed_chunks": result.cache.replayed_chunks,
        **{f"train/{name}": int(count) for name, count in zip(result.counts, counts, strict=True)},
    }
    return StepOutcome(row, Wishes(stop > 0, save > 0), skipped)


def _seed_dropout(seed: int, step: int, rank: int) -> None:
    """Make randomness depend on these three alone: a resumed run draws what the unbroken one draws."""
    seeds = np.random.SeedSequence((seed, step, rank))
    torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> 1))


def _apply(engine: Engine, loss: float) -> float:
    """Apply the gradient and return its norm; throw it away and return NaN if the loss is not finite. Collective."""
    # All ranks see the same sum, so all of them skip the update or none does.
    if math.isfinite(loss):
        return engine.update()
    engine.discard()
    return math.nan


def _describe_failure(batch: GlobalBatch, loss: float, norm: float, results: list[StepResult]) -> str:
    """Name the step, the ranks and the rows behind a loss or gradient that is not finite."""
    ill = [r for r, result in enumerate(results) if result.bad_rows]
    rows = [i for result in results for i in result.bad_rows] or list(range(len(batch.row_names)))
    names = ", ".join(batch.row_names[i] for i in rows[:4])
    more = f" and {len(rows) - 4} more" if len(rows) > 4 else ""
    on = f" on rank {', '.join(map(str, ill))}" if ill and len(results) > 1 else ""
    where = f"step {batch.step + 1}: loss {loss}{on}, gradient norm {norm}"
    return f"{where}; the weights were not touched. Rows: {names}{more}"


def _what_to_do(batch: GlobalBatch) -> str:
    saved = f"The state after step {batch.step} is saved. " if batch.step else ""
    return (
        f"{saved}Look at these rows, or pass over them with resume=true skip_nonfinite_steps=1; or lower learning_rate"
    )
