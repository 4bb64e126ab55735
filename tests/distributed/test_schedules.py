"""Killed within its schedule and resumed, a run has the rates of the formula and the bytes of the unbroken one."""

import json
from pathlib import Path

import numpy as np
import pytest

from reasonir.train.config import ScheduleName
from reasonir.train.optim import Schedule
from tests.kit.launch import launch
from tests.kit.texts import tiny_training, training_rows, write_rows

STEPS, HALF = 50, 25
SCHEDULE = ["warmup_ratio=0.1", "decay_ratio=0.6", "final_rate_ratio=0.1"]
PEAK = 0.001


def run(folder: Path, options: list[str], ranks: int, fault: str = "none") -> None:
    marker = folder.with_name(f"{folder.name}.struck")
    program = ["-m", "tests.distributed.faulty_run", fault, str(ranks - 1), str(HALF + 1), str(marker)]
    done = launch(ranks, [*program, f"output_dir={folder}", "resume=true", *options], cold=fault != "none", seconds=300)
    assert (done.returncode == 0) == (fault == "none"), done.stdout[-4000:]


def logged(folder: Path, name: str) -> list[float]:
    return [json.loads(line)[f"train/{name}"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "schedule"), [
    ("single", "constant"), ("single", "linear"), ("single", "cosine"), ("single", "wsd"),
    ("ddp", "linear"), ("zero1", "cosine"), ("zero2", "wsd"), ("zero3", "linear"), ("fsdp2", "cosine"),
])  # fmt: skip
def test_rates_and_bytes_of_a_run_killed_within_its_schedule(tmp_path: Path, engine: str, schedule: str) -> None:
    ranks = 1 if engine == "single" else 2
    options = [*tiny_training(tmp_path, STEPS), *SCHEDULE, f"schedule={schedule}", f"parallel={engine}"]
    options += [f"save_every_steps={HALF}", f"learning_rate={PEAK}", "adam_betas=[0.8,0.95]"]
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    run(unbroken, options, ranks)
    run(broken, options, ranks, fault="kill")
    assert len(logged(broken, "learning_rate")) == HALF and not (broken / "model").exists()
    run(broken, options, ranks)
    formula = Schedule(ScheduleName(schedule), 5, STEPS, decay_ratio=0.6, final_ratio=0.1)
    rates = [PEAK * formula.share_at(step) for step in range(STEPS)]
    assert logged(unbroken, "learning_rate") == logged(broken, "learning_rate") == rates
    assert len(set(rates)) == 5 if schedule == "constant" else len(set(rates)) > 30
    model = "model/model.safetensors"
    assert (broken / model).read_bytes() == (unbroken / model).read_bytes()


@pytest.mark.slow
def test_sampled_instructions_and_batches_of_sources_are_the_same_for_any_number_of_ranks(tmp_path: Path) -> None:
    rows = training_rows(24)
    for row in rows[:20]:
        row["query"] = row["query"][1]  # without an instruction of its own
    write_rows(tmp_path / "long.jsonl", rows)
    sources = (
        f"{{a: {{path: {tmp_path}/long.jsonl, instruction: [Find it, Answer this, '']}}, "
        f"b: {{path: {tmp_path}/b.jsonl, global_batch_queries: 8, negatives_per_query: 0}}}}"
    )
    options = [*tiny_training(tmp_path, 16), f"+data.sources={sources}", "data.files=[]", "model.dropout=0"]
    losses, drawn = {}, {}
    for ranks in (1, 2, 4):
        folder = tmp_path / str(ranks)
        run(folder, [*options, f"parallel={'ddp' if ranks > 1 else 'single'}"], ranks)
        losses[ranks] = logged(folder, "loss_nats")
        drawn[ranks] = list(zip(logged(folder, "source"), logged(folder, "tokens"), strict=True))
    assert drawn[1] == drawn[2] == drawn[4] and len({name for name, _ in drawn[1]}) == 2
    for ranks in (2, 4):
        assert np.allclose(losses[ranks], losses[1], rtol=1e-5)
