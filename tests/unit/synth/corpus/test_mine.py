"""Mined negatives: never a positive, always in the window, the same for the same seed; rows otherwise untouched."""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reasonir.core.command import validate_tree
from reasonir.core.errors import UserError
from reasonir.core.fields import TemplateChoice
from reasonir.core.files import read_jsonl, write_jsonl
from reasonir.data.beir import read_beir
from reasonir.data.bright import read_bright
from reasonir.data.training_rows import read_training_examples
from reasonir.model import Encoder
from reasonir.retrieval.bm25 import BM25Index
from reasonir.retrieval.config import ModelConfig
from reasonir.synth.config import MineConfig, Miner, PositiveForm
from reasonir.synth.corpus.mine import mine_negatives
from reasonir.text.near_duplicates import near_duplicate
from tests.kit.shared import SHARED_DATA, requires_shared_data

TOPICS = ("enzyme", "bridge", "inflation", "glacier", "compiler")


def options(folder: Path, **changes: Any) -> MineConfig:
    values: dict[str, Any] = {
        "recipe": "mine", "output_dir": str(folder), "seed": 0, "debug": False, "rows": None, "corpus": None,
        "queries": None, "split": "train", "tasks": None, "retriever": Miner.bm25,
        "model": ModelConfig(path=None, template=TemplateChoice.auto), "instruction": "none",
        "query_max_tokens": None, "document_max_tokens": None, "chunk_tokens": None, "first_rank": 1, "last_rank": 8,
        "negatives_per_row": 2, "draw": True, "margin": None, "relative_margin": False, "near_duplicate": 0.8,
        "form": PositiveForm.text, "replace_negatives": False,
    }  # fmt: skip
    config = MineConfig(**(values | changes))
    validate_tree(config)
    return config


def mined(folder: Path, **changes: Any) -> list[dict[str, Any]]:
    mine_negatives(options(folder, **changes))
    return [row for _, row in read_jsonl(folder / "data.jsonl")]


