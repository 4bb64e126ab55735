"""Model folders as people have them: what their files say is followed or refused by name, in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2Model

from reasonir.core.errors import UserError
from reasonir.model import Encoder
from reasonir.model.pooling import Pooling
from reasonir.model.presets import PRESETS, PresetOptions
from reasonir.model.sentence_transformers import choose_preset
from tests.kit.layouts import write_layout
from tests.kit.texts import INSTRUCTION, SENTENCES

pytestmark = pytest.mark.filterwarnings("ignore")  # sentence-transformers warns of its own renamed modules
TEXTS = [*SENTENCES[:3], "The KETTLE sings"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders as sentence-transformers writes them, by layout."""
    root, done = tmp_path_factory.mktemp("layouts"), {}

    def write(layout: str) -> Path:
        if layout not in done:
            done[layout] = root / layout
            write_layout(root / layout, layout)
        return done[layout]

    return write


@pytest.fixture
def e5(written: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(written("e5"), tmp_path / "m"))


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**(json.loads(file.read_text()) if file.is_file() else {}), **values}))


def theirs(folder: Path, texts: list[str] = TEXTS, **options: Any) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    # Our own folders name the prompt of documents as the default.
    return SentenceTransformer(str(folder), device="cpu").encode(texts, normalize_embeddings=True, **options)


