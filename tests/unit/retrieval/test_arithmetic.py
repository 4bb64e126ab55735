"""The precision of encoding: measured once for a cache, alike for all ranks, part of the cache's key, said once."""

from pathlib import Path

import pytest
import torch

from reasonir.model.folders import save_encoder
from reasonir.model.tiny import build_tiny
from reasonir.model.trunk import precision
from reasonir.retrieval import arithmetic
from reasonir.retrieval.arithmetic import encoding_precision
from reasonir.retrieval.ranking import DenseSearch
from tests.kit.texts import SENTENCES

CPU = torch.device("cpu")


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the next measurements of the speed-up will give; none may be left out."""
    values: list[float] = []
    monkeypatch.setattr(precision, "bf16_speedup", lambda: values.pop(0))
    return values


def test_a_processor_is_measured_once_for_a_cache(tmp_path: Path, speed: list[float]) -> None:
    speed += [5.0, 1.0]
    assert encoding_precision("auto", CPU, tmp_path / "a")[0] == "bf16"
    assert encoding_precision("auto", CPU, tmp_path / "b")[0] == "fp32"
    for _ in range(2):  # nothing is left to measure
        assert encoding_precision("auto", CPU, tmp_path / "a")[0] == "bf16"
        assert encoding_precision("auto", CPU, tmp_path / "b")[0] == "fp32"
    for asked in ("fp32", "bf16"):
        chosen, notice = encoding_precision(asked, CPU, tmp_path / "a")
        assert chosen == asked and notice.line == ""
    (kept,) = (tmp_path / "a").iterdir()
    kept.write_text("{")
    speed.append(1.0)
    assert encoding_precision("auto", CPU, tmp_path / "a")[0] == "fp32"


def test_of_ranks_that_measure_at_once_the_first_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speed: list[float]
) -> None:
    def slow() -> float:
        """Another rank is done while this one measures."""
        monkeypatch.setattr(precision, "bf16_speedup", lambda: 4.0)
        assert encoding_precision("auto", CPU, tmp_path)[0] == "bf16"
        return 2.0

    monkeypatch.setattr(precision, "bf16_speedup", slow)
    assert encoding_precision("auto", CPU, tmp_path)[0] == "bf16" and len(list(tmp_path.iterdir())) == 1


def test_ranks_on_several_machines_do_not_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speed: list[float]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    chosen, notice = encoding_precision("auto", CPU, tmp_path)
    assert chosen == "fp32" and "several machines" in notice.line and not list(tmp_path.iterdir())
    speed.append(9.0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert encoding_precision("auto", CPU, tmp_path)[0] == "bf16"


def test_another_processor_is_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speed: list[float]
) -> None:
    speed += [5.0, 1.0]
    assert encoding_precision("auto", CPU, tmp_path)[0] == "bf16"
    monkeypatch.setattr(arithmetic, "_processor", lambda: "another")
    assert encoding_precision("auto", CPU, tmp_path)[0] == "fp32"


def test_embeddings_of_each_precision_have_their_place_and_the_choice_is_said_once(
    tmp_path: Path, speed: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "layers": 1, "heads": 2, "key_value_heads": 1}
    save_encoder(build_tiny(SENTENCES, vocabulary_size=400, **sizes), str(tmp_path / "model"), query_instruction="")
    speed.append(5.0)
    found = {}
    for asked in ("auto", "bf16", "fp32"):
        search = DenseSearch.load(
            str(tmp_path / "model"), template="auto", device="cpu", document_max_tokens=None, query_max_tokens=None,
            precision=asked, cache_dir=tmp_path / "cache", chunk_tokens=None,
        )  # fmt: skip
        assert capsys.readouterr().err == "", "nothing is said before there is work"
        found[asked] = [search.embed(search.document_job(SENTENCES), "texts") for _ in range(2)]
        said = capsys.readouterr().err
        assert said.count("texts are encoded in bf16 (bf16 products run 5.0 x as fast") == (asked == "auto")
        assert said.count("\n") == (asked == "auto")
    assert [found[asked][0].reused for asked in found] == [False, True, False]
    low, full = found["auto"][0].embeddings, found["fp32"][0].embeddings
    assert (low == found["bf16"][1].embeddings).all()
    assert 0 < abs(low - full).max() < 0.05
