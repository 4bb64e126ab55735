"""Held-out rows: never trained on, neither by their query nor by their answer, in whichever source they stand."""

from pathlib import Path

import numpy as np
import pytest

from reasonir.core.errors import UserError
from reasonir.core.files import write_jsonl
from reasonir.model import Encoder
from reasonir.train.data.batches import MixedBatches
from reasonir.train.data.hold_out import hold_out
from reasonir.train.data.token_store import TokenStore, open_token_store


@pytest.fixture
def stores(tiny: Encoder, tmp_path: Path) -> list[TokenStore]:
    """Two sources that share queries; three rows of the first share a positive; each query has two rows."""
    first = [
        {"query": ["find", f"q{i // 2}"], "pos": [f"p{i}" if i < 37 else "shared"], "neg": [f"n{i}", f"p{i - 1}"]}
        for i in range(40)
    ]
    second = [{"query": f"q{i}", "pos": [f"other {i}"]} for i in range(10, 30)]
    found = []
    for name, rows in (("first", first), ("second", second)):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
        found.append(open_token_store(str(tmp_path / f"{name}.jsonl"), None, tiny.template, 40, 40, tmp_path / "cache"))
    return found


def texts(store: TokenStore, indices: np.ndarray) -> set[int]:
    return set(store.arrays["text_hashes"][indices].tolist())


@pytest.mark.parametrize("seed", range(6))
def test_no_row_that_is_trained_on_has_a_held_out_query_or_answer(stores: list[TokenStore], seed: int) -> None:
    split = hold_out(stores, 0.2, 1_000, seed)
    held_queries, held_answers = set(), set()
    for store, rows in zip(stores, split.held_out, strict=True):
        held_queries |= texts(store, store.queries[rows])
        held_answers |= {h for row in rows for h in texts(store, store.listed("positive", row))}
    assert len(held_queries) == 6, "a fifth of 30 distinct queries"
    for store in split.training:
        assert not texts(store, store.queries) & held_queries
        assert not texts(store, store.arrays["positives"]) & held_answers
    rows = sum(store.rows for store in split.training) + sum(map(len, split.held_out)) + split.neither
    assert rows == sum(store.rows for store in stores)


def test_rows_leave_with_the_answer_that_they_share_and_are_counted(stores: list[TokenStore]) -> None:
    splits = [hold_out(stores, 0.2, 1_000, seed) for seed in range(20)]
    assert any(split.neither for split in splits) and any(not split.neither for split in splits)
    split = next(split for split in splits if split.neither)
    assert f"{split.neither} further rows share a positive" in split.lines[0]


def test_what_is_left_keeps_its_lists_and_has_a_key_of_its_own(stores: list[TokenStore]) -> None:
    split = hold_out(stores, 0.2, 1_000, 0)
    for whole, part in zip(stores, split.training, strict=True):
        lines = whole.arrays["lines"].tolist()
        for row, line in enumerate(part.arrays["lines"].tolist()):
            for kind in ("positive", "negative"):
                assert (part.listed(kind, row) == whole.listed(kind, lines.index(line))).all()
        assert part.key != whole.key
    fingerprints = {MixedBatches(hold_out(stores, s, m, n).training, None, 4, 1, 0).fingerprint
                    for s, m, n in ((0.0, 9, 0), (0.2, 9, 0), (0.2, 9, 1), (0.2, 2, 0))}  # fmt: skip
    assert len(fingerprints) == 4
    assert MixedBatches(split.training, None, 4, 1, 0).batch(0).row_names


def test_a_share_of_zero_changes_nothing_and_a_limit_holds(stores: list[TokenStore]) -> None:
    nothing = hold_out(stores, 0.0, 1, 0)
    assert nothing.training == stores and nothing.lines == []
    assert sum(map(len, nothing.held_out)) == 0
    few = hold_out(stores, 0.9, 2, 0)
    held = [texts(s, s.queries[rows]) for s, rows in zip(stores, few.held_out, strict=True)]
    assert len(set().union(*held)) == 2


def test_a_share_that_leaves_nothing_to_train_on_is_refused(stores: list[TokenStore]) -> None:
    with pytest.raises(UserError, match=r"dev\.share=0\.99 leaves no row of .*first\.jsonl"):
        hold_out(stores, 0.99, 1_000, 0)
