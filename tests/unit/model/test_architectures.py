"""Stock folders of many architectures load, bidirectional, packed equal to padded, and survive save and load."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, BertTokenizerFast, ModernBertConfig

from reasonir.core.errors import UserError
from reasonir.model import Encoder
from reasonir.model.tiny import build_tokenizer
from reasonir.model.trunk.attention import Segments
from reasonir.model.trunk.bidirectional import Attention, forward_packed, probe_leakage
from tests.kit.smollm2 import MODEL, needs_smollm2
from tests.kit.texts import INSTRUCTION, SENTENCES

SMALL = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
DECODERS = {
    "llama": ("LlamaConfig", {}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 8}),
    "mistral": ("MistralConfig", {"sliding_window": None}),
    "mistral_window": ("MistralConfig", {"sliding_window": 6}),
    "gemma": ("GemmaConfig", {"head_dim": 8}),
    "gemma2": ("Gemma2Config", {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8}),
    "phi3": ("Phi3Config", {}),
}


def write_decoder(folder, kind):
    name, more = DECODERS[kind]
    config = getattr(transformers, name)(**{**SMALL, **more})
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    build_tokenizer(SENTENCES, 400).save_pretrained(folder)


def write_encoder(folder, kind):
    torch.manual_seed(1)
    if kind == "bert":
        letters = [f"{mark}{chr(c)}" for mark in ("", "##") for c in range(97, 123)]
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
        (folder / "vocab.txt").write_text("\n".join(vocabulary))
        BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
        config = BertConfig(**{**SMALL, "vocab_size": len(vocabulary), "pad_token_id": 0, "num_key_value_heads": None})
    else:
        build_tokenizer(SENTENCES, 400).save_pretrained(folder)
        small = {name: value for name, value in SMALL.items() if name != "num_key_value_heads"}
        config = ModernBertConfig(
            **small, local_attention=12, global_attn_every_n_layers=2, cls_token_id=0, sep_token_id=1
        )
    AutoModel.from_config(config).save_pretrained(folder)


@pytest.mark.parametrize("kind", [*DECODERS, "bert", "modernbert"])
def test_a_stock_folder_embeds_packed_as_padded_and_survives_saving(tmp_path, kind):
    source = tmp_path / "stock"
    source.mkdir()
    (write_decoder if kind in DECODERS else write_encoder)(source, kind)
    encoder = Encoder.from_pretrained(str(source))
    style = "reasonir" if kind in DECODERS else "plain"
    assert encoder.template.style == style
    together = encoder.encode(SENTENCES, INSTRUCTION, max_tokens=120)
    alone = np.concatenate([encoder.encode([text], INSTRUCTION, max_tokens=120) for text in SENTENCES])
    assert np.abs(together - alone).max() < 1e-5
    assert_padded_agrees(encoder)
    encoder.save_pretrained(str(tmp_path / "saved"))
    again = Encoder.from_pretrained(str(tmp_path / "saved"))
    assert np.array_equal(together, again.encode(SENTENCES, INSTRUCTION, max_tokens=120))
    if kind in DECODERS:
        assert json.loads((tmp_path / "saved" / "config.json").read_text())["is_causal"] is False


@needs_smollm2
@pytest.mark.seconds(20)  # loads 135 M parameters
def test_a_real_language_model_embeds_in_both_directions_packed_as_padded(tmp_path):
    encoder = Encoder.from_pretrained(str(MODEL))
    assert encoder.preset.attention is Attention.bidirectional and encoder.template.style == "reasonir"
    assert_padded_agrees(encoder, 2e-3)  # its activations reach some hundreds
    tokens = torch.arange(100, 140)
    with torch.no_grad():
        whole = forward_packed(encoder.trunk, tokens, Segments.of([40]))
        half = forward_packed(encoder.trunk, tokens[:20], Segments.of([20]))
    assert (whole[:20] - half).abs().max() > 0.1, "the first tokens see the last ones"
    together = encoder.encode(SENTENCES, INSTRUCTION, max_tokens=120)
    alone = np.concatenate([encoder.encode([text], INSTRUCTION, max_tokens=120) for text in SENTENCES])
    assert np.abs(together - alone).max() < 1e-5


@pytest.mark.parametrize("kind", DECODERS)
def test_a_causal_preset_keeps_a_stock_decoder_causal_packed_as_padded(tmp_path, kind):
    write_decoder(tmp_path, kind)
    encoder = Encoder.from_pretrained(str(tmp_path), template="qwen3")
    assert encoder.preset.attention is Attention.causal
    assert_padded_agrees(encoder)
    tokens = torch.arange(10, 50)
    with torch.no_grad():
        whole = forward_packed(encoder.trunk, tokens, Segments.of([40]))
        half = forward_packed(encoder.trunk, tokens[:20], Segments.of([20]))
    assert (whole[:20] - half).abs().max() < 2e-5


def assert_padded_agrees(encoder, tolerance=2e-5):
    """Right-padded through transformers' own attention, over texts longer than any sliding window here."""
    draw = torch.Generator().manual_seed(0)
    top = encoder.trunk.get_input_embeddings().num_embeddings
    texts = [torch.randint(5, top, (n,), generator=draw) for n in (40, 23)]
    lengths = [len(text) for text in texts]
    with torch.no_grad():
        packed = forward_packed(encoder.trunk, torch.cat(texts), Segments.of(lengths)).split(lengths)
        encoder.trunk.set_attn_implementation("sdpa" if encoder.trunk._supports_sdpa else "eager")
        ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
        padded = encoder.trunk(input_ids=ids, attention_mask=mask).last_hidden_state
        encoder.trunk.set_attn_implementation("reasonir_packed")
    for i, states in enumerate(packed):
        assert (states - padded[i, : lengths[i]]).abs().max() < tolerance


