"""Metrics over aspects: by hand, against the slow reference, against every permutation, and their invariances."""

import itertools
import math
import random

import pytest

from reasonir.data.aspects import Aspect
from reasonir.retrieval.aspect_metrics import aspect_metrics, ideal_ranking
from reasonir.retrieval.metrics import CUTS, score_run
from tests.reference import alpha_ndcg as slow

PAIR = [Aspect("x", 1.0, ("a", "b")), Aspect("y", 1.0, ("c",))]


def draw_aspects(draw: random.Random, overlap: bool) -> list[Aspect]:
    documents = [f"d{i}" for i in range(12)]
    draw.shuffle(documents)
    aspects = []
    for index in range(draw.randint(1, 4)):
        size = draw.randint(1, 3)
        gold = draw.sample(documents, size) if overlap else [documents.pop() for _ in range(size)]
        aspects.append(Aspect(f"a{index}", draw.choice([1.0, 2.0, 3.0]), tuple(gold)))
    return aspects


def test_by_hand() -> None:
    """Two aspects, x covered by a and b, y by c; the ideal order is a c b, gains 1, 1, 1/2."""
    second, third = 1 / math.log2(3), 1 / math.log2(4)
    ideal = 1 + second + third / 2
    found = aspect_metrics(["a", "b", "c"], PAIR, (1, 2, 3))
    assert found["alpha_ndcg_at_1"] == 1.0
    assert found["alpha_ndcg_at_2"] == pytest.approx((1 + second / 2) / (1 + second), abs=1e-15)
    assert found["alpha_ndcg_at_3"] == pytest.approx((1 + second / 2 + third) / ideal, abs=1e-15)
    assert [found[f"aspect_recall_at_{k}"] for k in (1, 2, 3)] == [0.5, 0.5, 1.0]
    # Nothing relevant first, then both aspects in one document.
    both = [Aspect("x", 3.0, ("a",)), Aspect("y", 1.0, ("a", "c"))]
    found = aspect_metrics(["z", "a"], both, (1, 5))
    assert found["alpha_ndcg_at_1"] == found["aspect_recall_at_1"] == 0.0
    assert found["alpha_ndcg_at_5"] == pytest.approx(4 * second / (4 + second / 2), abs=1e-15)
    assert aspect_metrics(["c"], both, (1,))["aspect_recall_at_1"] == 0.25
    assert aspect_metrics([], both, (1,)) == {"alpha_ndcg_at_1": 0.0, "aspect_recall_at_1": 0.0}


@pytest.mark.parametrize("overlap", [False, True])
def test_against_the_slow_reference(overlap: bool) -> None:
    draw = random.Random(7)
    values = []
    for _ in range(60):
        aspects = draw_aspects(draw, overlap)
        ranking = draw.sample([f"d{i}" for i in range(12)] + ["other", "more"], draw.randint(0, 14))
        plain = {aspect.id: (aspect.weight, aspect.gold_ids) for aspect in aspects}
        found = aspect_metrics(ranking, aspects, CUTS)
        for cut in CUTS:
            assert found[f"alpha_ndcg_at_{cut}"] == pytest.approx(slow.alpha_ndcg(ranking, plain, cut), abs=1e-12)
            assert found[f"aspect_recall_at_{cut}"] == pytest.approx(slow.aspect_recall(ranking, plain, cut), abs=1e-12)
        values.append(found["alpha_ndcg_at_5"])
    assert len(set(values)) > 30 and 0 < sum(values) / len(values) < 1


def test_one_aspect_a_document_makes_the_greedy_ideal_the_best() -> None:
    draw = random.Random(3)
    for _ in range(20):
        aspects = draw_aspects(draw, overlap=False)[:3]
        documents = [document for aspect in aspects for document in aspect.gold_ids][:6]
        aspects = [Aspect(a.id, a.weight, tuple(d for d in a.gold_ids if d in documents)) for a in aspects]
        aspects = [aspect for aspect in aspects if aspect.gold_ids]
        plain = {aspect.id: (aspect.weight, aspect.gold_ids) for aspect in aspects}
        best = max(slow.alpha_dcg(order, plain, 4) for order in itertools.permutations(documents))
        assert slow.alpha_dcg(ideal_ranking(aspects, 4), plain, 4) == pytest.approx(best, abs=1e-12)
        assert aspect_metrics(ideal_ranking(aspects, 100), aspects, (1, 3, 100))["alpha_ndcg_at_100"] == 1.0


def test_weights_matter_by_their_ratio_only() -> None:
    ranking = ["b", "c"]
    scaled = [Aspect(a.id, 3 * a.weight, a.gold_ids) for a in PAIR]
    assert aspect_metrics(ranking, scaled, CUTS) == pytest.approx(aspect_metrics(ranking, PAIR, CUTS), abs=1e-15)
    heavier = [Aspect("x", 3.0, ("a", "b")), PAIR[1]]
    assert aspect_metrics(["c"], heavier, (1,))["alpha_ndcg_at_1"] == pytest.approx(1 / 3)
    assert aspect_metrics(["c"], PAIR, (1,))["alpha_ndcg_at_1"] == 1.0


def test_a_run_is_ranked_as_trec_eval_ranks_it() -> None:
    """Equal as float32: the later id stands first. Excluded documents count nowhere; a query without hits counts 0."""
    run = {"q": {"a": 1.0, "c": 1.0 + 1e-12, "b": 1.0, "z": 9.0}}
    qrels = {"q": {"a": 1, "b": 1, "c": 1}, "lost": {"a": 1}}
    aspects = {"q": [Aspect("x", 1.0, ("b",)), Aspect("y", 1.0, ("c",))], "lost": PAIR}
    scored = score_run(run, qrels, {"q": ["z"]}, aspects)
    assert scored.per_query["q"]["aspect_recall_at_1"] == 0.5
    assert scored.per_query["q"]["alpha_ndcg_at_5"] == 1.0  # c, b, a
    assert scored.per_query["lost"]["alpha_ndcg_at_100"] == 0.0
    assert scored.mean["alpha_ndcg_at_5"] == 0.5
    assert "alpha_ndcg_at_5" not in score_run(run, qrels).mean
