"""The cached gradient equals the plain one: for any chunking, with dropout, packed or padded."""

import numpy as np
import pytest
import torch

from reasonir.model.adapters import add_adapters
from reasonir.model.encoder import Encoder
from reasonir.model.packing import PackedTexts
from reasonir.model.pooling import pool
from reasonir.model.tiny import build_tiny
from reasonir.model.trunk.attention import Segments
from reasonir.train.gradcache import CacheReport, GradCache, GraphBudget, SavedBytes
from reasonir.train.objectives.infonce import info_nce
from reasonir.train.prepare import set_dropout
from tests.kit.texts import SENTENCES

QUERIES = 6
LENGTHS = (9, 4, 17, 9, 2, 30, 9, 12, 5, 5, 21, 7, 3, 9)
CHUNKINGS = {
    "one text each": [[i] for i in range(len(LENGTHS))],
    "uneven": [[5], [10, 2], [7, 0, 3, 6, 13], [11, 8, 9, 1, 12, 4]],
    "everything at once": [list(range(len(LENGTHS)))],
}


@pytest.fixture
def batch() -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    return [torch.randint(5, 390, (n,), generator=draw) for n in LENGTHS]


def embeddings_loss(embeddings: torch.Tensor) -> torch.Tensor:
    positives = torch.arange(QUERIES)
    ignored = torch.zeros(QUERIES, len(LENGTHS) - QUERIES, dtype=torch.bool)
    ignored[0, 3] = True
    return info_nce(embeddings[:QUERIES], embeddings[QUERIES:], positives, ignored, 0.05).mean()


def packed(batch: list[torch.Tensor], chunk: list[int]) -> PackedTexts:
    return PackedTexts.of([batch[i].numpy() for i in chunk], [min(2, len(batch[i]) - 1) for i in chunk])


def plain_gradient(encoder: Encoder, batch: list[torch.Tensor], chunks: list[list[int]]) -> tuple[float, dict]:
    """One graph over all chunks, in the same order (dropout draws by chunk), and one backward pass."""
    encoder.zero_grad()
    torch.manual_seed(7)
    order = np.argsort(np.concatenate(chunks))
    value = embeddings_loss(torch.cat([encoder(packed(batch, chunk)) for chunk in chunks])[torch.from_numpy(order)])
    value.backward()
    return value.item(), {name: p.grad.clone() for name, p in encoder.named_parameters()}


def cached_step(encoder: Encoder, chunks: list[PackedTexts], budget: GraphBudget, loss) -> tuple[float, CacheReport]:
    """The three steps of GradCache."""
    parameters = list(encoder.parameters())
    cache = GradCache(embed=encoder, budget=budget, parameters=parameters, device=torch.device("cpu"))
    embeddings, graphs = cache.embed_chunks(chunks)
    value = loss(embeddings)
    (gradient,) = torch.autograd.grad(value, embeddings)
    return value.item(), cache.replay(chunks, graphs, gradient)


def cached_gradient(
    encoder: Encoder, batch: list[torch.Tensor], chunks: list[list[int]], gib: float
) -> tuple[float, dict]:
    encoder.zero_grad()
    torch.manual_seed(7)
    order = torch.from_numpy(np.argsort(np.concatenate(chunks)))
    texts, budget = [packed(batch, chunk) for chunk in chunks], GraphBudget(int(gib * 2**30))
    value, report = cached_step(encoder, texts, budget, lambda embeddings: embeddings_loss(embeddings[order]))
    expected = len(chunks) if gib else 0
    assert report.kept_chunks == expected
    assert report.replayed_chunks == len(chunks) - expected
    return value, {name: p.grad.clone() for name, p in encoder.named_parameters()}


