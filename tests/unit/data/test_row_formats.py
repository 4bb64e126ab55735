"""Rows of other training tools are read as what they say; the same rows in our own form are the same examples."""

import csv
import json
from pathlib import Path

import pytest

from reasonir.core.errors import UserError
from reasonir.data.training_rows import RowsReport, read_training_examples, read_training_rows
from tests.kit.shared import SHARED_DATA, requires_shared_data

TEVATRON = {
    "query_id": "q7",
    "query": "why does ice float",
    "positive_passages": [
        {"docid": "1", "title": "Ice", "text": "is less dense"},
        {"docid": "2", "text": "It floats."},
    ],
    "negative_passages": [{"docid": "3", "title": "", "text": "Steam rises."}],
}
FLAG = {
    "query": "why does ice float", "pos": ["It floats."], "neg": ["Steam rises."], "prompt": "Find the reason",
    "pos_scores": [0.9], "neg_scores": [0.1], "type": "normal",
}  # fmt: skip
TRIPLET = {"anchor": "why", "positive": "It floats.", "negative_2": "second", "negative_1": "first", "negative_10": "x"}


def file_of(folder: Path, *rows: dict) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(source: str) -> tuple[list, RowsReport]:
    report = RowsReport()
    return list(read_training_examples(source, report=report)), report


def texts(pieces: tuple) -> list[str]:
    return [piece.text for piece in pieces]


def test_tevatron(tmp_path: Path) -> None:
    (example,), report = read(file_of(tmp_path, TEVATRON))
    assert report.format == "Tevatron"
    assert (example.id, example.query.text) == ("q7", "why does ice float")
    assert texts(example.positives) == ["Ice is less dense", "It floats."]
    assert texts(example.negatives) == ["Steam rises."]


def test_flagembedding_gives_its_prompt_as_the_instruction(tmp_path: Path) -> None:
    (example, bare), report = read(file_of(tmp_path, FLAG, {**FLAG, "prompt": None}))
    assert report.format == "FlagEmbedding"
    assert (example.query.instruction, example.query.text) == ("Find the reason", "why does ice float")
    assert (bare.query.instruction, texts(bare.positives), texts(bare.negatives)) == ("", FLAG["pos"], FLAG["neg"])


def test_columns_of_sentence_transformers(tmp_path: Path) -> None:
    (example, pair), report = read(file_of(tmp_path, TRIPLET, {"anchor": "how", "positive": "So."}))
    assert (report.format, report.unusable) == ("sentence-transformers", 0)
    assert (example.query.text, texts(example.positives)) == ("why", ["It floats."])
    assert texts(example.negatives) == ["first", "second", "x"], "by number, not by name"
    assert (pair.query.text, pair.negatives) == ("how", ())
    numbered = {"query": "why", "positive": "It floats.", "negative": "a", "negative_1": "b"}
    (example,), report = read(file_of(tmp_path, numbered))
    assert (report.format, texts(example.negatives)) == ("sentence-transformers", ["a", "b"])


def test_labelled_pairs_keep_the_positive_ones_and_count_the_others(tmp_path: Path) -> None:
    pairs = [{"sentence1": f"a{i}", "sentence2": f"b{i}", "label": label} for i, label in enumerate((1, 0, 0.5, 0.49))]
    source = file_of(tmp_path, *pairs)
    examples, report = read(source)
    assert [(e.query.text, texts(e.positives), e.line) for e in examples] == [("a0", ["b0"], 1), ("a2", ["b2"], 3)]
    assert (report.format, report.unusable) == ("sentence-transformers pairs", 2)
    assert [line for line, _ in read_training_rows(source)] == [1, 3], "lines and examples stay side by side"


