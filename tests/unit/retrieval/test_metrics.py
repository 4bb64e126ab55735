"""Metrics against pytrec_eval called directly and against plain loops."""

from pathlib import Path

import numpy as np
import pytest
import pytrec_eval

from reasonir.data.bright import BRIGHT_TASKS
from reasonir.eval.scores.published import BRIGHT_SIZES, ORIGINAL, REWRITTEN, published_rows
from reasonir.retrieval.metrics import CUTS, METRIC_OF_MEASURE, score_run
from tests.kit.shared import SHARED_DATA, requires_shared_data
from tests.reference.ndcg import ndcg

RUN = {
    "ties": {"a": 1.0, "b": 1.0, "c": 1.0, "é": 1.0, "Z": 1.0},
    "ties of float32": {"a": 1.0, "b": 1.0 - 1e-9, "c": 0.5},
    "graded": {"a": 3.0, "b": 2.0, "c": 1.0, "d": -1.0},
    "one excluded": {"self": 9.0, "gold": 8.0, "other": 7.0},
    "all excluded": {"self": 9.0},
    "empty": {},
    "without gold": {"a": 1.0},
    "unknown": {"a": 1.0},
    "gold not found": {"a": 1.0},
}
QRELS = {
    "ties": {"é": 1, "a": 1},
    "ties of float32": {"b": 1},
    "graded": {"a": 1, "b": 0, "c": 3, "missing": 2},
    "one excluded": {"gold": 1},
    "all excluded": {"gold": 1},
    "empty": {"gold": 1},
    "absent": {"gold": 1},
    "without gold": {"a": 0},
    "judged nothing": {},
    "gold not found": {"gold": 1},
}
EXCLUDED = {"one excluded": ["self", "N/A"], "all excluded": {"self"}, "nobody": ["x"]}


def test_ndcg_equals_the_slow_computation() -> None:
    scored = score_run(RUN, QRELS, EXCLUDED)
    for query, row in scored.per_query.items():
        kept = {i: s for i, s in RUN.get(query, {}).items() if i not in EXCLUDED.get(query, ())}
        for cut in CUTS:
            assert row[f"ndcg_at_{cut}"] == pytest.approx(ndcg(kept, QRELS[query], cut), abs=1e-12), (
                query,
                cut,
            )
    assert scored.per_query["ties"]["ndcg_at_1"] == 1.0, "é sorts last, so first"
    assert scored.per_query["ties of float32"]["mrr"] == 1.0, "equal at float32"
    assert scored.per_query["one excluded"]["ndcg_at_1"] == 1.0
    assert score_run(RUN, QRELS).per_query["one excluded"]["ndcg_at_1"] == 0.0


def test_who_counts() -> None:
    scored = score_run(RUN, QRELS, EXCLUDED)
    assert list(scored.per_query) == [query for query in QRELS if query not in ("without gold", "judged nothing")]
    assert scored.mean["num_queries"] == len(scored.per_query) == 8
    assert scored.queries_without_gold == 2
    assert scored.missing_queries == 3, "absent, empty, all excluded"
    assert scored.unknown_queries == 1
    for query in ("absent", "empty", "all excluded"):
        assert set(scored.per_query[query].values()) == {0.0}
    for metric in METRIC_OF_MEASURE.values():
        mean = sum(row[metric] for row in scored.per_query.values()) / 8
        assert scored.mean[metric] == pytest.approx(mean, abs=1e-15)


def test_keys_are_the_contracts() -> None:
    keys = {f"{name}_at_{k}" for name in ("ndcg", "map", "recall", "precision") for k in (1, 5, 10, 25, 50, 100)}
    scored = score_run(RUN, QRELS)
    assert set(scored.mean) == keys | {"mrr", "num_queries"}
    assert set(scored.per_query["ties"]) == keys | {"mrr"}


def test_whole_number_scores_and_no_query_at_all() -> None:
    assert score_run({"q": {"a": 1}}, {"q": {"a": 1}}).mean["mrr"] == 1.0
    empty = score_run({}, {})
    assert empty.per_query == {} and empty.mean["num_queries"] == 0 and empty.mean["ndcg_at_10"] == 0.0