def worst(a: dict, b: dict) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("chunking", CHUNKINGS)
@pytest.mark.parametrize("gib", [0.0, 4.0], ids=["replayed", "kept"])
def test_equals_the_plain_gradient_in_float64_with_dropout(tiny, batch, chunking, gib):
    encoder = tiny.double().train()
    set_dropout(encoder.trunk, 0.2)
    chunks = CHUNKINGS[chunking]
    plain_loss, plain = plain_gradient(encoder, batch, chunks)
    cached_loss, cached = cached_gradient(encoder, batch, chunks, gib)
    assert all(gradient.abs().max() > 0 for gradient in plain.values())
    assert abs(plain_loss - cached_loss) <= 1e-12
    assert worst(plain, cached) <= 1e-10
    set_dropout(encoder.trunk, 0.0)
    assert worst(plain, plain_gradient(encoder, batch, chunks)[1]) > 1e-6, "dropout was not active"


def test_chunkings_agree_with_each_other_in_float64(tiny, batch):
    encoder = tiny.double()
    results = [cached_gradient(encoder, batch, chunks, 0.0)[1] for chunks in CHUNKINGS.values()]
    assert worst(results[0], results[1]) <= 1e-10
    assert worst(results[0], results[2]) <= 1e-10


def test_keeping_graphs_changes_no_bit(tiny, batch):
    encoder = tiny.train()
    set_dropout(encoder.trunk, 0.1)
    for chunks in CHUNKINGS.values():
        kept, replayed = (cached_gradient(encoder, batch, chunks, gib)[1] for gib in (4.0, 0.0))
        assert all(torch.equal(kept[name], replayed[name]) for name in kept)


def step_that_fails_once(
    encoder: Encoder, batch: list[torch.Tensor], limit: int, failing_pass: int
) -> tuple[list[torch.Tensor], CacheReport, GraphBudget]:
    """Gradients of a step in whose n-th pass, forward or backward, memory runs out; 0 is a step without a fault."""
    passes = 0

    def limited(kind):
        def run(*arguments):
            nonlocal passes
            passes += 1
            if passes != failing_pass:
                return kind(*arguments)
            if kind is torch.Tensor.backward:  # has changed some gradients by then
                next(encoder.parameters()).grad = torch.ones_like(next(encoder.parameters()))
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

        return run

    chunks = [packed(batch, chunk) for chunk in CHUNKINGS["uneven"]]
    order = torch.from_numpy(np.argsort(np.concatenate(CHUNKINGS["uneven"])))
    encoder.zero_grad()
    torch.manual_seed(7)
    budget, parameters = GraphBudget(limit), list(encoder.parameters())
    cache = GradCache(embed=limited(encoder), budget=budget, parameters=parameters, device=torch.device("cpu"),
                      backward=limited(torch.Tensor.backward))  # fmt: skip
    embeddings, graphs = cache.embed_chunks(chunks)
    (gradient,) = torch.autograd.grad(embeddings_loss(embeddings[order]), embeddings)
    report = cache.replay(chunks, graphs, gradient)
    return [p.grad.clone() for p in parameters], report, budget


@pytest.mark.parametrize("limit", [4 * 2**30, 1], ids=["all kept", "one kept"])
@pytest.mark.parametrize("failing_pass", [3, 5, 6])
def test_memory_that_runs_out_once_beside_kept_graphs_changes_no_bit(tiny, batch, limit, failing_pass, capsys):
    """In a first pass, and in the backward pass of a kept chunk; with one kept chunk also in a replayed pass."""
    encoder = tiny.train()
    set_dropout(encoder.trunk, 0.1)
    unbroken, *_ = step_that_fails_once(encoder, batch, limit, 0)
    assert capsys.readouterr().err == ""
    found, report, budget = step_that_fails_once(encoder, batch, limit, failing_pass)
    assert "memory ran out beside" in capsys.readouterr().err
    assert all(torch.equal(a, b) for a, b in zip(unbroken, found, strict=True))
    assert report.replayed_chunks > 0 and budget.limit_bytes <= limit / 2 + 1


