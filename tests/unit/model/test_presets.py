"""Encoders of other makers, in folders their own libraries wrote: the same embeddings, before and after training."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from reasonir.core.errors import UserError
from reasonir.core.fields import TemplateChoice
from reasonir.model import Encoder
from reasonir.model.folders import save_encoder
from reasonir.model.packing import PackedTexts
from reasonir.model.pooling import Pooling
from reasonir.model.presets import PRESETS, PresetOptions, preset_of_hub_id
from reasonir.model.sentence_transformers import choose_preset
from reasonir.model.trunk.bidirectional import Attention, probe_leakage
from tests.kit.layouts import BGE, LAYOUTS, write_layout, write_trunk
from tests.kit.texts import INSTRUCTION, SENTENCES

pytestmark = pytest.mark.filterwarnings("ignore")  # sentence-transformers warns of its own renamed modules
TEXTS = SENTENCES[:7]
ASKED = {"bge": BGE, "e5": "query:"}
"""The instruction of queries, where it is not the tests' own."""


def theirs(folder: Path, **options: Any) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").encode(TEXTS, normalize_embeddings=True, **options)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_embedded_as_its_makers_do_and_stays_what_it_is_through_training(tmp_path: Path, name: str) -> None:
    write_layout(tmp_path / "st", name)
    by_folder = Encoder.from_pretrained(str(tmp_path / "st"))
    by_name = Encoder.from_pretrained(str(tmp_path / "st" / "trunk"), template=name)
    instruction = ASKED.get(name, INSTRUCTION)
    written = by_name.template.prompt(instruction)
    document = by_name.template.prompt("")
    for batch in (1, 32):  # alone, and padded to the longest
        queries = theirs(tmp_path / "st", prompt=written, batch_size=batch)
        documents = theirs(tmp_path / "st", prompt=document or None, batch_size=batch)
        for encoder in (by_folder, by_name):
            assert np.abs(encoder.encode(TEXTS, instruction) - queries).max() < 1e-5
            assert np.abs(encoder.encode(TEXTS) - documents).max() < 1e-5
    assert np.abs(queries - documents).max() > 1e-2
    assert by_folder.preset.attention == by_name.preset.attention == PRESETS[name].attention
    assert by_folder.pooling == by_name.pooling == PRESETS[name].pooling
    assert written in {*LAYOUTS[name]["prompts"].values(), f"{BGE} "}
    train_one_step(by_name, instruction)
    assert np.abs(by_name.encode(TEXTS) - documents).max() > 1e-3, "one step moved nothing"
    check_saved(tmp_path / "saved", by_name, instruction)


def train_one_step(encoder: Encoder, instruction: str) -> None:
    encoder.train()
    sides = [encoder.template.encode([(said, text) for text in TEXTS], 200) for said in (instruction, "")]
    queries, documents = (
        encoder(PackedTexts.of([t.ids for t in side], [t.prefix_tokens for t in side])) for side in sides
    )
    loss = torch.nn.functional.cross_entropy(queries @ documents.T / 0.05, torch.arange(len(TEXTS)))
    loss.backward()
    torch.optim.SGD((p for p in encoder.parameters() if p.grad is not None), lr=0.01).step()
    encoder.eval()


def check_saved(folder: Path, encoder: Encoder, instruction: str) -> None:
    save_encoder(encoder, str(folder), query_instruction=instruction, max_tokens=256)
    again = Encoder.from_pretrained(str(folder))
    queries, documents = encoder.encode(TEXTS, instruction), encoder.encode(TEXTS)
    assert np.array_equal(again.encode(TEXTS, instruction), queries) and np.array_equal(again.encode(TEXTS), documents)
    assert again.preset == dataclasses.replace(encoder.preset, query_instruction=instruction)
    assert np.abs(theirs(folder, prompt_name="query") - queries).max() < 1e-5
    assert np.abs(theirs(folder) - documents).max() < 1e-5
    (folder / "reasonir.json").unlink()
    unnamed = Encoder.from_pretrained(str(folder))  # sentence-transformers' own files say it as well
    assert np.abs(unnamed.encode(TEXTS, instruction) - queries).max() < 1e-5
    assert np.abs(unnamed.encode(TEXTS) - documents).max() < 1e-5
    is_causal = json.loads((folder / "config.json").read_text()).get("is_causal")
    decoder = encoder.trunk.config.model_type != "bert"
    assert is_causal is ((encoder.preset.attention is Attention.causal) if decoder else None)


