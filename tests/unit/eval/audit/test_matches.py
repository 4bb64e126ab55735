"""Pairs of a row and a flagged text: by equality, by shared n-grams, the closest one, and those beyond the limit."""

from reasonir.eval.audit.matches import Flagged, Matches
from reasonir.eval.audit.training_texts import RowBatch, RowText
from reasonir.text.ngrams import TextHasher

HASHER = TextHasher(2)
TEXT = "one two three four five"


def flag(text: str, share: float) -> Flagged:
    hashed, flagged = HASHER.hash([text]), Flagged()
    flagged.add(("task", "gold", "d"), text, hashed.ngrams, int(hashed.exact[0]), share, is_seed=False)
    flagged.index()
    return flagged


def batch(*texts: str) -> RowBatch:
    rows = [RowText(f"row {i}", f"f:{i}", 1, text) for i, text in enumerate(texts)]
    return RowBatch("f", len(rows), rows, HASHER.hash(texts), [])


def test_pairs_by_equality_and_by_ngrams() -> None:
    matches = Matches(flag(TEXT, 1.0), 2, 0.5, per_text=5)
    found = list(matches.find([batch("ONE two, three four five!", "zero one two three", "nothing of it")]))
    assert [(row["row"], row["kind"], row["overlap"]) for row in found] == [
        ("row 0", "exact", 1.0), ("row 1", "ngram", 0.5),
    ]  # fmt: skip
    assert found[1]["shared"] == "one two" and matches.left_out == 0


def test_pairs_beyond_the_limit_are_counted() -> None:
    matches = Matches(flag(TEXT, 1.0), 2, 0.5, per_text=2)
    assert len(list(matches.find([batch(*[f"one two three x{i}" for i in range(5)])]))) == 2
    assert matches.left_out == 3


def test_the_closest_row_stands_for_several_that_reach_the_threshold_together() -> None:
    matches = Matches(flag(TEXT, 0.75), 2, 0.7, per_text=5)
    (row,) = matches.find([batch("two three", "three four five")])
    assert row["row"] == "row 1" and row["overlap"] == 0.5 and row["overlap_with_all_rows"] == 0.75
    assert list(Matches(flag(TEXT, 0.6), 2, 0.7, per_text=5).find([batch("two three")])) == [], "below the threshold"