def test_random_runs_equal_pytrec_eval_and_the_slow_computation() -> None:
    random = np.random.default_rng(0)
    run = {
        f"q{q}": {f"d{d}": float(random.integers(0, 12)) / 7 for d in random.choice(300, 150, replace=False)}
        for q in range(20)
    }
    qrels = {query: {f"d{d}": int(random.integers(0, 4)) for d in range(0, 300, 9)} for query in run}
    check_against_pytrec_eval(run, qrels)
    scored = score_run(run, qrels)
    for query, row in scored.per_query.items():
        assert row["ndcg_at_10"] == pytest.approx(ndcg(run[query], qrels[query], 10), abs=1e-12)


def check_against_pytrec_eval(run: dict[str, dict[str, float]], qrels: dict[str, dict[str, int]]) -> None:
    """Every metric of every query to 1e-12, and the means where the run has every query."""
    scored = score_run(run, qrels)
    direct = pytrec_eval.RelevanceEvaluator(qrels, pytrec_eval.supported_measures).evaluate(run)
    assert set(direct) == set(scored.per_query) == set(run) & set(qrels)
    for query, values in direct.items():
        row = scored.per_query[query]
        for ours, theirs in (
            ("ndcg_at", "ndcg_cut"),
            ("map_at", "map_cut"),
            ("recall_at", "recall"),
            ("precision_at", "P"),
        ):
            for cut in CUTS:
                assert abs(row[f"{ours}_{cut}"] - single(run, qrels, query, f"{theirs}.{cut}")) < 1e-12
        assert abs(scored.per_query[query]["mrr"] - values["recip_rank"]) < 1e-12
    means = np.mean([values["ndcg_cut_10"] for values in direct.values()])
    assert abs(scored.mean["ndcg_at_10"] - means) < 1e-12


def single(run: dict[str, dict[str, float]], qrels: dict[str, dict[str, int]], query: str, measure: str) -> float:
    """One measure of one query, asked for alone."""
    evaluator = pytrec_eval.RelevanceEvaluator({query: qrels[query]}, {measure})
    return evaluator.evaluate({query: run[query]})[query][measure.replace(".", "_")]


def read_trec(path: Path, key: int, value: int, kind: type) -> dict[str, dict]:
    table: dict[str, dict] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        columns = line.split()
        table.setdefault(columns[0], {})[columns[key]] = kind(columns[value])
    return table


@requires_shared_data
@pytest.mark.shared_data
@pytest.mark.parametrize("task", ["pony", "theoremqa_theorems"])
@pytest.mark.parametrize("variant", ["txt", "fixed.txt"])
def test_real_runs_equal_pytrec_eval(task: str, variant: str) -> None:
    run = read_trec(SHARED_DATA / "bright" / "runs" / f"{task}.reasonir_gpt4.trec", 2, 4, float)
    qrels = read_trec(SHARED_DATA / "bright" / "qrels" / f"{task}.{variant}", 2, 3, int)
    assert len(run) > 50
    check_against_pytrec_eval(run, qrels)


def test_published_rows_are_whole() -> None:
    for row in (*ORIGINAL, *REWRITTEN):
        assert len(row.points) in (0, len(BRIGHT_TASKS))
        if row.points:
            assert row.average == pytest.approx(sum(row.points) / 12, abs=0.11), row.system
        assert row.source.startswith("arXiv ")
    original, rewritten = published_rows("original"), published_rows("gpt4")
    assert {row.system: row.average for row in original if row.source == "arXiv 2407.12883"}["BM25"] == 14.5
    assert rewritten[0].by_column()["pony"] == 19.6 and rewritten[0].by_column()["average"] == 29.9
    assert [row.average for row in rewritten if row.system.startswith("BM25")] == [27.0, 26.5]
    assert all(row.queries == "original" for row in original) and all(row.queries != "original" for row in rewritten)


@requires_shared_data
@pytest.mark.shared_data
@pytest.mark.parametrize("task", BRIGHT_TASKS)
def test_full_tasks_have_as_many_judged_queries_as_bright(task: str) -> None:
    judged = {line.split()[0] for line in (SHARED_DATA / "bright" / "qrels" / f"{task}.txt").read_text().splitlines()}
    assert BRIGHT_SIZES[task].queries == len(judged)
    assert list(BRIGHT_SIZES) == list(BRIGHT_TASKS)
