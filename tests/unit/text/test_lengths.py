"""Counting tokens: the estimate against GPT-2's own, and a tokenizer's count as its own."""

import gzip
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from reasonir.core.errors import UserError
from reasonir.model.tiny import build_tokenizer
from reasonir.text.lengths import SAFE_BYTES, estimate_tokens, measure, open_counter
from tests.kit.shared import SHARED_DATA, requires_shared_data
from tests.kit.texts import SENTENCES


def test_the_estimate_counts_pieces() -> None:
    count = open_counter(None).count
    texts = ["", "Hello world", "internationalization", "f(x) == 12345;", "a\n\n    b", "snake_case"]
    assert count(texts) == [0, 2, 3, 9, 7, 3]
    assert measure(["one two three", "four"], open_counter(None)) == {
        "words_mean": 2, "words_median": 2, "tokens_mean": 2, "tokens_median": 2,
    }  # fmt: skip


def test_a_tokenizer_counts_without_its_marks_and_limits(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(SENTENCES, 300)
    tokenizer.model_max_length = 5
    tokenizer.backend_tokenizer.enable_truncation(5)
    tokenizer.save_pretrained(tmp_path / "t")
    plain = Tokenizer.from_file(str(tmp_path / "t" / "tokenizer.json"))
    plain.no_truncation()
    expected = [len(plain.encode(text, add_special_tokens=False).ids) for text in SENTENCES]
    for place in (tmp_path / "t", tmp_path / "t" / "tokenizer.json"):
        counter = open_counter(str(place))
        assert counter.count(SENTENCES) == expected and max(expected) > 5 and counter.by == "tokens of t"
    with pytest.raises(UserError, match="nowhere does not load"):
        open_counter(str(tmp_path / "nowhere"))


@pytest.mark.shared_data
@requires_shared_data
def test_the_estimate_lies_near_gpt2s_count_in_every_task() -> None:
    gpt2, estimate = open_counter(str(SHARED_DATA / "gpt2_bpe" / "tokenizer.json")), open_counter(None)
    assert gpt2.count(["Hello world"]) == [2]
    files = sorted((SHARED_DATA / "bright").glob("examples/*.jsonl.gz")) + sorted(
        (SHARED_DATA / "bright" / "rewritten").glob("*.jsonl")
    )
    compared = 0
    for file in files:
        with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as stream:
            texts = [json.loads(line)["query"] for _, line in zip(range(40), stream, strict=False)]
        if any(texts):
            compared += 1
            assert sum(estimate.count(texts)) == pytest.approx(sum(gpt2.count(texts)), rel=0.08), file.name
    assert compared == 17


def test_an_estimate_by_size_is_rounded_up():
    assert [estimate_tokens(size, SAFE_BYTES) for size in (0, 1, 3, 4)] == [0, 1, 1, 2]
