"""Types and names of the tests of language-model engines."""

from collections.abc import Callable

from reasonir.llm import GeneratorConfig

KEY = "sk-verysecret0123456789abcdef"
Configured = Callable[..., GeneratorConfig]