def test_of_a_benchmark_only_the_documents_that_are_there_are_positives(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "qrels").mkdir(parents=True)
    write_jsonl(folder / "corpus.jsonl", [{"_id": f"d{n}", "text": f"boat {n} word{n}"} for n in range(9)])
    write_jsonl(folder / "queries.jsonl", [{"_id": i, "text": "boat"} for i in "ab"])
    qrels = "query-id\tcorpus-id\tscore\na\td1\t1\na\tghost\t1\nb\tghost\t1\n"
    (folder / "qrels" / "train.tsv").write_text(qrels, encoding="utf-8")
    (row,) = mined(tmp_path / "out", queries=str(folder))
    assert (row["id"], row["pos"]) == ("a", [["", "boat 1 word1"]])


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Six documents a topic that share its word, told apart by their own."""
    rows = [
        {"id": f"{topic}{n}", "content": f"The {topic} {topic} note {n} tells of part{n} and its own {topic}word{n}."}
        for topic in TOPICS
        for n in range(6)
    ]
    write_jsonl(tmp_path / "corpus.jsonl", rows)
    return tmp_path / "corpus.jsonl"


def texts_of(corpus: Path) -> dict[str, str]:
    return {row["id"]: row["content"] for _, row in read_jsonl(corpus)}


@pytest.fixture
def rows(tmp_path: Path, corpus: Path) -> Path:
    """Two rows share a query and differ in their positive; one brings a negative and fields of its own."""
    text = texts_of(corpus)
    write_jsonl(
        tmp_path / "rows.jsonl",
        [
            {"id": "a", "query": ["Find.", "enzyme note"], "pos": [["", text["enzyme0"]]], "neg": [], "weight": 0.5},
            {"id": "b", "query": ["Find.", "Enzyme  note"], "pos": [["", text["enzyme1"]]], "neg": []},
            {
                "id": "c",
                "query": "glacier note",
                "pos": [text["glacier2"]],
                "neg": [text["glacier3"]],
                "source": {"k": 1},
            },
            {"id": "d", "query": "nothing in common", "pos": [text["bridge0"]]},
        ],
    )
    return tmp_path / "rows.jsonl"


def test_rows_keep_everything_and_gain_negatives_of_the_topic(tmp_path: Path, corpus: Path, rows: Path) -> None:
    before = [row for _, row in read_jsonl(rows)]
    after = mined(tmp_path / "out", rows=str(rows), corpus=str(corpus), last_rank=6)
    text = texts_of(corpus)
    assert [row["id"] for row in after] == ["a", "b", "c", "d"]
    for old, new in zip(before, after, strict=True):
        assert {**new, "neg": 0, "mined": 0} == {**old, "neg": 0, "mined": 0}
        kept = len(old.get("neg", []))
        assert new["neg"][:kept] == old.get("neg", [])
        added = [entry if isinstance(entry, str) else entry[1] for entry in new["neg"][kept:]]
        assert added == [text[one["id"]] for one in new["mined"]]
    assert [isinstance(row["neg"][-1], str) for row in after[:3]] == [False, False, True]
    assert all(one["id"].startswith("enzyme") for one in after[0]["mined"])
    assert len(after[2]["neg"]) == 3 and len(set(after[2]["neg"])) == 3
    assert after[3]["mined"] == [] and after[3]["neg"] == []
    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]
    assert counts == {"rows": 4, "negatives": 6, "rows_short": 1, "rows_without": 1}
    assert len(list(read_training_examples(str(tmp_path / "out" / "data.jsonl")))) == 4


def test_positives_of_every_row_with_the_query_are_spared(tmp_path: Path, corpus: Path, rows: Path) -> None:
    after = mined(tmp_path / "out", rows=str(rows), corpus=str(corpus), negatives_per_row=30, last_rank=30)
    for row in after[:2]:
        found = {one["id"] for one in row["mined"]}
        assert {"enzyme2", "enzyme3", "enzyme4", "enzyme5"} <= found
        assert not {"enzyme0", "enzyme1"} & found
    assert "glacier3" not in {one["id"] for one in after[2]["mined"]}  # the row has it


def test_a_positive_is_known_by_its_text_under_another_id_and_in_near_copies(tmp_path: Path) -> None:
    base = (
        "A long note on the enzyme rubisco, which fixes carbon dioxide slowly in the dark part of the leaf, day by day"
    )
    documents = {
        "gold": base,
        "twin": f"  {base.upper()}",
        "copy": f"{base} and night by night",
        "longer": f"Before it all, an introduction of some length stands here. {base}. And something after it.",
        "other": "Another enzyme, amylase, breaks starch in the mouth and has nothing to do with leaves or carbon",
    }
    write_jsonl(tmp_path / "corpus.jsonl", [{"id": i, "content": text} for i, text in documents.items()])
    write_jsonl(tmp_path / "rows.jsonl", [{"query": "enzyme", "pos": [base], "neg": []}])
    given = {"rows": str(tmp_path / "rows.jsonl"), "corpus": str(tmp_path / "corpus.jsonl"), "negatives_per_row": 9}
    careful = mined(tmp_path / "careful", **given)[0]["mined"]
    assert [one["id"] for one in careful] == ["other"]
    careless = mined(tmp_path / "careless", near_duplicate=0.0, **given)[0]["mined"]
    assert {one["id"] for one in careless} == {"other", "copy", "longer"}


def test_window_choice_and_margin(tmp_path: Path, corpus: Path, rows: Path) -> None:
    text = texts_of(corpus)
    given = {"rows": str(rows), "corpus": str(corpus)}
    index = BM25Index(list(text), list(text.values()))
    places, scores = index.search(["enzyme note"], 30)
    ranking = [list(text)[place] for place in places[0] if place >= 0]
    allowed = [i for i in ranking[2:8] if i not in ("enzyme0", "enzyme1")]
    window = {"first_rank": 3, "last_rank": 8}
    best = mined(tmp_path / "top", draw=False, **window, **given)[0]["mined"]
    assert [one["id"] for one in best] == allowed[:2]
    assert best[0]["rank"] == ranking.index(allowed[0]) + 1
    assert best[0]["score"] == pytest.approx(float(scores[0][best[0]["rank"] - 1]), abs=1e-5)
    every = mined(tmp_path / "all", negatives_per_row=9, **window, **given)[0]["mined"]
    assert [one["id"] for one in every] == allowed
    draws = {
        tuple(one["id"] for one in mined(tmp_path / f"seed{seed}", seed=seed, **window, **given)[0]["mined"])
        for seed in range(6)
    }
    assert len(draws) > 1 and all(set(draw) <= set(allowed) for draw in draws)
    # All documents of the topic score as its positive does: any margin leaves those of other topics.
    far = mined(tmp_path / "far", margin=0.3, relative_margin=True, last_rank=30, negatives_per_row=30, **given)
    assert far[0]["mined"] and not any(one["id"].startswith("enzyme") for one in far[0]["mined"])
    own = float(scores[0][ranking.index("enzyme0")])
    assert all(one["score"] < 0.7 * own for one in far[0]["mined"])
    tight = mined(tmp_path / "tight", margin=1e9, last_rank=30, **given)
    assert not any(row["mined"] for row in tight)


def test_new_negatives_may_take_the_place_of_the_rows_own(tmp_path: Path, corpus: Path, rows: Path) -> None:
    given = {"rows": str(rows), "corpus": str(corpus), "draw": False}
    added = mined(tmp_path / "added", last_rank=6, **given)
    replaced = mined(tmp_path / "replaced", last_rank=6, replace_negatives=True, **given)
    text = texts_of(corpus)
    # The row's own negative ranks third: it is found again, where additional negatives leave it out.
    assert "glacier3" not in {one["id"] for one in added[2]["mined"]}
    best = mined(tmp_path / "best", last_rank=6, replace_negatives=True, negatives_per_row=9, **given)[2]
    assert "glacier3" in {one["id"] for one in best["mined"]}
    for row in replaced[:3]:
        assert row["neg"] and row["neg"] == [
            text[one["id"]] if isinstance(row["pos"][0], str) else ["", text[one["id"]]] for one in row["mined"]
        ]
    # A second time on its own output: nothing piles up, and a row without new negatives keeps its own.
    again = mined(tmp_path / "again", last_rank=6, replace_negatives=True, draw=False, corpus=str(corpus),
                  rows=str(tmp_path / "replaced" / "data.jsonl"))  # fmt: skip
    assert again == replaced
    none = mined(tmp_path / "none", last_rank=6, replace_negatives=True, margin=1e9, **given)
    assert none[2]["neg"] == [text["glacier3"]] and none[2]["mined"] == []


def test_the_same_rows_are_not_mined_twice(
    tmp_path: Path, corpus: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"rows": str(rows), "corpus": str(corpus)}
    file = tmp_path / "out" / "data.jsonl"

    def mined_anew(**changes: Any) -> bool:
        os.utime(file, ns=(1, 1)) if file.exists() else None
        counts = mine_negatives(options(tmp_path / "out", **given, **changes))
        assert counts["rows"] == 4 and counts["negatives"] == sum(len(row["mined"]) for _, row in read_jsonl(file))
        assert ("mined before" in capsys.readouterr().out) == (file.stat().st_mtime_ns == 1)
        return file.stat().st_mtime_ns != 1

    assert mined_anew() and not mined_anew()
    first = file.read_bytes()
    file.write_bytes(first[:-9])
    assert mined_anew() and file.read_bytes() == first
    (tmp_path / "out" / "manifest.json").unlink()  # killed before the end
    assert mined_anew() and not mined_anew()
    write_jsonl(rows, [row for _, row in read_jsonl(rows)][::-1])
    assert mined_anew() and file.read_bytes() != first
    with pytest.raises(UserError, match="another configuration"):
        mined_anew(seed=1)


def test_ids_stay_ids(tmp_path: Path, corpus: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"query": "glacier note", "pos": [["", "glacier0"]], "neg": []}])
    given = {"rows": str(tmp_path / "rows.jsonl"), "corpus": str(corpus)}
    row = mined(tmp_path / "ids", form=PositiveForm.id, **given)[0]
    assert [entry[1] for entry in row["neg"]] == [one["id"] for one in row["mined"]]
    assert "glacier0" not in {one["id"] for one in row["mined"]}
    assert mined(tmp_path / "texts", **given)[0]["neg"][0][1].startswith("The ")


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, corpus: Path, rows: Path) -> None:
    for name in ("one", "two"):
        mined(tmp_path / name, rows=str(rows), corpus=str(corpus))
    assert (tmp_path / "one" / "data.jsonl").read_bytes() == (tmp_path / "two" / "data.jsonl").read_bytes()


def test_bright_exclusions_and_golds_are_honoured(tmp_path: Path, corpus: Path) -> None:
    task = tmp_path / "root" / "biology"
    write_jsonl(task / "documents.jsonl", [row for _, row in read_jsonl(corpus)])
    write_jsonl(
        task / "examples.jsonl",
        [
            {
                "id": "0",
                "query": "enzyme note",
                "gold_ids": ["enzyme0"],
                "excluded_ids": ["enzyme1", "enzyme2", "gone"],
            },
            {"id": "1", "query": "bridge note", "gold_ids": ["bridge0", "bridge0"], "excluded_ids": ["N/A"]},
            {"id": "2", "query": "no gold", "gold_ids": [], "excluded_ids": []},
        ],
    )
    after = mined(tmp_path / "out", queries=str(tmp_path / "root"), negatives_per_row=4, draw=False)
    assert [row["id"] for row in after] == ["0", "1"]
    found = [{one["id"] for one in row["mined"]} for row in after]
    assert {"enzyme3", "enzyme4", "enzyme5"} <= found[0]
    assert not found[0] & {"enzyme0", "enzyme1", "enzyme2"}
    assert "bridge0" not in found[1]
    rows = tmp_path / "rows.jsonl"
    text = texts_of(corpus)
    write_jsonl(rows, [{"query": "enzyme note", "pos": [text["enzyme0"]], "excluded_ids": ["enzyme1", "enzyme2"]}])
    row = mined(tmp_path / "rows_out", rows=str(rows), corpus=str(corpus), negatives_per_row=3, draw=False)[0]
    assert {one["id"] for one in row["mined"]} == {"enzyme3", "enzyme4", "enzyme5"}


def test_dense_equals_the_full_sort_and_encodes_once(
    tmp_path: Path, corpus: Path, rows: Path, tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.save_pretrained(str(tmp_path / "model"))
    monkeypatch.setattr("reasonir.retrieval.sharding.BLOCK_TEXTS", 7)  # several blocks, the last one shorter
    monkeypatch.setattr("reasonir.synth.corpus.mine.ROWS_PER_BLOCK", 2)
    model = ModelConfig(path=str(tmp_path / "model"), template=TemplateChoice.auto)
    given = {"rows": str(rows), "corpus": str(corpus), "retriever": Miner.dense, "model": model, "draw": False}
    after = mined(tmp_path / "out", negatives_per_row=30, last_rank=12, first_rank=2, **given)
    text = texts_of(corpus)
    encoder = Encoder.from_pretrained(str(tmp_path / "model"))
    products = encoder.encode(["enzyme note"], "Find.") @ encoder.encode(list(text.values())).T
    order = np.lexsort((np.argsort(np.argsort(list(text))) * -1, -products[0]))
    ranking = [list(text)[place] for place in order[:12]]
    expected = [(i, rank) for rank, i in enumerate(ranking, 1) if rank >= 2 and i not in ("enzyme0", "enzyme1")]
    assert [(one["id"], one["rank"]) for one in after[0]["mined"]] == expected
    assert after[0]["mined"][0]["by"] == "dense"

    encoded: list[int] = []
    plain = Encoder.encode_blocks

    def counting(self: Encoder, blocks: Any, *rest: Any, **named: Any) -> Any:
        return plain(self, (encoded.append(len(block)) or block for block in blocks), *rest, **named)

    monkeypatch.setattr(Encoder, "encode_blocks", counting)
    first = (tmp_path / "out" / "data.jsonl").read_bytes()
    (tmp_path / "out" / "data.jsonl").unlink()
    files = sorted((tmp_path / "out" / "embeddings").glob("*.npy"))
    assert len(files) >= 3 and max(len(np.load(file)) for file in files) == len(text)
    mined(tmp_path / "out", negatives_per_row=30, last_rank=12, first_rank=2, **given)
    assert encoded == []
    (tmp_path / "out" / "manifest.json").unlink()
    lost = len(np.load(files[0]))
    files[0].unlink()  # as if killed before this file
    mined(tmp_path / "out", negatives_per_row=30, last_rank=12, first_rank=2, **given)
    assert sum(encoded) == lost and max(encoded) <= 7
    assert (tmp_path / "out" / "data.jsonl").read_bytes() == first
    encoded.clear()
    below = mined(tmp_path / "below", negatives_per_row=30, last_rank=30, margin=0.0, **given)
    assert sum(encoded) == len(text) + len(after), "a positive of the corpus was encoded once more"
    own = float(products[0][list(text).index("enzyme0")])
    assert all(one["score"] < own + 1e-5 for one in below[0]["mined"])
    assert len(below[0]["mined"]) < 28


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "rows=FILE"),
        ({"rows": "a.jsonl"}, "corpus"),
        ({"rows": "a.jsonl", "corpus": "c", "queries": "q"}, "rows=FILE"),
        ({"queries": "q", "corpus": "c"}, "corpus"),
        ({"queries": "q", "retriever": Miner.dense}, "model.path"),
        ({"queries": "q", "first_rank": 9}, "last_rank"),
        ({"queries": "q", "first_rank": 0}, "first_rank"),
        ({"queries": "q", "margin": 1.5, "relative_margin": True}, "margin"),
        ({"queries": "q", "margin": -1.0}, "margin"),
        ({"queries": "q", "near_duplicate": 1.5}, "near_duplicate"),
        ({"queries": "q", "chunk_tokens": 0}, "chunk_tokens"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        options(tmp_path, **changes)


def test_wrong_input_is_refused_before_anything_is_written(tmp_path: Path, corpus: Path, rows: Path) -> None:
    with pytest.raises(UserError, match="form=id"):
        mined(tmp_path / "out", rows=str(rows), corpus=str(corpus), form=PositiveForm.id)
    with pytest.raises(UserError, match="no such file"):
        mined(tmp_path / "out", rows=str(tmp_path / "none.jsonl"), corpus=str(corpus))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@requires_shared_data
@pytest.mark.shared_data
def test_scifact_in_seconds_without_a_gold(tmp_path: Path) -> None:
    started = time.perf_counter()
    folder = str(SHARED_DATA / "scifact")
    after = mined(tmp_path / "out", queries=folder, first_rank=1, last_rank=50, negatives_per_row=3, draw=False)
    assert time.perf_counter() - started < 30  # 3 s on an idle machine
    collection = read_beir(folder, "train")
    golds = {query.id: query.gold for query in collection.queries}
    text = {document.id: document.text for document in collection.documents}
    assert len(after) == len(golds) == 809
    assert sum(len(row["mined"]) for row in after) == 3 * 809
    # Not vacuous: without the rule a gold would often be first.
    assert sum(row["mined"][0]["rank"] > 1 for row in after) > 400
    for row in after:
        assert not {one["id"] for one in row["mined"]} & golds[row["id"]].keys()
    for row in after[:60]:
        assert not any(near_duplicate(text[one["id"]], text[g]) for one in row["mined"] for g in golds[row["id"]])


@requires_shared_data
@pytest.mark.shared_data
def test_bright_never_mines_what_is_excluded(tmp_path: Path) -> None:
    root = SHARED_DATA / "bright_mini" / "theoremqa_questions"
    after = mined(tmp_path / "out", queries=str(root), first_rank=1, last_rank=20, draw=False)
    (collection,) = read_bright(str(root), ["theoremqa_questions"])
    banned = {query.id: {*query.excluded_ids, *query.gold} for query in collection.queries}
    index = BM25Index([d.id for d in collection.documents], [d.text for d in collection.documents])
    places, _ = index.search([query.text for query in collection.queries], 1)
    first = [collection.documents[place].id for place in places[:, 0]]
    assert sum(i in query.excluded_ids for i, query in zip(first, collection.queries, strict=True)) > 50
    assert len(after) == 194
    for row in after:
        assert not {one["id"] for one in row["mined"]} & banned[row["id"]]
