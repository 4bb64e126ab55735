"""Corpora and queries of every format of the contract, and what each refuses."""

import json
from pathlib import Path

import pytest

from reasonir.core.files import read_jsonl, write_jsonl
from reasonir.data.beir import IdenticalIds, read_beir
from reasonir.data.bright import list_bright_tasks, read_bright
from reasonir.data.collections import merge_lookups, read_documents, read_lookup
from reasonir.data.rows import Ambiguous
from reasonir.data.trec import read_qrels
from tests.kit.mistakes import refused
from tests.kit.shared import SHARED_DATA, requires_shared_data

DOCUMENTS = [
    {"id": "a/1%27.txt", "content": "first"},
    {"id": "ü", "content": "second"},
    {"id": "c", "content": ""},
]
EXAMPLES = [
    {"id": "0", "query": "q0", "excluded_ids": ["N/A"], "gold_ids": ["ü", "a/1%27.txt", "ü"]},
    {
        "id": "1",
        "query": "q1",
        "excluded_ids": ["c", "elsewhere"],
        "gold_ids": ["N/A"],
        "gold_ids_long": ["N/A"],
    },
]


def bright_task(
    folder: Path, suffix: str = ".jsonl", documents: list | None = None, examples: list | None = None
) -> Path:
    write_jsonl(folder / f"documents{suffix}", DOCUMENTS if documents is None else documents)
    write_jsonl(folder / f"examples{suffix}", EXAMPLES if examples is None else examples)
    return folder


def beir_folder(folder: Path, qrels: str = "0\ta\t2\n0\tb\t0\n") -> Path:
    write_jsonl(
        folder / "corpus.jsonl.gz",
        [{"_id": "a", "title": "T", "text": "x"}, {"_id": "b", "title": "", "text": "y"}],
    )
    write_jsonl(folder / "queries.jsonl", [{"_id": "0", "text": "q0"}, {"_id": "9", "text": "of another split"}])
    (folder / "qrels").mkdir(exist_ok=True)
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{qrels}", encoding="utf-8")
    return folder


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_bright_placeholders_repeats_and_empty_documents(suffix: str, tmp_path: Path) -> None:
    bright_task(tmp_path / "biology", suffix)
    (collection,) = read_bright(str(tmp_path), ["biology"])
    assert [document.text for document in collection.documents] == ["first", "second", ""]
    first, second = collection.queries
    assert list(first.gold) == ["ü", "a/1%27.txt"]
    assert first.excluded_ids == ()
    assert dict(second.gold) == {}
    assert "c" in second.excluded_ids


def test_a_task_folder_is_a_root_of_one_task(tmp_path: Path) -> None:
    folder = bright_task(tmp_path / "pony")
    assert list_bright_tasks(str(folder)) == ["pony"]
    assert list_bright_tasks(str(tmp_path)) == ["pony"]
    (inside,) = read_bright(str(folder), ["pony"])
    (above,) = read_bright(str(tmp_path), ["pony"])
    assert inside == above


def test_rewritten_queries_match_by_id_in_any_order(tmp_path: Path) -> None:
    folder = bright_task(tmp_path / "pony")
    rewrites = [{"id": "1", "query": "r1"}, {"id": "7", "query": "extra"}, {"id": "0", "query": "r0"}]
    write_jsonl(folder / "gpt4.jsonl", rewrites)
    (collection,) = read_bright(str(tmp_path), ["pony"], queries="gpt4")
    assert [query.text for query in collection.queries] == ["r0", "r1"]
    write_jsonl(folder / "short.jsonl", rewrites[1:])
    assert "'1'" in refused(read_bright, str(tmp_path), ["pony"], queries="short")
    assert "absent" in refused(read_bright, str(tmp_path), ["pony"], queries="absent")


def test_long_documents_go_with_long_gold(tmp_path: Path) -> None:
    examples = [{"id": "0", "query": "q", "excluded_ids": [], "gold_ids": ["c"], "gold_ids_long": ["page"]}]
    folder = bright_task(tmp_path / "pony", examples=examples)
    write_jsonl(folder / "long_documents.jsonl", [{"id": "page", "content": "all of it"}])
    (long,) = read_bright(str(tmp_path), ["pony"], long=True)
    (short,) = read_bright(str(tmp_path), ["pony"])
    assert (list(long.queries[0].gold), list(short.queries[0].gold)) == (["page"], ["c"])
    assert [document.id for document in long.documents] == ["page"]


