"""The training command on several ranks with its other choices: adapters, bf16, offload, quickstart."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from reasonir.model import Encoder
from tests.kit.launch import launch
from tests.kit.texts import SENTENCES, training_rows, write_rows

pytestmark = pytest.mark.seconds(60)  # launches of two ranks

STEPS = 4


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    rows = write_rows(tmp_path / "rows.jsonl", training_rows(24))
    return [
        f"data.files=[{rows}]", f"data.cache_dir={tmp_path}/cache",
        "model.vocabulary_size=400", "model.hidden_size=32", "model.intermediate_size=48", "model.layers=2",
        "model.heads=4", "model.key_value_heads=2", "query_max_tokens=40", "document_max_tokens=40",
        "global_batch_queries=4", "chunk_tokens=100", f"max_steps={STEPS}", "learning_rate=0.001", "warmup_steps=3",
    ]  # fmt: skip


def train(folder: Path, options: list[str], *more: str, ranks: int = 2) -> list[float]:
    """Run the command and return the loss of each step."""
    done = launch(ranks, ["-m", "reasonir.train", f"output_dir={folder}", *options, *more])
    assert done.returncode == 0, done.stdout[-4000:]
    said = done.stdout.replace("DeepSpeed's bucket", "")  # a line of the plan
    assert "Warning" not in said and "DeepSpeed" not in said, said
    return [json.loads(line)["train/loss_nats"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def worst(a: Path, b: Path) -> float:
    ours, theirs = load_file(a / "model" / "model.safetensors"), load_file(b / "model" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["zero3", "fsdp2", "zero2"])
def test_adapters_and_checkpointing_on_shards_export_a_merged_model(
    tmp_path: Path, options: list[str], engine: str
) -> None:
    # Ranks draw dropouts of their own.
    more = ["lora=dora", "lora.rank=4", "lora.dropout=0", "gradient_checkpointing=true", "precision=fp32"]
    alone, sharded = tmp_path / "alone", tmp_path / "sharded"
    train(alone, options, *more, ranks=1)
    train(sharded, options, *more, f"parallel={engine}")
    assert worst(alone, sharded) < 2e-6
    start = load_file(alone / "initial_model" / "model.safetensors")
    end = load_file(sharded / "model" / "model.safetensors")
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert moved and all("proj" in name for name in moved), "only linear layers carry adapters"
    assert (sharded / "adapters" / "adapter_model.safetensors").is_file()
    whole = Encoder.from_pretrained(str(sharded / "model")).encode(SENTENCES)
    assert np.isfinite(whole).all()


BF16 = ["precision=bf16"]
VARIANTS = {
    "ddp, gather in bf16": ["parallel=ddp", "parallel.gather_precision=bf16", "precision=fp32"],
    "fsdp2 in bf16": ["parallel=fsdp2", *BF16],
    "zero2, bf16 weights": ["parallel=zero2", "parallel.deepspeed.bf16.enabled=true", *BF16],
    "zero3, bf16 weights": ["parallel=zero3", "parallel.deepspeed.bf16.enabled=true", *BF16],
    "zero1 in bf16": ["parallel=zero1", *BF16],
    "zero2, offload": ["parallel=zero2_offload", "precision=fp32"],
    "zero3, offload": ["parallel=zero3_offload", "precision=fp32"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_other_number_formats_and_places_give_nearly_the_same_losses(
    tmp_path: Path, options: list[str], name: str
) -> None:
    alone = train(tmp_path / "alone", options, "precision=fp32", ranks=1)
    found = train(tmp_path / "variant", options, *VARIANTS[name])
    assert np.ptp(alone) > 0.1
    assert np.allclose(found, alone, rtol=1e-6 if "offload" in name else 1e-2)
    assert (found != alone) or "offload" in name


@pytest.mark.slow
def test_quickstart_on_two_ranks_reaches_the_same_score(tmp_path: Path) -> None:
    world = tmp_path / "world"
    assert launch(1, ["-m", "reasonir.quickstart", f"output_dir={world}"]).returncode == 0
    files = sorted(str(path) for path in (world / "train").glob("*.jsonl"))
    scores = {}
    for ranks, engine in ((1, "single"), (2, "zero2")):
        folder = tmp_path / engine
        arguments = ["-m", "reasonir.train", "+experiment=quickstart", f"parallel={engine}", f"output_dir={folder}"]
        done = launch(ranks, [*arguments, f"data.files=[{','.join(files)}]"], seconds=1_500)
        assert done.returncode == 0, done.stdout[-4000:]
        command = ["-m", "reasonir.eval", "bright", f"data.dir={world}", f"model.path={folder}/model"]
        more = ["query_max_tokens=1024", "document_max_tokens=256", f"output_dir={tmp_path}/{engine}-scores"]
        done = launch(1, [*command, *more], seconds=300)
        assert done.returncode == 0, done.stdout[-4000:]
        results = json.loads((tmp_path / f"{engine}-scores" / "results.json").read_text())
        scores[engine] = results["average"]["ndcg_at_10"]
    print(scores)
    assert scores["single"] > 0.5
    assert abs(scores["zero2"] - scores["single"]) <= 0.03
