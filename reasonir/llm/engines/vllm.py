"""vLLM in this process: the engine schedules all requests in flight together (continuous batching).

Invariant: the prompt is the tokenizer's chat template with the generation prompt, as `LLM.chat` renders it. The only
file that imports vllm; its asynchronous engine also splits requests over data-parallel copies, which `LLM` refuses.
"""

import math
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
# A forked engine would inherit the log's lock, and threads in an unknown state.
os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from reasonir.core.errors import RunStopped, UserError
from reasonir.llm.config import GeneratorConfig, Structured
from reasonir.llm.context import chat_tokens
from reasonir.llm.engines.completions import Budget, CompletionLog
from reasonir.llm.engines.concurrency import ConcurrentGenerator
from reasonir.llm.engines.dialect import with_schema_in_words
from reasonir.llm.records import Completion, Request

# An engine that does not end by itself in this time is killed.
SECONDS_TO_END = 10.0
# Waits for the end of its input. If that comes without a word, its parent was killed: it kills the processes named.
WATCH = """
import os, sys
if not sys.stdin.buffer.read():
    for number in sys.argv[1:]:
        try:
            os.kill(int(number), 9)
        except ProcessLookupError:
            pass
"""


class VllmGenerator(ConcurrentGenerator):
    """Answers through an engine of our own; `max_concurrency` requests are scheduled or wait in its queue."""

    def __init__(self, config: GeneratorConfig, log_path: Path) -> None:
        # Found in vLLM 0.32: it sets a seeded request's random generator back after the first part of a long prompt,
        # which a CPU cannot, and the engine dies.
        if config.send_seed and current_platform.is_cpu():
            raise UserError("generator.send_seed=true: vllm on a CPU dies of a seed; leave it false")
        log = CompletionLog(log_path)
        try:
            self._engine = _start(
                AsyncEngineArgs(
                    model=config.model,
                    tensor_parallel_size=config.tensor_parallel_size,
                    data_parallel_size=config.data_parallel_size,
                    max_model_len=config.max_model_len,
                    gpu_memory_utilization=config.gpu_memory_utilization,
                    dtype=config.dtype,
                    enforce_eager=config.enforce_eager,
                    disable_log_stats=True,
                )
            )
        except BaseException:
            log.close()
            raise
        self._watch = _watch_over(multiprocessing.active_children())
        self._tokenizer = self._engine.get_tokenizer()
        self._structured, self._send_seed = config.structured, config.send_seed
        self._thinking_tokens = config.thinking_tokens
        options = config.key_options()
        self._template_options = options.get("chat_template_kwargs", {})
        sampling = ("top_k", "min_p", "repetition_penalty")
        self._sampling_options = {name: options[name] for name in sampling if name in options}
        self._asked_of_engine = 0
        super().__init__(
            config.model,
            log,
            Budget(**config.limits()),
            config.max_concurrency,
            key_options=options,
            finish_seconds=config.finish_seconds,
        )

    async def ask(self, request: Request) -> Completion:
        """Answer one request; a prompt that does not fit is an error of its own, a dead engine ends the run."""
        request = request.as_sent(self._send_seed, self._thinking_tokens)
        self._asked_of_engine += 1
        number = str(self._asked_of_engine)
        prompt = {"prompt_token_ids": self._prompt_tokens(request)}
        try:
            async for output in self._engine.generate(prompt, self._sampling(request), number):
                answer = output
        except UserError:
            raise
        except EngineDeadError:
            raise RunStopped(
                f"the vllm engine of {self.model} died (its messages stand above); run the same command to go on"
            ) from None
        except (VLLMClientError, ValueError) as error:
            said = _one_line(error)
            if request.schema is not None and "schema" in said.lower():
                raise UserError(f"the schema of the prompt's answers is refused by vllm: {said}") from None
            return Completion(id=request.id, text="", finish="error", error=said)
        best = answer.outputs[0]
        if best.finish_reason not in ("stop", "length"):
            return Completion(id=request.id, text="", finish="failed", error=f"vllm ended it: {best.finish_reason}")
        return Completion(
            id=request.id,
            text=best.text,
            finish="stop" if request.choices else best.finish_reason,  # the limit of one token is our own
            input_tokens=len(prompt["prompt_token_ids"]),
            output_tokens=len(best.token_ids),
            logprobs=self._logprobs(request, best.logprobs),
        )

    def _logprobs(self, request: Request, tokens: Any) -> tuple[tuple[tuple[str, float], ...], ...]:
        if not request.choices:
            return _likeliest(tokens, request.top_logprobs)
        ids = self._choice_ids(request.choices)
        values = ((text, float(tokens[0][token].logprob)) for text, token in zip(request.choices, ids, strict=True))
        return (tuple(sorted(values, key=lambda entry: -entry[1])),)

    def _prompt_tokens(self, request: Request) -> list[int]:
        messages = request.messages
        if request.schema is not None and self._structured in (Structured.json_object, Structured.prompt):
            messages = with_schema_in_words(messages, request.schema)
        return chat_tokens(self._tokenizer, messages, self._template_options)

    def _sampling(self, request: Request) -> SamplingParams:
        if request.choices:
            ids = self._choice_ids(request.choices)
            return SamplingParams(
                temperature=0.0,
                max_tokens=1,
                allowed_token_ids=ids,
                logprob_token_ids=ids,  # of the model's own distribution, taken before the other tokens are ruled out
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
        structured = None
        if request.schema is not None and self._structured in (Structured.auto, Structured.json_schema):
            structured = StructuredOutputsParams(json=request.schema)
        elif request.schema is not None and self._structured is Structured.json_object:
            structured = StructuredOutputsParams(json_object=True)
        return SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            max_tokens=request.max_new_tokens,
            seed=request.seed,
            stop=list(request.stop) or None,
            logprobs=request.top_logprobs or None,
            structured_outputs=structured,
            output_kind=RequestOutputKind.FINAL_ONLY,
            **self._sampling_options,
        )

    def _choice_ids(self, choices: tuple[str, ...]) -> list[int]:
        """Return the token of each choice.

        Raises:
            UserError: the tokenizer writes one of them as several tokens.
        """
        ids = [list(self._tokenizer.encode(choice, add_special_tokens=False)) for choice in choices]
        several = next((choice for choice, tokens in zip(choices, ids, strict=True) if len(tokens) != 1), None)
        if several is not None:
            raise UserError(f"generator.model={self.model}: {several!r} is no single token of its tokenizer")
        return [token for (token,) in ids]

    async def shut(self) -> None:
        """End the engine's processes and give its memory back."""
        self._engine.shutdown(timeout=SECONDS_TO_END)
        self._watch.communicate(b"ended")
        # Deleted now, because its own destructor shuts it down once more at the end of the interpreter and fails there.
        del self._engine


