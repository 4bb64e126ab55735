"""Pooling sources: what is a passage, what is left out, what ids become."""

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from reasonir.core.errors import UserError
from reasonir.data.collections import read_documents
from reasonir.eval.rag.datastore.build import Pool
from reasonir.eval.rag.datastore.chunks import word_cutter
from tests.kit.texts import SENTENCES, write_rows


def pooled(sources: list[Path | str], chunk: tuple[int, int] | None = None) -> tuple[list[dict[str, str]], Pool]:
    pool = Pool(None if chunk is None else word_cutter(*chunk))
    return list(pool.passages(map(str, sources))), pool


def search_results(texts: list[str], **more: Any) -> dict[str, Any]:
    contexts = [{"retrieval text": text, "id": number, "source": "web"} for number, text in enumerate(texts)]
    return {"query": "q", "raw_query": "q", "ctxs": contexts, **more}


def test_each_text_once_and_everything_counted(tmp_path: Path) -> None:
    rows = [{"id": f"d{i}", "content": text} for i, text in enumerate(["a b", "c", "a b", " ", "", "c\n", "a b"])]
    passages, pool = pooled([write_rows(tmp_path / "rows.jsonl", rows)])
    assert passages == [rows[0], rows[1], rows[5]]  # equal means equal: a line break is a difference
    counts = pool.counts
    assert (counts.documents, counts.passages, counts.empty, counts.duplicate) == (7, 3, 2, 2)
    assert counts.text_bytes == len("a bcc\n")


def test_a_source_is_a_corpus_as_everywhere_else(tmp_path: Path) -> None:
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    write_rows(beir / "corpus.jsonl", [{"_id": "1", "title": "Heat", "text": "It flows."},
                                       {"_id": "2", "title": "Only a title", "text": ""},
                                       {"_id": "3", "title": "", "text": "It flows."}])  # fmt: skip
    write_rows(beir / "queries.jsonl", [{"_id": "1", "text": "what?"}])
    bright = tmp_path / "bright"
    for task in ("one", "two"):
        (bright / task).mkdir(parents=True)
        write_rows(bright / task / "documents.jsonl", [{"id": f"{task}/1", "content": f"of {task}"}])
    passages, _ = pooled([beir, bright])
    write_rows(tmp_path / "passages.jsonl", passages)
    # Read back, title and text are together what they are in the sources: an encoder sees no difference.
    assert read_documents(str(tmp_path / "passages.jsonl")) == read_documents(str(beir)) | read_documents(str(bright))
    assert [row.get("title") for row in passages] == ["Heat", "Only a title", None, None, None]


@pytest.mark.parametrize("layout", ["file", "parquet", "folder", "hub"])
def test_pools_of_search_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "pool"
    folder.mkdir()
    rows = [search_results(SENTENCES[:4]), search_results([*SENTENCES[2:5], ""])]
    if layout == "parquet":
        source = folder / "part.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), source)
    else:
        source = write_rows(folder / "part.jsonl", rows)
    place = {"file": source, "parquet": source, "folder": folder, "hub": f"hub:{folder}"}[layout]
    passages, pool = pooled([place])
    assert [row["content"] for row in passages] == SENTENCES[:5]
    assert (pool.counts.contexts, pool.counts.duplicate, pool.counts.empty) == (8, 2, 1)
    # Ids of contexts come from their text alone: the order of rows and files is no part of them.
    turned, _ = pooled([write_rows(tmp_path / "turned.jsonl", rows[::-1])])
    assert {row["id"]: row["content"] for row in turned} == {row["id"]: row["content"] for row in passages}


def test_ids_of_chunks_and_titles_on_each(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", [{"id": "x", "title": "T", "content": "1 2  3\n4 5"}])
    passages, _ = pooled([source], (2, 1))
    assert passages == [
        {"id": f"x_{n}", "title": "T", "content": text} for n, text in enumerate(["1 2", "2  3", "3\n4", "4 5"])
    ]


def test_one_id_with_two_texts(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "a.jsonl", [{"id": "1", "content": "one"}, {"id": "2", "content": "two"}])
    second = write_rows(tmp_path / "b.jsonl", [{"id": "1", "content": "other"}, {"id": "2", "content": "two"}])
    passages, pool = pooled([first, second])
    assert [row["content"] for row in passages] == ["one", "two", "other"]
    assert passages[2]["id"].startswith("1~") and len({row["id"] for row in passages}) == 3
    assert (pool.counts.renamed, pool.counts.duplicate) == (1, 1)
    assert pooled([first, second])[0] == passages
    broken = write_rows(tmp_path / "c.jsonl", [{"id": "1", "content": "one"}, {"id": "1", "content": "two"}])
    with pytest.raises(UserError, match=r"c\.jsonl:2: document id '1' stands twice with different text"):
        pooled([broken])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "2"}, r"bad\.jsonl:2: a document needs an `id`"),
        ({"id": 2.5, "content": "x"}, r"bad\.jsonl:2: a document needs an `id`"),
        ({"id": "a\nb", "content": "x"}, r"bad\.jsonl:2: id 'a\\nb' holds a tab, line end"),
        ({"ctxs": "x"}, r"bad\.jsonl:2: `ctxs` must be a list, not str"),
        ({"ctxs": [{"retrieval text": "x"}, {"text": "y"}]}, r"bad\.jsonl:2: `ctxs`\[1\] needs a string"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    source = write_rows(tmp_path / "bad.jsonl", [{"id": "1", "content": "fine"}, row])
    with pytest.raises(UserError, match=message):
        pooled([source])


def test_sources_without_any_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no passage"):
        pooled([write_rows(tmp_path / "a.jsonl", [{"id": "1", "content": " "}])])
