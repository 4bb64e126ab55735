"""`reasonir-eval score` on a hand-made run: every value below was computed by hand."""

import json
from math import log2
from pathlib import Path

import pytest

from reasonir.eval import cli
from tests.kit.texts import write_rows

RUN = {
    "tie": {"a": 2.0, "c": 2.0, "b": 2.0},  # equal scores: c, b, a
    "float32": {"a": 1.0 + 1e-9, "b": 1.0},  # equal at float32: b, a
    "excluded": {"self": 9.0, "x": 8.0, "gold": 7.0},
    "all excluded": {"self": 9.0},
    "graded": {"a": 3.0, "unknown": 2.5, "b": 2.0, "zero": 1.0},
    "empty": {},
    "not judged": {"a": 1.0},
}
QRELS = """
tie 0 b 1
tie 0 b 1
float32 0 a 1
excluded 0 gold 1
all_excluded 0 gold 1
graded 0 a 1
graded 0 b 2
graded 0 zero 0
graded 0 missing 3
empty 0 gold 1
absent 0 gold 1
no_gold 0 a 0
"""
SECOND = 1 / log2(3)
GRADED = (1 + 2 / log2(4)) / (3 + 2 * SECOND + 1 / log2(4))
EXPECTED = {  # ndcg_at_10, ndcg_at_1, recall_at_5, map_at_10, precision_at_5, mrr
    "tie": (SECOND, 0.0, 1.0, 0.5, 0.2, 0.5),
    "float32": (SECOND, 0.0, 1.0, 0.5, 0.2, 0.5),
    "excluded": (SECOND, 0.0, 1.0, 0.5, 0.2, 0.5),
    "all_excluded": (0.0,) * 6,
    "graded": (GRADED, 1 / 3, 2 / 3, (1 + 2 / 3) / 3, 0.4, 1.0),
    "empty": (0.0,) * 6,
    "absent": (0.0,) * 6,
}
NAMES = ("ndcg_at_10", "ndcg_at_1", "recall_at_5", "map_at_10", "precision_at_5", "mrr")


@pytest.mark.parametrize("form", ["json", "trec"])
def test_hand_made_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    run = {query.replace(" ", "_"): hits for query, hits in RUN.items()}
    file = tmp_path / f"run.{form}"
    if form == "json":
        file.write_text(json.dumps(run))
    else:  # the fourth column says otherwise, as it may: the score decides
        rows = [f"{q} Q0 {d} {9 - i} {s!r} me\n" for q, hits in run.items() for i, (d, s) in enumerate(hits.items())]
        file.write_text("".join(rows))
    (tmp_path / "qrels.txt").write_text(QRELS.lstrip())
    excluded = [{"id": "excluded", "excluded_ids": ["self", "x2"]}, {"id": "all_excluded", "excluded_ids": ["self"]}]
    write_rows(tmp_path / "excluded.jsonl", [*excluded, {"id": "tie", "excluded_ids": ["N/A"]}])
    options = [f"run={file}", f"qrels={tmp_path / 'qrels.txt'}", f"excluded={tmp_path / 'excluded.jsonl'}"]
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["score", *options, f"output={tmp_path / 'out' / 'metrics.json'}"])
    said = capsys.readouterr().out
    assert exit_info.value.code == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "per_query.jsonl").read_text().splitlines()]
    assert {row["id"]: [row[name] for name in NAMES] for row in rows} == {
        query: pytest.approx(values, abs=1e-12) for query, values in EXPECTED.items()
    }
    mean = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert mean["num_queries"] == 7
    assert [mean[name] for name in NAMES] == pytest.approx(
        [sum(values[i] for values in EXPECTED.values()) / 7 for i in range(6)], abs=1e-12
    )
    # Missing: all excluded, empty, absent.
    assert "queries missing in run 3, queries without gold 1, run queries without qrels 1" in said
