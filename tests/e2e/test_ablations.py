"""Training with another attention or pooling: resumed, prepared, on two ranks; byte-equal where nothing is changed."""

import json
from pathlib import Path

import numpy as np
import pytest

from reasonir.model import Encoder
from reasonir.train.cli import main
from tests.kit.launch import launch
from tests.kit.texts import INSTRUCTION, SENTENCES, tiny_training

DEFAULTS = ["model.template=reasonir", "model.attention=bidirectional", "model.pooling=mean",
            "model.pool_instruction=false"]  # fmt: skip
LAST = ["model.attention=causal", "model.pooling=last"]


def train(folder: Path, *options: str) -> None:
    with pytest.raises(SystemExit) as done:
        main([*options, f"output_dir={folder}"])
    assert done.value.code == 0


def written(run: Path) -> dict[str, bytes]:
    """The files of the finished model, without the card and what transformers notes of where a tokenizer came from."""
    others = ("README.md", "tokenizer_config.json")
    files = [file for file in (run / "model").rglob("*") if file.is_file() and file.name not in others]
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


@pytest.mark.seconds(20)
def test_defaults_spelled_out_are_the_run_without_them_byte_for_byte(tmp_path: Path) -> None:
    options = tiny_training(tmp_path, 2)
    train(tmp_path / "plain", *options)
    train(tmp_path / "spelled", *options, *DEFAULTS)
    plain, spelled = written(tmp_path / "plain"), written(tmp_path / "spelled")
    assert plain == spelled and {"model/model.safetensors", "model/reasonir.json"} <= plain.keys()
    train(tmp_path / "pooled", *options, "model.pool_instruction=true")
    assert written(tmp_path / "pooled")["model/model.safetensors"] != plain["model/model.safetensors"]


@pytest.mark.seconds(30)
def test_an_ablation_survives_a_stop_and_finds_its_prepared_tokens(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    options = [*tiny_training(tmp_path, 4), *LAST, f"data.cache_dir={cache}"]
    with pytest.raises(SystemExit):
        main(["prepare", *options, f"output_dir={tmp_path}/whole"])
    made = {file: file.stat().st_mtime_ns for file in cache.rglob("*")}
    train(tmp_path / "whole", *options)
    train(tmp_path / "two", *options, "max_steps=2")
    train(tmp_path / "two", *options, "resume=true")
    assert {file: file.stat().st_mtime_ns for file in cache.rglob("*")} == made
    assert written(tmp_path / "two") == written(tmp_path / "whole")
    model = tmp_path / "two" / "model"
    config, card = (json.loads((model / name).read_text()) for name in ("config.json", "reasonir.json"))
    assert config["is_causal"] is True and (card["attention"], card["pooling"]) == ("causal", "last")
    encoder = Encoder.from_pretrained(f"{tmp_path}/two/model")
    ends = [text.ids[-1] for text in encoder.template.encode([(INSTRUCTION, text) for text in SENTENCES], 40)]
    assert {*ends} == {encoder.tokenizer.eos_token_id}
    with pytest.raises(SystemExit) as refused:
        main([*options, f"output_dir={tmp_path}/two", "resume=true", "model.pooling=mean"])
    assert refused.value.code == 2


@pytest.mark.slow
@pytest.mark.parametrize("more", [["model.template=qwen3"], ["model.pooling=cls"]], ids=str)
def test_ranks_beside_the_first_read_a_new_model_as_it_was_built(tmp_path: Path, more: list[str]) -> None:
    options = [*tiny_training(tmp_path, 3), "model.dropout=0", *more]
    train(tmp_path / "one", *options)
    done = launch(2, ["-m", "reasonir.train", *options, "parallel=ddp", f"output_dir={tmp_path}/two"], seconds=300)
    assert done.returncode == 0, done.stdout[-6000:]
    one, two = (
        [json.loads(line)["train/loss_nats"] for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("one", "two")
    )
    assert np.abs(np.array(one) - np.array(two)).max() < 1e-5 and len(one) == 3
