"""`reasonir-train` and `python -m reasonir.train`: options in, `loop.train` out. Heavy imports come after --help."""

import sys
from collections.abc import Sequence

from reasonir.core.command import run_command
from reasonir.train.config import TrainConfig


def main(argv: Sequence[str] | None = None) -> None:
    """Run training with Hydra overrides from the command line."""
    run_command("reasonir-train", "train", TrainConfig, _train, sys.argv[1:] if argv is None else argv)


def _train(config: TrainConfig) -> None:
    from reasonir.train.loop import train

    train(config)
