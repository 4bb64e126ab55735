"""Dealing texts to ranks, stretching chunks, and checkpoints of any number of ranks."""

import json
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from reasonir.core.errors import RunStopped, UserError
from reasonir.model.packing import token_budget_chunks
from reasonir.train import checkpoint
from reasonir.train.optim import build_adamw
from reasonir.train.parallel.cross_device import assign_texts, attention_share_of, text_cost
from reasonir.train.parallel.engine import Engine
from reasonir.train.parallel.ranks import Ranks
from reasonir.train.step import largest_batch, stretch_chunks


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_every_text_is_dealt_once_and_queries_evenly(ranks: int) -> None:
    draw = np.random.default_rng(ranks)
    queries, documents = draw.integers(5, 2_000, 24).astype(float), draw.integers(5, 2_000, 37).astype(float)
    deal = assign_texts(queries, documents, ranks)
    assert np.array_equal(np.sort(np.concatenate(deal.queries)), np.arange(24))
    assert np.array_equal(np.sort(np.concatenate(deal.documents)), np.arange(37))
    assert {len(indices) for indices in deal.queries} == {24 // ranks}
    loads = [queries[q].sum() + documents[d].sum() for q, d in zip(deal.queries, deal.documents, strict=True)]
    assert np.allclose(deal.load, loads)
    assert all(np.array_equal(d, np.sort(d)) for d in (*deal.queries, *deal.documents))


def test_the_deal_is_balanced_where_file_order_is_not() -> None:
    draw = np.random.default_rng(0)
    cost = text_cost(draw.lognormal(5.5, 1.2, 128 * 48).clip(8, 2_048), attention_share_of(7_000_000_000, 32, 4_096))
    deal = assign_texts(cost[: 128 * 16], cost[128 * 16 :], 128)
    in_order = cost[: 128 * 16].reshape(128, 16).sum(1) + cost[128 * 16 :].reshape(128, 32).sum(1)
    assert in_order.max() / in_order.mean() - 1 > 0.3
    assert deal.spread < 0.01


def test_queries_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="7 queries do not divide by 2 ranks"):
        assign_texts(np.ones(7), np.ones(9), 2)


def test_attention_counts_more_for_long_texts() -> None:
    share = attention_share_of(7_000_000_000, 32, 4_096)
    one, two = text_cost(np.array([2_048.0, 4_096.0]), share)
    assert 2.0 < two / one < 2.2


@pytest.mark.parametrize("count", [3, 4, 7, 12])
def test_stretched_chunks_keep_order_and_fill_up_with_idle_ones(count: int) -> None:
    lengths = np.array([9, 8, 8, 5, 4, 2, 1])
    chunks = stretch_chunks([np.array([0, 1]), np.array([2, 3, 4]), np.array([5, 6])], lengths, count)
    assert len(chunks) == count and all(len(chunk) for chunk in chunks)
    together = np.concatenate(chunks)
    assert together[:7].tolist() == list(range(7))
    assert (together[7:] == 6).all(), "idle chunks repeat the shortest text"


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize(
    ("query", "document", "chunk"),
    [(2048, 2048, 4096), (512, 2048, 4096), (64, 2048, 4096), (256, 1024, 4096), (2048, 512, 4096), (2048, 2048, 2500),
     (40, 100, 350), (2048, 64, 2048), (64, 2048, 2048), (64, 2048, 100)],
)  # fmt: skip
def test_largest_texts_fill_a_chunk_of_every_rank_to_the_brim(
    query: int, document: int, chunk: int, ranks: int
) -> None:
    plan = largest_batch(query, document, chunk, ranks)
    lengths = [np.array([len(ids) for ids in texts]) for texts in (plan.query_ids, plan.document_ids)]
    assert lengths[0].max() <= query and lengths[1].max() <= document
    assert max(map(max, lengths)) == max(query, document), "the longest text is tried"
    assigned = assign_texts(lengths[0], lengths[1], ranks)
    for rank in range(ranks):
        own = np.concatenate([lengths[0][assigned.queries[rank]], lengths[1][assigned.documents[rank]]])
        first, *rest = token_budget_chunks(own, chunk)
        assert own[first].sum() == max(chunk, query, document)
        assert [own[chosen].tolist() for chosen in rest] in ([], [[1]]), "a token of a kind that found no room"


class _As(Ranks):
    """One of several ranks, without a group: enough to say who writes what."""

    def __init__(self, rank: int, world: int) -> None:
        super().__init__(5.0)
        self.rank, self.world = rank, world


def trained_engine(tiny, ranks: Ranks) -> Engine:
    engine = Engine(tiny, build_adamw(tiny, 1e-2, 1e-2, 0.0), Ranks(5.0), 0.0)
    for p in tiny.parameters():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    engine.update()
    engine.ranks = ranks
    return engine


STATE = checkpoint.TrainingState(3, "fp32", 99, "data")


def write(engine: Engine, folder: Path, worlds: int) -> Path:
    """Save as `worlds` ranks would, rank 0 last: it commits."""
    for rank in reversed(range(worlds)):
        engine.ranks = _As(rank, worlds)
        writer = checkpoint.CheckpointWriter(folder, engine.ranks, keep=2)
        writer.save(engine, STATE)
        writer.wait()
    return folder / "step_3"


