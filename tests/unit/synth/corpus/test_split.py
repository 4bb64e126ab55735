"""Held-out documents: no row about them is trained on, and the task that is written measures exactly those rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from reasonir.core.errors import UserError
from reasonir.core.files import read_jsonl, write_jsonl
from reasonir.data.bright import read_bright
from reasonir.synth.config import SplitConfig
from reasonir.synth.corpus.split import hold_out, split_rows

TEXTS = {f"d{number}": f"principle {number}\nof bodies" for number in range(20)}


def row(number: int, **fields: Any) -> dict[str, Any]:
    return {"id": f"q{number}", "query": ["Find it", f"case {number}"], "pos": [["", TEXTS[f"d{number}"]]]} | fields


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "corpus.jsonl", [{"id": i, "content": text} for i, text in TEXTS.items()])
    return tmp_path / "corpus.jsonl"


def split(folder: Path, rows: list[dict[str, Any]], name: str = "split", **changes: Any) -> tuple[list, Any]:
    """Split rows; return those to train on, and the task as the evaluation reads it."""
    write_jsonl(folder / "rows.jsonl", rows)
    options = {"rows": str(folder / "rows.jsonl"), "corpus": str(folder / "corpus.jsonl"), "test_share": 0.25}
    out = folder / name
    split_rows(
        SplitConfig(**({"recipe": "split", "output_dir": str(out), "seed": 0, "debug": False} | options | changes))
    )
    (collection,) = read_bright(str(out / "heldout"), ["heldout"])
    return [row for _, row in read_jsonl(out / "train.jsonl")], collection


def test_every_row_goes_to_the_side_of_its_document(corpus, tmp_path):
    rows = [row(number, weight=0.5, source={"k": number}) for number in range(20)]
    train, task = split(tmp_path, rows)
    held = hold_out(TEXTS.values(), 0.25, 0)
    assert len(held) == 5
    assert train == [row for row in rows if row["pos"][0][1] not in held]
    assert {document.id: document.text for document in task.documents} == TEXTS
    assert {query.id for query in task.queries} == {f"q{i[1:]}" for i, text in TEXTS.items() if text in held}
    assert all(dict(query.gold) == {f"d{query.id[1:]}": 1} for query in task.queries)
    assert all(query.text == f"case {query.id[1:]}" for query in task.queries)
    assert task.instruction == "Find it"
    assert json.loads((tmp_path / "split" / "manifest.json").read_text())["counts"] == {
        "train": 15, "heldout": 5, "both": 0, "documents_heldout": 5,
    }  # fmt: skip


def test_an_id_among_rows_of_texts_is_refused(corpus, tmp_path):
    """Its row would be trained on with the id for a text, and would escape the hold-out."""
    with pytest.raises(UserError, match=r"rows\.jsonl:2: `pos` names document id 'd1', but the first row holds texts"):
        split(tmp_path, [row(0), row(1, pos=["d1"])])


def test_rows_of_another_recipe_over_the_corpus_split_alike(corpus, tmp_path):
    some = [row(number, query=f"plainly {number}") for number in (*range(3, 20), 5)]
    _, first = split(tmp_path, [row(number) for number in range(20)])
    train, second = split(tmp_path, some, "second")
    assert {i for query in second.queries for i in query.gold} <= {i for query in first.queries for i in query.gold}
    assert not {entry[1] for r in train for entry in r["pos"]} & {TEXTS[i] for q in second.queries for i in q.gold}
    assert second.instruction == ""
    _, third = split(tmp_path, [row(number) for number in range(20)], "third", seed=1)
    assert {q.id for q in third.queries} != {q.id for q in first.queries}


def test_a_row_of_both_sides_goes_to_neither_and_is_counted(corpus, tmp_path, capsys):
    held = hold_out(TEXTS.values(), 0.25, 0)
    inside = [n for n in range(20) if TEXTS[f"d{n}"] in held]
    outside = next(n for n in range(20) if TEXTS[f"d{n}"] not in held)
    mixed = row(outside, id="mixed", pos=[TEXTS[f"d{outside}"], TEXTS[f"d{inside[0]}"]])
    several = row(inside[0], id="several", pos=[TEXTS[f"d{n}"] for n in inside[:2]])
    train, task = split(tmp_path, [row(outside), mixed, several])
    assert [r["id"] for r in train] == [f"q{outside}"]
    assert [(q.id, set(q.gold)) for q in task.queries] == [("several", {f"d{n}" for n in inside[:2]})]
    assert "1 rows left out" in capsys.readouterr().out


def test_ids_equal_texts_and_repeated_row_ids(corpus, tmp_path):
    twin = [{"id": f"twin of {i}", "content": text} for i, text in TEXTS.items()]
    write_jsonl(corpus, [{"id": i, "content": text} for i, text in TEXTS.items()] + twin)
    rows = [row(number, id="same", pos=[f"twin of d{number}"]) for number in range(20)]
    train, task = split(tmp_path, rows)
    assert len(train) == 15 and len({query.id for query in task.queries}) == 5
    assert all(set(q.gold) == {i := f"d{q.text.split()[1]}", f"twin of {i}"} for q in task.queries)


def test_refusals(corpus, tmp_path):
    rows = [row(number) for number in range(20)]
    for changed, changes, said in (
        ([row(n, query=[f"Instruction {n}", "x"]) for n in range(20)], {}, "different instructions"),
        ([row(0, pos=["elsewhere"])], {}, "no row of .* name the corpus that the rows were made from"),
        (rows, {"test_share": 0.99}, "no row of .* is left to train on: lower test_share=0.99"),
        ([row(0, pos=[])], {}, "rows.jsonl:1"),
    ):
        with pytest.raises(UserError, match=said):
            split(tmp_path, changed, **changes)
        assert not (tmp_path / "split").exists()
