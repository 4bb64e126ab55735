"""Hydra without its first composition, whose only result is the mode of the run.

Hydra composes every command twice: once to read `hydra.mode`, which nobody here sets, and once to run. Tests compose
some thousand commands at 0.2 s and more.
"""

from typing import Any

from hydra._internal.hydra import Hydra


def _no_mode(*_: Any, **__: Any) -> None:
    """Answer as Hydra does where the first composition fails: it then runs the command by its flags."""


def compose_once() -> None:
    """Leave the first composition out, in this process and in those forked from it."""
    Hydra.get_mode = _no_mode  # type: ignore[method-assign]
