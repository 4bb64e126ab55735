"""`Encoder.encode`: input order, token budgets, truncation, and what must not change an embedding."""

import numpy as np
import pytest
import torch

from reasonir.core.errors import UserError
from reasonir.model import Encoder
from reasonir.model.packing import PackedTexts, token_budget_chunks
from reasonir.model.tiny import build_tiny
from tests.kit.texts import INSTRUCTION, SENTENCES


def test_embeddings_are_unit_vectors_in_input_order(tiny):
    embeddings = tiny.encode(SENTENCES, INSTRUCTION)
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (len(SENTENCES), tiny.dimension)
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    backwards = tiny.encode(SENTENCES[::-1], INSTRUCTION)
    assert np.abs(embeddings - backwards[::-1]).max() < 1e-5
    assert np.abs(embeddings - backwards).max() > 1e-3


@pytest.mark.parametrize("chunk_tokens", [1, 37, 100_000])
def test_the_token_budget_changes_nothing_also_for_texts_longer_than_it(tiny, chunk_tokens):
    reference = np.concatenate([tiny.encode([text]) for text in SENTENCES])
    assert np.abs(tiny.encode(SENTENCES, chunk_tokens=chunk_tokens) - reference).max() < 1e-5


def test_chunks_hold_every_text_once_within_the_budget():
    lengths = np.random.default_rng(0).integers(1, 60, 200)
    lengths[17] = 500
    chunks = token_budget_chunks(lengths, 128)
    assert sorted(np.concatenate(chunks).tolist()) == list(range(200))
    assert chunks[0].tolist() == [17]
    assert all(lengths[chunk].sum() <= 128 for chunk in chunks[1:])
    assert len(chunks) < 1.2 * lengths.sum() / 128 + 2


def test_instructions_are_read_but_not_pooled(tiny):
    """Another instruction changes the embedding (it is attended to); its own states are not in the mean."""
    one, other = tiny.encode(["Water."], INSTRUCTION), tiny.encode(["Water."], "Name the rule")
    assert np.abs(one - other).max() > 1e-4
    text = tiny.template.encode([(INSTRUCTION, "Water.")], 100)[0]
    packed = PackedTexts.of([text.ids], [text.prefix_tokens])
    seen = []
    hook = tiny.trunk.norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        embedding = tiny(packed)
    hook.remove()
    mean = seen[0][0, text.prefix_tokens :].mean(0)
    assert torch.allclose(embedding[0], torch.nn.functional.normalize(mean, dim=0), atol=1e-6)


def test_one_instruction_a_text_and_progress_and_counts(tiny):
    done = []
    mixed = tiny.encode(SENTENCES[:2], [INSTRUCTION, ""], progress=done.append)
    assert np.abs(mixed[0] - tiny.encode(SENTENCES[:1], INSTRUCTION)[0]).max() < 1e-5
    assert np.abs(mixed[1] - tiny.encode(SENTENCES[1:2])[0]).max() < 1e-5
    assert sum(done) == 2
    tiny.encode(SENTENCES, max_tokens=20)
    assert tiny.truncated_texts == sum(
        len(t.ids) > 20 for t in tiny.template.encode([("", s) for s in SENTENCES], 9999)
    )
    with pytest.raises(UserError, match="instruction"):
        tiny.encode(SENTENCES, INSTRUCTION, max_tokens=5)


def test_encoding_leaves_the_training_mode_as_it_was(tiny):
    assert not tiny.training
    tiny.train()
    tiny.encode(["x"])
    assert tiny.training
    with pytest.raises(UserError):
        tiny.encode(["x"], INSTRUCTION, max_tokens=3)
    assert tiny.training
    assert tiny.trunk.training


def test_nothing_one_text_an_empty_text_and_a_bare_text(tiny):
    assert tiny.encode([]).shape == tiny.encode([], []).shape == (0, tiny.dimension)
    assert tiny.encode(["Water."]).shape == tiny.encode([""]).shape == (1, tiny.dimension)
    bare = tiny.encode("Water.", INSTRUCTION)
    assert bare.shape == (tiny.dimension,)
    assert np.array_equal(bare, tiny.encode(["Water."], INSTRUCTION)[0])
    assert np.array_equal(bare, tiny.encode("Water.", [INSTRUCTION]))
    assert np.abs(tiny.encode(np.array(["Water.", "Ice."])) - tiny.encode(("Water.", "Ice."))).max() == 0


@pytest.mark.parametrize(
    ("texts", "instruction", "said"),
    [
        (["a text", float("nan")], "", r"texts\[1\] is nan, a float"),
        ([None], "", r"texts\[0\] is None, a NoneType"),
        ([b"bytes"], "", r"texts\[0\] is b'bytes', a bytes"),
        (b"bytes", "", "texts: give a list of texts, not bytes"),
        (None, "", "texts: give a list of texts, not NoneType"),
        (["a"], None, "instruction: give a list of texts, not NoneType"),
        (["a"], [None], r"instruction\[0\] is None"),
        (["a", "b"], ["i"], "1 instructions for 2 texts"),
        ("a", ["i", "j"], "2 instructions for 1 texts"),
        (["half \ud800 a pair"], "", r"texts\[0\] holds half a surrogate pair"),
    ],
)
def test_what_is_no_text_is_refused_by_its_place(tiny, texts, instruction, said):
    with pytest.raises((TypeError, UserError), match=said):
        tiny.encode(texts, instruction)


def test_the_same_texts_and_seed_build_the_same_model():
    def build(seed):
        return build_tiny(
            SENTENCES, vocabulary_size=300, hidden_size=32, intermediate_size=48, layers=1, heads=2, key_value_heads=1,
            seed=seed,
        )  # fmt: skip

    state = torch.random.get_rng_state()
    first, same, other = build(0), build(0), build(1)
    assert torch.equal(torch.random.get_rng_state(), state), "building must not touch the caller's randomness"
    assert np.array_equal(first.encode(SENTENCES), same.encode(SENTENCES))
    assert not np.allclose(first.encode(SENTENCES), other.encode(SENTENCES))


def test_saving_replaces_an_older_folder_whole(tiny, tmp_path):
    target = tmp_path / "model"
    tiny.save_pretrained(str(target))
    (target / "leftover").write_text("old")
    tiny.save_pretrained(str(target))
    assert not (target / "leftover").exists()
    assert not list(tmp_path.glob(".*"))
    assert np.array_equal(tiny.encode(SENTENCES), Encoder.from_pretrained(str(target)).encode(SENTENCES))
