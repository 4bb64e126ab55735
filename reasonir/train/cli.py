"""`reasonir-train` and `python -m reasonir.train`: options in, `loop.train` out. Heavy imports come after --help."""

import sys
from collections.abc import Sequence

from reasonir.core.command import run_command
from reasonir.train.config import TrainConfig


def main(argv: Sequence[str] | None = None) -> None:
    """Run training, or a command beside it, with Hydra overrides from the command line."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["prepare"]:
        run_command("reasonir-train prepare", "train", TrainConfig, _prepare, words[1:])
    run_command("reasonir-train", "train", TrainConfig, _train, words)


def _train(config: TrainConfig) -> None:
    from reasonir.train.loop import train

    train(config)


def _prepare(config: TrainConfig) -> None:
    """Fill the token cache of a run, with the run's own options, on a machine without a GPU."""
    from reasonir.train.data.fill_cache import fill_cache
    from reasonir.train.data.sources import list_sources
    from reasonir.train.memory.sizes import read_shape

    shape = read_shape(config.model.path, config.model.sizes, fetch=True)
    query_limit, document_limit = config.with_lengths(shape.positions).lengths
    fill_cache(
        list_sources(config.data),
        config.model.path,
        config.model.embedding,
        vocabulary_size=config.model.vocabulary_size,
        query_max_tokens=query_limit,
        document_max_tokens=document_limit,
        cache_dir=config.data.cache_dir,
        processes=config.data.processes,
        published_rows=config.data.published_rows,
    )
