"""Sharded engines load a model in shards: a rank never holds more than its share and the largest weight."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reasonir.model.tiny import build_tiny
from tests.kit.launch import launch
from tests.kit.texts import SENTENCES, tiny_training

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
@pytest.mark.parametrize("engine", ["fsdp2", "zero3"])
def test_a_rank_holds_its_shard_and_the_largest_weight(tmp_path: Path, model: str, engine: str) -> None:
    out = tmp_path / "figures.json"
    done = launch(RANKS, ["-m", "tests.distributed.loading_worker", model, engine, str(out)], seconds=900)
    assert done.returncode == 0, done.stdout[-6000:]
    found = json.loads(out.read_text())
    shards, whole = ([rank["mib"] for rank in found[how]] for how in ("shards", "whole"))
    print(f"{engine}, {RANKS} ranks, {found['model_mib']:.0f} MiB: whole {whole}, in shards {shards}")
    assert found["model_mib"] > 240 and min(whole) > found["model_mib"]
    assert max(shards) <= found["model_mib"] / RANKS + found["largest_mib"] + BESIDE_MIB
    assert [rank["digest"] for rank in found["shards"]] == [rank["digest"] for rank in found["whole"]]


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "ablation"), [
    ("zero3", {"model.pool_instruction": "true"}),
    ("fsdp2", {"model.attention": "causal", "model.pooling": "last"}),
])  # fmt: skip
def test_a_run_that_was_loaded_in_shards_goes_on_byte_equal_and_is_written_as_asked(
    tmp_path: Path, engine: str, ablation: dict[str, str]
) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "layers": 2, "heads": 4, "key_value_heads": 2}
    build_tiny(SENTENCES, vocabulary_size=400, **sizes).save_pretrained(str(tmp_path / "base"))
    # Its tokenizer knows few words: texts are longer in tokens.
    options = [option for option in tiny_training(tmp_path, 4) if not option.startswith(("model.", "chunk_tokens"))]
    options += ["query_max_tokens=120", "document_max_tokens=120", "chunk_tokens=300"]
    options += ["model=folder", f"model.path={tmp_path}/base", f"parallel={engine}", "gradient_checkpointing=false"]
    options += [f"{name}={value}" for name, value in ablation.items()]
    for folder, ends in (("whole", (4,)), ("two", (2, 4))):
        for steps in ends:
            more = [f"max_steps={steps}", f"output_dir={tmp_path}/{folder}", "resume=true"]
            done = launch(2, ["-m", "reasonir.train", *options, *more], seconds=300)
            assert done.returncode == 0, done.stdout[-6000:]
    whole, two = (load_file(tmp_path / folder / "model" / "model.safetensors") for folder in ("whole", "two"))
    assert whole.keys() == two.keys() and all(torch.equal(whole[name], two[name]) for name in whole)
    written = json.loads((tmp_path / "two" / "model" / "reasonir.json").read_text())
    found = {"pools_prompt": written["pools_prompt"], **{name: written[name] for name in ("attention", "pooling")}}
    asked = {"model.pool_instruction": "pools_prompt", "model.attention": "attention", "model.pooling": "pooling"}
    assert all(str(found[asked[name]]).lower() == value for name, value in ablation.items())
