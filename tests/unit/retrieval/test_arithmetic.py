"""The precision of encoding: measured once for a cache, alike for all ranks, part of the cache's key, said once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from reasonir.model.encoder import Encoder
from reasonir.model.folders import save_encoder
from reasonir.model.tiny import build_tiny
from reasonir.model.trunk import precision
from reasonir.retrieval import arithmetic
from reasonir.retrieval.arithmetic import encoding_precision
from reasonir.retrieval.ranking import DenseSearch
from tests.kit.texts import SENTENCES

SIZES = {"hidden_size": 32, "intermediate_size": 48, "layers": 1, "heads": 2, "key_value_heads": 1}


def measured(monkeypatch: pytest.MonkeyPatch, speedup: Callable[[], float]) -> None:
    """Let bfloat16 products gain here, and timing a chunk give this."""
    monkeypatch.setattr(precision, "bf16_speedup_of_products", lambda: 9.0)
    monkeypatch.setattr(precision, "bf16_speedup_of_chunk", lambda trunk, backward: speedup())


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the next measurements of the speed-up will give; none may be left out."""
    values: list[float] = []
    measured(monkeypatch, lambda: values.pop(0))
    return values


@pytest.fixture(scope="module")
def model() -> Encoder:
    return build_tiny(SENTENCES, vocabulary_size=400, **SIZES)


def test_a_processor_is_measured_once_for_a_cache(tmp_path: Path, model: Encoder, speed: list[float]) -> None:
    speed += [5.0, 1.0]
    assert encoding_precision("auto", model, tmp_path / "a")[0] == "bf16"
    assert encoding_precision("auto", model, tmp_path / "b")[0] == "fp32"
    for _ in range(2):  # nothing is left to measure
        assert encoding_precision("auto", model, tmp_path / "a")[0] == "bf16"
        assert encoding_precision("auto", model, tmp_path / "b")[0] == "fp32"
    for asked in ("fp32", "bf16"):
        chosen, notice = encoding_precision(asked, model, tmp_path / "a")
        assert chosen == asked and notice.line == ""
    (kept,) = (tmp_path / "a").iterdir()
    kept.write_text("{")
    speed.append(1.0)
    assert encoding_precision("auto", model, tmp_path / "a")[0] == "fp32"


def test_of_ranks_that_measure_at_once_the_first_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Encoder, speed: list[float]
) -> None:
    def slow() -> float:
        """Another rank is done while this one measures."""
        measured(monkeypatch, lambda: 4.0)
        assert encoding_precision("auto", model, tmp_path)[0] == "bf16"
        return 2.0

    measured(monkeypatch, slow)
    assert encoding_precision("auto", model, tmp_path)[0] == "bf16" and len(list(tmp_path.iterdir())) == 1


def test_ranks_on_several_machines_do_not_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Encoder, speed: list[float]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    chosen, notice = encoding_precision("auto", model, tmp_path)
    assert chosen == "fp32" and "several machines" in notice.line and not list(tmp_path.iterdir())
    speed.append(9.0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert encoding_precision("auto", model, tmp_path)[0] == "bf16"


def test_another_processor_and_another_model_are_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Encoder, speed: list[float]
) -> None:
    speed += [5.0, 1.0, 1.05]
    assert encoding_precision("auto", model, tmp_path)[0] == "bf16"
    other = build_tiny(SENTENCES, vocabulary_size=400, **SIZES | {"layers": 2})
    assert encoding_precision("auto", other, tmp_path)[0] == "fp32"
    assert encoding_precision("auto", build_tiny(SENTENCES, vocabulary_size=400, **SIZES), tmp_path)[0] == "bf16"
    monkeypatch.setattr(arithmetic, "_processor", lambda: "another")
    assert encoding_precision("auto", model, tmp_path)[0] == "fp32"


def test_embeddings_of_each_precision_have_their_place_and_the_choice_is_said_once(
    tmp_path: Path, model: Encoder, speed: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    save_encoder(model, str(tmp_path / "model"), query_instruction="")
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
        assert said.count("texts are encoded in bf16 (a chunk runs 5.0 x as fast") == (asked == "auto")
        assert said.count("\n") == (asked == "auto")
    assert [found[asked][0].reused for asked in found] == [False, True, False]
    low, full = found["auto"][0].embeddings, found["fp32"][0].embeddings
    assert (low == found["bf16"][1].embeddings).all()
    assert 0 < abs(low - full).max() < 0.05
