"""Answers of language models: `from reasonir.llm import open_generator`.

`records` holds what is asked and answered, `config` the options, `completions` the log of paid answers, `flow` the
bounded concurrency; `endpoint`, `batch` and `vllm_engine` are the engines, each imported only when chosen.
"""

from pathlib import Path

from reasonir.llm.config import Engine, GeneratorConfig
from reasonir.llm.records import Completion, Generator, Message, Request

__all__ = ["Completion", "Generator", "GeneratorConfig", "Message", "Request", "open_generator"]


def open_generator(config: GeneratorConfig, log_path: str | Path) -> Generator:
    """Return the engine that `config` chooses, with the paid answers that `log_path` (created if missing) holds.

    Raises:
        UserError: no key for OpenAI, a log that another run writes or that is damaged, a model that does not load.
    """
    if config.engine is Engine.vllm:
        from reasonir.llm.engines.vllm import VllmGenerator

        return VllmGenerator(config, Path(log_path))
    if config.engine is Engine.openai_batch:
        from reasonir.llm.engines.batch import BatchGenerator

        return BatchGenerator(config, Path(log_path))
    from reasonir.llm.engines.endpoint import EndpointGenerator

    return EndpointGenerator(config, Path(log_path))