def test_the_reasonir_layout_loads_without_remote_code(tmp_path):
    """Llama weights whose config asks for a modelling file, as reasonir/ReasonIR-8B ships them."""
    write_decoder(tmp_path, "llama")
    plain = Encoder.from_pretrained(str(tmp_path)).encode(SENTENCES)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config["architectures"] = ["ReasonIRModel"]
    config["auto_map"] = {"AutoModel": "modeling_reasonir_8b.ReasonIRModel"}
    config.pop("is_causal", None)
    file.write_text(json.dumps(config))
    (tmp_path / "modeling_reasonir_8b.py").write_text("raise SystemExit('remote code was run')\n")
    encoder = Encoder.from_pretrained(str(tmp_path))
    assert np.array_equal(plain, encoder.encode(SENTENCES))
    encoder.save_pretrained(str(tmp_path / "saved"))
    assert "auto_map" not in json.loads((tmp_path / "saved" / "config.json").read_text())


def test_the_probe_names_a_causal_model(tiny):
    tiny.trunk.config.is_causal = True
    with pytest.raises(UserError, match=r"mymodel .*LlamaModel.*causal"):
        probe_leakage(tiny.trunk, "mymodel")


def test_the_probe_names_a_packed_model_whose_neighbours_mix(tiny, monkeypatch):
    monkeypatch.setattr(Segments, "runs", lambda self: [(1, sum(self.lengths))])
    with pytest.raises(UserError, match="neighbours mix"):
        probe_leakage(tiny.trunk, "mymodel")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: [(f / n).unlink() for n in ("tokenizer.json",)], "no tokenizer"),
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (lambda f: (f / "model.safetensors").write_bytes(b"nothing"), "cannot be loaded"),
        (lambda f: shutil.rmtree(f), "no such model folder"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(tiny, tmp_path, damage, message):
    folder = tmp_path / "model"
    tiny.save_pretrained(str(folder))
    damage(folder)
    with pytest.raises(UserError, match=message):
        Encoder.from_pretrained(str(folder))


def test_missing_weights_are_refused(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    tiny.save_pretrained(str(tmp_path / "model"))
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    weights.pop("layers.1.mlp.up_proj.weight")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 weights are missing, such as layers\.1"):
        Encoder.from_pretrained(str(tmp_path / "model"))