def _start(arguments: AsyncEngineArgs) -> AsyncLLM:
    try:
        # Batches as large as `LLM` makes them: 1,024 sequences on an H100, where the default is 128.
        return AsyncLLM.from_engine_args(arguments, usage_context=UsageContext.LLM_CLASS)
    except (ValueError, OSError, ImportError) as error:
        raise UserError(f"generator.model={arguments.model} does not load: {_one_line(error)}") from error
    except RuntimeError as error:
        raise RunStopped(
            f"vllm cannot start {arguments.model} (its messages stand above): {_one_line(error)}"
        ) from error


def _watch_over(engine: list[multiprocessing.process.BaseProcess]) -> subprocess.Popen[bytes]:
    """Start a process that ends the engine when this one is killed; vllm's processes would keep their memory."""
    numbers = [str(process.pid) for process in engine]
    command = [sys.executable, "-I", "-S", "-c", WATCH, *numbers]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # Ctrl-C is not for it


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _likeliest(tokens: Any, count: int) -> tuple[tuple[tuple[str, float], ...], ...]:
    """Return per answer token the `count` likeliest; vllm adds the chosen one where it is not among them."""
    if not count or tokens is None:
        return ()
    ranked = (sorted(top.values(), key=lambda entry: -entry.logprob)[:count] for top in tokens)
    possible = (filter(lambda entry: entry.logprob > -math.inf, top) for top in ranked)  # a schema rules tokens out
    return tuple(tuple((entry.decoded_token or "", float(entry.logprob)) for entry in top) for top in possible)
