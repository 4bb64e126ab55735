"""What is read of results and exclusions again: an id stands for one thing."""

import json
from pathlib import Path

import pytest

from reasonir.core.errors import UserError
from reasonir.eval.benchmarks.config import ScoreConfig
from reasonir.eval.benchmarks.score import score_files
from reasonir.eval.scores.results import TaskResult
from tests.kit.mistakes import refused
from tests.kit.texts import write_rows


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"id": "0", "ndcg_at_10": 0.25}, "per_query.jsonl:2: query id '0' stands twice"),
        ({"id": 7, "ndcg_at_10": 0.25}, "per_query.jsonl:2: a row needs a string `id`"),
        ({"id": "1", "ndcg_at_10": "high"}, "per_query.jsonl:2: a row needs a string `id`, and numbers"),
        ({"id": "1", "ndcg_at_10": True}, "per_query.jsonl:2: a row needs a string `id`, and numbers"),
    ],
)
def test_per_query_rows_are_refused_by_line(tmp_path: Path, second: dict, said: str) -> None:
    first = {"id": "0", "ndcg_at_10": 0.5, "num_queries": 1}
    write_rows(tmp_path / "per_query.jsonl", [first, second])
    assert said in refused(TaskResult("x", tmp_path, {}).per_query)
    write_rows(tmp_path / "per_query.jsonl", [first, first])
    assert TaskResult("x", tmp_path, {}).per_query() == {"0": {"ndcg_at_10": 0.5, "num_queries": 1}}


def test_exclusions_of_a_query_stand_once(tmp_path: Path) -> None:
    (tmp_path / "run.trec").write_text("7 Q0 d1 1 2.0 r\n7 Q0 d2 2 1.0 r\n", encoding="utf-8")
    (tmp_path / "qrels.txt").write_text("7 0 d2 1\n", encoding="utf-8")
    options = {name: str(tmp_path / file) for name, file in (("run", "run.trec"), ("qrels", "qrels.txt"))}
    excluded, output = tmp_path / "excluded.jsonl", tmp_path / "out" / "metrics.json"
    config = ScoreConfig(**options, excluded=str(excluded), output=str(output), debug=False)
    write_rows(excluded, [{"id": 7, "excluded_ids": ["d1", "N/A"]}])
    score_files(config)
    assert json.loads(output.read_text(encoding="utf-8"))["ndcg_at_10"] == 1.0
    write_rows(excluded, [{"id": 7, "excluded_ids": ["d1"]}, {"id": "7", "excluded_ids": []}])
    with pytest.raises(UserError, match=r"excluded\.jsonl:2: query id '7' stands twice with different content"):
        score_files(config)
