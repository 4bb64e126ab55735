"""Which rank this process is, as torchrun or accelerate launched it; alone, it is rank 0 of 1.

Reads the environment only, so that a command knows its rank before torch is imported. Leaves collectives to the engine.
"""

import os


def rank() -> int:
    """Return this process's global rank (0 without a launcher)."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of launched processes (1 without a launcher)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Return this process's rank among those of its machine (0 without a launcher)."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def on_several_machines() -> bool:
    """Return whether the launched processes run on more than one machine."""
    return world_size() > int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def launched_for() -> str | None:
    """Return the engine that the configuration of `accelerate launch` names: zero1 to zero3 or fsdp2, else None."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        return f"zero{os.environ.get('ACCELERATE_DEEPSPEED_ZERO_STAGE', '')}"
    return "fsdp2" if os.environ.get("ACCELERATE_USE_FSDP") == "true" else None