def test_do_lower_case_and_a_transformer_in_its_own_folder_are_followed_and_saved(e5: Path, tmp_path: Path) -> None:
    tokenizer = json.loads((e5 / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (e5 / "tokenizer.json").write_text(json.dumps(tokenizer))
    change(e5 / "tokenizer_config.json", do_lower_case=False)
    prompt = {"prompt": "passage: "}
    cased = Encoder.from_pretrained(str(e5))
    assert np.abs(cased.encode(TEXTS) - theirs(e5, **prompt)).max() < 1e-5
    change(e5 / "sentence_bert_config.json", do_lower_case=True, max_seq_length=400)
    lowered = theirs(e5, **prompt)
    assert np.abs(cased.encode(TEXTS) - lowered).max() > 1e-3, "nothing to lower, the test shows nothing"
    inside = e5 / "0_Transformer"
    inside.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (e5 / name).rename(inside / name)
    # An older name of the file, which sentence-transformers reads all the same.
    (e5 / "sentence_bert_config.json").rename(inside / "sentence_roberta_config.json")
    modules = json.loads((e5 / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (e5 / "modules.json").write_text(json.dumps(modules))
    assert np.abs(theirs(e5, **prompt) - lowered).max() < 1e-6
    encoder = Encoder.from_pretrained(str(e5))
    assert encoder.default_max_tokens == 400
    ours = encoder.encode(TEXTS)
    assert np.abs(ours - lowered).max() < 1e-5
    encoder.save_pretrained(str(tmp_path / "saved"))
    assert np.abs(Encoder.from_pretrained(str(tmp_path / "saved")).encode(TEXTS) - ours).max() < 1e-6
    assert np.abs(theirs(tmp_path / "saved") - ours).max() < 1e-5


def test_the_length_of_a_newer_folder_stands_with_its_tokenizer(e5: Path) -> None:
    change(e5 / "tokenizer_config.json", model_max_length=33)
    assert Encoder.from_pretrained(str(e5)).default_max_tokens == 33


def test_add_eos_token_of_the_folder_is_heard_and_saved(written: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(written("e5_mistral"), tmp_path / "m"))
    whole = Encoder.from_pretrained(str(folder))
    ends = whole.template.encode([("", "sea")], 9)[0].ids[-1]
    bos = whole.tokenizer.bos_token
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["post_processor"]["single"] = tokenizer["post_processor"]["single"][:-1]  # BOS and the text
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert Encoder.from_pretrained(str(folder)).template.encode([("", "sea")], 9)[0].ids[-1] != ends
    change(folder / "tokenizer_config.json", add_eos_token=True, add_bos_token=True, bos_token=bos)
    encoder = Encoder.from_pretrained(str(folder))
    assert np.array_equal(
        encoder.template.encode([("", "sea")], 9)[0].ids, whole.template.encode([("", "sea")], 9)[0].ids
    )
    encoder.save_pretrained(str(tmp_path / "saved"))
    assert np.abs(theirs(tmp_path / "saved") - encoder.encode(TEXTS)).max() < 1e-5


CONFIG, POOLING = "config_sentence_transformers.json", "1_Pooling/config.json"
SETTINGS = "sentence_bert_config.json"


def without_normalize(folder: Path, similarity: str) -> None:
    (folder / "modules.json").write_text(json.dumps(json.loads((folder / "modules.json").read_text())[:2]))
    change(folder / CONFIG, similarity_fn_name=similarity)


def retype(folder: Path, **values: str) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[0] |= values
    (folder / "modules.json").write_text(json.dumps(modules))


SAYS_MORE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "dot": (lambda f: without_normalize(f, "dot"), "similarity_fn_name=dot.*without the module Normalize"),
    "euclidean": (lambda f: without_normalize(f, "euclidean"), "without the module Normalize"),
    "manhattan": (lambda f: change(f / CONFIG, similarity_fn_name="manhattan"), "manhattan of .* ranks otherwise"),
    "shorter": (lambda f: change(f / CONFIG, truncate_dim=16), "truncate_dim=16 .* dimensions=N"),
    "prompts": (lambda f: change(f / CONFIG, prompts={"query": 5}), "prompts .* must be texts"),
    "list": (lambda f: (f / CONFIG).write_text("[1]"), "config_sentence_transformers.json must hold a JSON object"),
    "tokenizer": (lambda f: change(f / SETTINGS, tokenizer_name_or_path="x/y"), "tokenizer_name_or_path='x/y'"),
    "task": (lambda f: change(f / SETTINGS, transformer_task="fill-mask"), "transformer_task='fill-mask'"),
    "new": (lambda f: change(f / SETTINGS, flux=1), "flux=1"),
    "rope": (lambda f: change(f / SETTINGS, config_args={"rope_theta": 5}), "config_args="),
    "chat": (lambda f: change(f / SETTINGS, modality_config={"message": {}}), "modality_config="),
    "length": (lambda f: change(f / SETTINGS, max_seq_length="many"), "max_seq_length='many'"),
    "pooling list": (lambda f: (f / POOLING).write_text("[1]"), "must hold a JSON object"),
    "pooling five": (lambda f: (f / POOLING).write_text('{"pooling_mode": 5}'), "pooling 5 is not supported"),
    "no path": (lambda f: (f / "modules.json").write_text("[1]"), "must be a list of modules"),
    "outside": (lambda f: retype(f, path="../x"), r"leads out of the folder: '\.\./x'"),
    "absolute": (lambda f: retype(f, path="/etc"), "leads out of the folder"),
    "own code": (lambda f: retype(f, type="custom_st.Transformer"), "code of the folder's own"),
    "no pooling": (lambda f: (f / "modules.json").write_text("[]"), "runs nothing; only Transformer, Pooling"),
    "deep": (lambda f: (f / "modules.json").write_text("[" * 100_000), "modules.json is not JSON"),
    "bytes": (lambda f: (f / "modules.json").write_bytes(b"\xff\xfe"), "modules.json is not JSON"),
    "card": (lambda f: (f / "reasonir.json").write_text('{"pooling": 5, "style": "x"}'), "reasonir.json is damaged"),
    "card list": (lambda f: (f / "reasonir.json").write_text("[]"), "reasonir.json must hold a JSON object"),
    "newer": (
        lambda f: (f / "reasonir.json").write_text('{"template": "plain", "pooling": "max"}'),
        "damaged or newer",
    ),
    "numbers": (lambda f: change(f / "reasonir.json", template="plain", document_prompt=5), "prompts must be texts"),
}


@pytest.mark.parametrize("name", SAYS_MORE)
def test_what_a_folder_says_and_we_do_not_follow_is_refused_by_name(e5: Path, name: str) -> None:
    damage, said = SAYS_MORE[name]
    damage(e5)
    with pytest.raises(UserError, match=said) as caught:
        Encoder.from_pretrained(str(e5))
    assert "\n" not in str(caught.value)


CONFIGS: list[dict[str, Any]] = [
    {"num_attention_heads": 0},
    {"num_attention_heads": 3},
    {"num_hidden_layers": "many"},
    {"num_hidden_layers": -1},
    {"num_hidden_layers": 1},
    {"hidden_size": 0},
    {"hidden_size": None},
    {"hidden_size": 512},
    {"vocab_size": 0},
    {"vocab_size": -5},
    {"max_position_embeddings": 2},
    {"hidden_act": "none"},
    {"model_type": "none"},
    {"model_type": ["bert"]},
    {"dtype": "float3"},
    {"layer_norm_eps": "small"},
]


@pytest.mark.parametrize("values", CONFIGS, ids=str)
def test_a_config_that_cannot_be_is_one_line(e5: Path, values: dict[str, Any]) -> None:
    change(e5 / "config.json", **values)
    with pytest.raises(UserError, match=r"model\.path=|BertModel") as caught:
        Encoder.from_pretrained(str(e5))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[1]", "{", "5", "null", "[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_files_that_hold_something_else_are_one_line(e5: Path, name: str, content: str) -> None:
    (e5 / name).write_text(content)
    with pytest.raises(UserError, match=r"model\.path=") as caught:
        Encoder.from_pretrained(str(e5))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("in_shards", [False, True])
def test_weights_that_are_no_numbers_or_of_more_layers(tiny: Encoder, tmp_path: Path, in_shards: bool) -> None:
    tiny.save_pretrained(str(tmp_path))
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    layers = json.loads((tmp_path / "config.json").read_text())["num_hidden_layers"]
    change(tmp_path / "config.json", num_hidden_layers=layers - 1)
    with pytest.raises(UserError, match="have no place in the model that config"):
        Encoder.from_pretrained(str(tmp_path), in_shards=in_shards)
    change(tmp_path / "config.json", num_hidden_layers=layers)
    weights["layers.0.mlp.up_proj.weight"][3, 3] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="hidden states are not finite"):
        Encoder.from_pretrained(str(tmp_path), in_shards=in_shards)


def test_a_downloaded_folder_of_a_known_model_is_read_as_its_hub_id(tmp_path: Path) -> None:
    bert = AutoConfig.for_model("bert")
    kinds = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds]

    def preset(folder: Path, pooling: str = "mean", prompts: dict[str, str] | None = None) -> Any:
        (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / POOLING).write_text(json.dumps({"pooling_mode": pooling}))
        (folder / CONFIG).write_text(json.dumps({"prompts": prompts or {}}))
        return choose_preset(str(folder), bert, PresetOptions())

    assert preset(tmp_path / "e5-base-v2") == PRESETS["e5"]
    assert preset(tmp_path / "bge-small-en-v1.5", "cls") == PRESETS["bge"]
    cached = tmp_path / "models--intfloat--e5-large" / "snapshots" / ("0123456789" * 4)
    assert preset(cached) == PRESETS["e5"]
    # Another model of the name gives itself away; a name that is longer is another name.
    assert preset(tmp_path / "e5-base-v2", "cls").pooling is Pooling.cls
    assert preset(tmp_path / "e5-base-v2", prompts={"query": "query: "}).document_prompt == ""
    assert preset(tmp_path / "e5-base-v2-mine").document_prompt == ""
    assert preset(tmp_path / "my-e5-base").document_prompt == ""


def write_without_special_tokens(folder: Path, pooling: str) -> str:
    """Write a decoder whose tokenizer makes no token of an empty text."""
    alphabet = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=alphabet | {"<|end|>": len(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    Qwen2Model(Qwen2Config(vocab_size=300, num_key_value_heads=1, **sizes)).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>").save_pretrained(folder)
    kinds = (("Transformer", ""), ("Pooling", "1_Pooling"))
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / POOLING).write_text(json.dumps({"pooling_mode": pooling}))
    return str(folder)


@pytest.mark.parametrize("pooling", ["mean", "lasttoken", "cls"])
def test_an_empty_text_has_an_embedding_of_its_own_alone_and_in_company(tmp_path: Path, pooling: str) -> None:
    encoder = Encoder.from_pretrained(write_without_special_tokens(tmp_path / "m", pooling), attention="bidirectional")
    together = encoder.encode(["water", "", "steam", ""])
    alone = encoder.encode([""])
    assert np.abs(together[1] - alone[0]).max() < 1e-5 and np.abs(together[3] - alone[0]).max() < 1e-5
    assert np.linalg.norm(alone[0]) == pytest.approx(1)
    assert float(together[0] @ together[1]) < 0.999
    assert np.abs(encoder.encode([""], INSTRUCTION) - alone).max() > 1e-3
