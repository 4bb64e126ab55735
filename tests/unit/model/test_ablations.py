"""Attention, pooling and the instruction in the mean, changed by options: one arithmetic here and in every reader."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from reasonir.core.errors import UserError
from reasonir.model import Encoder
from reasonir.model.folders import refuse_misfits, save_encoder
from reasonir.model.pooling import Pooling
from reasonir.model.presets import PRESETS, PresetOptions
from reasonir.model.sentence_transformers import choose_preset
from reasonir.model.tiny import BOS, EOS, build_tiny
from reasonir.model.trunk.bidirectional import Attention
from reasonir.train.config import AttentionChoice, PoolingChoice
from tests.kit.families import FAMILIES, write_family
from tests.kit.layouts import write_trunk
from tests.kit.smollm2 import MODEL, needs_smollm2
from tests.kit.texts import INSTRUCTION, SENTENCES

pytestmark = pytest.mark.filterwarnings("ignore")  # sentence-transformers warns of its own renamed modules
ABLATIONS: dict[str, dict[str, Any]] = {
    "causal": {"attention": "causal"},
    "last": {"pooling": "last"},
    "causal-last": {"attention": "causal", "pooling": "last"},
    "cls": {"pooling": "cls"},
    "instruction": {"pool_instruction": True},
    "causal-instruction": {"attention": "causal", "pool_instruction": True},
}
TEXTS = SENTENCES[:7]
LIMIT = 120
ENCODERS = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "albert", "modernbert", "eurobert", "nomic_bert",
            "mpnet", "deberta-v2", "t5", "umt5")  # fmt: skip
EVERY_TIME = ("mistral", "mamba", "llama4_text", "t5", "modernbert")


def new_model(options: dict[str, Any]) -> Encoder:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "layers": 2, "heads": 4, "key_value_heads": 2}
    return build_tiny(SENTENCES, vocabulary_size=400, **sizes, preset=PresetOptions(**options).of_new_model())


def by_hand(folder: Path, prompt: str, options: dict[str, Any]) -> np.ndarray:
    """Each text alone through transformers' own model of the folder: BOS, prompt, text, and EOS for the last token."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    pooling, rows = options.get("pooling", "mean"), []
    begin, end = tokenizer.convert_tokens_to_ids([BOS, EOS])
    for text in TEXTS:
        before = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        ids = [begin, *tokenizer(prompt + text, add_special_tokens=False)["input_ids"]]
        ids = [*ids[: LIMIT - 1], end] if pooling == "last" else ids[:LIMIT]
        with torch.no_grad():
            states = model(torch.tensor([ids])).last_hidden_state[0]
        skipped = 0 if options.get("pool_instruction") else 1 + before
        rows.append({"mean": states[skipped:].mean(0), "last": states[-1], "cls": states[0]}[pooling])
    return torch.nn.functional.normalize(torch.stack(rows), dim=-1).numpy()


def by_sentence_transformers(folder: Path, side: str) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").encode(TEXTS, prompt_name=side, normalize_embeddings=True)


def check_readers(folder: Path, encoder: Encoder, instruction: str = INSTRUCTION) -> tuple[np.ndarray, np.ndarray]:
    """Save; the folder gives the same embeddings here, without reasonir.json too, and in sentence-transformers."""
    save_encoder(encoder, str(folder), query_instruction=instruction, max_tokens=LIMIT)
    queries, documents = encoder.encode(TEXTS, instruction, LIMIT), encoder.encode(TEXTS, max_tokens=LIMIT)
    for named in (True, False):
        again = Encoder.from_pretrained(str(folder))
        assert np.array_equal(again.encode(TEXTS, instruction, LIMIT), queries), named
        assert np.array_equal(again.encode(TEXTS, max_tokens=LIMIT), documents), named
        assert (again.preset.attention, again.pooling) == (encoder.preset.attention, encoder.pooling)
        (folder / "reasonir.json").unlink(missing_ok=True)
    for side, ours in (("query", queries), ("document", documents)):
        assert np.abs(by_sentence_transformers(folder, side) - ours).max() < 1e-5, side
    assert np.abs(queries - documents).max() > 1e-3, "the instruction changes nothing"
    return queries, documents


