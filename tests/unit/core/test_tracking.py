"""The figure of a run and TensorBoard's files, also of a run that goes on after a kill."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from reasonir.core.tracking import curves
from reasonir.core.tracking.curves import draw_curves
from reasonir.core.tracking.metrics_log import MetricsLog

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(kw_only=True, slots=True)
class Options:
    output_dir: str
    seed: int = 7


def row(step: int, loss: float | None, **more: float) -> dict:
    return {"step": step, "train/loss_nats": loss, "train/learning_rate": 1e-3, "train/source": "rows.jsonl"} | more


def size(path: Path) -> tuple[int, int]:
    """Return (width, height) of a PNG file in pixels."""
    head = path.read_bytes()[:24]
    assert head[:8] == PNG
    return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])


def test_a_kind_of_number_is_a_panel_where_it_was_measured(tmp_path, monkeypatch):
    shown = []
    real = curves._draw
    monkeypatch.setattr(curves, "_draw", lambda path, panels: (shown.append(panels), real(path, panels)))
    plain = [row(1, 2.0), row(2, None), row(3, 1.0)]
    draw_curves(tmp_path / "plain.png", plain)
    dev = [*plain, row(4, 0.5, **{"dev/loss_nats": 0.7, "dev/ndcg_at_10": 0.4, "train/grad_norm": 1.0})]
    draw_curves(tmp_path / "dev.png", dev)
    assert dict(shown[0]) == {
        "loss, nats": {"training": [(1, 2.0), (3, 1.0)]}, "learning rate": {"": [(1, 1e-3), (2, 1e-3), (3, 1e-3)]},
    }  # fmt: skip
    assert [title for title, _ in shown[1]] == ["loss, nats", "nDCG@10", "learning rate", "gradient norm"]
    assert dict(shown[1])["loss, nats"]["dev"] == [(4, 0.7)]
    (narrow, height), (wide, same) = size(tmp_path / "plain.png"), size(tmp_path / "dev.png")
    assert height == same and abs(wide - 2 * narrow) <= 2
    draw_curves(tmp_path / "none.png", [])
    assert not (tmp_path / "none.png").exists(), "nothing was measured"


def test_a_figure_that_cannot_be_drawn_ends_no_run(tmp_path, capsys):
    log = MetricsLog(tmp_path, None, first_step=0, tracking="none")
    (tmp_path / "metrics.png").mkdir()
    log.append(row(1, 2.0))
    log.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("metrics.png was not drawn, metrics.jsonl holds the numbers: ")


@pytest.mark.seconds(20)
def test_tensorboards_own_reader_finds_every_step_once(tmp_path):
    """The first process dies after step 3, of which its checkpoint knows nothing; the second goes on after step 2."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = Options(output_dir=str(tmp_path))
    killed = MetricsLog(tmp_path, options, first_step=0, tracking="tensorboard")
    for step, loss in ((1, 3.0), (2, 2.5), (3, 99.0)):
        killed.append(row(step, loss))
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert len(found.Scalars("train/loss_nats")) == 3, "what a killed process has measured is on the disk"
    killed._stream.close()
    log = MetricsLog(tmp_path, options, first_step=2, tracking="tensorboard")
    log.append(row(3, None, **{"dev/ndcg_at_10": 0.25}))
    log.append(row(4, 1.5))
    log.summarise([{"path": "rows.jsonl", "rows_drawn": 16}])
    log.close()
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in found.Scalars("train/loss_nats")]
    assert losses == [(1, 3.0), (2, 2.5), (4, 1.5)]
    assert [(event.step, event.value) for event in found.Scalars("dev/ndcg_at_10")] == [(3, 0.25)]
    assert set(found.Tags()["scalars"]) == {"train/loss_nats", "train/learning_rate", "dev/ndcg_at_10"}
    texts = {tag: found.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in found.Tags()["tensors"]}
    assert "seed: 7" in texts["options/text_summary"]
    assert "| rows.jsonl | 16 |" in texts["sources/text_summary"]
    assert size(tmp_path / "metrics.png")[0] > 100