def test_our_own_rows_are_nobody_elses(tmp_path: Path) -> None:
    own = [
        {"query": ["Find it", "why"], "pos": ["It floats."], "type": "hq"},
        {"query": "why", "positive": "It floats.", "negative": ["a", "b"]},
        {"query": "why", "pos": [["", "It floats."]], "neg": [], "weight": 2.0, "provenance": {"document": "d"}},
    ]
    for row in own:
        source = file_of(tmp_path, row)
        (example,), report = read(source)
        assert report.format == ""
        assert texts(example.positives) == ["It floats."]
        assert list(read_training_rows(source)) == [(1, row)]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_tables_of_columns(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"sentence1": "one, and\ntwo", "sentence2": 'he said "so"', "label": "0.9"},
        {"sentence1": "a", "sentence2": "b", "label": "0.0"},
        {"sentence1": "long " * 40_000, "sentence2": "ö", "label": "1"},
    ]
    path = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if suffix == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    examples, report = read(str(path))
    assert report.unusable == 1
    assert [(e.query.text, texts(e.positives)) for e in examples] == [
        ("one, and\ntwo", ['he said "so"']),
        ("long " * 40_000, ["ö"]),
    ]
    assert [e.line for e in examples] == ([1, 3] if suffix == "parquet" else [2, 5]), "the line where a row begins"


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (TEVATRON, FLAG, r":2: `positive_passages` must be a list of passages.*first row is in the format of Tevatron"),
        (TEVATRON, {**TEVATRON, "positive_passages": []}, ":2: the row has no `pos`"),
        (TEVATRON, {**TEVATRON, "negative_passages": [{"docid": "3"}]}, r"`negative_passages`\[0\] needs a string"),
        (FLAG, {**FLAG, "prompt": 3}, ":2: `prompt` must be a text, not int"),
        (TRIPLET, {"anchor": "why"}, ":2: column `positive` must be a text, but is missing"),
        (TRIPLET, {**TRIPLET, "negative_1": ["a"]}, ":2: column `negative_1` must be a text, but is a list"),
        ({"sentence1": "a", "sentence2": "b", "score": 0.9}, {"sentence1": "a", "sentence2": "b", "score": 4.2},
         ":2: the label is 4.2; it must be a number from 0 to 1"),
        ({"sentence1": "a", "sentence2": "b"}, {"sentence1": "a", "sentence2": "b", "label": "yes"}, "label is 'yes'"),
    ],
)  # fmt: skip
def test_a_row_that_is_not_as_the_first_is_refused_by_line(tmp_path, first, second, said) -> None:
    source = file_of(tmp_path, first, second)
    with pytest.raises(UserError, match=said) as refused:
        read(source)
    assert str(refused.value).startswith(f"{source}:2: ")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"anchor,positive\na,b\nc\n", ":3: the line has another number of cells"),
        (b"anchor,positive\na,b,c\n", ":2: the line has another number of cells"),
        (b'anchor,positive\na,"b\n', "cannot be read after line 1"),
        (b"anchor,positive\n\xff,b\n", "cannot be read after line 1"),
        (b"anchor,positive\n", "the file is empty"),
        (b"", "the file is empty"),
    ],
)
def test_a_broken_table_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        read(str(path))
    with pytest.raises(UserError, match="no such file"):
        read(str(tmp_path / "none.csv"))


@pytest.mark.shared_data
@requires_shared_data
@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("flagembedding_nq", "FlagEmbedding"),
        ("gritlm_toy_data_toy_data_embedding", ""),
        ("gritlm_toy_data_instruct_toy_data_embedding", ""),
    ],
)
def test_files_as_their_projects_publish_them(name: str, form: str) -> None:
    path = SHARED_DATA / "format_samples" / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"no {path}")
    raw = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    examples, report = read(str(path))
    assert len(examples) == len(raw) > 5
    assert (report.format, report.unusable) == (form, 0)
    for row, example in zip(raw, examples, strict=True):
        query = row["query"] if isinstance(row["query"], list) else [row.get("prompt", ""), row["query"]]
        assert [example.query.instruction, example.query.text] == query
        assert (len(example.positives), len(example.negatives)) == (len(row["pos"]), len(row["neg"]))