def test_bright_refusals_name_what_is_wrong(tmp_path: Path) -> None:
    unknown = [{**EXAMPLES[0], "gold_ids": ["ghost"]}]
    assert "examples.jsonl:1" in (
        said := refused(read_bright, str(bright_task(tmp_path / "a", examples=unknown)), ["a"])
    )
    assert "'ghost'" in said
    twice = [*EXAMPLES, EXAMPLES[0]]
    assert "examples.jsonl:3" in refused(read_bright, str(bright_task(tmp_path / "b", examples=twice)), ["b"])
    assert "biolgy" in refused(read_bright, str(tmp_path), ["biolgy"])
    empty = bright_task(tmp_path / "c", documents=[])
    assert "documents.jsonl" in refused(read_bright, str(empty), ["c"])
    wrong = [{**EXAMPLES[0], "gold_ids": "ü"}]
    assert "gold_ids" in refused(read_bright, str(bright_task(tmp_path / "d", examples=wrong)), ["d"])


def test_documents_of_every_layout(tmp_path: Path) -> None:
    task = bright_task(tmp_path / "root" / "one")
    bright_task(tmp_path / "root" / "two", documents=[DOCUMENTS[0], {"id": "only two", "content": "x"}])
    beir = beir_folder(tmp_path / "beir")
    assert read_documents(str(task)) == {row["id"]: row["content"] for row in DOCUMENTS}
    assert list(read_documents(str(tmp_path / "root"))) == [*(row["id"] for row in DOCUMENTS), "only two"]
    assert read_documents(str(beir)) == {"a": "T x", "b": "y"}
    assert read_documents(str(beir / "corpus.jsonl.gz")) == {"a": "T x", "b": "y"}
    assert read_documents(str(task / "documents.jsonl")) == read_documents(str(task))


def test_one_id_must_not_stand_for_two_texts(tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl"
    same, other = {"id": "x", "content": "same"}, {"id": "x", "content": "other"}
    write_jsonl(path, [same, same])
    assert read_documents(str(path)) == {"x": "same"}
    write_jsonl(path, [same, same, other])
    assert refused(read_documents, str(path)).startswith(f"{path}:3")
    bright_task(tmp_path / "root" / "a", documents=[same])
    bright_task(tmp_path / "root" / "b", documents=[other])
    assert "'x'" in refused(read_documents, str(tmp_path / "root"))


def test_a_lookup_lets_tasks_disagree_and_names_them(tmp_path: Path) -> None:
    shared, first, second = ({"id": i, "content": c} for i, c in (("s", "same"), ("x", "one"), ("x", "two")))
    for task, documents in (("a", [shared, first]), ("b", [shared, second]), ("c", [first])):
        bright_task(tmp_path / "root" / task, documents=documents)
    a, b = (str(tmp_path / "root" / task / "documents.jsonl") for task in "ab")
    assert read_lookup(str(tmp_path / "root")) == {"s": "same", "x": Ambiguous((a, b))}
    assert read_lookup(str(tmp_path / "root" / "a")) == {"s": "same", "x": "one"}
    write_jsonl(tmp_path / "twice.jsonl", [first, second])
    assert "twice.jsonl:2" in refused(read_lookup, str(tmp_path / "twice.jsonl"))
    assert "no corpus here" in refused(read_lookup, str(tmp_path))


def test_merged_lookups_keep_what_they_agree_on() -> None:
    one, two, three = {"s": "same", "x": "1"}, {"s": "same", "x": "2", "y": "0"}, {"x": Ambiguous(("p", "q"))}
    assert merge_lookups([("one", one)]) is one
    assert merge_lookups([("one", one), ("two", two)]) == {"s": "same", "x": Ambiguous(("one", "two")), "y": "0"}
    for parts in ([("one", one), ("three", three)], [("three", three), ("one", one)]):
        merged = merge_lookups(parts)
        assert merged["s"] == "same" and set(merged["x"].places) == {"one", "p", "q"}


def test_corpus_refusals(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"")
    assert "empty" in refused(read_documents, str(tmp_path / "empty.jsonl"))
    (tmp_path / "folder").mkdir()
    assert "folder" in refused(read_documents, str(tmp_path / "folder"))
    assert "missing.jsonl" in refused(read_documents, str(tmp_path / "missing.jsonl"))
    (tmp_path / "bad.jsonl").write_bytes(b'{"id": "a", "content": "x"}\n{"id": "b", "content": "\xff"}\n')
    assert "bad.jsonl:2" in refused(read_documents, str(tmp_path / "bad.jsonl"))
    for row in ({"id": "a"}, {"content": "x"}, {"id": 3.5, "content": "x"}, {"id": "a", "content": None}):
        (tmp_path / "row.jsonl").write_text(json.dumps(row), encoding="utf-8")
        assert "row.jsonl:1" in refused(read_documents, str(tmp_path / "row.jsonl"))


def test_beir_keeps_grades_and_drops_zero_from_gold(tmp_path: Path) -> None:
    collection = read_beir(str(beir_folder(tmp_path / "b")), "test")
    query = next(query for query in collection.queries if query.id == "0")
    assert dict(query.gold) == {"a": 2}


def test_a_mark_at_the_head_and_numbers_for_ids_change_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    (folder / "qrels").mkdir(parents=True)
    rows = {"corpus": [{"_id": 1, "title": 1984, "text": "x"}], "queries": [{"_id": 7, "text": "q"}]}
    for name, content in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in content)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8-sig")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n7\t1\t1.0\n", encoding="utf-8-sig")
    collection = read_beir(str(folder), "test")
    assert collection.documents[0].text == "1984 x" and collection.documents[0].id == "1"
    assert [(query.id, dict(query.gold)) for query in collection.queries] == [("7", {"1": 1})]
    task = bright_task(tmp_path / "one", documents=[{"id": 1, "content": "x"}, {"id": 2, "content": "y"}],
                       examples=[{"id": 7, "query": "q", "gold_ids": [1], "excluded_ids": [2, "N/A"]}])  # fmt: skip
    (task / "instruction.txt").write_text("Find it\n", encoding="utf-8-sig")
    (found,) = read_bright(str(task), ["one"])
    (query,) = found.queries
    assert (query.id, list(query.gold), query.excluded_ids, found.instruction) == ("7", ["1"], ("2",), "Find it")


