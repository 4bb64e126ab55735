"""The room that a server has for prompt and answer: asked for, read off refusals, and an answer's limit fitted to it.

Servers say it in many ways; the patterns are from the sources and error texts of vLLM, llama.cpp, TGI, SGLang,
TensorRT-LLM and LM Studio, and of hosted APIs. Invariant: whether a prompt fits is the server's word; an estimate only
chooses the number that is sent first.
"""

import re
from dataclasses import dataclass, replace
from typing import Any

# Tokens of an answer that are asked for at least where the estimate leaves no room: the server then says what there is.
LEAST_ANSWER = 16
# What /v1/models calls the tokens of prompt and answer together: vLLM and SGLang, hosted APIs, LM Studio, llama.cpp.
CONTEXT_FIELDS = (
    "max_model_len", "loaded_context_length", "context_length", "context_window", "max_context_length", "n_ctx",
    "n_ctx_train",
)  # fmt: skip
_N = r"[\"'`(\[{]*(\d[\d,]*)"
_ABOUT_LENGTH = re.compile(
    r"context[ _-]?(?:length|size|window|limit)|maximum context|too long|max_model_len|too large"
    r"|max(?:imum)? input length|maximum number of tokens|max_new_tokens|`?inputs`? must have less"
    r"|token count|too many tokens|range of (?:input length|max_tokens)"
    r"|maximum allowed number of output tokens|supports at most \d+ completion tokens|reduce the length",
    re.IGNORECASE,
)
# Tokens of prompt and answer together.
_CONTEXT = [
    rf"exceeds? (?:the )?context limit: \d+ \+ \d+ > {_N}",
    rf"context (?:length|size|window|limit)(?: of)?(?: is)?(?: only)?\s*:?\s*{_N}",
    rf"{_N} (?:tokens )?max(?:imum)? context",
    rf"`?inputs`? tokens \+ `?max_new_tokens`? must be <= {_N}",
    rf"\"?n_ctx\"?: {_N}",
]
# Tokens of an answer, whatever its prompt.
_ANSWER = [
    rf"at most {_N} completion tokens",
    r"max(?:_new|_completion|_output)?[_ ]tokens\W{1,4}[\w ,]*?(?:<=|at most|less than or equal to|exceeds?) " + _N,
    rf"range of max_tokens (?:is|should be) \[\d+, ?{_N}\]",
    rf"max_tokens: \d+ > {_N}, which is the maximum allowed",
]
# Tokens of the prompt.
_PROMPT = [
    rf"{_N} (?:tokens )?(?:in|from) the (?:messages|prompt|input)",
    rf"(?:contains|has|passed|have) (?:at least )?{_N} (?:input )?tokens",
    rf"Given: {_N} `?inputs`? tokens",
    rf"`?inputs`? must have less than \d+ tokens\. Given: {_N}",
    rf"\"?n_prompt_tokens\"?: {_N}",
    rf"(?:request|prompt|input)(?: length| token count)? ?\({_N}",
    rf"(?:exceed context limit|prompt is too long):? {_N}",
]
_ALONE = re.compile(
    r"`?inputs`? must have less than|input token count|prompt is too long|maximum input length \(|range of input length"
    r"|even without any output|longer than the model|input length \(|first \d+ tokens",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Room:
    """Tokens that a server was found to have; None is unknown. context: of prompt and answer; answer: of any answer."""

    context: int | None = None
    answer: int | None = None

    def fit(self, wanted: int, prompt_tokens: int) -> int:
        """Return the tokens to ask for, so that they fit behind a prompt of about so many tokens."""
        wanted = wanted if self.answer is None else min(wanted, self.answer)
        if self.context is None:
            return wanted
        return min(wanted, max(self.context - prompt_tokens, LEAST_ANSWER))

    def learn(self, words: str) -> "Room":
        """Return the room with what a refusal says of it."""
        context, answer = _first(_CONTEXT, words), _first(_ANSWER, words)
        return replace(self, context=context or self.context, answer=answer or self.answer)


def is_about_length(words: str) -> bool:
    """Return whether a refusal says that a prompt, or a prompt with its answer, is too long."""
    return _ABOUT_LENGTH.search(words) is not None


def shorter_answer(words: str, sent: int, prompt_tokens: int) -> int | None:
    """Return the tokens of an answer to ask for after a refusal; None where the prompt alone does not fit.

    Args:
        words: What the server said.
        sent: Tokens that were asked for.
        prompt_tokens: An estimate of the prompt, for servers that do not count it.
    """
    context, answer, counted = _first(_CONTEXT, words), _first(_ANSWER, words), _first(_PROMPT, words)
    if context is not None and counted is not None:
        left = context - counted
        return left if 0 < left < sent else None
    if answer is not None and answer < sent:
        return answer
    if _ALONE.search(words) is not None or sent <= LEAST_ANSWER:
        return None
    if context is not None and 0 < context - prompt_tokens < sent:
        return context - prompt_tokens
    # The server does not count the prompt, and the estimate was too low.
    return max(LEAST_ANSWER, sent // 4)


def read_context(row: Any, model: str) -> int | None:
    """Return the tokens of prompt and answer that a list of models (/v1/models, parsed) states for one of them."""
    entries = row.get("data") if isinstance(row, dict) else None
    named = [entry for entry in entries or [] if isinstance(entry, dict)]
    # A server of one model answers to any name.
    own = [entry for entry in named if entry.get("id") == model] or (named if len(named) == 1 else [])
    for entry in own:
        sources = [source for source in (entry, entry.get("meta")) if isinstance(source, dict)]
        found = (source.get(field) for field in CONTEXT_FIELDS for source in sources)
        return next((n for n in found if isinstance(n, int) and not isinstance(n, bool) and n > 0), None)
    return None


def _first(patterns: list[str], words: str) -> int | None:
    found = (re.search(pattern, words, re.IGNORECASE) for pattern in patterns)
    return next((int(match[1].replace(",", "")) for match in found if match is not None), None)
