"""Chunks: what a text loses by being cut is nothing, what chunks share is what was asked for."""

import itertools
import random

import pytest

from reasonir.eval.rag.datastore.chunks import token_cutter, word_cutter
from reasonir.model import Encoder

PIECES = ["a", "water", "Übergröße", "漢字", "🙂", "it's", "x" * 40]
SPACES = [" ", "  ", "\n\n", "\t", " \u00a0", "\u2003"]
SIZES = [(1, 0), (2, 1), (3, 0), (5, 2), (7, 6), (50, 10)]


def random_text(draw: random.Random, words: int) -> str:
    edges = [draw.choice(["", *SPACES]), draw.choice(["", *SPACES])]
    inside = "".join(draw.choice(PIECES) + draw.choice(SPACES) for _ in range(words))
    return edges[0] + inside.rstrip() + edges[1]


@pytest.mark.parametrize(("size", "overlap"), SIZES)
def test_chunks_of_words_are_windows_over_the_words(size: int, overlap: int) -> None:
    draw = random.Random(size)
    for count in range(1, 40):
        text = random_text(draw, count)
        words = text.split()
        assert len(words) == count
        chunks = [text[slice(*span)] for span in word_cutter(size, overlap)(text)]
        # The definition, word for word: windows at every (size - overlap)th word until the last word is in one.
        windows = [words[:size]]
        while windows[-1][-1:] != words[-1:] or sum(map(len, windows)) - overlap * (len(windows) - 1) < count:
            first = len(windows) * (size - overlap)
            windows.append(words[first : first + size])
        assert [chunk.split() for chunk in chunks] == windows
        assert all(chunk in text for chunk in chunks)
        if overlap == 0:
            assert "".join(chunks) == text


def test_chunks_of_tokens_cover_the_text_and_share_what_was_asked(tiny: Encoder) -> None:
    tokenizer = tiny.tokenizer.backend_tokenizer
    cut_characters = 0
    for (size, overlap), count in itertools.product(SIZES, range(1, 25)):
        text = random_text(random.Random(count), count)
        starts = [start for start, _ in tokenizer.encode(text, add_special_tokens=False).offsets]
        cut_characters += len(starts) - len({*starts})
        spans = token_cutter(tokenizer, size, overlap)(text)
        assert spans[0][0] == 0 and spans[-1][1] == len(text)
        if overlap == 0:
            assert "".join(text[slice(*span)] for span in spans) == text
        for number, (start, stop) in enumerate(spans):
            first = number * (size - overlap)
            assert start == (starts[first] if number else 0)
            assert stop == (starts[first + size] if first + size < len(starts) else len(text))
        assert first + size >= len(starts), "the last chunk holds the last token"
        assert len(spans) == 1 or first + overlap < len(starts), "and one that the chunk before it lacks"
    assert cut_characters > 100, "no character of several tokens was tried"


def test_a_text_without_words_is_one_chunk() -> None:
    assert word_cutter(3, 1)("") == [(0, 0)] and word_cutter(3, 1)(" \n ") == [(0, 3)]
