"""The precision that texts are encoded in: what was asked for, or what `auto` measured once of a model and a processor.

Invariant: all processes that share a cache folder on one kind of processor choose alike for a model, whenever they ask.
Ranks that disagreed would wait for each other's blocks for ever, and a machine near the threshold would encode
everything twice.
"""

import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from reasonir.core.files import write_json
from reasonir.core.processes import on_several_machines, rank
from reasonir.core.stamp import digest_of
from reasonir.model.encoder import Encoder
from reasonir.model.trunk.precision import choose_precision


@dataclass(slots=True)
class Notice:
    """A line for stderr, said once and by rank 0, when the work begins that it is about."""

    line: str = ""

    def say(self) -> None:
        """Say it, if it was not said."""
        if self.line and rank() == 0:
            print(self.line, file=sys.stderr)
        self.line = ""


def encoding_precision(requested: str, encoder: Encoder, cache_dir: Path) -> tuple[str, Notice]:
    """Return "fp32" or "bf16", and what is to be said of a choice that was left to `auto`.

    Args:
        requested: "auto", "fp32" or "bf16".
        encoder: What encodes the texts, where they are encoded.
        cache_dir: Folder of cached embeddings, which keeps what was measured of a CPU.
    """
    choose = partial(choose_precision, device=encoder.device, trunk=encoder.trunk, backward=False)
    if requested != "auto":
        return choose(requested)[0], Notice()
    if encoder.device.type != "cpu":
        chosen, reason = choose(requested)
    elif on_several_machines():
        chosen, reason = "fp32", "each of several machines would measure for itself; precision=bf16 asks for it"
    else:
        file = cache_dir / f"precision-{_processor()}-{_shape(encoder)}.json"
        chosen, reason = _measured_once(file, partial(choose, requested))
    return chosen, Notice(f"precision=auto: texts are encoded in {chosen} ({reason})")


def _measured_once(file: Path, measure: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    found = _read(file)
    if found is None:
        chosen, reason = measure()
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_name(f".{file.name}.{os.getpid()}")
        write_json(scratch, {"precision": chosen, "reason": reason})
        try:
            # A link, because it refuses to replace: of several ranks that measure at once the first one decides.
            os.link(scratch, file)
        except FileExistsError:
            pass
        finally:
            scratch.unlink(missing_ok=True)
        found = _read(file) or {"precision": chosen, "reason": reason}
    return found["precision"], found["reason"]


def _read(file: Path) -> dict[str, Any] | None:
    """Return what was measured before; None where nothing was, or the file is not as it was written."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    sound = isinstance(found, dict) and found.get("precision") in ("fp32", "bf16") and "reason" in found
    return found if sound else None


def _shape(encoder: Encoder) -> str:
    """Return a short name of everything about a model that its speed depends on: its class and the weights' shapes."""
    shapes = [str(tuple(parameter.shape)) for parameter in encoder.trunk.parameters()]
    return digest_of([type(encoder.trunk).__name__, *shapes])[:12]


def _processor() -> str:
    """Return a short name of this kind of processor and of the library that multiplies on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        lines = []
    kinds = {line.split(":")[0].strip(): line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return digest_of([torch.__version__, platform.machine(), platform.processor(), *sorted(kinds.values())])[:12]
