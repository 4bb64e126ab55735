"""How long texts are, in words and tokens: counted by a tokenizer, or estimated where there is none.

There are two kinds of estimate. `open_counter(None)` looks at the text and is right within 6 %. `estimate_tokens`
divides a size, for places where the text is not at hand or its size decides. Says with every figure who counted.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from reasonir.core.errors import UserError

# Stands for one token: up to eight letters, two digits, two signs, a line break, a space before white space. Its
# count lies within 6 % of GPT-2's in each of ten BRIGHT tasks, for queries as for their rewritings.
PIECE = re.compile(r"[^\W\d_]{1,8}|\d{1,2}|(?:[^\w\s]|_){1,2}|[^\S ]| (?=\s)")
ESTIMATE = "GPT-2's tokens, estimated"
# Characters a token, OpenAI's rule of thumb for English, where a server does not count its tokens. Enters the budget
# and the reported cost alone, so that the mean is taken.
COUNTED_CHARACTERS = 4
# UTF-8 bytes a token, for prompts that must fit. English has about 4 a token, code 3, Chinese 3 to 4. The lowest is
# taken, because a prompt that is too long is refused by the server and one that is shorter than need be is not.
SAFE_BYTES = 3
# UTF-8 bytes a token of English prose: GPT-2's tokens in a textbook of 2.7 MB. For plans of whole corpora.
ENGLISH_BYTES = 4.6


@dataclass(frozen=True, slots=True)
class Counter:
    """Counts the tokens of texts. by: who counts, for the reader."""

    by: str
    count: Callable[[Sequence[str]], list[int]]


def estimate_tokens(size: float, per_token: float) -> int:
    """Return the tokens of a text by its size, rounded up.

    Args:
        size: In characters or UTF-8 bytes, whichever `per_token` is about.
        per_token: `COUNTED_CHARACTERS`, `SAFE_BYTES` or `ENGLISH_BYTES`.
    """
    return math.ceil(size / per_token)


def cut_estimated(text: str, tokens: int) -> str:
    """Return the first tokens of a text, as many as `open_counter(None)` counts there at most."""
    for number, piece in enumerate(PIECE.finditer(text)):
        if number == tokens:
            return text[: piece.start()].rstrip()
    return text


def open_counter(tokenizer: str | None) -> Counter:
    """Return who counts tokens: a tokenizer (folder, tokenizer.json or hub id), or the estimate for None.

    Raises:
        UserError: a tokenizer that does not load.
    """
    if tokenizer is None:
        return Counter(ESTIMATE, lambda texts: [len(PIECE.findall(text)) for text in texts])
    return _counter_of(tokenizer, open_tokenizer(tokenizer))


def open_tokenizer(tokenizer: str) -> Any:
    """Return a tokenizer of the tokenizers library that neither cuts nor pads.

    Args:
        tokenizer: folder, tokenizer.json or hub id.
    Raises:
        UserError: it does not load.
    """
    try:
        if tokenizer.endswith(".json"):
            from tokenizers import Tokenizer

            opened = Tokenizer.from_file(tokenizer)
        else:
            from transformers import AutoTokenizer

            opened = AutoTokenizer.from_pretrained(tokenizer).backend_tokenizer
        # A tokenizer.json may cut and pad: all-MiniLM-L6-v2's cuts at 128 tokens.
        opened.no_truncation()
        opened.no_padding()
    except Exception as error:  # tokenizers raises plain Exception
        raise UserError(f"tokenizer={tokenizer} does not load: {' '.join(str(error).split())[:200]}") from error
    return opened


def _counter_of(name: str, tokenizer: Any) -> Counter:
    def count(texts: Sequence[str]) -> list[int]:
        return [len(encoding.ids) for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    place = Path(name)
    return Counter(f"tokens of {place.parent.name if place.suffix == '.json' else place.name}", count)


def measure(texts: Sequence[str], counter: Counter) -> dict[str, float]:
    """Return mean and median of the texts' words and tokens."""
    words, tokens = [len(text.split()) for text in texts], counter.count(texts)
    return {
        "words_mean": fmean(words),
        "words_median": median(words),
        "tokens_mean": fmean(tokens),
        "tokens_median": median(tokens),
    }
