"""Every family of docs/models.md runs as the page says: packed or padded, and as transformers computes it."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForTextEncoding

from reasonir.core.errors import UserError
from reasonir.model import Encoder
from reasonir.model.tiny import build_tokenizer
from reasonir.model.trunk.bidirectional import padded_because
from tests.kit.families import FAMILIES, PACKED, PADDED, REFUSED, write_family
from tests.kit.texts import SENTENCES

# transformers' own DeBERTa, when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
PAGE = Path(__file__).resolve().parents[3] / "docs" / "models.md"
EVERY_TIME = ("llama", "gemma3", "roberta", "gpt2", "mpnet", "deberta-v2", "umt5", "falcon", "qwen3_5_text")
RUNNING = [
    pytest.param(name, marks=() if name in EVERY_TIME else pytest.mark.slow)
    for name, family in FAMILIES.items()
    if family.runs != REFUSED
]


def embed_with_transformers(folder: str, encoder: Encoder, texts: list[str]) -> np.ndarray:
    """Right-padded, in one batch, through the class and the attention that transformers chooses itself; masked mean."""
    kind = AutoModelForTextEncoding if encoder.trunk.config.model_type in ("t5", "umt5") else AutoModel
    model = kind.from_pretrained(folder).eval()
    tokenized = encoder.template.encode([("", text) for text in texts], 100)
    ids = [torch.from_numpy(text.ids.astype(np.int64)) for text in tokenized]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=1)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
    with torch.no_grad():
        states = model(input_ids=padded, attention_mask=mask).last_hidden_state
    means = [states[i, text.prefix_tokens : len(text.ids)].mean(0) for i, text in enumerate(tokenized)]
    return torch.nn.functional.normalize(torch.stack(means), dim=-1).numpy()


@pytest.mark.parametrize("name", RUNNING)
def test_a_family_runs_as_the_page_says_and_as_transformers_computes_it(tmp_path, name):
    encoder = Encoder.from_pretrained(write_family(tmp_path / "stock", name))
    assert (PACKED if padded_because(encoder.trunk) is None else PADDED) == FAMILIES[name].runs
    encoder.save_pretrained(str(tmp_path / "saved"))
    found = encoder.encode(SENTENCES, max_tokens=100)
    expected = embed_with_transformers(str(tmp_path / "saved"), encoder, SENTENCES)
    assert np.abs(found - expected).max() < 1e-5
    again = Encoder.from_pretrained(str(tmp_path / "saved"))
    assert np.array_equal(again.encode(SENTENCES, max_tokens=100), found)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.runs == REFUSED])
def test_a_family_that_sees_no_later_token_is_refused_in_one_line(tmp_path, name):
    with pytest.raises(UserError, match="padded input is still causal") as refused:
        Encoder.from_pretrained(write_family(tmp_path, name))
    assert "\n" not in str(refused.value)


def test_the_page_has_the_table_of_the_families():
    rows = re.findall(r"^\| `([^`]+)` \| (.+?) \| (\w+) \|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert rows == [(name, family.models, family.runs) for name, family in FAMILIES.items()]
    assert sum(family.runs != REFUSED for family in FAMILIES.values()) >= 33


def test_learned_positions_limit_the_input_of_every_family_that_has_them(tmp_path):
    limits = {}
    for name in ("gpt2", "opt", "roberta", "llama"):
        encoder = Encoder.from_pretrained(write_family(tmp_path / name, name))
        limits[name] = encoder.max_positions
        assert np.isfinite(encoder.encode(["the kettle " * 600], max_tokens=2048)).all()
    assert limits == {"gpt2": 512, "opt": 512, "roberta": 510, "llama": None}


def test_a_tokenizer_larger_than_the_embedding_is_refused_by_a_token(tmp_path):
    folder = write_family(tmp_path, "llama")
    tokenizer = build_tokenizer(SENTENCES, 390)
    tokenizer.add_tokens([f"<image_{i}>" for i in range(200)], special_tokens=True)
    tokenizer.save_pretrained(folder)
    Encoder.from_pretrained(folder)  # no text becomes a special token by itself
    tokenizer.add_tokens([f"kettle{i}" for i in range(200)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="beyond the 400 embeddings of the model"):
        Encoder.from_pretrained(folder)
