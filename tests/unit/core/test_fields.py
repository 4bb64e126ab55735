"""Ranges at the fields of options: what passes, what is refused, and under which name."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import pytest

from reasonir.core.command import validate_tree
from reasonir.core.errors import UserError
from reasonir.core.fields import at_least, positive, within


@dataclass(kw_only=True, slots=True)
class Inner:
    share: float | None = within(0, 1, "(]")


@dataclass(kw_only=True, slots=True)
class Outer:
    rate: float = positive()
    steps: list[int] = at_least(1)
    inner: Inner = dataclasses.field(default_factory=Inner)


def options(rate: Any = 1, steps: Any = (1,), share: Any = 1) -> Outer:
    return Outer(rate=rate, steps=list(steps), inner=Inner(share=share))


@pytest.mark.parametrize("values", [{}, {"share": None}, {"share": 1e-9}, {"rate": 1e-300}, {"steps": ()}])
def test_numbers_in_range_pass(values: dict[str, Any]) -> None:
    given = options(**values)
    validate_tree(given)
    assert given == options(**values), "checking changes no value"


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"rate": 0}, "rate=0 must be positive"),
        ({"rate": math.inf}, "rate=inf must be positive"),
        ({"rate": math.nan}, "rate=nan must be positive"),
        ({"steps": (1, 0)}, "steps=[1, 0] must be 1 or more"),
        ({"share": 0}, "inner.share=0 must lie in (0, 1]"),
        ({"share": 1.5}, "inner.share=1.5 must lie in (0, 1]"),
    ],
)
def test_others_are_refused_with_the_dotted_name(values: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as refused:
        validate_tree(options(**values))
    assert str(refused.value) == line
