"""Sets on the hub, read through the datasets library from folders in the same layouts, and what is refused of them."""

import json
from pathlib import Path

import pytest

from reasonir.core.errors import NoConfiguration, UserError
from reasonir.data.aspects import Aspect
from reasonir.data.beir import read_beir, read_beir_hub
from reasonir.data.bright import list_bright_tasks, read_bright
from reasonir.data.rows import load_hub
from tests.kit.hub_sets import ASPECTS, DOCUMENTS, EXAMPLES, bright_pro, hub_set
from tests.kit.mistakes import refused
from tests.kit.texts import write_rows

CORPUS = [{"_id": "7", "title": "T", "text": "x"}, {"_id": "8", "title": "", "text": "y"}]
QUERIES = [{"_id": "0", "text": "q0"}, {"_id": "9", "text": "of another split"}]
QRELS = [{"query-id": 0, "corpus-id": 7, "score": 2}, {"query-id": 0, "corpus-id": 8, "score": 0}]
LAYOUTS = ("BeIR", "mteb", "R2MED")


pytestmark = pytest.mark.usefixtures("own_hub_cache")


def beir_set(root: Path, layout: str, corpus: list = CORPUS, queries: list = QUERIES, qrels: list = QRELS) -> Path:
    """qrels: with numbers for ids, as BeIR's come; the other layouts hold texts."""
    numbers, qrels = qrels, [row | {n: str(row[n]) for n in ("query-id", "corpus-id")} for row in qrels]
    if layout == "BeIR":
        hub_set(root / "water-qrels", {"default": {"train": numbers[::-1], "test": numbers}})
        return hub_set(root / "water", {"corpus": {"corpus": corpus}, "queries": {"queries": queries}})
    if layout == "mteb":
        scores = [row | {"score": float(row["score"])} for row in qrels]
        tables = {"corpus": {"corpus": corpus}, "queries": {"queries": queries}, "default": {"test": scores}}
        return hub_set(root / "water", tables)
    renamed = [{"id": row["_id"], "text": f"{row.get('title', '')} {row['text']}".strip()} for row in corpus]
    pairs = [{"q_id": row["query-id"], "p_id": row["corpus-id"], "score": row["score"]} for row in qrels]
    own = [{"id": row["_id"], "text": row["text"]} for row in queries]
    return hub_set(root / "water", {"corpus": {"corpus": renamed}, "query": {"query": own}, "qrels": {"qrels": pairs}})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_same_collection_as_a_beir_folder(layout: str, tmp_path: Path) -> None:
    plain = tmp_path / "plain" / "water"
    (plain / "qrels").mkdir(parents=True)
    write_rows(plain / "corpus.jsonl", CORPUS)
    write_rows(plain / "queries.jsonl", QUERIES)
    (plain / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n0\t7\t2\n0\t8\t0\n", encoding="utf-8")
    found = read_beir_hub(str(beir_set(tmp_path / layout, layout)), "test")
    assert found == read_beir(str(plain), "test")
    assert [dict(query.gold) for query in found.queries] == [{"7": 2}]


def test_a_corpus_with_several_splits_is_taken_from_the_one_asked_for(tmp_path: Path) -> None:
    other = [{"_id": "7", "title": "", "text": "of dev"}, {"_id": "8", "title": "", "text": "y"}]
    judged = {"test": QRELS[:1], "dev": QRELS[:1]}
    tables = {"corpus": {"dev": other, "test": CORPUS}, "queries": {"queries": QUERIES}, "default": judged}
    folder = str(hub_set(tmp_path / "set", tables))
    assert [d.text for d in read_beir_hub(folder, "dev").documents] == ["of dev", "y"]
    assert [d.text for d in read_beir_hub(folder, "test").documents] == ["T x", "y"]
    assert "no split 'train'; there are dev, test" in refused(read_beir_hub, folder, "train")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_broken_sets_are_refused_by_row(layout: str, tmp_path: Path) -> None:
    ghost = [{"query-id": 0, "corpus-id": 77, "score": 1}]
    said = refused(read_beir_hub, str(beir_set(tmp_path / "a", layout, qrels=ghost)), "test")
    assert "'77', which is not in the corpus" in said
    lost = [*QRELS, {"query-id": 5, "corpus-id": 8, "score": 1}]
    said = refused(read_beir_hub, str(beir_set(tmp_path / "b", layout, qrels=lost)), "test")
    assert "query id '5' is not in hub:" in said
    half = [QRELS[0], QRELS[1] | {"score": 0.5}]
    said = refused(read_beir_hub, str(beir_set(tmp_path / "c", layout, qrels=half)), "test")
    assert ":2: grade 0.5 is not a whole number" in said
    twice = [QRELS[0], QRELS[0] | {"score": 1}]
    said = refused(read_beir_hub, str(beir_set(tmp_path / "d", layout, qrels=twice)), "test")
    assert ":2: query '0' grades document '7' twice, 2 and 1" in said
    untitled = [CORPUS[0], CORPUS[1] | {"text": None}]
    if layout != "R2MED":
        said = refused(read_beir_hub, str(beir_set(tmp_path / "e", layout, corpus=untitled)), "test")
        assert "hub:" in said and "corpus:2: a document needs" in said
    mute = [QUERIES[0], QUERIES[1] | {"text": None}]
    said = refused(read_beir_hub, str(beir_set(tmp_path / "f", layout, queries=mute)), "test")
    assert ":2: a query needs" in said
    if layout != "R2MED":
        said = refused(read_beir_hub, str(beir_set(tmp_path / "g", layout)), "dev")
        assert "has no split 'dev'; there are" in said


def test_what_is_no_beir_set_is_named(tmp_path: Path) -> None:
    folder = str(hub_set(tmp_path / "set", {"rows": {"train": CORPUS}}))
    assert "no configuration `corpus`" in refused(read_beir_hub, folder, "test")
    alone = str(hub_set(tmp_path / "alone", {"corpus": {"corpus": CORPUS}, "queries": {"queries": QUERIES}}))
    assert "alone-qrels cannot be loaded" in refused(read_beir_hub, alone, "test")
    odd = {"corpus": {"corpus": CORPUS}, "queries": {"queries": QUERIES}, "qrels": {"qrels": [{"a": "0", "b": "7"}]}}
    assert "qrels:1: a judgement needs" in refused(read_beir_hub, str(hub_set(tmp_path / "odd", odd)), "test")
    with pytest.raises(NoConfiguration):
        load_hub(folder, "corpus", None)
    with pytest.raises(UserError) as caught:
        load_hub(str(tmp_path / "nowhere"), "corpus", None)
    assert not isinstance(caught.value, NoConfiguration)


def test_bright_pro_brings_its_aspects_and_names_its_tasks(tmp_path: Path) -> None:
    root = bright_pro(tmp_path / "pro")
    assert list_bright_tasks(root) == ["earth_science"]
    (collection,) = read_bright(root, ["earth_science"])
    first, second = collection.queries
    assert (first.id, second.id) == ("0", "10")
    assert first.aspects == (
        Aspect("earth-science-0-a1", 3.0, ("one/0.txt",)),
        Aspect("earth-science-0-a2", 2.0, ("one/1.txt", "one/0.txt")),
    )
    assert [aspect.id for aspect in second.aspects] == ["earth-science-10-aspect-1"]
    (without,) = read_bright(bright_pro(tmp_path / "plain", aspects=None), ["earth_science"])
    assert [query.aspects for query in without.queries] == [(), ()] and without.documents == collection.documents


def test_a_folder_holds_aspects_in_either_form(tmp_path: Path) -> None:
    (expected,) = read_bright(bright_pro(tmp_path / "pro"), ["earth_science"])
    examples = [row | {"id": str(row["id"])} for row in EXAMPLES]
    beside, inside = tmp_path / "beside" / "earth_science", tmp_path / "inside" / "earth_science"
    for folder in (beside, inside):
        folder.mkdir(parents=True)
        write_rows(folder / "documents.jsonl", DOCUMENTS)
    write_rows(beside / "examples.jsonl", examples)
    write_rows(beside / "aspects.jsonl", ASPECTS)
    own = [
        {"id": aspect.id, "weight": aspect.weight, "gold_ids": list(aspect.gold_ids)}
        for query in expected.queries
        for aspect in query.aspects
    ]
    write_rows(inside / "examples.jsonl", [examples[0] | {"aspects": own[:2]}, examples[1] | {"aspects": own[2:]}])
    for folder in (beside, inside):
        (found,) = read_bright(str(folder.parent), ["earth_science"])
        assert found == expected
    write_rows(beside / "long_documents.jsonl", DOCUMENTS)
    (pages,) = read_bright(str(beside.parent), ["earth_science"], long=True)
    assert [query.aspects for query in pages.queries] == [(), ()]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": "earth-science-7-a1"}, "names no query"),
        ({"id": "earth-science-0"}, "names no query"),
        ({"id": 3}, "names no query"),
        ({"weight": 0}, "has weight 0; it must be a positive number"),
        ({"weight": "3"}, "has weight '3'"),
        ({"weight": True}, "has weight True"),
        ({"weight": float("nan")}, "has weight nan"),
        ({"supporting_docs": []}, "at least one document id"),
        ({"supporting_docs": "one/0.txt"}, "at least one document id"),
        ({"supporting_docs": ["ghost"]}, "'ghost', which is not in the corpus"),
        ({"id": "earth-science-0-a1"}, "stands twice"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_broken_aspects_are_refused_by_line(change: dict, said: str, tmp_path: Path) -> None:
    task = tmp_path / "earth_science"
    task.mkdir()
    write_rows(task / "documents.jsonl", DOCUMENTS)
    write_rows(task / "examples.jsonl", [row | {"id": str(row["id"])} for row in EXAMPLES])
    write_rows(task / "aspects.jsonl", [*ASPECTS[:2], ASPECTS[2] | change])
    answer = refused(read_bright, str(tmp_path), ["earth_science"])
    assert "aspects.jsonl:3: " in answer and said in answer


@pytest.mark.parametrize("aspects", ["x", {"id": "x"}, ["x"], [{"weight": 1}], [{"id": "x", "gold_ids": [4]}]])
def test_broken_aspects_of_an_example_are_refused_by_line(aspects: object, tmp_path: Path) -> None:
    task = tmp_path / "one"
    task.mkdir()
    write_rows(task / "documents.jsonl", DOCUMENTS)
    write_rows(task / "examples.jsonl", [{"id": "0", "query": "q", "gold_ids": ["one/0.txt"], "aspects": aspects}])
    assert "examples.jsonl:1: `aspects`" in refused(read_bright, str(tmp_path), ["one"])


@pytest.mark.parametrize("first", [True, False], ids=["lost", "late"])
def test_some_queries_with_aspects_and_some_without_are_refused(first: bool, tmp_path: Path) -> None:
    own = {"aspects": [{"id": "x", "gold_ids": ["one/0.txt"]}]}
    rows = [{"id": str(i), "query": "q", "gold_ids": ["one/0.txt"]} for i in range(2)]
    rows[0 if first else 1] |= own
    unjudged = {"id": "9", "query": "q", "gold_ids": []}  # has nothing to cover
    task = tmp_path / "one"
    task.mkdir()
    write_rows(task / "documents.jsonl", DOCUMENTS)
    write_rows(task / "examples.jsonl", [rows[0], unjudged, rows[1]])
    said = refused(read_bright, str(tmp_path), ["one"])
    assert "examples.jsonl:3: query id '1' has" in said and "give all or none" in said


def test_a_folder_is_read_as_it_is_now(tmp_path: Path) -> None:
    """The datasets library's cache knows a folder by its last name."""
    for place, text in (("a", "first"), ("b", "second"), ("a", "third")):
        folder = hub_set(tmp_path / place / "set", {"corpus": {"corpus": [{"_id": "7", "text": text}]}})
        assert [row["text"] for row in load_hub(str(folder), "corpus", "corpus")] == [text]


def test_rows_that_do_not_fit_each_other_are_explained(tmp_path: Path) -> None:
    folder = hub_set(tmp_path / "set", {"default": {"train": [{"corpus-id": 1}], "test": [{"corpus-id": "b7"}]}})
    assert "'b7'" in refused(load_hub, str(folder), "default", None)
