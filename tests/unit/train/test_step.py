"""The training step against the plain computation, the optimizer's groups, the choice of precision."""

from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from reasonir.core.errors import UserError
from reasonir.model.packing import PackedTexts
from reasonir.model.trunk import precision
from reasonir.train.data.batches import MixedBatches
from reasonir.train.data.token_store import open_token_store
from reasonir.train.gradcache import GraphBudget
from reasonir.train.objectives.infonce import info_nce
from reasonir.train.optim import build_adamw
from reasonir.train.parallel.engine import Engine, clip_gradients, gradient_norm
from reasonir.train.parallel.ranks import Ranks
from reasonir.train.step import TrainingStep
from tests.kit.texts import INSTRUCTION, SENTENCES, write_rows
from tests.reference.infonce import info_nce as slow_info_nce


@pytest.fixture
def plan(tiny, tmp_path: Path):
    """Six queries; two share a positive, one repeats a query, weights differ."""
    rows = [
        {"query": [INSTRUCTION, f"q{i % 5}"], "pos": [SENTENCES[i % 4]], "neg": [SENTENCES[4 + i % 3]], "weight": w}
        for i, w in enumerate((1.0, 2.0, 0.5, 1.0, 1.0, 3.0))
    ]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    store = open_token_store(str(path), None, tiny.template, 80, 80, tmp_path / "cache")
    return MixedBatches([store], None, 6, 1, 0).batch(0)


def gradient(encoder) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in encoder.parameters()])


INFO_NCE = partial(info_nce, temperature=0.1)


def run_step(encoder, plan, objective=INFO_NCE, **options):
    encoder.zero_grad()
    settings = {"chunk_tokens": 4096, "graph_memory_gib": 1.0, "precision": "fp32"} | options
    ranks = Ranks(60.0)
    engine = Engine(encoder, torch.optim.SGD(encoder.parameters()), ranks, 0.0)
    result = TrainingStep(engine, ranks, objective, **settings)(plan)
    return result, gradient(encoder)


def test_the_loss_is_the_weighted_mean_of_the_plain_loops(tiny, plan):
    encoder = tiny.double()
    assert plan.ignore_BN.any(), "no known answer in the batch"
    assert len(plan.document_ids) < 12, "no shared document in the batch"
    result, _ = run_step(encoder, plan)
    sides = [
        encoder(PackedTexts.of(ids, prefixes)).tolist()
        for ids, prefixes in ((plan.query_ids, plan.query_prefixes), (plan.document_ids, plan.document_prefixes))
    ]
    losses = slow_info_nce(*sides, plan.positive_index_B.tolist(), plan.ignore_BN.tolist(), 0.1)
    assert abs(result.loss_nats - np.average(losses, weights=plan.weights)) < 1e-6
    assert result.tokens == sum(len(ids) for ids in (*plan.query_ids, *plan.document_ids))
    assert result.bad_rows == []


@pytest.mark.parametrize("chunk_tokens", [1, 60, 200])
def test_chunk_size_and_memory_change_nothing(tiny, plan, chunk_tokens):
    encoder = tiny.double()
    whole, reference = run_step(encoder, plan)
    for gib in (0.0, 1.0, None):
        result, found = run_step(encoder, plan, chunk_tokens=chunk_tokens, graph_memory_gib=gib)
        assert abs(result.loss_nats - whole.loss_nats) < 1e-12
        assert (found - reference).abs().max() < 1e-10
        assert (result.cache.kept_chunks > 0) == (gib != 0.0)
        assert gib is not None or result.cache.kept_chunks == 1, "to be measured"
    assert reference.abs().max() > 1e-3


def test_the_step_takes_any_objective_of_embeddings_and_labels(tiny, plan):
    def distance(query_BD, document_ND, positive_index_B, ignore_BN):
        assert ignore_BN.shape == (6, len(plan.document_ids))
        return (query_BD - document_ND[positive_index_B]).square().sum(1)

    encoder = tiny.double()
    result, found = run_step(encoder, plan, distance, chunk_tokens=60, graph_memory_gib=0.0)
    encoder.zero_grad()
    query, document = (
        encoder(PackedTexts.of(ids, prefixes))
        for ids, prefixes in ((plan.query_ids, plan.query_prefixes), (plan.document_ids, plan.document_prefixes))
    )
    weights = torch.from_numpy(plan.weights)
    losses = distance(query, document, torch.from_numpy(plan.positive_index_B), torch.from_numpy(plan.ignore_BN))
    loss = (losses * weights).sum() / weights.sum()
    loss.backward()
    assert abs(result.loss_nats - loss.item()) < 1e-6
    assert (found - gradient(encoder)).abs().max() < 1e-6 < 1e-3 < gradient(encoder).abs().max()


def test_a_row_of_weight_zero_gives_no_gradient_of_its_own(tiny, plan):
    plan.weights[:] = [1, 0, 0, 0, 0, 0]
    result, _ = run_step(tiny, plan)
    plan.weights[:] = [5, 0, 0, 0, 0, 0]
    assert abs(run_step(tiny, plan)[0].loss_nats - result.loss_nats) < 1e-6