@pytest.mark.parametrize("worlds", [1, 3])
def test_a_checkpoint_of_any_number_of_ranks_restores_weights_and_moments(tiny, tmp_path: Path, worlds: int) -> None:
    engine = trained_engine(tiny, _As(0, worlds))
    path = write(engine, tmp_path, worlds)
    assert len(list(path.glob("rank_*.safetensors"))) == worlds
    saved = {name: p.detach().clone() for name, p in tiny.named_parameters()}
    moments = {name: engine.states[p]["exp_avg_sq"].clone() for name, p in tiny.named_parameters()}
    with torch.no_grad():
        for p in tiny.parameters():
            p.zero_()
    engine.optimizer.state.clear()
    reader = checkpoint.CheckpointReader(path)
    assert reader.state == STATE
    checkpoint.load_weights(reader, tiny)
    engine.ranks = Ranks(5.0)
    checkpoint.load_optimizer(reader, engine)
    reader.close()
    assert all(torch.equal(p, saved[name]) for name, p in tiny.named_parameters())
    assert max(float(m.max()) for m in moments.values()) > 0
    for name, p in tiny.named_parameters():
        assert torch.equal(engine.states[p]["exp_avg_sq"], moments[name])
        assert float(engine.states[p]["step"]) == 3


def test_a_checkpoint_with_a_file_missing_or_of_another_model_is_refused(tiny, tmp_path: Path) -> None:
    path = write(trained_engine(tiny, _As(0, 3)), tmp_path, 3)
    reader = checkpoint.CheckpointReader(path)
    other = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match="does not fit this model"):
        checkpoint.load_weights(reader, other)
    reader.close()
    (path / "rank_00001.safetensors").unlink()
    with pytest.raises(UserError, match="2 rank files and was written by 3 ranks"):
        checkpoint.CheckpointReader(path)


def test_a_damaged_checkpoint_is_named(tiny, tmp_path: Path) -> None:
    path = write(trained_engine(tiny, _As(0, 1)), tmp_path, 1)
    file = path / "rank_00000.safetensors"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UserError, match=r"rank_00000\.safetensors cannot be read"):
        checkpoint.CheckpointReader(path)


def test_rank_0_waits_for_all_files_and_then_gives_up(tiny, tmp_path: Path) -> None:
    engine = trained_engine(tiny, _As(0, 2))
    engine.ranks.timeout_seconds = 0.3
    writer = checkpoint.CheckpointWriter(tmp_path, engine.ranks, keep=2)
    writer.save(engine, STATE)
    with pytest.raises(RunStopped, match="not all ranks wrote"):
        writer.wait()
    assert checkpoint.list_checkpoints(tmp_path) == []


@pytest.mark.parametrize("place", range(20))
@pytest.mark.parametrize("name", ["rank_00000.safetensors", "rank_00001.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_is_taken(
    tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, place: int
) -> None:
    path = write(trained_engine(tiny, _As(0, 2)), tmp_path, 2)
    shutil.copytree(path, tmp_path / "step_2")
    content = bytearray((path / name).read_bytes())
    content[place * len(content) // 20] ^= 1
    (path / name).write_bytes(content)
    checkpoint.set_damaged_aside(tmp_path)
    steps = [step for step, _ in checkpoint.list_checkpoints(tmp_path)]
    if steps == [2, 3]:
        # White space of JSON, or the name of the checksum, which is then that of an older version: nothing is lost.
        assert name == "state.json"
        reader = checkpoint.open_newest(tmp_path, "data")
        assert reader is not None and reader.state == STATE
        return
    assert steps == [2]
    (line,) = capsys.readouterr().err.splitlines()
    assert "step_3 is damaged: it is set aside as damaged_step_3" in line
    checkpoint.set_damaged_aside(tmp_path)
    assert capsys.readouterr().err == ""


def test_the_best_checkpoint_is_not_exported_if_it_is_damaged(tiny, tmp_path: Path) -> None:
    path = write(trained_engine(tiny, _As(0, 1)), tmp_path, 1)
    checkpoint.load_weights_of(tmp_path, 3, tiny)
    content = bytearray((path / "rank_00000.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "rank_00000.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"step_3 is damaged, it held the best step; dev\.keep=last"):
        checkpoint.load_weights_of(tmp_path, 3, tiny)


def test_a_checkpoint_of_an_older_version_is_read(tiny, tmp_path: Path) -> None:
    path = write(trained_engine(tiny, _As(0, 1)), tmp_path, 1)
    fields = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({k: v for k, v in fields.items() if k not in ("files", "checksum")}))
    checkpoint.set_damaged_aside(tmp_path)
    reader = checkpoint.open_newest(tmp_path, "data")
    assert reader is not None and reader.state == STATE


def test_a_full_disk_leaves_no_part_of_a_checkpoint(tiny, tmp_path: Path) -> None:
    engine = trained_engine(tiny, _As(0, 1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    writer = checkpoint.CheckpointWriter(tmp_path, engine.ranks, keep=2)
    try:
        writer.save(engine, STATE)
        with pytest.raises(RunStopped, match=r"rank_00000\.safetensors: File too large; raise the limit"):
            writer.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
