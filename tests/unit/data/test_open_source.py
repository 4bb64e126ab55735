"""Which data set is this, and which data did a run rank."""

import gzip
import json
from pathlib import Path

import pytest

from reasonir.core.errors import UserError
from reasonir.core.files import write_jsonl
from reasonir.data.open_source import Form, RankedData, open_source, ranked_data


def bright(root: Path, *tasks: str) -> str:
    for task in tasks:
        write_jsonl(root / task / "documents.jsonl", [{"id": "d", "content": f"of {task}"}])
        write_jsonl(root / task / "examples.jsonl", [{"id": "q", "query": "?", "gold_ids": ["d"]}])
    return str(root)


def beir(folder: Path) -> str:
    write_jsonl(folder / "corpus.jsonl", [{"_id": "d", "title": "T", "text": "x"}])
    write_jsonl(folder / "queries.jsonl", [{"_id": "q", "text": "?"}])
    (folder / "qrels").mkdir()
    for split in ("test", "dev"):
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    return str(folder)


def test_a_folder_is_told_by_its_files(tmp_path):
    root = bright(tmp_path / "root", "pony", "aops")
    assert open_source(root).form is Form.bright
    assert open_source(root).tasks() == ["aops", "pony"]
    assert open_source(f"{root}/pony").tasks() == ["pony"]
    assert open_source(root, split="dev").form is Form.bright, "a stray split does not turn BRIGHT into BEIR"
    water = beir(tmp_path / "water")
    assert open_source(water).form is Form.beir
    assert open_source(water).tasks() == ["water"]
    assert open_source(water).split == "test"
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("a")
    assert open_source(str(tmp_path / "notes")).form is Form.texts
    assert open_source(str(tmp_path / "root" / "pony" / "documents.jsonl")).form is Form.texts
    zipped = tmp_path / "zipped"
    zipped.mkdir()
    (zipped / "corpus.jsonl.gz").write_bytes(gzip.compress(b'{"_id": "d", "text": "x"}\n'))
    assert open_source(str(zipped)).form is Form.beir


def test_the_hub_is_told_by_the_split():
    assert open_source("hub:xlangai/BRIGHT").form is Form.bright
    found = open_source("hub:BeIR/scifact", "train")
    assert (found.form, found.split, found.tasks()) == (Form.beir, "train", ["scifact"])


def test_collections_documents_and_queries_of_every_form(tmp_path):
    source = open_source(bright(tmp_path / "root", "pony", "aops"))
    assert [c.name for c in source.collections()] == ["aops", "pony"]
    (only,) = source.collections(["pony"])
    assert (only.documents[0].text, only.queries[0].gold) == ("of pony", {"d": 1})
    assert [d.text for d in source.documents()] == ["of aops", "of pony"]
    assert [q.text for q in source.queries("pony")] == ["?"]
    (tmp_path / "root" / "pony" / "documents.jsonl").unlink()
    assert [q.text for q in source.queries("pony")] == ["?"], "queries are read without documents"
    source = open_source(beir(tmp_path / "water"), "dev")
    (only,) = source.collections()
    assert (only.name, [d.text for d in source.documents()]) == ("water", ["T x"])
    assert source.queries("water") == only.queries
    (tmp_path / "a.txt").write_text("a")
    assert [d.text for d in open_source(str(tmp_path / "a.txt")).documents()] == ["a"]


def test_what_is_refused(tmp_path):
    water = beir(tmp_path / "water")
    with pytest.raises(UserError, match="queries=gpt4: a BEIR folder has its own queries only"):
        list(open_source(water).collections(queries="gpt4"))
    with pytest.raises(UserError, match="there are splits: dev, test"):
        list(open_source(water, "train").collections())
    with pytest.raises(UserError, match="no such folder"):
        list(open_source(str(tmp_path / "none")).collections())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no task here"):
        open_source(str(tmp_path / "empty")).tasks()
    with pytest.raises(UserError, match=r"corpus\.jsonl"):
        list(open_source(str(tmp_path / "empty"), "test").collections())


def run_of(folder: Path, **options: object) -> str:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps(options))
    return str(folder)


def test_the_data_of_a_run_is_found_through_the_runs_that_it_was_made_of(tmp_path):
    first = run_of(tmp_path / "first", data={"dir": "d", "hub": None}, queries="gpt4", long=True)
    expected = RankedData(dir="d", queries="gpt4", long=True)
    reranked = run_of(tmp_path / "reranked", data={"dir": None, "hub": None}, queries=None, run=first)
    silent = run_of(tmp_path / "silent", method="rrf")
    fused = run_of(tmp_path / "fused", runs=[silent, reranked, "x.trec"])
    for folder in (first, reranked, fused):
        assert ranked_data({"runs": [folder]}) == expected
    assert ranked_data({"run": silent}).place is None
    assert ranked_data({"run": first, "data": {"hub": "a/b"}}) == RankedData(hub="a/b")
    own = RankedData(hub="a/b", queries="original", long=False)
    assert own.or_else(ranked_data({"run": first})) == own
    assert RankedData(split="dev").or_else(expected) == RankedData(dir="d", queries="gpt4", long=True, split="dev")
    assert own.place == "hub:a/b"
    circle = tmp_path / "circle"
    run_of(circle, run=str(circle))
    assert ranked_data({"run": str(circle)}).place is None


def test_ranked_data_reads_its_collections(tmp_path):
    (only,) = RankedData(dir=beir(tmp_path / "water")).collections(None)
    assert only.name == "water"
    with pytest.raises(UserError, match=r"give data\.dir=FOLDER"):
        RankedData().collections(None)