@pytest.mark.parametrize("name", ABLATIONS)
def test_a_new_model_is_what_the_options_say_in_every_reader(tmp_path: Path, name: str) -> None:
    encoder = new_model(ABLATIONS[name])
    queries, documents = check_readers(tmp_path / "model", encoder)
    for prompt, ours in ((f"<|user|>\n{INSTRUCTION}\n<|embed|>\n", queries), ("<|embed|>\n", documents)):
        assert np.abs(by_hand(tmp_path / "model", prompt, ABLATIONS[name]) - ours).max() < 1e-5
    plain = new_model({})
    for p, q in zip(plain.parameters(), encoder.parameters(), strict=True):
        assert torch.equal(p, q), "an ablation compares the same first weights"
    assert np.abs(plain.encode(TEXTS, INSTRUCTION, LIMIT) - queries).max() > 1e-2, "the switch does nothing"


@pytest.mark.parametrize("name", ABLATIONS)
def test_a_loaded_folder_takes_the_options_whole_and_in_shards(tmp_path: Path, name: str) -> None:
    plain = new_model({})
    plain.save_pretrained(str(tmp_path / "base"))
    loaded = Encoder.from_pretrained(str(tmp_path / "base"), **ABLATIONS[name])
    assert np.abs(loaded.encode(TEXTS, INSTRUCTION) - new_model(ABLATIONS[name]).encode(TEXTS, INSTRUCTION)).max() == 0
    parts = Encoder.from_pretrained(str(tmp_path / "base"), in_shards=True, **ABLATIONS[name])
    assert parts.stored is not None and parts.preset == loaded.preset
    assert parts.template.fingerprint == loaded.template.fingerprint
    assert loaded.fingerprint != plain.fingerprint or name == "none"
    names = {Encoder.from_pretrained(str(tmp_path / "base"), **options).fingerprint for options in ABLATIONS.values()}
    assert len(names) == len(ABLATIONS), "two ablations share a name in caches"


@pytest.mark.parametrize("template", ["qwen3", "e5_mistral", "plain", "gritlm"])
@pytest.mark.parametrize("options", [{"attention": "causal"}, {"pooling": "last"}, {"pooling": "mean"},
                                     {"attention": "bidirectional", "pooling": "cls"}], ids=str)  # fmt: skip
def test_options_replace_parts_of_a_named_template(tmp_path: Path, template: str, options: dict[str, Any]) -> None:
    (tmp_path / "base").mkdir()
    write_trunk(tmp_path / "base", "e5_mistral")
    encoder = Encoder.from_pretrained(str(tmp_path / "base"), template=template, **options)
    named = PRESETS[template]
    assert encoder.template.style == named.style
    assert encoder.pooling == options.get("pooling", named.pooling)
    assert encoder.preset.attention == options.get("attention", named.attention)
    assert encoder.preset.pools_prompt == named.pools_prompt
    check_readers(tmp_path / "saved", encoder)


@pytest.mark.parametrize(("options", "instruction"), [
    ({"pooling": "cls"}, INSTRUCTION), ({"pooling": "last"}, INSTRUCTION), ({"pool_instruction": True}, INSTRUCTION),
    ({"template": "e5", "pool_instruction": False}, "query:"), ({"template": "bge", "pooling": "mean"}, INSTRUCTION),
], ids=str)  # fmt: skip
def test_an_encoder_takes_them_too(tmp_path: Path, options: dict[str, Any], instruction: str) -> None:
    (tmp_path / "base").mkdir()
    write_trunk(tmp_path / "base", "bge")
    check_readers(tmp_path / "saved", Encoder.from_pretrained(str(tmp_path / "base"), **options), instruction)


