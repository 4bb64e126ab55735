"""`negatives.drop_above` in the command: a column of counts where it is given, the bytes of before where it is not."""

import json
from pathlib import Path

import pytest

from reasonir.train import loop
from reasonir.train.cli import main
from reasonir.train.config import DropBy
from reasonir.train.objectives.false_negatives import DropAbove
from tests.kit.texts import tiny_training

COLUMN = "train/dropped_negatives"


def train(folder: Path, options: list[str]) -> tuple[list[dict[str, float]], bytes]:
    """Return the rows of metrics.jsonl and the weights."""
    with pytest.raises(SystemExit) as ended:
        main([f"output_dir={folder}", *options])
    assert ended.value.code == 0
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return rows, (folder / "model" / "model.safetensors").read_bytes()


@pytest.mark.seconds(20)
def test_dropped_negatives_are_counted_in_every_step(tmp_path: Path) -> None:
    options = tiny_training(tmp_path, 3)
    plain, weights = train(tmp_path / "plain", options)
    assert all(COLUMN not in row for row in plain)
    # A limit above every cosine drops nothing, and the sums are the same.
    high, same = train(tmp_path / "high", [*options, "negatives.drop_above=2", "negatives.drop_by=margin"])
    assert [row[COLUMN] for row in high] == [0, 0, 0] and same == weights
    some, other = train(tmp_path / "some", [*options, "negatives.drop_above=0.95"])
    assert all(isinstance(row[COLUMN], int) and row[COLUMN] > 0 for row in some) and other != weights
    assert [row["train/loss_nats"] for row in some] != [row["train/loss_nats"] for row in plain]


def test_share_and_margin_become_the_rule() -> None:
    def rule(drop_above: float, drop_by: DropBy) -> DropAbove:
        return loop._choose_objective(0.02, drop_above, drop_by).keywords["drop"]

    assert rule(0.95, DropBy.share) == DropAbove(share=0.95, margin=0.0)
    assert rule(0.1, DropBy.margin) == DropAbove(share=1.0, margin=0.1)
    assert loop._choose_objective(0.02, None, DropBy.share).func is loop.info_nce
