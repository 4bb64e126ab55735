"""The plot's arithmetic: labels keep apart, and the same curves give the same files."""

import random
from itertools import pairwise
from pathlib import Path

import pytest

from reasonir.core.errors import UserError
from reasonir.eval.rewrite.config import retriever_labels
from reasonir.eval.rewrite.plot import Curve, draw, spread_out


def test_labels_keep_apart_and_move_no_further_than_they_must() -> None:
    draw_from = random.Random(0)
    for _ in range(300):
        values = sorted(draw_from.choice([draw_from.uniform(0, 10), 5.0]) for _ in range(draw_from.randrange(1, 9)))
        places = spread_out(values, 1.0, 0.0, 10.0)
        assert all(b - a >= 1 - 1e-9 for a, b in pairwise(places))
        assert places[0] >= -1e-9 and places[-1] <= 10 + 1e-9
        alone = [n for n, v in enumerate(values) if all(abs(v - w) >= 8 for m, w in enumerate(values) if m != n)]
        assert all(places[n] == pytest.approx(values[n]) for n in alone if len(values) < 3)
    assert spread_out([1.0, 4.0], 1.0, 0.0, 10.0) == [1.0, 4.0]
    assert spread_out([4.0, 4.0], 1.0, 0.0, 10.0) == [3.5, 4.5]
    assert spread_out([0.0, 0.0], 1.0, 0.0, 10.0) == [0.0, 1.0]


@pytest.mark.parametrize("lines", [1, 2, 10])
def test_labels_do_not_overlap_in_the_drawing(tmp_path: Path, lines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read off the boxes of the texts as they were drawn."""
    from matplotlib import pyplot

    kept = []
    monkeypatch.setattr(pyplot, "close", kept.append)
    curves = [Curve(f"retriever number {n} of {'long' * n}", (30, n / 9), [60, 200], [1, 2 + n / 50], [0, 0.1 * n])
              for n in range(lines)]  # fmt: skip
    draw(tmp_path, curves, "tokens", "nDCG@10")
    (figure,) = kept
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text()]
    assert len(boxes) == lines
    boxes.sort(key=lambda box: box.y0)
    assert all(a.y1 <= b.y0 + 1 for a, b in pairwise(boxes))
    assert max(box.x1 for box in boxes) <= figure.bbox.x1 and figure.axes[0].xaxis.label.get_window_extent().x0 >= 0
    first = [(tmp_path / f"scaling.{kind}").read_bytes() for kind in ("png", "svg")]
    draw(tmp_path, curves, "tokens", "nDCG@10")
    assert [(tmp_path / f"scaling.{kind}").read_bytes() for kind in ("png", "svg")] == first
    monkeypatch.undo()
    pyplot.close("all")


def test_retrievers_get_names_fit_for_folders() -> None:
    given = ["bm25", "/a/run1/model", "/a/run2/model/", "org/name", "./x"]
    assert list(retriever_labels(given).values()) == ["bm25", "run1-model", "run2-model", "name", "x"]
    with pytest.raises(UserError, match="go by one name"):
        retriever_labels(["/a/model", "/a/model/"])