def test_what_makes_no_sense_is_refused_in_one_line(tmp_path: Path) -> None:
    for name in ("bge", "qwen3"):
        (tmp_path / name).mkdir()
        write_trunk(tmp_path / name, name)
    encoder, decoder = str(tmp_path / "bge"), str(tmp_path / "qwen3")
    one_token = "takes the state of one token and no instruction's"
    for path, options, said in (
        (encoder, {"attention": "causal"}, "bert is an encoder and has no causal attention"),
        (encoder, {"template": "qwen3"}, "bert is an encoder and has no causal attention"),
        (decoder, {"attention": "causal", "pooling": "cls"}, "all texts would get the same embedding"),
        (decoder, {"template": "qwen3", "pooling": "cls"}, "all texts would get the same embedding"),
        (None, {"attention": "causal", "pooling": "cls"}, "all texts would get the same embedding"),
        (decoder, {"pooling": "last", "pool_instruction": True}, f"model.pool_instruction=true: .*last {one_token}"),
        (decoder, {"template": "qwen3", "pool_instruction": False}, f"pool_instruction=false: .*last {one_token}"),
        (None, {"pooling": "cls", "pool_instruction": False}, f"model.pooling=cls {one_token}"),
    ):
        with pytest.raises(UserError, match=said) as refused:
            refuse_misfits(path, PresetOptions(**options))
        assert "\n" not in str(refused.value)
        if path is not None:
            with pytest.raises(UserError, match=said):
                Encoder.from_pretrained(path, **options)
    refuse_misfits("someone/unreachable", PresetOptions(attention="causal"))


def test_auto_keeps_every_preset_and_words_are_those_of_the_options() -> None:
    assert all(PresetOptions().applied(preset) == preset for preset in PRESETS.values())
    assert PresetOptions().of_new_model() == PRESETS["reasonir"]
    assert {*AttentionChoice} == {"auto", *Attention} and {*PoolingChoice} == {"auto", *Pooling}
    llama = AutoConfig.for_model("llama")
    assert choose_preset("x/y", llama, PresetOptions(pooling="mean")) == PRESETS["reasonir"]


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name in EVERY_TIME else pytest.mark.slow) for name in FAMILIES
])  # fmt: skip
def test_a_decoder_embeds_causally_as_its_makers_run_it_and_an_encoder_is_refused(tmp_path: Path, name: str) -> None:
    stock = write_family(tmp_path / "stock", name)
    if name in ENCODERS:
        with pytest.raises(UserError, match="is an encoder and has no causal attention"):
            refuse_misfits(stock, PresetOptions(attention="causal"))
        return
    encoder = Encoder.from_pretrained(stock, attention="causal", pooling="last")
    found = encoder.encode(SENTENCES, max_tokens=100)
    model, rows = AutoModel.from_pretrained(stock).eval(), []
    for text in encoder.template.encode([("", text) for text in SENTENCES], 100):
        with torch.no_grad():
            rows.append(
                model(torch.from_numpy(text.ids.astype(np.int64))[None], use_cache=False).last_hidden_state[0, -1]
            )
    assert np.abs(torch.nn.functional.normalize(torch.stack(rows), dim=-1).numpy() - found).max() < 1e-5
    encoder.save_pretrained(str(tmp_path / "saved"))
    again = Encoder.from_pretrained(str(tmp_path / "saved"))
    assert again.preset.attention is Attention.causal
    assert np.array_equal(again.encode(SENTENCES, max_tokens=100), found)


@pytest.mark.slow
@needs_smollm2
@pytest.mark.parametrize("name", ["causal-last", "causal", "cls", "instruction"])
def test_a_real_language_model_is_written_as_each_ablation(tmp_path: Path, name: str) -> None:
    encoder = Encoder.from_pretrained(str(MODEL), **ABLATIONS[name])
    check_readers(tmp_path / "saved", encoder)