@pytest.mark.parametrize(
    "row",
    [{"id": "a", "contents": "x"}, {"docid": "a", "title": None, "text": "x"}, {"id": None, "_id": "a", "text": "x"}],
    ids=["anserini", "tevatron", "null beside"],
)
def test_every_spelling_of_a_document(tmp_path: Path, row: dict) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", [{"id": "z", "content": "y"}, row])
    assert read_documents(str(tmp_path / "corpus.jsonl")) == {"z": "y", "a": "x"}


def arguana(folder: Path, qrels: str) -> str:
    """Queries that are documents, under the same ids."""
    (folder / "qrels").mkdir(parents=True)
    texts = {"pro": "uniforms make pupils equal", "against": "uniforms do not make pupils equal", "cost": "money"}
    write_jsonl(folder / "corpus.jsonl", [{"_id": i, "title": "", "text": text} for i, text in texts.items()])
    write_jsonl(folder / "queries.jsonl", [{"_id": i, "text": texts[i]} for i in ("pro", "cost")])
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{qrels}", encoding="utf-8")
    return str(folder)


def test_a_query_does_not_find_the_document_with_its_own_id(tmp_path: Path) -> None:
    folder = arguana(tmp_path / "a", "pro\tagainst\t1\ncost\tagainst\t1\n")
    for rule, own, count in (
        ("auto", [("pro",), ("cost",)], 2),
        ("exclude", [("pro",), ("cost",)], 2),
        ("keep", [()] * 2, 0),
    ):
        found = read_beir(folder, "test", IdenticalIds(rule))
        assert ([query.excluded_ids for query in found.queries], found.identical_ids) == (own, count)
    # A query that is judged relevant to the document of its own id: the two are numbered alike by chance.
    numbered = arguana(tmp_path / "b", "pro\tpro\t1\ncost\tagainst\t1\n")
    assert read_beir(numbered, "test").identical_ids == 0
    found = read_beir(numbered, "test", IdenticalIds.exclude)
    assert found.unreachable() == {"judgements_not_in_corpus": 0, "judgements_excluded": 1}


def test_judged_documents_may_be_missing_but_not_all(tmp_path: Path) -> None:
    found = read_beir(arguana(tmp_path / "a", "pro\tagainst\t1\npro\tghost\t1\ncost\tlost\t0\n"), "test")
    assert dict(found.queries[0].gold) == {"against": 1, "ghost": 1}
    assert found.unreachable() == {"judgements_not_in_corpus": 1, "judgements_excluded": 0}
    assert "'ghost'" in refused(read_beir, arguana(tmp_path / "b", "pro\tghost\t1\n"), "test")
    (task,) = read_bright(
        str(bright_task(tmp_path / "c", examples=[{**EXAMPLES[0], "gold_ids": ["ü", "ghost"]}])), ["c"]
    )
    assert task.unreachable()["judgements_not_in_corpus"] == 1


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("queries", [{"_id": "0", "text": "q0"}, {"_id": "0", "text": "other"}], "query id '0' stands twice"),
        ("queries", [{"_id": "a\tb", "text": "q0"}], "queries.jsonl:1: id 'a\\tb' holds a tab"),
        ("queries", [{"_id": "0", "text": "q\0"}], "queries.jsonl:1 holds the character U+0000"),
        ("corpus", [{"_id": "a\r", "text": "x"}], "corpus.jsonl:1: id 'a\\r' holds a tab"),
        ("corpus", [{"_id": " ", "text": "x"}], "corpus.jsonl:1: a document needs"),
        ("corpus", [{"_id": True, "text": "x"}], "corpus.jsonl:1: a document needs"),
        ("corpus", [{"_id": "a", "text": "x", "title": ["t"]}], "corpus.jsonl:1: `title` must be a text"),
        ("corpus", [{"_id": "a", "text": "x\0y"}], "corpus.jsonl:1 holds the character U+0000"),
    ],
)  # fmt: skip
def test_ids_and_texts_that_would_break_what_is_written(tmp_path: Path, name: str, rows: list, said: str) -> None:
    folder = beir_folder(tmp_path / "b")
    (folder / "corpus.jsonl.gz").rename(folder / "corpus_old.jsonl.gz")
    write_jsonl(folder / "corpus.jsonl", [{"_id": "a", "text": "x"}, {"_id": "b", "text": "y"}])
    write_jsonl(folder / f"{name}.jsonl", rows)
    assert said in refused(read_beir, str(folder), "test")


