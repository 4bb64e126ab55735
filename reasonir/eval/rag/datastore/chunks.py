"""Cuts texts into chunks of words or tokens.

Invariant: a chunk is a slice of its text; the slices of a text cover it from its first to its last character, and
without overlap they joined are the text. Reads and writes nothing.
"""

import re
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

WORD = re.compile(r"\S+")
Span = tuple[int, int]
"""First character of a slice, and the one after its last."""


def cut(starts: Sequence[int], length: int, size: int, overlap: int) -> list[Span]:
    """Return the slices of a text of `length` characters, `size` units each, the last up to that many.

    A chunk reaches to where the unit after it starts: white space between two belongs to the first.

    Args:
        starts: where each unit starts, in order.
        length: characters of the text.
        size: units of a slice, more than `overlap`.
        overlap: units that a chunk shares with the one before it, less than `size`.
    """
    spans = []
    # max: a text without units is one chunk. - overlap: a last window of nothing but the overlap would repeat the end.
    for first in range(0, max(1, len(starts) - overlap), size - overlap):
        stop = first + size
        # The first slice starts at 0, not at the first unit: slices cover leading white space too.
        spans.append((starts[first] if first else 0, starts[stop] if stop < len(starts) else length))
    return spans


def word_cutter(size: int, overlap: int) -> Callable[[str], list[Span]]:
    """Return a function that cuts a text into chunks of words, which white space parts."""
    return lambda text: cut([word.start() for word in WORD.finditer(text)], len(text), size, overlap)


def token_cutter(tokenizer: Any, size: int, overlap: int) -> Callable[[str], list[Span]]:
    """Return a function that cuts a text into chunks of tokens.

    A character of several tokens is not cut: all of it goes to the chunk that its last token falls in. Alone, a chunk
    may have a token more or less than within its text.

    Args:
        tokenizer: of the tokenizers library.
        size: tokens of a chunk.
        overlap: tokens that a chunk shares with the one before it, less than `size`.
    """

    def spans(text: str) -> list[Span]:
        offsets = tokenizer.encode(text, add_special_tokens=False).offsets
        # A running maximum, because `cut` needs starts in order whatever offsets a tokenizer reports.
        return cut(list(accumulate((start for start, _ in offsets), max)), len(text), size, overlap)

    return spans
