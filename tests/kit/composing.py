"""The configuration that a command composes from its arguments, without the command's work."""

import sys
from typing import Any

import pytest

from reasonir.core import command

TRAIN = ("output_dir=out", "data.files=[rows.jsonl]")


def composed(monkeypatch: pytest.MonkeyPatch, main: Any, arguments: list[str]) -> Any:
    """Return the configuration that `main` of a stage's cli hands to its work, which is left out."""
    seen: list[Any] = []
    real = command.run_command

    def without_work(program: str, name: str, schema: type, run: Any, argv: Any) -> None:
        real(program, name, schema, seen.append, argv)

    monkeypatch.setattr(sys.modules[main.__module__], "run_command", without_work)
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 0, arguments
    assert len(seen) == 1
    return seen[0]