def test_beir_refusals(tmp_path: Path) -> None:
    folder = str(beir_folder(tmp_path / "b", "0\tghost\t1\n"))
    assert "'ghost'" in refused(read_beir, folder, "test")
    assert "test" in refused(read_beir, folder, "dev")
    assert "'5'" in refused(read_beir, str(beir_folder(tmp_path / "c", "5\ta\t1\n")), "test")
    assert "test.tsv:3" in refused(read_beir, str(beir_folder(tmp_path / "d", "0\ta\t1\n0\tb\tyes\n")), "test")


@requires_shared_data
def test_real_beir_folders() -> None:
    sizes = {
        ("scifact", "train"): (5_183, 809),
        ("medquad", "dev"): (15_811, 400),
        ("theoremqa_theorems", "test"): (354, 800),
    }
    for (name, split), (documents, queries) in sizes.items():
        collection = read_beir(str(SHARED_DATA / name), split)
        assert (len(collection.documents), len(collection.queries)) == (documents, queries)
        assert all(query.gold for query in collection.queries)


@requires_shared_data
def test_real_bright_task_excludes_itself_and_repeats_gold() -> None:
    (collection,) = read_bright(str(SHARED_DATA / "bright_mini"), ["theoremqa_questions"])
    assert (len(collection.documents), len(collection.queries)) == (800, 194)
    assert all(query.excluded_ids == (query.id,) for query in collection.queries)
    raw = [row for _, row in read_jsonl(SHARED_DATA / "bright_mini/theoremqa_questions/examples.jsonl")]
    assert sum(len(row["gold_ids"]) > len(set(row["gold_ids"])) for row in raw) == 120
    assert [set(query.gold) for query in collection.queries] == [set(row["gold_ids"]) for row in raw]


def test_a_page_level_folder_needs_no_second_file(tmp_path: Path) -> None:
    examples = [{"id": "0", "query": "q", "excluded_ids": [], "gold_ids": ["c_1"], "gold_ids_long": ["c"]}]
    folder = bright_task(tmp_path / "pony", examples=examples)
    (collection,) = read_bright(str(folder), ["pony"], long=True)
    assert list(collection.queries[0].gold) == ["c"]
    assert "'c_1'" in refused(read_bright, str(folder), ["pony"])


@requires_shared_data
def test_real_page_level_task() -> None:
    (collection,) = read_bright(str(SHARED_DATA / "bright_mini"), ["pony_long"], long=True)
    assert (len(collection.documents), len(collection.queries)) == (724, 112)
    assert all(query.gold for query in collection.queries)


@requires_shared_data
def test_all_real_bright_examples_become_queries(tmp_path: Path) -> None:
    """The examples are read against a corpus of exactly their gold documents; qrels hold the same pairs."""
    count = 0
    for path in sorted((SHARED_DATA / "bright/examples").glob("*.jsonl.gz")):
        task = path.name.removesuffix(".jsonl.gz")
        rows = [row for _, row in read_jsonl(path)]
        gold = dict.fromkeys(i for row in rows for i in row["gold_ids"])
        bright_task(tmp_path / task, documents=[{"id": i, "content": i} for i in gold], examples=rows)
        (collection,) = read_bright(str(tmp_path), [task])
        assert not any("N/A" in query.excluded_ids for query in collection.queries)
        qrels = read_qrels(str(SHARED_DATA / f"bright/qrels/{task}.txt"))
        count += len(collection.queries)
        differing = [query.id for query in collection.queries if set(query.gold) != set(qrels.get(query.id, {}))]
        assert not differing, (task, differing[:3])
    assert count == 1_384
