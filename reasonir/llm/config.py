"""The options of a generator: names, types, units, invariants. Values stand in `configs/generator/`."""

from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec

from omegaconf import MISSING

from reasonir.core.errors import UserError, require

MAY_DIFFER = tuple(
    f"generator.{name}"
    for name in (
        "base_url", "api_key_env", "max_concurrency", "timeout_seconds", "max_total_tokens", "max_cost",
        "cost_per_million_input_tokens", "cost_per_million_output_tokens", "batch_requests", "batch_poll_seconds",
        "gpu_memory_utilization", "tensor_parallel_size", "data_parallel_size",
    )
)  # fmt: skip
"""Options that say how answers are got, not which: an output folder may be continued with others."""


class Engine(StrEnum):
    """Who answers: a server that speaks OpenAI's chat API, OpenAI's Batch API (half the price), vLLM in process."""

    openai = "openai"
    openai_batch = "openai_batch"
    vllm = "vllm"


class Structured(StrEnum):
    """How a request's JSON schema reaches the server; auto begins with json_schema and steps down on a refusal."""

    auto = "auto"
    json_schema = "json_schema"
    json_object = "json_object"
    prompt = "prompt"


@dataclass(kw_only=True, slots=True)
class GeneratorConfig:
    """The language model that writes, and how hard it is driven."""

    engine: Engine = MISSING
    """openai is any server with OpenAI's chat API; openai_batch files requests and waits; vllm runs in this process."""
    base_url: str | None = MISSING
    """Root of the server's API, like http://127.0.0.1:8000/v1; null is OpenAI's (or OPENAI_BASE_URL)."""
    model: str = MISSING
    """The server's name of the model; for vllm a hub id or folder."""
    api_key_env: str = MISSING
    """Environment variable that holds the key; a local server may need none. The key itself is written nowhere."""
    temperature: float = MISSING
    """Of the sampling; 0 takes the likeliest token."""
    top_p: float = MISSING
    """Sampling takes the likeliest tokens that hold this share of the probability."""
    max_new_tokens: int = MISSING
    """Tokens of an answer; a longer one is cut."""
    max_concurrency: int = MISSING
    """Requests in flight at once (vllm: sequences that are scheduled or wait in its queue)."""
    timeout_seconds: float = MISSING
    """A request that takes longer is dropped and tried again (not for vllm)."""
    max_attempts: int = MISSING
    """Tries of a request that the server fails; also of a document whose answers are no good."""
    structured: Structured = MISSING
    """How a JSON schema is asked for: enforced (json_schema), any JSON (json_object), or in words only (prompt)."""
    max_total_tokens: int | None = MISSING
    """Tokens, read and written, of all paid answers of an output folder, after which no request is made; null is no
    limit. Those in flight end, so it is passed by up to three times max_concurrency answers."""
    max_cost: float | None = MISSING
    """Money, as max_total_tokens; needs both prices."""
    cost_per_million_input_tokens: float | None = MISSING
    """Price of the tokens read, in the unit of max_cost."""
    cost_per_million_output_tokens: float | None = MISSING
    """Price of the tokens written, in the unit of max_cost."""
    batch_requests: int = MISSING
    """Requests of one batch (openai_batch only). OpenAI's limit: 50,000."""
    batch_poll_seconds: float = MISSING
    """Time between questions whether a batch is done (openai_batch only)."""
    tensor_parallel_size: int = MISSING
    """GPUs that share each layer (vllm only)."""
    data_parallel_size: int = MISSING
    """Copies of the model (vllm only)."""
    max_model_len: int | None = MISSING
    """Tokens of prompt and answer together; null is the model's own (vllm only)."""
    gpu_memory_utilization: float = MISSING
    """Share of each GPU's memory that vllm takes (vllm only)."""
    dtype: str = MISSING
    """Number format of the weights: auto, bfloat16, float16, float32 (vllm only)."""
    enforce_eager: bool = MISSING
    """Skip CUDA graphs and compilation: starts sooner, runs slower (vllm only)."""

    def validate(self) -> None:
        """Refuse values outside their range, by name."""
        if not self.model.strip():
            raise UserError("generator.model is empty: give generator.model=NAME")
        for name in ("max_new_tokens", "max_concurrency", "timeout_seconds", "max_attempts", "batch_requests",
                     "batch_poll_seconds", "tensor_parallel_size", "data_parallel_size"):  # fmt: skip
            require(
                0 < getattr(self, name) < float("inf"),
                f"generator.{name}",
                getattr(self, name),
                "must be positive and finite",
            )
        for name in ("max_total_tokens", "max_model_len", "max_cost"):
            value = getattr(self, name)
            require(value is None or value > 0, f"generator.{name}", value, "must be positive, or null")
        for name in ("cost_per_million_input_tokens", "cost_per_million_output_tokens"):
            value = getattr(self, name)
            require(
                value is None or 0 <= value < float("inf"), f"generator.{name}", value, "must not be negative, or null"
            )
            if self.max_cost is not None and value is None:
                raise UserError(f"generator.max_cost needs the prices: give generator.{name}=PRICE")
        require(0 <= self.temperature <= 2, "generator.temperature", self.temperature, "must lie in [0, 2]")
        require(0 < self.top_p <= 1, "generator.top_p", self.top_p, "must lie in (0, 1]")
        share = self.gpu_memory_utilization
        require(0 < share <= 1, "generator.gpu_memory_utilization", share, "must lie in (0, 1]")
        if self.base_url is not None and not self.base_url.startswith(("http://", "https://")):
            raise UserError(f"generator.base_url={self.base_url} must begin with http:// or https://")
        package, extra = ("vllm", "vllm") if self.engine is Engine.vllm else ("openai", "openai")
        if find_spec(package) is None:
            raise UserError(f"generator={self.engine} needs the {package} package: pip install 'reasonir[{extra}]'")
