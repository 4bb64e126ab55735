"""Answers of language models: `from reasonir.llm import open_generator`.

`records` holds requests and completions, `config` the options, `prompts` the prompt files, `context` the room that a
prompt has; `conversations` asks about many items at once, `attempts` asks until an answer is accepted, and `refusals`
reads plain answers. The engines in `engines/` are each imported only when chosen.
"""

from pathlib import Path

from reasonir.llm.config import GeneratorConfig, Provider
from reasonir.llm.records import Completion, Generator, Message, Request

__all__ = ["Completion", "Generator", "GeneratorConfig", "Message", "Request", "open_generator"]


def open_generator(config: GeneratorConfig, log_path: str | Path) -> Generator:
    """Open the engine that `config` chooses, with the paid answers that `log_path` (created if missing) holds.

    Raises:
        UserError: no key for OpenAI, a log that another run writes or that is damaged, a model that does not load.
    """
    if config.engine is Provider.vllm:
        from reasonir.llm.engines.vllm import VllmGenerator

        return VllmGenerator(config, Path(log_path))
    if config.engine is Provider.openai_batch:
        from reasonir.llm.engines.batch import BatchGenerator

        return BatchGenerator(config, Path(log_path))
    from reasonir.llm.engines.endpoint import EndpointGenerator

    return EndpointGenerator(config, Path(log_path))
