"""The loop over tasks: read once, checked before anything is written, not computed twice."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from reasonir.core.errors import UserError
from reasonir.core.run_folder import RunFolder
from reasonir.data.collections import Collection, Document, Query
from reasonir.eval.benchmarks.evaluate import Evaluation, evaluate_tasks, summary_line
from reasonir.eval.scores.results import read_results, write_results
from reasonir.retrieval.config import Lexical
from reasonir.retrieval.ranking import LexicalSearch, Searcher

DOCUMENTS = [Document("a", "red apples fall"), Document("b", "green pears hang"), Document("c", "boats sail")]
QUERIES = [Query("1", "why do apples fall", {"a": 1}), Query("2", "pears", {"b": 1}), Query("3", "no gold here", {})]


@dataclass
class Options:
    """A configuration, as far as a folder of results needs one."""

    debug: bool = False


def evaluation(folder: Path) -> Evaluation:
    searcher = Searcher(lexical=LexicalSearch(Lexical.bm25))
    return Evaluation(searcher, "bm25", "bm25", 10, folder, RunFolder(str(folder), Options(), resume=True))


def tasks(names: Sequence[str], read: list[str], documents: Sequence[Document] = DOCUMENTS) -> Iterator:
    for name in names:
        read.append(name)
        yield Collection(name, list(documents if name != "empty" else []), QUERIES), ""


def test_what_of_the_data_moves_a_score_is_said_and_scored_as_trec_eval_does(tmp_path, capsys) -> None:
    """ArguAna's shape: each query is a document, and one judged document lies outside the corpus."""
    documents = [Document("p", "uniforms equal pupils"), Document("q", "uniforms never equal pupils"),
                 Document("r", "cost families"), Document("s", "families save")]  # fmt: skip
    queries = [Query("p", "uniforms equal pupils", {"q": 1}, ("p",)),
               Query("r", "cost families", {"s": 1, "elsewhere": 1}, ("r",))]  # fmt: skip
    made = evaluation(tmp_path)
    results = evaluate_tasks(made, [(Collection("x", documents, queries, identical_ids=2), "")], nested=True)
    # The second query has one of two relevant documents: 1 / (1 + 1 / log2 3).
    assert results["x"]["ndcg_at_10"] == pytest.approx((1 + 1 / (1 + 1 / math.log2(3))) / 2)
    assert (made.counts["x"]["identical_ids_excluded"], made.counts["x"]["judgements_not_in_corpus"]) == (2, 1)
    said = capsys.readouterr().out
    assert "2 with the id of a document, which they do not find, 1 relevant documents that the corpus lacks" in said


def test_tasks_are_read_once_and_not_computed_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read: list[str] = []
    first = evaluation(tmp_path)
    results = evaluate_tasks(first, tasks(["x", "y"], read), nested=True)
    assert read == ["x", "y"] and results["x"]["ndcg_at_10"] == 1.0 and results["x"]["num_queries"] == 2
    assert first.counts["x"] == {"documents": 3, "queries": 2, "queries_without_gold": 1}
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "y: nDCG@10 1.0000 (2 queries, 1 queries without gold left out)"
    write_results(tmp_path, results)
    assert set(read_results(tmp_path)) == {"x", "y"}

    stamp = (tmp_path / "x" / "run.trec").stat().st_mtime_ns
    again = evaluation(tmp_path)
    assert evaluate_tasks(again, tasks(["x", "y"], []), nested=True) == results
    assert all(counts["unchanged"] for counts in again.counts.values())
    assert (tmp_path / "x" / "run.trec").stat().st_mtime_ns == stamp
    assert summary_line("x", results["x"], again.counts["x"]).endswith(", unchanged since it was computed")

    other = evaluation(tmp_path)
    changed = [*DOCUMENTS, Document("d", "more")]
    evaluate_tasks(other, tasks(["x"], [], changed), nested=True)
    assert other.counts["x"]["documents"] == 4 and "unchanged" not in other.counts["x"]


def test_a_mistake_in_the_last_task_stops_before_the_first_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="empty: the corpus is empty"):
        evaluate_tasks(evaluation(tmp_path / "out"), tasks(["x", "empty"], []), nested=True)
    assert not (tmp_path / "out").exists()


def test_an_only_task_has_no_level_of_its_own(tmp_path: Path) -> None:
    evaluate_tasks(evaluation(tmp_path), tasks(["x"], []), nested=False)
    assert (tmp_path / "run.trec").is_file() and not (tmp_path / "x").exists()


def test_a_changed_file_is_computed_again(tmp_path: Path) -> None:
    evaluate_tasks(evaluation(tmp_path), tasks(["x"], []), nested=True)
    run = tmp_path / "x" / "run.trec"
    whole = run.read_bytes()
    run.write_bytes(whole[:-5])
    again = evaluation(tmp_path)
    evaluate_tasks(again, tasks(["x"], []), nested=True)
    assert run.read_bytes() == whole and "unchanged" not in again.counts["x"]
