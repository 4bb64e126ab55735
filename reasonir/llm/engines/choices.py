"""Restricts an answer of one token to given texts, on servers that tell the tokens of a text (vLLM's `/tokenize`).

With `logprob_token_ids` vLLM reports exactly these tokens, with the log-probabilities of the model's own distribution,
taken before `allowed_token_ids` rules the others out. Older versions report their likeliest tokens instead, as all
other servers do. No network here.
"""

from collections.abc import Sequence
from typing import Any


def tokenize_address(url: str) -> str:
    """Return where a server tells the tokens of a text: beside the root of its API."""
    return url.rstrip("/").removesuffix("/v1") + "/tokenize"


def tokenize_body(model: str, text: str) -> dict[str, Any]:
    """Return the body of the question for a text's tokens."""
    return {"model": model, "prompt": text, "add_special_tokens": False}


def read_single_token(row: Any) -> int | None:
    """Return the token that the answer (parsed JSON) names; None where it names none, or several."""
    tokens = row.get("tokens") if isinstance(row, dict) else None
    if not isinstance(tokens, list) or len(tokens) != 1 or not isinstance(tokens[0], int):
        return None
    return tokens[0]


def restricting_fields(tokens: Sequence[int]) -> dict[str, Any]:
    """Return the fields of a request that restrict its answer to these tokens."""
    return {"allowed_token_ids": list(tokens), "logprob_token_ids": list(tokens)}
