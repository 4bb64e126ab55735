"""Sharded engines load a model in shards: a rank never holds more than its share and the largest weight."""

import json
from pathlib import Path

import pytest
import torch

from reasonir.model.tiny import build_tiny
from tests.kit.launch import launch
from tests.kit.texts import SENTENCES

RANKS = 4
BESIDE_MIB = 16
"""Headers of files, modules, DeepSpeed's own objects, freed memory that the allocator keeps."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of 244 MiB in float32."""
    path = tmp_path_factory.mktemp("loading") / "model"
    sizes = {"hidden_size": 768, "intermediate_size": 2688, "layers": 8, "heads": 8, "key_value_heads": 4}
    encoder = build_tiny(SENTENCES, vocabulary_size=400, **sizes)
    encoder.trunk.to(torch.bfloat16)
    encoder.save_pretrained(str(path))
    return str(path)


@pytest.mark.slow
def test_a_rank_holds_its_shard_and_the_largest_weight(tmp_path: Path, model: str) -> None:
    engine = "fsdp2"
    out = tmp_path / "figures.json"
    done = launch(RANKS, ["-m", "tests.distributed.loading_worker", model, engine, str(out)], seconds=900)
    assert done.returncode == 0, done.stdout[-6000:]
    found = json.loads(out.read_text())
    shards, whole = ([rank["mib"] for rank in found[how]] for how in ("shards", "whole"))
    print(f"{engine}, {RANKS} ranks, {found['model_mib']:.0f} MiB: whole {whole}, in shards {shards}")
    assert found["model_mib"] > 240 and min(whole) > found["model_mib"]
    assert max(shards) <= found["model_mib"] / RANKS + found["largest_mib"] + BESIDE_MIB
    assert [rank["digest"] for rank in found["shards"]] == [rank["digest"] for rank in found["whole"]]
