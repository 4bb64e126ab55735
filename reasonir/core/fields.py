"""What options accept: ranges, written at the field (`learning_rate: float = positive()`), and shared choices.

`core/command.py` checks every field's range before it calls `validate()`, so that `validate()` holds only the rules
that relate several options. The value itself always comes from a YAML file or the command line. Null passes: a field
that may not be null says so by its type.
"""

import dataclasses
import math
from enum import StrEnum
from typing import Any, get_args, get_origin

from reasonir.core.errors import require

# Keys of a field's metadata: its range, and whether it is a mapping whose keys are the user's.
RANGE, OPEN = "range", "open"


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """The numbers that an option accepts, and the words for them."""

    low: float
    high: float
    low_included: bool
    high_included: bool
    rule: str

    def holds(self, value: float) -> bool:
        """Return whether a number lies in the range; NaN and infinity never do."""
        above = value >= self.low if self.low_included else value > self.low
        below = value <= self.high if self.high_included else value < self.high
        return math.isfinite(value) and above and below


def positive() -> Any:
    """Declare an option that must be above 0 and finite."""
    return _field(Range(0, math.inf, False, False, "must be positive"))


def at_least(low: float) -> Any:
    """Declare an option that must be `low` or more, and finite."""
    return _field(Range(low, math.inf, True, False, f"must be {low:g} or more"))


def within(low: float, high: float, ends: str = "[]") -> Any:
    """Declare an option between two numbers.

    Args:
        low: The lower end.
        high: The upper end.
        ends: Which ends belong to the range, as in mathematics: `[]`, `(]`, `[)` or `()`.
    """
    assert ends in ("[]", "(]", "[)", "()"), ends
    rule = f"must lie in {ends[0]}{low:g}, {high:g}{ends[1]}"
    return _field(Range(low, high, ends[0] == "[", ends[1] == "]", rule))


def random_seed() -> Any:
    """Declare a seed: torch draws from 64 bits, and would take a larger number for a smaller one."""
    return within(0, 2**63 - 1)


def open_mapping() -> Any:
    """Declare a mapping whose keys are the user's: on the command line they need no plus in front."""
    return dataclasses.field(default="???", metadata={OPEN: True})


def open_mappings(schema: type, prefix: str = "") -> list[str]:
    """Return the dotted names of the open mappings of a config dataclass."""
    names: list[str] = []
    for field in dataclasses.fields(schema):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            names += open_mappings(field.type, f"{prefix}{field.name}.")
        elif field.metadata.get(OPEN):
            names.append(f"{prefix}{field.name}")
    return names


class Kind(StrEnum):
    """How an option's value is typed: one text, a list of texts, or a list of something else."""

    text = "text"
    texts = "texts"
    items = "items"


def typed_options(schema: type, prefix: str = "") -> dict[str, Kind]:
    """Return the options that are texts or lists, by dotted name; `*` stands for a key of a mapping to dataclasses."""
    found: dict[str, Kind] = {}
    for field in dataclasses.fields(schema):
        name, kind = f"{prefix}{field.name}", field.type
        # `list[str]` or `str`, or one of the kinds of `list[str] | None`
        kinds = (kind,) if get_origin(kind) is list else (kind, *get_args(kind))
        if get_origin(kind) is dict and dataclasses.is_dataclass(get_args(kind)[1]):
            found |= typed_options(get_args(kind)[1], f"{name}.*.")
        elif isinstance(kind, type) and dataclasses.is_dataclass(kind):
            found |= typed_options(kind, f"{name}.")
        elif list[str] in kinds:
            found[name] = Kind.texts
        elif any(get_origin(part) is list for part in kinds):
            found[name] = Kind.items
        elif str in kinds and get_origin(kind) is not dict:
            found[name] = Kind.text
    return found


def check_range(field: dataclasses.Field[Any], name: str, value: Any) -> None:
    """Raise the one-line refusal of a value outside the range of its field.

    Args:
        field: The dataclass field, with or without a range.
        name: The option's name on the command line, with dots.
        value: What the option holds; a list is checked number by number.
    """
    limits: Range | None = field.metadata.get(RANGE)
    if limits is None or value is None:
        return
    numbers = value if isinstance(value, list) else [value]
    require(all(limits.holds(number) for number in numbers), name, value, limits.rule)


def _field(limits: Range) -> Any:
    # "???" is omegaconf's MISSING, which this module must not import: the value is required from YAML.
    return dataclasses.field(default="???", metadata={RANGE: limits})


class Precision(StrEnum):
    """Arithmetic of the encoder: float32, or bfloat16 products under autocast."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class TemplateChoice(StrEnum):
    """How texts become embeddings (form of the input, attention, pooling): a preset of `reasonir.model.presets`.

    auto takes what the model folder or a known hub id says, else reasonir for decoders and plain for encoders.
    """

    auto = "auto"
    reasonir = "reasonir"
    gritlm = "gritlm"
    e5_mistral = "e5_mistral"
    qwen3 = "qwen3"
    plain = "plain"
    bge = "bge"
    e5 = "e5"
