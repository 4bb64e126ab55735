"""A measurement against slow references; it leaves no trace in the run."""

import dataclasses
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from reasonir.model import Encoder
from reasonir.train.dev.measure import DevMeasurements, dev_loss, dev_ndcg
from reasonir.train.dev.record import DevRecord, add_measurement, is_spent
from reasonir.train.dev.sets import DevSet
from reasonir.train.objectives.infonce import info_nce
from reasonir.train.parallel.engine import Engine
from reasonir.train.parallel.ranks import Ranks
from reasonir.train.step import TrainingStep
from tests.kit.dev_runs import opened
from tests.reference.infonce import info_nce as slow_info_nce
from tests.reference.ndcg import ndcg

OBJECTIVE = partial(info_nce, temperature=0.1)


@pytest.fixture
def sets(tiny: Encoder, tmp_path: Path, bright_folder: Path) -> list[DevSet]:
    return opened(tiny, tmp_path, dir=str(bright_folder))


def training_step(encoder: Encoder, chunk_tokens: int = 100, precision: str = "fp32") -> TrainingStep:
    ranks = Ranks(60.0)
    engine = Engine(encoder, torch.optim.SGD(encoder.parameters()), ranks, 0.0)
    return TrainingStep(engine, ranks, OBJECTIVE, chunk_tokens=chunk_tokens, graph_memory_gib=0.0, precision=precision)


def measurements(sets: list[DevSet], step: TrainingStep, **changes: object) -> DevMeasurements:
    pace: dict = {"every_steps": 2, "patience": 0, "keep_best": True} | changes
    return DevMeasurements(sets, step.ranks, step, OBJECTIVE, **pace)


def some_embeddings(dev: DevSet) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    rows = (torch.randn(n, 8, generator=draw) for n in (len(dev.queries), len(dev.documents)))
    query_QD, document_ND = (torch.nn.functional.normalize(x, dim=1) for x in rows)
    return query_QD, document_ND


def test_loss_and_ndcg_are_those_of_plain_loops(sets: list[DevSet]) -> None:
    for dev in sets:
        query_QD, document_ND = some_embeddings(dev)
        positives = [min(gold, key=lambda p: (-gold[p], p)) for gold in dev.gold]
        ignored = [
            [j != positives[i] and (j in dev.gold[i] or j in dev.excluded[i]) for j in range(len(document_ND))]
            for i in range(len(query_QD))
        ]
        assert any(map(any, ignored))
        losses = slow_info_nce(query_QD.double().tolist(), document_ND.double().tolist(), positives, ignored, 0.1)
        assert dev_loss(dev, query_QD, document_ND, OBJECTIVE) == pytest.approx(np.mean(losses), abs=1e-5)
        scores = (query_QD @ document_ND.T).tolist()
        slow = [
            ndcg(
                {dev.document_ids[j]: s for j, s in enumerate(row) if j not in excluded},
                {dev.document_ids[j]: grade for j, grade in gold.items()},
                10,
            )
            for row, gold, excluded in zip(scores, dev.gold, dev.excluded, strict=True)
        ]
        assert dev_ndcg(dev, query_QD, document_ND) == pytest.approx(np.mean(slow), abs=1e-6)
        assert 0 < np.mean(slow) < 1


def test_grades_choose_the_positive(sets: list[DevSet]) -> None:
    dev = dataclasses.replace(sets[0], gold=[{1: 1, 4: 2}, {5: 1}, {3: 1}])
    query_QD, document_ND = some_embeddings(dev)
    swapped = dataclasses.replace(dev, gold=[{4: 1}, {5: 1}, {3: 1}], excluded=[np.array([0, 1]), *dev.excluded[1:]])
    pair = [dev_loss(d, query_QD, document_ND, OBJECTIVE) for d in (dev, swapped)]
    assert pair[0] == pair[1]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_measurement_leaves_weights_and_random_numbers_and_dropout_alone(
    tiny: Encoder, sets: list[DevSet], precision: str
) -> None:
    for module in tiny.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    step = training_step(tiny.train(), precision=precision)
    before = [p.detach().clone() for p in tiny.parameters()]
    rows: list[dict] = [{}, {}]
    for seed, row in enumerate(rows):
        state = torch.manual_seed(seed).get_state()
        measurements(sets, step).measure(2, None, row)
        assert torch.equal(torch.get_rng_state(), state)
    assert rows[0]["dev/loss_nats"] == rows[1]["dev/loss_nats"], "dropout was on"
    assert all(torch.equal(a, b) for a, b in zip(before, tiny.parameters(), strict=True))
    assert all(p.grad is None for p in tiny.parameters())
    assert all(module.training for module in tiny.modules())


def test_chunks_change_no_more_than_rounding_and_texts_are_embedded_once(tiny: Encoder, sets: list[DevSet]) -> None:
    found = []
    for chunk_tokens in (1, 100, 10_000):
        step, row = training_step(tiny, chunk_tokens), {}
        seen: Counter = Counter()
        plain = step.embed_packed

        def embed(texts, label, seen=seen, plain=plain):
            seen[label] += len(texts.lengths)
            return plain(texts, label)

        step.embed_packed = embed
        measurements(sets, step).measure(1, None, row)
        assert sum(seen.values()) == sum(len(dev.texts) for dev in sets)
        found.append(row)
    assert np.ptp([row["dev/loss_nats"] for row in found]) < 1e-5
    assert np.ptp([row["dev/ndcg_at_10"] for row in found]) < 1e-9


def test_a_record_keeps_the_first_best_and_counts_what_came_after() -> None:
    record: DevRecord | None = None
    spent = []
    for step, value in enumerate([0.5, 0.4, 0.6, 0.6, 0.1], start=1):
        record = add_measurement(record, step, value)
        spent.append(is_spent(record, 2))
    assert record == DevRecord(best_step=3, best_ndcg_at_10=0.6, last_step=5, last_ndcg_at_10=0.1, stale=2)
    assert spent == [False, False, False, False, True]
    assert not is_spent(record, 0) and not is_spent(None, 1)


def test_it_is_due_every_so_many_steps_and_after_the_last(tiny: Encoder, sets: list[DevSet]) -> None:
    step = training_step(tiny)
    assert [n for n in range(1, 8) if measurements(sets, step).due(n, 7)] == [2, 4, 6, 7]
    assert [n for n in range(1, 8) if measurements([], step).due(n, 7)] == []