def test_memory_that_runs_out_without_a_kept_graph_is_not_tried_again(tiny, batch):
    def fail(_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    cache = GradCache(embed=fail, budget=GraphBudget(0), parameters=[], device=torch.device("cpu"))
    with pytest.raises(RuntimeError, match="allocate memory"):
        cache.embed_chunks([packed(batch, [0])])


def test_a_small_budget_keeps_some_graphs_and_replays_the_rest(tiny, batch):
    chunks = CHUNKINGS["one text each"]
    budget = GraphBudget(1)
    _, report = cached_step(tiny, [packed(batch, chunk) for chunk in chunks], budget, embeddings_loss)
    assert (report.kept_chunks, report.replayed_chunks) == (1, len(LENGTHS) - 1)
    tokens, size = budget.measured[0]
    assert size / tokens > 4 * 64


def held_bytes(encoder: Encoder, tokens: int) -> int:
    counter = SavedBytes(list(encoder.parameters()))
    with counter.hooks, torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        encoder(PackedTexts.of([np.full(tokens, 7, dtype=np.int32)], [0]))
    return counter.total


@pytest.mark.parametrize("adapters", [False, True])
def test_a_graph_is_charged_what_it_holds_whatever_its_size(adapters: bool) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 896, "layers": 2, "heads": 4, "key_value_heads": 2}
    encoder = build_tiny(SENTENCES, vocabulary_size=300, **sizes).train()
    if adapters:
        add_adapters(encoder, rank=8, alpha=8.0, dropout=0.0, targets=["all-linear"], dora=False, seed=0)
    held = {tokens: held_bytes(encoder, tokens) for tokens in (1024, 32, 64, 128, 256, 512)}
    assert held[32] > 4 * held[1024] / 32, "the copies of the matrices do not matter here"
    budget = GraphBudget(2**40)
    # Before a second size is known, the charge is an upper bound.
    budget.charge(1024, held[1024])
    assert all(budget.bytes_of(tokens) >= size for tokens, size in held.items())
    assert budget.bytes_of(4096) >= 4 * held[1024]
    assert not budget.wants(1024) and not budget.wants(600) and budget.wants(512) and budget.wants(2048)
    budget.charge(32, held[32])
    assert not budget.wants(64)
    assert all(budget.bytes_of(tokens) == pytest.approx(size, rel=0.1) for tokens, size in held.items())
    assert budget.used_bytes == pytest.approx(held[1024] + held[32])


def test_a_short_chunk_is_measured_and_admitted_by_what_it_holds(tiny, batch) -> None:
    chunks = [packed(batch, chunk) for chunk in CHUNKINGS["one text each"]]
    budget = GraphBudget(2**40)
    cached_step(tiny, chunks, budget, embeddings_loss)
    sizes = [chunk.computed_tokens for chunk in chunks]
    assert len(budget.measured) == 2 and {tokens for tokens, _ in budget.measured} <= set(sizes)
    budget.limit_bytes = int(budget.bytes_of(sizes[0])) - 1
    budget.used_bytes = 0.0
    assert not budget.admits(sizes[0]) and budget.admits(min(sizes))


def test_packed_equals_padded_in_float32(tiny, batch):
    _, from_packed = plain_gradient(tiny, batch, CHUNKINGS["everything at once"])
    tiny.zero_grad()
    tiny.trunk.set_attn_implementation("sdpa")
    ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(text) for text in batch], batch_first=True)
    assert (mask == 0).any()
    states = tiny.trunk(input_ids=ids, attention_mask=mask).last_hidden_state
    flat = torch.cat([states[i, : len(text)] for i, text in enumerate(batch)])
    lengths = torch.tensor(LENGTHS)
    embeddings_loss(pool(flat, lengths, torch.minimum(torch.tensor(2), lengths - 1))).backward()
    from_padded = {name: p.grad for name, p in tiny.named_parameters()}
    assert worst(from_packed, from_padded) <= 1e-6 * max(float(g.abs().max()) for g in from_padded.values())


def test_bf16_autocast_stays_close(tiny, batch):
    _, exact = plain_gradient(tiny, batch, CHUNKINGS["uneven"])
    with torch.autocast("cpu", torch.bfloat16):
        _, rough = cached_gradient(tiny, batch, CHUNKINGS["uneven"], 0.0)
    flat = [torch.cat([g[name].flatten() for name in sorted(g)]) for g in (exact, rough)]
    assert torch.nn.functional.cosine_similarity(*flat, dim=0) > 0.99
    assert not torch.equal(*flat)


def test_segments_describe_runs():
    assert Segments.of([3, 3, 2, 3]).runs() == [(2, 3), (1, 2), (1, 3)]
