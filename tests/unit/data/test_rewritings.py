"""Files of rewritten queries: names, places, and that the real ones in the field are read."""

import gzip
import json
import random
from pathlib import Path

import pytest

from reasonir.core.errors import UserError
from reasonir.core.files import read_jsonl
from reasonir.data.bright import read_bright, read_bright_queries
from reasonir.data.rewritings import Rewriting, find_rewritings, rewritten_file
from tests.kit.shared import SHARED_DATA, requires_shared_data
from tests.kit.texts import write_rows


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One task with two queries, and rewritings beside it, in both forms of a folder elsewhere, and gzipped."""
    task = tmp_path / "data" / "pony"
    (tmp_path / "out" / "pony").mkdir(parents=True)
    (tmp_path / "gpt").mkdir()
    task.mkdir(parents=True)
    write_rows(task / "documents.jsonl", [{"id": "d", "content": "x"}])
    write_rows(task / "examples.jsonl", [{"id": i, "query": f"old {i}", "gold_ids": ["d"]} for i in "ab"])
    for file in (task / "mine.jsonl", tmp_path / "out/pony/mine.jsonl", tmp_path / "gpt/pony.jsonl"):
        write_rows(file, [{"id": i, "query": f"{file.parent.name} {i}"} for i in "ba"])
    with gzip.open(tmp_path / "out/pony/zipped.jsonl.gz", "wt") as stream:
        stream.write("".join(json.dumps({"id": i, "query": f"zipped {i}"}) + "\n" for i in "ab"))
    return tmp_path


def texts(root: Path, queries: str) -> list[str]:
    (collection,) = read_bright(str(root / "data"), ["pony"], queries)
    return [query.text for query in collection.queries]


def test_a_name_lies_beside_the_data_and_a_path_where_it_says(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert texts(root, "original") == ["old a", "old b"]
    assert texts(root, "mine") == ["pony a", "pony b"]
    assert texts(root, f"{root}/out/mine") == texts(root, f"{root}/out/mine/") == ["pony a", "pony b"]
    assert texts(root, f"{root}/gpt") == ["gpt a", "gpt b"]
    assert texts(root, f"{root}/out/zipped") == ["zipped a", "zipped b"]
    monkeypatch.chdir(root)
    assert texts(root, "./gpt") == ["gpt a", "gpt b"]
    (one_task,) = read_bright(str(root / "data" / "pony"), ["pony"], f"{root}/out/mine")
    assert [query.text for query in one_task.queries] == ["pony a", "pony b"]


def test_a_query_rewritten_twice_is_refused(root: Path) -> None:
    file = root / "data" / "pony" / "mine.jsonl"
    write_rows(file, [{"id": i, "query": text} for i, text in (("a", "one"), ("b", "x"), ("a", "one"))])
    assert texts(root, "mine") == ["one", "x"], "the same text twice does no harm"
    write_rows(file, [{"id": i, "query": text} for i, text in (("a", "one"), ("b", "x"), ("a", "two"))])
    with pytest.raises(UserError, match=r"mine\.jsonl:3: query id 'a' stands twice with different text"):
        texts(root, "mine")


@pytest.mark.parametrize("queries", ["yours", "./out/yours"])
def test_what_is_not_there_is_named(root: Path, monkeypatch: pytest.MonkeyPatch, queries: str) -> None:
    monkeypatch.chdir(root)
    with pytest.raises(UserError) as raised:
        texts(root, queries)
    assert f"queries={queries}" in str(raised.value) and "pony/yours.jsonl" in str(raised.value)
    with pytest.raises(UserError, match="xlangai"):  # a hub data set has no folder to look in
        rewritten_file("xlangai/none", "pony", None)


def test_names_are_found_as_they_are_given(tmp_path: Path) -> None:
    given = [Rewriting.named("a_b", length, sample) for length in (8, 64, 512, None) for sample in (1, 2, 11)]
    assert [r.name for r in given][:3] == ["a_b_8", "a_b_8_s2", "a_b_8_s11"] and given[-3].name == "a_b"
    shuffled = given[:]
    random.Random(0).shuffle(shuffled)
    for number, rewriting in enumerate(shuffled):
        (tmp_path / f"{rewriting.name}.jsonl{'.gz' if number % 2 else ''}").touch()
    for other in ("a", "a_b_x", "a_b_8_2", "xa_b_8", "a_b_08", "a_b_8_s0"):
        (tmp_path / f"{other}.jsonl").touch()
    assert find_rewritings(tmp_path, "a_b") == given


@pytest.mark.shared_data
@requires_shared_data
@pytest.mark.parametrize("task", ["biology", "robotics"])
def test_rewritings_of_the_field_are_read(tmp_path: Path, task: str) -> None:
    """One file a task, as others publish them: every query of the real task has its rewriting."""
    (tmp_path / task).mkdir()
    examples = [row for _, row in read_jsonl(SHARED_DATA / "bright" / "examples" / f"{task}.jsonl.gz")]
    write_rows(tmp_path / task / "examples.jsonl", examples)
    gold = sorted({i for row in examples for i in row["gold_ids"]})
    write_rows(tmp_path / task / "documents.jsonl", [{"id": i, "content": ""} for i in gold])
    (collection,) = read_bright(str(tmp_path), [task], str(SHARED_DATA / "bright" / "rewritten"))
    originals = read_bright_queries(str(tmp_path), task)
    assert [query.id for query in collection.queries] == [query.id for query in originals]
    assert len(originals) > 90 and all(
        len(new.text) > len(old.text) for new, old in zip(collection.queries, originals, strict=True)
    )
