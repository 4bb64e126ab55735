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


@pytest.mark.parametrize(
    ("row", "positives", "negatives"),
    [
        ({"anchor": "why", "positive": "no", "label": 0}, None, None),
        ({"anchor": "why", "positive": "no", "score": 0.2}, None, None),
        ({"query": "why", "positive": "no", "label": False}, None, None),
        ({"query": "why", "pos": ["no"], "label": "0"}, None, None),
        ({"query": "why", "positive": ["a", "b", "c"], "labels": [1, 0, 0]}, ["a"], ["b", "c"]),
        ({"query": "why", "pos": ["a", "b"], "neg": ["n"], "labels": [0.2, 0.7]}, ["b"], ["n", "a"]),
        ({"anchor": "why", "positive": ["a", "b"], "labels": [1, 0]}, ["a"], ["b"]),
        ({"query": "why", "pos": ["a"], "neg": ["n", "m"], "labels": [5, 1, 0]}, ["a"], ["n", "m"]),
        ({"query": "why", "pos": ["a"], "neg": ["n"], "label": 7.5}, ["a"], ["n"]),  # a teacher's margin
        ({"anchor": "why", "positive": "a", "negative": "n", "label": [2.5]}, ["a"], ["n"]),
        ({"query": "why", "pos": ["a"], "score": 0.1}, ["a"], []),  # of the row, not of a pair of texts
        ({"query": "why", "pos": ["a"], "label": None}, ["a"], []),
    ],
)
def test_a_field_that_says_this_is_no_positive_is_obeyed(
    tmp_path: Path, row: dict, positives: list[str] | None, negatives: list[str] | None
) -> None:
    examples, report = read(file_of(tmp_path, {"query": "other", "pos": ["p"]}, row, {"query": "third", "pos": ["p"]}))
    assert report.unusable == (positives is None)
    if positives is not None:
        assert (texts(examples[1].positives), texts(examples[1].negatives)) == (positives, negatives)
    assert [e.query.text for e in examples] == ["other", *([] if positives is None else ["why"]), "third"]


def test_mined_negatives_in_rows_of_their_own_join_the_positive_of_their_query(tmp_path: Path) -> None:
    pairs = [("why", "a", 1), ("why", "b", 0), ("why", "c", 0), ("how", "d", 0), ("how", "e", 1), ("why", "f", 0)]
    source = file_of(tmp_path, *({"anchor": q, "positive": d, "label": label} for q, d, label in pairs))
    examples, report = read(source)
    found = [(e.query.text, texts(e.positives), texts(e.negatives), e.line) for e in examples]
    assert found == [("why", ["a"], ["b", "c"], 1), ("how", ["e"], [], 5)]
    assert (report.joined, report.unusable) == (2, 2), "no row is guessed over another query's"


def test_every_row_tells_its_own_format(tmp_path: Path) -> None:
    rows = [{"query": "own", "pos": ["p"]}, TEVATRON, TRIPLET, FLAG, {**FLAG, "prompt": None}]
    examples, report = read(file_of(tmp_path, *rows))
    assert report.format == "Tevatron and sentence-transformers and FlagEmbedding"
    assert [e.query.text for e in examples] == ["own", "why does ice float", "why", *["why does ice float"] * 2]
    assert [e.query.instruction for e in examples] == ["", "", "", "Find the reason", ""]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_column_that_stands_twice_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows.{suffix}"
    if suffix == "csv":
        path.write_text("anchor,positive,positive\na,b,c\n", encoding="utf-8")
    else:
        import pyarrow
        import pyarrow.parquet

        columns = [pyarrow.array(["a"]), pyarrow.array(["b"]), pyarrow.array(["c"])]
        pyarrow.parquet.write_table(pyarrow.table(columns, names=["anchor", "positive", "positive"]), path)
    with pytest.raises(UserError, match="the column 'positive' stands twice"):
        read(str(path))


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
        (FLAG, {**TEVATRON, "positive_passages": 3},
         r":2: `positive_passages` must be a list of passages.*the row is in the format of Tevatron"),
        (TEVATRON, {**TEVATRON, "positive_passages": []}, ":2: the row has no `pos`"),
        (TEVATRON, {**TEVATRON, "negative_passages": [{"docid": "3"}]}, r"`negative_passages`\[0\] needs a string"),
        (FLAG, {**FLAG, "prompt": 3}, ":2: `prompt` must be a text, not int"),
        (TRIPLET, {"anchor": "why"}, ":2: column `positive` must be a text, but is missing"),
        (TRIPLET, {**TRIPLET, "negative_1": ["a"]}, ":2: column `negative_1` must be a text, but is a list"),
        ({"sentence1": "a", "sentence2": "b", "score": 0.9}, {"sentence1": "a", "sentence2": "b", "score": 4.2},
         ":2: the label is 4.2; it must be a number from 0 to 1"),
        ({"sentence1": "a", "sentence2": "b"}, {"sentence1": "a", "sentence2": "b", "label": "yes"}, "label is 'yes'"),
        (FLAG, {"query": "q", "pos": ["a", "b"], "labels": [1]}, "`labels` has 1 entries for 2 texts of `pos`"),
        (FLAG, {"query": "q", "pos": ["a"], "neg": ["b"], "labels": [0, 4]}, "calls a text of `pos` no positive"),
        (FLAG, {"query": "q", "pos": ["a"], "neg": ["b"], "label": 0}, "`label` is 0 beside positives and negatives"),
        (FLAG, {"query": "q", "pos": ["a"], "label": 3}, "the label is 3; it must be a number from 0 to 1"),
        (FLAG, {"query": "q", "pos": ["a\0"]}, r"`pos`\[0\] holds the character U\+0000"),
    ],
)  # fmt: skip
def test_a_row_that_does_not_say_what_it_means_is_refused_by_line(tmp_path, first, second, said) -> None:
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