def test_a_folder_gets_a_name_of_its_own_for_every_way_of_reading_it(tmp_path: Path) -> None:
    for layout, names in (("qwen3", ("reasonir", "qwen3")), ("bge", ("plain", "bge", "e5"))):
        (tmp_path / layout).mkdir()
        write_trunk(tmp_path / layout, layout)
        encoders = [Encoder.from_pretrained(str(tmp_path / layout), template=name) for name in names]
        assert len({encoder.fingerprint for encoder in encoders}) == len(names)
        again = Encoder.from_pretrained(str(tmp_path / layout), template=names[0])
        assert again.fingerprint == encoders[0].fingerprint
        if layout == "qwen3":
            plain, causal = encoders
            with pytest.raises(UserError, match="packed input is not causal"):
                probe_leakage(plain.trunk, "mymodel", Attention.causal)
            with pytest.raises(UserError, match="still causal"):
                probe_leakage(causal.trunk, "mymodel")


def test_names_of_presets_are_those_of_the_option_and_known_hub_ids_have_one() -> None:
    assert [choice.value for choice in TemplateChoice] == ["auto", *PRESETS]
    for name, hub_id in (
        ("reasonir", "reasonir/ReasonIR-8B"),
        ("gritlm", "GritLM/GritLM-7B"),
        ("e5_mistral", "intfloat/e5-mistral-7b-instruct"),
        ("qwen3", "hub:Qwen/Qwen3-Embedding-0.6B"),
        ("bge", "BAAI/bge-base-en-v1.5"),
        ("e5", "intfloat/e5-base-v2"),
    ):
        assert preset_of_hub_id(hub_id) is PRESETS[name]
        assert choose_preset(hub_id, AutoConfig.for_model("llama"), PresetOptions()) == PRESETS[name]
    assert preset_of_hub_id("meta-llama/Llama-3.1-8B") is None
    with pytest.raises(UserError, match="template=bert: no such preset; there are auto, reasonir"):
        choose_preset("x/y", AutoConfig.for_model("bert"), PresetOptions("bert"))


def module(kind: str, path: str) -> dict[str, str]:
    return {"path": path, "type": f"sentence_transformers.models.{kind}"}


def test_folders_that_cannot_be_embedded_the_same_way_are_refused_by_name(tmp_path: Path) -> None:
    config = AutoConfig.for_model("bert")
    modules = [module("Transformer", ""), module("Pooling", "1_Pooling")]
    (tmp_path / "1_Pooling").mkdir()

    def refused(said: str, *, pooling: dict, prompts: dict | None = None, more: tuple = ()) -> None:
        (tmp_path / "modules.json").write_text(json.dumps([*modules, *more]))
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        (tmp_path / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
        with pytest.raises(UserError, match=said):
            choose_preset(str(tmp_path), config, PresetOptions())

    refused("pooling max is not supported; there are mean, cls, lasttoken", pooling={"pooling_mode_max_tokens": True})
    refused(r"pooling mean \+ cls", pooling={"pooling_mode": ["mean", "cls"]})
    refused("include_prompt=false", pooling={"pooling_mode_cls_token": True, "include_prompt": False})
    refused("module Dense", pooling={"pooling_mode": "cls"}, more=(module("Dense", "2_Dense"),))
    refused("fits no text form; choose one by template=", pooling={"pooling_mode": "cls"}, prompts={"query": "ask:"})
    (tmp_path / "modules.json").write_text("{")
    with pytest.raises(UserError, match=r"modules\.json is not JSON"):
        choose_preset(str(tmp_path), config, PresetOptions())


def test_a_hub_id_without_a_known_name_is_read_by_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789" * 4
    snapshot = tmp_path / "models--someone--small" / "snapshots" / commit
    (snapshot / "1_Pooling").mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(commit)
    modules = [module("Transformer", ""), module("Pooling", "1_Pooling")]
    (snapshot / "modules.json").write_text(json.dumps(modules))
    (snapshot / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    preset = choose_preset("hub:someone/small", AutoConfig.for_model("bert"), PresetOptions())
    assert preset.pooling is Pooling.cls and preset.pools_prompt
