"""The options of a language model: names, types, units, invariants. Values stand in `configs/generator/`."""

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from omegaconf import MISSING

from reasonir.core.errors import UserError
from reasonir.core.fields import at_least, open_mapping, positive, within

# Options that change how answers are got and not which: an output folder may be continued with other values.
MAY_DIFFER = tuple(
    f"generator.{name}"
    for name in (
        "base_url", "base_urls", "api_key_env", "max_concurrency", "timeout_seconds", "max_total_tokens", "max_cost",
        "cost_per_million_input_tokens", "cost_per_million_output_tokens", "batch_requests", "batch_poll_seconds",
        "gpu_memory_utilization", "tensor_parallel_size", "data_parallel_size", "send_seed", "finish_seconds",
    )
)  # fmt: skip


class Provider(StrEnum):
    """Who answers: a server that speaks OpenAI's chat API, OpenAI's Batch API (half the price), vLLM in process."""

    openai = "openai"
    openai_batch = "openai_batch"
    vllm = "vllm"


class Structured(StrEnum):
    """How a request's JSON schema reaches the server; auto begins with json_schema and asks for less when refused."""

    auto = "auto"
    json_schema = "json_schema"
    json_object = "json_object"
    prompt = "prompt"


@dataclass(kw_only=True, slots=True)
class GeneratorConfig:
    """The language model that answers, how answers are drawn, and what they may cost."""

    engine: Provider = MISSING
    """openai is any server with OpenAI's chat API; openai_batch files requests and waits; vllm runs in this process."""
    base_url: str | None = MISSING
    """Root of the server's API, like http://127.0.0.1:8000/v1; null is OpenAI's (or OPENAI_BASE_URL)."""
    base_urls: list[str] | None = MISSING
    """Several servers of one model that take requests in turn, in place of base_url; one that cannot be reached is left
    out and tried again from time to time (openai only)."""
    model: str = MISSING
    """The server's name of the model; for vllm a hub id or folder."""
    api_key_env: str = MISSING
    """Environment variable that holds the key; a local server may need none. The key itself is written nowhere."""
    temperature: float = within(0, 2)
    """Sampling temperature; 0 takes the likeliest token."""
    top_p: float = within(0, 1, "(]")
    """Sampling takes the likeliest tokens that hold this share of the probability."""
    top_k: int | None = positive()
    """Sampling takes so many of the likeliest tokens; null does not say. Not every server knows it."""
    min_p: float | None = within(0, 1)
    """Sampling takes tokens of at least this share of the likeliest one's probability; null does not say."""
    repetition_penalty: float | None = positive()
    """Above 1, tokens that the text already holds become less likely; null does not say."""
    send_seed: bool = MISSING
    """Send each request's seed, so that a server samples the same answer again. Some servers refuse a seed, and vLLM on
    a CPU dies of one. Samples are asked for apart and answers kept under their seed either way."""
    chat_template_kwargs: dict[str, Any] = open_mapping()
    """Variables of the model's chat template, like {enable_thinking: false} for Qwen3 (vLLM, SGLang, llama.cpp)."""
    thinking_tokens: int | None = positive()
    """Tokens for the thoughts of a reasoning model, beside those of each answer, so that no limit of an answer (a
    rewriting's length) counts thoughts; null counts them as part of the answer."""
    extra_body: dict[str, Any] = open_mapping()
    """Further fields of every request's body, as the server names them (not for vllm in process)."""
    max_new_tokens: int = positive()
    """Tokens of an answer at most; a longer one is cut. Where the server's context leaves less beside a prompt, the
    answer gets what is left."""
    max_concurrency: int = positive()
    """Requests in flight at once (vllm: sequences that are scheduled or wait in its queue)."""
    timeout_seconds: float = positive()
    """A request that takes longer is dropped and tried again (not for vllm)."""
    max_attempts: int = positive()
    """Attempts at a request that the server fails, and questions for an item whose answers are rejected."""
    finish_seconds: float = at_least(0)
    """How long Ctrl-C and SIGTERM wait for answers in flight, which are paid for; a second Ctrl-C ends at once."""
    retry_temperature_step: float = at_least(0)
    """Added to the temperature at each further question for an item whose answer is rejected, up to 1: at temperature
    0 a model that is asked the same again answers the same."""
    structured: Structured = MISSING
    """How a JSON schema is asked for: enforced (json_schema), any JSON (json_object), or in words only (prompt)."""
    max_total_tokens: int | None = positive()
    """Tokens, read and written, of all paid answers of an output folder, after which no request is made; null is no
    limit. Requests in flight are finished, so the limit is passed by up to three times max_concurrency answers."""
    max_cost: float | None = positive()
    """Money, in the unit of the prices, as max_total_tokens; needs both prices."""
    cost_per_million_input_tokens: float | None = at_least(0)
    """Price of the tokens read, in the unit of max_cost."""
    cost_per_million_output_tokens: float | None = at_least(0)
    """Price of the tokens written, in the unit of max_cost."""
    batch_requests: int = positive()
    """Requests of one batch (openai_batch only). OpenAI's limit: 50,000."""
    batch_poll_seconds: float = positive()
    """Time between questions whether a batch is done (openai_batch only)."""
    tensor_parallel_size: int = positive()
    """GPUs that share each layer (vllm only)."""
    data_parallel_size: int = positive()
    """Copies of the model (vllm only)."""
    max_model_len: int | None = positive()
    """Tokens of prompt and answer together; null is the model's own (vllm only)."""
    gpu_memory_utilization: float = within(0, 1, "(]")
    """Share of each GPU's memory that vllm takes (vllm only)."""
    dtype: str = MISSING
    """Number format of the weights: auto, bfloat16, float16, float32 (vllm only)."""
    enforce_eager: bool = MISSING
    """Skip CUDA graphs and compilation: starts sooner, runs slower (vllm only)."""

    def validate(self) -> None:
        """Refuse values outside their range, by name."""
        if not self.model.strip():
            raise UserError("generator.model is empty: give generator.model=NAME")
        for name in ("cost_per_million_input_tokens", "cost_per_million_output_tokens"):
            if self.max_cost is not None and getattr(self, name) is None:
                raise UserError(f"generator.max_cost needs the prices: give generator.{name}=PRICE")
        self._check_addresses()
        if self.extra_body and self.engine is Provider.vllm:
            raise UserError("generator.extra_body is for servers; generator=vllm has no request body")
        # Looked for and not imported: vllm and openai take seconds, and belong to the engines alone.
        package, extra = ("vllm", "vllm") if self.engine is Provider.vllm else ("openai", "openai")
        if find_spec(package) is None:
            raise UserError(f"generator={self.engine} needs the {package} package: pip install 'reasonir[{extra}]'")

    def _check_addresses(self) -> None:
        if self.base_urls is not None and (self.base_url is not None or self.engine is not Provider.openai):
            raise UserError("generator.base_urls belongs to generator=openai and stands in place of generator.base_url")
        if self.base_urls == []:
            raise UserError("generator.base_urls=[] names no server; give one or more, or null")
        for url in self.addresses():
            if url is not None and (problem := _problem_of(url)):
                raise UserError(f"generator.base_url{problem}")
        # The value is not repeated: it may be the key, which belongs into no log.
        if not _names_a_variable(self.api_key_env):
            raise UserError(
                "generator.api_key_env is the name of an environment variable that is set, not the key itself"
            )

    def addresses(self) -> list[str | None]:
        """Return the addresses of the servers; None is OpenAI's."""
        return list(self.base_urls or []) or [self.base_url]

    def key_options(self) -> dict[str, Any]:
        """Return the options that shape every answer and stand in no request, where they are set."""
        names = ("top_k", "min_p", "repetition_penalty", "chat_template_kwargs", "thinking_tokens", "extra_body")
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value not in (None, {})}

    def body_options(self) -> dict[str, Any]:
        """Return `key_options` as fields of a request's body."""
        options = self.key_options()
        options.pop("thinking_tokens", None)
        extra_body: dict[str, Any] = options.pop("extra_body", {})
        return options | extra_body

    def limits(self) -> dict[str, Any]:
        """Return what an output folder may spend, and the prices, as the fields of `Budget`."""
        names = ("max_total_tokens", "max_cost", "cost_per_million_input_tokens", "cost_per_million_output_tokens")
        return {name: getattr(self, name) for name in names}

    def local_model(self) -> str | None:
        """Return the folder or hub id of a model that runs in this process; None where a server answers."""
        return self.model if self.engine is Provider.vllm else None


def _problem_of(url: str) -> str:
    """Return what is wrong with a server's address, without one that may hold a password; "" for nothing."""
    # Options are written into config.yaml, and messages must not say a password.
    if "@" in url.partition("://")[2].partition("/")[0] or ("@" in url and "://" not in url):
        return " holds a password; export it and name it in generator.api_key_env"
    if set(url) & set("?#"):
        return " holds more than an address; a key is exported and named in generator.api_key_env"
    if not url.startswith(("http://", "https://")):
        return f"={url} must begin with http:// or https://"
    try:
        parts = urlsplit(url)
        whole = bool(parts.hostname) and parts.port != 0 and url.isprintable() and " " not in url
    except ValueError:  # a bracket that does not close, a port above 65535
        whole = False
    return "" if whole else f"={url} is no address; write it like http://127.0.0.1:8000/v1"


def _names_a_variable(name: str) -> bool:
    """Return whether a text is the name of an environment variable, and hardly a key.

    Many keys are letters, digits and underscores as names are. A variable that is not set is believed only where its
    name is written as such names are: in capitals, not as one long word of letters and digits.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        return False
    long_word = any(len(word) >= 16 and re.search(r"\d", word) for word in name.split("_"))
    return name in os.environ or (name == name.upper() and not long_word)
