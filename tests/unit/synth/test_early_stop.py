"""A run whose first items all fail for one reason stops before it pays for the rest."""

from dataclasses import dataclass, field

import pytest

from reasonir.core.errors import RunStopped
from reasonir.llm.attempts import Rejection, Trail
from reasonir.synth.pipeline import EarlyStop
from reasonir.synth.recipes.writing import Outcome


@dataclass
class Counts:
    """The counts of `Output` that are looked at."""

    items: int = 0
    accepted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)


def fail(early_stop: EarlyStop, counts: Counts, reason: str, text: str) -> None:
    trail = Trail()
    trail.reject(Rejection(reason, ""), "eq", 1, text)
    counts.items += 1
    counts.rejected[reason] = counts.rejected.get(reason, 0) + 1
    early_stop.check(Outcome(trail, rejection=Rejection(reason, "")))


def test_the_reason_and_three_answers_are_shown() -> None:
    counts = Counts()
    early_stop = EarlyStop(5, counts)  # type: ignore[arg-type]
    for number in range(4):
        fail(early_stop, counts, "prompt_echo", f"the question {number}")
    with pytest.raises(RunStopped) as stopped:
        fail(early_stop, counts, "prompt_echo", "the question 4")
    said = str(stopped.value)
    assert "first 5 items" in said and "prompt_echo" in said and "give_up_after=null" in said
    assert [f"the question {number}" in said for number in range(5)] == [True, True, True, False, False]


@pytest.mark.parametrize("most", [2, None])
def test_one_row_two_reasons_or_no_limit_let_it_go_on(most: int | None) -> None:
    counts = Counts(accepted=int(most is not None))
    early_stop = EarlyStop(most, counts)  # type: ignore[arg-type]
    for _ in range(9):
        fail(early_stop, counts, "language", "x")
    assert counts.items == 9
    two = Counts()
    early_stop = EarlyStop(3, two)  # type: ignore[arg-type]
    for reason in ("language", "refusal") * 5:
        fail(early_stop, two, reason, "x")
    assert two.rejected == {"language": 5, "refusal": 5}


def test_a_continued_run_stops_before_it_asks() -> None:
    with pytest.raises(RunStopped):
        EarlyStop(3, Counts(items=3, rejected={"language": 3})).check()  # type: ignore[arg-type]
