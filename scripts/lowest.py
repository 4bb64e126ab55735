"""Write the lower bounds of pyproject.toml as pins that pip takes with -c: what `make test-lowest` installs.

    python scripts/lowest.py FILE [PACKAGE ...]    packages named here keep the version that is installed

Invariant: pyproject.toml is the only list of bounds. A dependency without a lower bound is a mistake.
"""

import sys
import tomllib
from collections.abc import Collection
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
EXTRAS = ("deepspeed", "faiss", "lora", "mteb", "test", "tracking")
"""What the tests install besides the dependencies; an extra that names its own project is left out."""


def requirements(pyproject: Path) -> list[Requirement]:
    """Return the dependencies, and those of the extras that the tests install."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] + [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    return [need for need in map(Requirement, lines) if need.name != project["name"]]


def lowest(need: Requirement) -> str:
    """Return the version that a requirement allows at least.

    Raises:
        ValueError: it has none, or several.
    """
    bounds = [bound.version for bound in need.specifier if bound.operator in (">=", "==")]
    if len(bounds) != 1:
        raise ValueError(f"pyproject.toml: {need} needs one lower bound (>= or ==)")
    return bounds[0]


def pins(needs: Collection[Requirement], kept: Collection[str]) -> list[str]:
    """Return a pin for every package, in the order of their names."""
    named = {need.name: metadata.version(need.name) if need.name in kept else lowest(need) for need in needs}
    return [f"{name}=={version}" for name, version in sorted(named.items())]


if __name__ == "__main__":
    lines = pins(requirements(PYPROJECT), sys.argv[2:])
    Path(sys.argv[1]).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print("\n".join(lines))
