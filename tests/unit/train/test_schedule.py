"""The learning rate of every step against transformers' schedules and formulas written anew; AdamW's options."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from reasonir.core.errors import UserError
from reasonir.train import cli as train_cli
from reasonir.train.config import ScheduleName, TrainConfig
from reasonir.train.optim import Schedule, build_adamw
from tests.kit.composing import TRAIN, composed

STEPS, WARMUP, DECAY, FINAL = 50, 6, 15, 0.1
PEAK = 3e-4


def shares(schedule: Schedule) -> list[float]:
    return [schedule.share_at(step) for step in range(schedule.total_steps)]


def of(name: str, **changes: Any) -> Schedule:
    given: dict[str, Any] = {
        "warmup_steps": WARMUP, "total_steps": STEPS, "decay_ratio": DECAY / STEPS, "final_ratio": FINAL,
    }  # fmt: skip
    return Schedule(ScheduleName(name), **(given | changes))


def theirs(make: Callable[[Any], Any]) -> list[float]:
    """Return the rates that a schedule of transformers gives, as shares of the peak."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler, found = make(optimizer), []
    for _ in range(STEPS):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


OTHERS = {
    "constant": lambda o: transformers.get_constant_schedule_with_warmup(o, WARMUP),
    "linear": lambda o: transformers.get_linear_schedule_with_warmup(o, WARMUP, STEPS),
    "cosine": lambda o: transformers.get_cosine_with_min_lr_schedule_with_warmup(o, WARMUP, STEPS, min_lr_rate=FINAL),
    "wsd": lambda o: transformers.get_wsd_schedule(
        o, WARMUP, DECAY, num_training_steps=STEPS, decay_type="linear", min_lr_ratio=FINAL
    ),
}


@pytest.mark.parametrize("name", ScheduleName)
def test_after_the_warm_up_the_rates_are_transformers(name: ScheduleName) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs(OTHERS[name])
    ours = shares(of(name, final_ratio=0.0 if name == "linear" else FINAL))
    assert ours[WARMUP:] == pytest.approx(expected[WARMUP:], rel=1e-12)
    # Theirs begins with a step at a rate of zero, ours is one step ahead.
    assert ours[: WARMUP - 1] == pytest.approx([(step + 1) / WARMUP for step in range(WARMUP - 1)], rel=1e-12)
    assert len({round(share, 9) for share in ours}) > WARMUP - 1 + (name != "constant") * (DECAY - 1)


def by_hand(name: str, step: int) -> float:
    if step < WARMUP:
        return (step + 1) / WARMUP
    if name == "constant":
        return 1.0
    left = {
        "linear": (STEPS - step) / (STEPS - WARMUP),
        "cosine": math.cos(math.pi / 2 * (step - WARMUP) / (STEPS - WARMUP)) ** 2,
        "wsd": min(1.0, (STEPS - step) / DECAY),
    }[name]
    return FINAL + (1 - FINAL) * left


@pytest.mark.parametrize("name", ScheduleName)
def test_every_step_has_the_rate_of_the_formula(name: ScheduleName) -> None:
    assert shares(of(name)) == pytest.approx([by_hand(name, step) for step in range(STEPS)], rel=1e-12)


def test_constant_gives_the_bytes_of_before() -> None:
    for warmup in (0, 1, 3, 7, 60):
        before = [PEAK * min(1.0, (step + 1) / max(warmup, 1)) for step in range(80)]
        groups = [{"peak": PEAK}]
        schedule = of("constant", warmup_steps=warmup)
        assert [schedule.set_rates(groups, step) for step in range(80)] == before


@pytest.mark.parametrize("name", ScheduleName)
def test_a_warm_up_or_decay_longer_than_the_run_is_cut_by_its_end(name: ScheduleName) -> None:
    assert shares(of(name, warmup_steps=200)) == [(step + 1) / 200 for step in range(STEPS)]
    assert shares(of(name, warmup_steps=STEPS))[-1] == 1.0
    whole = shares(of(name, warmup_steps=40, decay_ratio=1.0))
    assert max(whole) == whole[40] == 1.0 and min(whole[40:]) == whole[-1] > 0


def test_each_group_has_its_own_peak(tiny: Any) -> None:
    optimizer = build_adamw(tiny, 1e-3, 5e-3, 0.1, betas=[0.8, 0.95], eps=1e-6)
    assert of("constant", warmup_steps=4).set_rates(optimizer.param_groups, 0) == pytest.approx(0.25e-3)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.25e-3, 1.25e-3, 0.25e-3])
    assert {(group["betas"], group["eps"]) for group in optimizer.param_groups} == {((0.8, 0.95), 1e-6)}


@pytest.mark.parametrize(("name", "done"), [("linear", 8), ("cosine", 8), ("wsd", 37)])
def test_another_length_is_refused_where_it_changes_the_past(name: str, done: int) -> None:
    schedule, longer = of(name), of(name, total_steps=60)
    schedule.require_same_past(done, schedule)
    with pytest.raises(UserError, match=rf"the {done} steps done had .* of 60 steps, a run of 50 .*give max_steps=60"):
        schedule.require_same_past(done, longer)


def test_another_length_is_taken_where_it_leaves_the_past() -> None:
    of("wsd", total_steps=60).require_same_past(STEPS - DECAY, of("wsd"))
    of("constant").require_same_past(STEPS, of("constant", total_steps=5_000))
    of("linear").require_same_past(WARMUP + 1, of("linear", total_steps=60))
    with pytest.raises(UserError, match="or warmup_ratio"):
        of("constant").require_same_past(STEPS, of("constant", total_steps=60, warmup_steps=WARMUP + 1))


def options(monkeypatch: pytest.MonkeyPatch, *given: str) -> TrainConfig:
    config = composed(monkeypatch, train_cli.main, [*TRAIN, *given])
    assert isinstance(config, TrainConfig)
    return config


def test_a_share_of_the_run_replaces_the_steps_of_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, share = options(monkeypatch), options(monkeypatch, "warmup_ratio=0.07")
    assert [config.warmup_over(100) for config in (plain, share)] == [60, 7]
    assert [share.warmup_over(steps) for steps in (1, 14, 15, 101)] == [1, 1, 2, 8]
    assert not plain.rates_depend_on_length and share.rates_depend_on_length


def test_the_plan_says_the_schedule_and_warns_of_a_warm_up_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    config = options(monkeypatch)
    assert config.describe_schedule(60) == ["warm-up 60 steps, then constant"]
    _, warning = config.describe_schedule(20)
    assert warning.startswith("WARNING: warmup_steps=60 is longer than the run of 20 steps, whose rate ends at 33%")
    wsd = options(monkeypatch, "schedule=wsd", "warmup_ratio=0.05", "final_rate_ratio=0.1")
    after = "then constant, over the last 10% of the steps linear to 10% of the peak"
    assert wsd.describe_schedule(1_000) == [f"warm-up 50 steps, {after}"]
    assert wsd.describe_schedule(None) == [f"warm-up 5% of the steps, {after}"]
    cosine = options(monkeypatch, "schedule=cosine")
    assert cosine.describe_schedule(None) == ["warm-up 60 steps, then cosine to 0% of the peak"]
