"""Runs and qrels of every format of the contract, and what each refuses."""

import json
import random
from pathlib import Path

import pytest

from reasonir.data.trec import read_qrels, read_run, write_run
from tests.kit.mistakes import refused
from tests.kit.shared import SHARED_DATA, requires_shared_data


def test_qrels_of_both_formats_agree(tmp_path: Path) -> None:
    expected = {"q 1": {"d": 1}, "q2": {"d": -1, "ü": 2}}
    (tmp_path / "q.tsv").write_text("query-id\tcorpus-id\tscore\nq 1\td\t1\nq2\td\t-1\nq2\tü\t2\n", encoding="utf-8")
    (tmp_path / "q.txt").write_text("q 1\t0\td\t1\nq2 0 d -1\nq2 0 ü 2\n", encoding="utf-8")
    assert read_qrels(str(tmp_path / "q.tsv")) == read_qrels(str(tmp_path / "q.txt")) == expected
    (tmp_path / "e.tsv").write_text("q d\n", encoding="utf-8")
    assert "e.tsv:1" in refused(read_qrels, str(tmp_path / "e.tsv"))


@pytest.mark.parametrize(
    "lines",
    [b"q1\tQ0\td1\t1\t\t\n", b"q1 0 d1\t1 \r\n", b"  q1\t0 d1  1\n", b"\xef\xbb\xbfq1 0 d1 1\n", b"q1 0 d1 1.0\n",
     b"q1\td1\t1\n", b"qid\tdocid\trel\nq1\td1\t1\n", b"q1\x0b0\x0cd1 1\n"],
)  # fmt: skip
def test_qrels_with_any_white_space(lines: bytes, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_bytes(lines)
    assert read_qrels(str(tmp_path / "q.txt")) == {"q1": {"d1": 1}}


@pytest.mark.parametrize(
    "line",
    [b"q1 Q0 d1\t1 2.0 r", b"q1\tQ0\td1\t1\t2.0\tr\t\t", b"\xef\xbb\xbfq1 Q0  d1 1 2.0 r ", b"q1\tQ0\td1\t1 2.0 r"],
)
def test_a_run_with_any_white_space(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "run.trec").write_bytes(line + b"\n")
    assert read_run(str(tmp_path / "run.trec")) == {"q1": {"d1": 2.0}}


def test_what_only_a_header_tells_is_refused_without_one(tmp_path: Path) -> None:
    (tmp_path / "q.tsv").write_text("q 1\td\t1\n", encoding="utf-8")
    assert "q.tsv:1: spaces beside tabs" in refused(read_qrels, str(tmp_path / "q.tsv"))
    (tmp_path / "half.tsv").write_text("q d 0.5\n", encoding="utf-8")
    assert "half.tsv:1: grade '0.5'" in refused(read_qrels, str(tmp_path / "half.tsv"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"q": {"d": 1.0}, "q": {"e": 1.0}}', "the key 'q' stands twice"),
        (b'{"q": {"d": 1.0, "d": 2.0}}', "the key 'd' stands twice"),
        (b"[" * 100_000, "broken JSON"),
    ],
    ids=["query", "document", "deep"],
)
def test_bad_score_json_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "score.json").write_bytes(content)
    assert said in refused(read_run, str(tmp_path / "score.json"))
    (tmp_path / "score.json").write_bytes(b'\xef\xbb\xbf{"q": {"d": 1.0}}')
    assert read_run(str(tmp_path / "score.json")) == {"q": {"d": 1.0}}


def test_qrels_must_not_contradict_themselves(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("q 0 d 1\nq 0 d 1\nq 0 d 0\n", encoding="utf-8")
    assert "q.txt:3" in refused(read_qrels, str(tmp_path / "q.txt"))


def test_a_run_survives_writing_to_the_last_bit(tmp_path: Path) -> None:
    draw = random.Random(0)
    run = {f"q/{q}": {f"d {d}" if q else f"ü{d}": draw.uniform(-1, 1) / 3 for d in range(20)} for q in range(3)}
    run["q/0"]["no\u00a0break"] = 0.25
    run["q/0"]["tie"] = run["q/0"]["ü0"]
    write_run(tmp_path / "run.trec", run, "name")
    assert read_run(str(tmp_path / "run.trec")) == run
    (tmp_path / "score.json").write_text(json.dumps(run), encoding="utf-8")
    assert read_run(str(tmp_path / "score.json")) == run


def test_a_written_run_stands_in_trec_order(tmp_path: Path) -> None:
    write_run(tmp_path / "run.trec", {"q": {"a": 1.0, "b": 1.0, "c": 2.0}}, "name")
    lines = (tmp_path / "run.trec").read_text(encoding="utf-8").splitlines()
    assert [line.split()[2:4] for line in lines] == [["c", "1"], ["b", "2"], ["a", "3"]]


@pytest.mark.parametrize(
    "line",
    ["q Q0 d 1 0.5", "q Q0 d 1 nan n", "q Q0 d 1 inf n", "q Q0 d 1 high n", "q Q0 first 2 0.1 n"],
    ids=lambda line: line,
)
def test_bad_run_lines_are_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "run.trec").write_text(f"q Q0 first 1 0.9 n\n{line}\n", encoding="utf-8")
    assert "run.trec:2" in refused(read_run, str(tmp_path / "run.trec"))


@requires_shared_data
@pytest.mark.parametrize("task", ["pony", "theoremqa_theorems"])
def test_real_runs_are_read_whole(task: str) -> None:
    run = read_run(str(SHARED_DATA / f"bright/runs/{task}.reasonir_gpt4.trec"))
    qrels = read_qrels(str(SHARED_DATA / f"bright/qrels/{task}.txt"))
    assert set(run) == set(qrels)
    assert {len(hits) for hits in run.values()} == {100}
