"""Errors that a command reports in one line instead of a traceback."""

from typing import Any


class UserError(ValueError):
    """A user's mistake; commands print it as one line and exit 2."""


class NoConfiguration(UserError):
    """A hub data set lacks the configuration asked for."""


class RunStopped(RuntimeError):
    """A run that must end although the user typed nothing wrong; commands print it as one line and exit 1."""


def require(holds: bool, field: str, value: Any, rule: str) -> None:
    """Raise the one-line refusal of an option's value, for `validate()`.

    Args:
        holds: Whether the rule holds; then nothing happens.
        field: The option's name on the command line, with dots.
        value: What the option holds.
        rule: What must hold, such as `must be positive`.
    """
    if not holds:
        raise UserError(f"{field}={value} {rule}")
