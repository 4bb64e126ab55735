"""Readers of training rows: every format is read, every mistake is refused by file and line."""

import gzip
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from reasonir.core.errors import UserError
from reasonir.core.files import read_jsonl, write_jsonl
from reasonir.data.rows import Ambiguous
from reasonir.data.training_rows import InstructedText, TrainingExample, read_training_examples
from tests.kit.shared import SHARED_DATA, requires_shared_data

GOOD = {"query": ["find", "why is the sky blue"], "pos": [["", "Rayleigh scattering"]], "neg": ["paint"]}


def rows_file(folder: Path, *lines: object, name: str = "rows.jsonl") -> str:
    """Write lines (bytes as they are, objects as JSON) and return the path."""
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    content = b"\n".join(raw) + b"\n" if raw else b""
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return str(path)


def read(path: str, documents: dict[str, str] | None = None) -> list[TrainingExample]:
    return list(read_training_examples(path, documents))


def refusal(path: str, documents: dict[str, str] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        read(path, documents)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_row_keeps_instruction_texts_weight_and_line(tmp_path: Path) -> None:
    path = rows_file(tmp_path, GOOD, {**GOOD, "id": "row b", "weight": 0.5, "pos_scores": [1.0]})
    first, second = read(path)
    assert first.query == InstructedText("find", "why is the sky blue")
    assert first.positives == (InstructedText("", "Rayleigh scattering"),)
    assert first.negatives == (InstructedText("", "paint"),)
    assert (first.weight, first.line) == (1.0, 1)
    assert (second.id, second.weight, second.line) == ("row b", 0.5, 2)


def test_plain_gzip_and_parquet_hold_the_same_rows(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"query": ["i", f"q{n}"], "pos": [["", f"p{n}"]], "neg": [["", f"n{n}"]] * (n % 3)} for n in range(7)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    plain = read(rows_file(tmp_path, *rows))
    assert len(plain) == 7
    assert read(rows_file(tmp_path, *rows, name="rows.jsonl.gz")) == plain
    assert read(str(tmp_path / "rows.parquet")) == plain


def test_hub_source_names_configuration_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def load_dataset(name: str, configuration: str | None, split: str) -> list[dict[str, object]]:
        asked.append((name, configuration, split))
        return [GOOD]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert read("hub:reasonir/reasonir-data:hq:train")[0].query.instruction == "find"
    assert read("hub:some/rows")[0].line == 1
    assert asked == [("reasonir/reasonir-data", "hq", "train"), ("some/rows", None, "train")]


def test_a_hub_failure_is_the_users_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise FileNotFoundError("no such data set\nlong explanation")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert "hub:some/rows" in refusal("hub:some/rows")


def test_ids_are_resolved_in_both_lists_bare_or_paired(tmp_path: Path) -> None:
    documents = {"a/1%27.txt": "text of a", "b": "text of b"}
    row = {"query": "q", "pos": [["read", "a/1%27.txt"]], "neg": ["b", "a written negative"]}
    (example,) = read(rows_file(tmp_path, row), documents)
    assert example.positives == (InstructedText("read", "text of a"),)
    assert example.negatives == (InstructedText("", "text of b"), InstructedText("", "a written negative"))


def test_without_documents_an_id_is_a_text(tmp_path: Path) -> None:
    (example,) = read(rows_file(tmp_path, {"query": "q", "pos": ["b"]}))
    assert example.positives == (InstructedText("", "b"),)
    assert example.negatives == ()


def test_the_names_of_the_e5_collection_mean_the_same(tmp_path: Path) -> None:
    plain = rows_file(tmp_path, {"query": "q", "pos": ["p"], "neg": ["n"]}, {"query": "q", "pos": ["p", "r"]})
    named = [
        {"query": "q", "positive": "p", "negative": "n"},
        {"query": "q", "positive": ["p", "r"], "negative": []},
    ]
    assert read(rows_file(tmp_path, *named, name="named.jsonl")) == read(plain)
    # A parquet file of mixed origin has both columns, one of them null.
    mixed = [{**named[0], "pos": None, "neg": None}, {"query": "q", "pos": ["p", "r"], "positive": None}]
    assert read(rows_file(tmp_path, *mixed, name="mixed.jsonl")) == read(plain)


def test_bare_queries_take_the_sources_instruction(tmp_path: Path) -> None:
    rows = [{"query": query, "pos": ["p"]} for query in ("q", ["", "q"], ["own", "q"])]
    examples = read_training_examples(rows_file(tmp_path, *rows), instruction="find it")
    assert [example.query.instruction for example in examples] == ["find it", "find it", "own"]


def test_rows_of_short_positives_are_left_out_and_told(tmp_path: Path) -> None:
    positives = (["label"], ["two words"], ["label", "now three words"], [["i", "label"], "b"], ["  spaced   out  "])
    path = rows_file(tmp_path, *({"query": "q", "pos": pos, "neg": ["n"]} for pos in positives))
    left_out: list[int] = []
    kept = read_training_examples(path, min_positive_words=2, on_left_out=lambda example: left_out.append(example.line))
    assert [example.line for example in kept] == [2, 3, 5]
    assert left_out == [1, 4]
    assert len(read(path)) == 5
    # The filter looks at the text behind an id.
    documents = {"label": "a whole text", "two": "word"}
    ids = rows_file(tmp_path, {"query": "q", "pos": ["label"]}, {"query": "q", "pos": ["two"]}, name="ids.jsonl")
    assert [e.line for e in read_training_examples(ids, documents, min_positive_words=2)] == [1]


def test_an_id_of_two_texts_is_refused_only_where_it_is_used(tmp_path: Path) -> None:
    documents = {"a": "text of a", "b": Ambiguous(("x/documents.jsonl", "y/documents.jsonl"))}
    rows = [{"query": "q", "pos": ["a"], "neg": ["b is no id here"]}] * 2
    assert len(read(rows_file(tmp_path, *rows), documents)) == 2
    for bad in ({"query": "q", "pos": ["b"]}, {"query": "q", "pos": ["a"], "neg": ["b"]}):
        path = rows_file(tmp_path, *rows, bad)
        message = refusal(path, documents)
        assert message.startswith(f"{path}:3: ") and "'b', which is ambiguous" in message
        assert "x/documents.jsonl and y/documents.jsonl" in message


BAD_ROWS = {
    "pos and positive": ({"query": "q", "pos": ["p"], "positive": "p"}, "both `pos` and `positive`"),
    "neg and negative": ({"query": "q", "pos": ["p"], "neg": [], "negative": "n"}, "both `neg` and `negative`"),
    "positive is a number": ({"query": "q", "positive": 3}, "`positive` must be a list"),
    "empty text as positive": ({"query": "q", "positive": " "}, "`positive`[0] is empty"),
    "empty text as negative": ({"query": "q", "positive": "p", "negative": ""}, "`negative`[0] is empty"),
    "no pos": ({"query": "q", "neg": ["n"]}, "pos"),
    "empty list of pos": ({"query": "q", "pos": []}, "pos"),
    "pos is null": ({"query": "q", "pos": None}, "pos"),
    "pos is a text": ({"query": "q", "pos": "p"}, "list"),
    "empty positive": ({"query": "q", "pos": ["fine", " \n"]}, "pos"),
    "empty paired positive": ({"query": "q", "pos": [["instruction", ""]]}, "pos"),
    "no query": ({"pos": ["p"]}, "query"),
    "empty query": ({"query": ["i", ""], "pos": ["p"]}, "query"),
    "query is a number": ({"query": 3, "pos": ["p"]}, "query"),
    "triple": ({"query": "q", "pos": [["a", "b", "c"]]}, "pos"),
    "weight NaN": ({"query": "q", "pos": ["p"], "weight": float("nan")}, "weight"),
    "weight infinite": ({"query": "q", "pos": ["p"], "weight": float("inf")}, "weight"),
    "weight negative": ({"query": "q", "pos": ["p"], "weight": -1}, "weight"),
    "weight is a text": ({"query": "q", "pos": ["p"], "weight": "1"}, "weight"),
    "weight too large": (b'{"query": "q", "pos": ["p"], "weight": ' + b"9" * 400 + b"}", "weight"),
    "thousands of digits": (b'{"query": "q", "pos": ["p"], "weight": ' + b"9" * 5_000 + b"}", "JSON"),
    "half a surrogate pair": (b'{"query": "a \\ud83d b", "pos": ["p"]}', "surrogate"),
    "weight is a bool": ({"query": "q", "pos": ["p"], "weight": True}, "weight"),
    "broken JSON": (b'{"query": "q", "pos": ["p"]', "JSON"),
    "not an object": (b'["q"]', "object"),
    "a key twice": (b'{"query": "q", "pos": ["p"], "pos": ["r"]}', "the key 'pos' stands twice"),
    "a key twice within": (b'{"query": "q", "pos": ["p"], "source": {"a": 1, "a": 2}}', "the key 'a' stands twice"),
    "NUL": (b'{"query": "q\\u0000", "pos": ["p"]}', "U+0000"),
    "not UTF-8": (b'{"query": "caf\xe9", "pos": ["p"]}', "0xe9"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_refused_with_file_and_line(case: str, tmp_path: Path) -> None:
    row, said = BAD_ROWS[case]
    path = rows_file(tmp_path, *[GOOD] * 6, row)
    message = refusal(path)
    assert message.startswith(f"{path}:7")
    assert said in message


@pytest.mark.parametrize("row", [{"query": "q", "pos": ["ghost"]}, {"query": "q", "pos": ["b"], "neg": ["ghost"]}])
def test_an_unknown_document_id_is_named(row: dict[str, object], tmp_path: Path) -> None:
    path = rows_file(tmp_path, row)
    assert len(read(path)) == 1
    message = refusal(path, {"b": "text"})
    assert message.startswith(f"{path}:1")
    assert "'ghost'" in message


def test_with_documents_a_written_positive_is_refused(tmp_path: Path) -> None:
    row = {"query": "q", "pos": ["a written positive"]}
    assert "'a written positive'" in refusal(rows_file(tmp_path, row), {"b": "text"})


def test_a_positive_that_resolves_to_nothing_is_refused(tmp_path: Path) -> None:
    assert ":1" in refusal(rows_file(tmp_path, {"query": "q", "pos": ["b"]}), {"b": ""})


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
@pytest.mark.parametrize("content", [(), (b"", b"  ")])
def test_an_empty_file_is_refused(name: str, content: tuple[bytes, ...], tmp_path: Path) -> None:
    path = rows_file(tmp_path, *content, name=name)
    assert path in refusal(path)


@pytest.mark.parametrize("name", ["no.jsonl", "no.jsonl.gz", "no.parquet"])
def test_a_missing_file_is_refused(name: str, tmp_path: Path) -> None:
    assert name in refusal(str(tmp_path / name))


def test_damaged_containers_are_refused(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"query": "q", "pos": ["p"]}\n' * 5_000)
    for name, content in (("a.jsonl.gz", whole[:-20]), ("b.jsonl.gz", b"plain"), ("c.parquet", b"PAR?")):
        (tmp_path / name).write_bytes(content)
        assert name in refusal(str(tmp_path / name))


def test_line_numbers_count_blank_lines(tmp_path: Path) -> None:
    path = rows_file(tmp_path, b'{"a": 1}', b"", b'{"a": 2}')
    assert list(read_jsonl(path)) == [(1, {"a": 1}), (3, {"a": 2})]


def test_unicode_line_separators_do_not_split_a_row(tmp_path: Path) -> None:
    row = {"query": "one\u2028two\u0085three", "pos": ["p"]}
    assert write_jsonl(tmp_path / "rows.jsonl", [row]) == 1
    assert [value for _, value in read_jsonl(tmp_path / "rows.jsonl")] == [row]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_written_rows_are_read_back_and_bytes_repeat(name: str, tmp_path: Path) -> None:
    rows = [{"id": "ü/%27", "n": n} for n in range(3)]
    assert write_jsonl(tmp_path / name, rows) == 3
    first = (tmp_path / name).read_bytes()
    write_jsonl(tmp_path / name, rows)
    assert (tmp_path / name).read_bytes() == first
    assert [row for _, row in read_jsonl(tmp_path / name)] == rows


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    def broken() -> object:
        yield {"n": 2}
        raise UserError("source broke")

    write_jsonl(tmp_path / "rows.jsonl", [{"n": 1}])
    with pytest.raises(UserError, match="source broke"):
        write_jsonl(tmp_path / "rows.jsonl", broken())
    assert [row for _, row in read_jsonl(tmp_path / "rows.jsonl")] == [{"n": 1}]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_whole_surrogate_pair_is_a_text(tmp_path: Path) -> None:
    (example,) = read(rows_file(tmp_path, b'{"query": "a \\ud83d\\ude00", "pos": ["p"]}'))
    assert example.query.text == "a \U0001f600"


@requires_shared_data
@pytest.mark.parametrize(
    ("name", "negatives"),
    [
        ("flagembedding_nq", {100, 79}),
        ("gritlm_toy_data_instruct_toy_data_embedding", {7}),
        ("gritlm_toy_data_toy_data_embedding", {7}),
    ],
)
def test_training_files_in_the_wild_are_read(name: str, negatives: set[int]) -> None:
    examples = read(str(SHARED_DATA / "format_samples" / f"{name}.jsonl"))
    assert len(examples) == 10
    assert {len(example.negatives) for example in examples} == negatives


@requires_shared_data
def test_medquad_ids_resolve_to_the_texts_of_the_resolved_file() -> None:
    from reasonir.data.collections import read_documents

    folder = SHARED_DATA / "medquad"
    by_id = read(str(folder / "train_ids.jsonl"), read_documents(str(folder)))
    resolved = read(str(folder / "train.jsonl.gz"))
    assert len(by_id) == len(resolved) == 11_455
    for example, other in zip(by_id, resolved, strict=True):
        assert (example.query, example.positives) == (other.query, other.positives)
        assert example.negatives[:1] == other.negatives
    assert max(len(example.negatives) for example in by_id) == 3