def test_vectors_do_not_decay(tiny):
    optimizer = build_adamw(tiny, 1e-3, 5e-3, 0.1)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.1, 0.0]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(tiny.parameters()))


def test_clipping_scales_to_the_limit_and_not_below_it():
    parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2))]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 2.0)
    norm = gradient_norm(parameters)
    assert float(norm) == pytest.approx(20**0.5)
    clip_gradients(parameters, norm, 0.0)
    assert float(gradient_norm(parameters)) == pytest.approx(20**0.5)
    clip_gradients(parameters, norm, 1.0)
    assert float(gradient_norm(parameters)) == pytest.approx(1.0, abs=1e-5)


class CountsCasts(TorchDispatchMode):
    """Counts how often a weight is copied to bfloat16."""

    def __init__(self, encoder) -> None:
        super().__init__()
        self.places = {parameter.data_ptr() for parameter in encoder.parameters()}
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten._to_copy.default and kwargs.get("dtype") == torch.bfloat16:
            self.count += args[0].data_ptr() in self.places
        return function(*args, **kwargs)


@pytest.mark.parametrize("graph_memory_gib", [0.0, 1.0, None, "some"])
def test_weights_are_cast_once_a_step_and_gradients_stay(tiny, plan, monkeypatch, graph_memory_gib):
    options = {"precision": "bf16", "chunk_tokens": 60, "graph_memory_gib": graph_memory_gib}
    found, casts = {}, {}
    for once in (False, True):
        if graph_memory_gib == "some":  # passes with and without a graph alternate
            turns = cycle([True, False])
            monkeypatch.setattr(GraphBudget, "admits", lambda self, tokens, turns=turns: next(turns))
            options["graph_memory_gib"] = 1.0
        fixed = property(lambda self, once=once: once, lambda self, new: None)
        monkeypatch.setattr(TrainingStep, "casts_once", fixed, raising=False)
        with CountsCasts(tiny) as counter:
            result, found[once] = run_step(tiny, plan, **options)
        casts[once] = counter.count
    chunks = result.cache.kept_chunks + result.cache.replayed_chunks
    assert chunks > 4 and torch.equal(found[True], found[False]) and found[True].abs().max() > 1e-3
    matrices = sum(isinstance(module, torch.nn.Linear) for module in tiny.modules())
    assert casts[False] == matrices * (chunks + result.cache.replayed_chunks)
    assert casts[True] == matrices


def test_auto_times_a_chunk_where_products_gain_and_the_chunk_decides(tiny, monkeypatch):
    cpu = torch.device("cpu")

    def choose(requested: str, products: float, chunk: float) -> tuple[str, str]:
        monkeypatch.setattr(precision, "bf16_speedup_of_products", lambda: products)
        monkeypatch.setattr(precision, "bf16_speedup_of_chunk", lambda trunk, backward: chunk)
        return precision.choose_precision(requested, cpu, tiny.trunk, backward=True)

    assert choose("bf16", 0.1, 0.1) == ("bf16", "as asked")
    assert choose("auto", 6.0, 2.0)[0] == "bf16"
    chosen, reason = choose("auto", 6.0, 0.7)
    assert chosen == "fp32" and "a chunk runs 0.7 x as fast" in reason and "forward and backward" in reason
    chosen, reason = choose("auto", 0.4, 9.0)
    assert chosen == "fp32" and "products run 0.4 x as fast" in reason
    chosen, reason = precision.choose_precision("auto", cpu, tiny.trunk.to("meta"), backward=True)
    assert chosen == "fp32" and "read in shards" in reason


@pytest.mark.parametrize("backward", [False, True])
def test_timing_a_chunk_leaves_no_trace(tiny, monkeypatch, backward):
    tiny.train()
    passes = []
    tiny.trunk.register_forward_hook(
        lambda *_: passes.append((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
    )
    before, state = {n: p.clone() for n, p in tiny.named_parameters()}, torch.get_rng_state()
    assert precision.bf16_speedup_of_chunk(tiny.trunk, backward) > 0
    assert passes == [(backward, False), (backward, True)] * precision.TRIES
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None and torch.equal(p, before[n]) for n, p in tiny.named_parameters())
    assert precision.bf16_speedup_of_products() > 0


@pytest.mark.parametrize(
    ("capability", "chosen"), [((7, 5), "fp32"), ((7, 0), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")]
)
def test_precision_on_a_gpu_is_by_compute_capability_not_by_emulation(monkeypatch, capability, chosen):
    """A T4 and a V100 run bfloat16, slower than float32; the kernel of packed attention refuses them."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla")
    device = torch.device("cuda")
    choose = partial(precision.choose_precision, device=device, trunk=None, backward=True)
    assert choose("auto")[0] == chosen
    if chosen == "fp32":
        with pytest.raises(UserError, match="precision=bf16: Tesla has no bfloat16 arithmetic"):
            choose("bf16")
    assert choose("fp32") == ("fp32", "as asked")
