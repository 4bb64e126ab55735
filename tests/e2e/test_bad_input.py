"""What a user can get wrong: one line that says where, exit 2, nothing written and nothing lost."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reasonir.eval import cli as eval_cli
from reasonir.model import Encoder
from reasonir.train import cli as train_cli
from tests.kit.texts import SENTENCES, training_rows, write_rows

# Each starts several commands.
pytestmark = pytest.mark.seconds(20)

SMALL = (
    "query_max_tokens=48", "document_max_tokens=48", "global_batch_queries=4", "max_steps=1",
    "chunk_tokens=256", "warmup_steps=0",
)  # fmt: skip


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return every file under a folder with its bytes, and every folder."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


def run(main: Callable[[list[str]], None], arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    return int(exit_info.value.code or 0)


def refuse(
    capsys: pytest.CaptureFixture[str], folder: Path, main: Callable[[list[str]], None], arguments: list[str]
) -> str:
    """Return the one line on stderr of a refused command; `folder`, with all it knows of, is unchanged."""
    before = snapshot(folder)
    capsys.readouterr()
    code = run(main, arguments)
    line = capsys.readouterr().err
    assert code == 2
    assert line.count("\n") == 1 and ": error: " in line, line
    assert "Traceback" not in line
    after = snapshot(folder)
    assert after.keys() == before.keys()
    assert after == before
    return line


def train_arguments(folder: Path, model: Path | str, *more: str) -> list[str]:
    own = [f"output_dir={folder / 'out'}", f"model.path={model}", f"data.files=[{folder / 'rows.jsonl'}]"]
    return [*own, *SMALL, *more]


def good_rows(folder: Path, count: int = 9) -> list[bytes]:
    write_rows(folder / "rows.jsonl", training_rows(count))
    return (folder / "rows.jsonl").read_bytes().splitlines(keepends=True)


def with_line_7(folder: Path, content: bytes) -> None:
    lines = good_rows(folder)
    (folder / "rows.jsonl").write_bytes(b"".join([*lines[:6], content + b"\n", *lines[7:]]))


def row_7(**changes: Any) -> bytes:
    row = training_rows(7)[6] | changes
    return json.dumps({name: value for name, value in row.items() if value is not ...}).encode()


LINE_7 = [
    ("broken JSON", b'{"query": "a", "pos": ["b"]', "broken JSON"),
    ("not an object", b'["query"]', "one JSON object"),
    ("no pos", row_7(pos=...), "`pos`"),
    ("pos empty list", row_7(pos=[]), "`pos`"),
    ("empty positive", row_7(pos=[["", ""]]), "`pos`[0] is empty"),
    ("blank second positive", row_7(pos=["a text", " \n"]), "`pos`[1] is empty"),
    ("blank query", row_7(query=["Find it", "  "]), "`query` is empty"),
    ("no query", row_7(query=...), "`query`"),
    ("NaN weight", row_7(weight=float("nan")), "`weight` is nan"),
    ("negative weight", row_7(weight=-1), "`weight` is -1"),
    ("not UTF-8", b'{"query": "caf\xe9", "pos": ["b"]}', "byte 0xe9 is not UTF-8"),
]


@pytest.mark.parametrize(("content", "expected"), [case[1:] for case in LINE_7], ids=[c[0] for c in LINE_7])
def test_line_7_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_model: Path, content: bytes, expected: str
) -> None:
    with_line_7(tmp_path, content)
    line = refuse(capsys, tmp_path, train_cli.main, train_arguments(tmp_path, tiny_model))
    assert f"{tmp_path / 'rows.jsonl'}:7: " in line and expected in line


def test_line_7_is_named_where_the_tokenizer_is_learned_from_the_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Here the error passes through the tokenizers library."""
    with_line_7(tmp_path, LINE_7[0][1])
    line = refuse(capsys, tmp_path, train_cli.main, train_arguments(tmp_path, "null", "model=tiny"))
    assert f"{tmp_path / 'rows.jsonl'}:7: " in line and "broken JSON" in line


def test_missing_empty_and_damaged_files(capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_model: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    arguments = train_arguments(tmp_path, tiny_model)
    assert f"{rows}: no such file" in refuse(capsys, tmp_path, train_cli.main, arguments)
    for content in (b"", b"\n \n"):
        rows.write_bytes(content)
        assert f"{rows}: the file is empty" in refuse(capsys, tmp_path, train_cli.main, arguments)
    good = gzip.compress(b"".join(good_rows(tmp_path, 200)), mtime=0)
    broken = bytearray(good)
    broken[100:140] = bytes(40)
    for name, content in (("no.gz", b"no gzip"), ("cut.gz", good[:-30]), ("broken.gz", bytes(broken))):
        file = tmp_path / name.replace(".gz", ".jsonl.gz")
        file.write_bytes(content)
        line = refuse(capsys, tmp_path, train_cli.main, [*arguments, f"data.files=[{file}]"])
        assert str(file) in line
    file = tmp_path / "rows.parquet"
    file.write_bytes(b"no parquet")
    assert str(file) in refuse(capsys, tmp_path, train_cli.main, [*arguments, f"data.files=[{file}]"])


def test_document_ids_of_training_rows(capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_model: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    documents = [{"id": f"d{i}", "content": f"text {i}"} for i in range(5)]
    write_rows(corpus, documents)
    rows = [{"query": f"question {i}", "pos": [f"d{i}"], "neg": [f"d{i + 1}"]} for i in range(4)]
    arguments = train_arguments(tmp_path, tiny_model, f"data.documents=[{corpus}]")
    for field in ("pos", "neg"):
        write_rows(tmp_path / "rows.jsonl", [*rows[:2], rows[2] | {field: ["d77"]}, rows[3]])
        line = refuse(capsys, tmp_path, train_cli.main, arguments)
        assert f"rows.jsonl:3: `{field}`" in line and "'d77'" in line
    write_rows(tmp_path / "rows.jsonl", rows)
    write_rows(corpus, [*documents, {"id": "d2", "content": "another text"}])
    line = refuse(capsys, tmp_path, train_cli.main, arguments)
    assert f"{corpus}:6: " in line and "'d2' stands twice with different text" in line
    corpus.write_bytes(b"")
    assert f"{corpus}: the file is empty" in refuse(capsys, tmp_path, train_cli.main, arguments)


def test_options_that_do_not_fit_the_input(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good_rows(tmp_path)
    arguments = train_arguments(tmp_path, tiny_model)
    for options, expected in (
        (["learnin_rate=1"], "did you mean learning_rate"),
        (["max_steps=many"], "max_steps=many"),
        (["data.weights=[1,1]"], "data.weights has 2 entries"),
        (["query_max_tokens=12"], "rows.jsonl:1"),
    ):
        assert expected in refuse(capsys, tmp_path, train_cli.main, [*arguments, *options])
    monkeypatch.setenv("WORLD_SIZE", "3")
    line = refuse(capsys, tmp_path, train_cli.main, arguments)
    assert "global_batch_queries=4 does not divide by 3 ranks" in line


def test_long_instruction_is_named_with_its_rows(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_model: Path
) -> None:
    row = training_rows(1)[0]
    row["query"][0] = "Find the principle behind this observation " * 20
    write_rows(tmp_path / "rows.jsonl", [row])
    line = refuse(capsys, tmp_path, train_cli.main, train_arguments(tmp_path, tiny_model))
    assert "rows.jsonl:1" in line and "instruction" in line and "query_max_tokens" in line


def test_model_folder_without_a_part(capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_model: Path) -> None:
    good_rows(tmp_path)
    for number, (missing, expected) in enumerate(
        (("tokenizer.json", "tokenizer"), ("config.json", "config.json"), ("model.safetensors", "model.path"))
    ):
        broken = tmp_path / f"model{number}"
        shutil.copytree(tiny_model, broken)
        (broken / missing).unlink()
        line = refuse(capsys, tmp_path, train_cli.main, train_arguments(tmp_path, broken))
        assert f"model.path={broken}" in line and expected in line
        bright_folder(tmp_path / "bright")
        line = refuse(capsys, tmp_path, eval_cli.main, bright_arguments(tmp_path, f"model.path={broken}"))
        assert f"model.path={broken}" in line and expected in line
    assert "model.path" in refuse(capsys, tmp_path, train_cli.main, train_arguments(tmp_path, tmp_path / "none"))


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with a run in it, its rows and nothing else; copied by those who use it."""
    folder = tmp_path_factory.mktemp("finished")
    good_rows(folder)
    assert run(train_cli.main, train_arguments(folder, tiny_model)) == 0
    assert (folder / "out" / "manifest.json").is_file()
    return folder


def test_output_folder_of_another_run(capsys: pytest.CaptureFixture[str], finished_run: Path, tiny_model: Path) -> None:
    arguments = train_arguments(finished_run, tiny_model)
    line = refuse(capsys, finished_run, train_cli.main, [*arguments, "seed=5"])
    assert f"output_dir={finished_run / 'out'}" in line and "seed: 0 -> 5" in line
    line = refuse(capsys, finished_run, train_cli.main, arguments)
    assert "resume=true" in line
    line = refuse(capsys, finished_run, train_cli.main, [*arguments, "resume=true", "learning_rate=0.5"])
    assert "learning_rate: 2e-05 -> 0.5" in line
    line = refuse(capsys, finished_run, train_cli.main, [*arguments, f"output_dir={finished_run}"])
    assert "holds other files" in line
    line = refuse(capsys, finished_run, train_cli.main, [*arguments, f"output_dir={finished_run / 'rows.jsonl'}"])
    assert "is a file" in line
    below = finished_run / "rows.jsonl" / "out"
    assert "output_dir" in refuse(capsys, finished_run, train_cli.main, [*arguments, f"output_dir={below}"])


def test_checkpoint_of_other_data(
    capsys: pytest.CaptureFixture[str], finished_run: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """The same path with other bytes: only the checkpoint knows."""
    shutil.copytree(finished_run, tmp_path / "run")
    folder = tmp_path / "run"
    stored = folder / "out" / "config.yaml"
    stored.write_text(stored.read_text(encoding="utf-8").replace(str(finished_run), str(folder)), encoding="utf-8")
    good_rows(folder, 12)
    arguments = train_arguments(folder, tiny_model, "resume=true", "max_steps=2")
    line = refuse(capsys, folder, train_cli.main, arguments)
    assert "step_1 was written from other training data" in line


def test_evaluation_refuses_a_training_folder(capsys: pytest.CaptureFixture[str], finished_run: Path) -> None:
    bright_folder(finished_run / "bright")
    arguments = bright_arguments(finished_run, "retriever=bm25")
    assert "another configuration" in refuse(capsys, finished_run, eval_cli.main, arguments)


def bright_folder(root: Path) -> Path:
    """Write a BRIGHT folder of one task whose second query has no gold document."""
    task = root / "biology"
    task.mkdir(parents=True, exist_ok=True)
    documents = [{"id": f"d{i}", "content": text} for i, text in enumerate(SENTENCES)]
    write_rows(task / "documents.jsonl", documents)
    examples = [
        {"id": "q0", "query": "Why did the puddle vanish?", "gold_ids": ["d1"], "excluded_ids": ["N/A"]},
        {"id": "q1", "query": "Who knows?", "gold_ids": [], "excluded_ids": ["N/A"]},
        {"id": "q2", "query": "Why is the handle hot?", "gold_ids": ["d3"], "excluded_ids": ["d2"]},
    ]
    write_rows(task / "examples.jsonl", examples)
    return task


def bright_arguments(folder: Path, *more: str) -> list[str]:
    return ["bright", f"data.dir={folder / 'bright'}", f"output_dir={folder / 'out'}", *more]


def edit(file: Path, line: int, **changes: Any) -> None:
    rows = [json.loads(text) for text in file.read_text(encoding="utf-8").splitlines()]
    rows[line - 1] |= changes
    write_rows(file, rows)


def append(file: Path, row: dict[str, Any]) -> None:
    file.write_text(file.read_text(encoding="utf-8") + json.dumps(row) + "\n", encoding="utf-8")


BRIGHT_MISTAKES: list[tuple[str, Callable[[Path], Any], list[str], str]] = [
    ("no folder", lambda task: shutil.rmtree(task.parent), [], "data.dir="),
    ("no documents", lambda task: (task / "documents.jsonl").unlink(), [], "documents.jsonl"),
    ("empty corpus", lambda task: (task / "documents.jsonl").write_bytes(b""), [], "documents.jsonl"),
    ("empty examples", lambda task: (task / "examples.jsonl").write_bytes(b"\n"), [], "examples.jsonl"),
    ("gold no list", lambda task: edit(task / "examples.jsonl", 1, gold_ids="d1"), [], "examples.jsonl:1"),
    ("no query", lambda task: edit(task / "examples.jsonl", 2, query=None), [], "examples.jsonl:2"),
    ("query id twice", lambda task: edit(task / "examples.jsonl", 3, id="q0"), [], "examples.jsonl:3"),
    ("no content", lambda task: edit(task / "documents.jsonl", 4, content=None), [], "documents.jsonl:4"),
    (
        "document id twice",
        lambda task: append(task / "documents.jsonl", {"id": "d1", "content": "other"}),
        [],
        f"documents.jsonl:{len(SENTENCES) + 1}",
    ),
    ("unknown task", lambda task: None, ["tasks=[biology,chemistry]"], "chemistry"),
    ("unknown rewriting", lambda task: None, ["queries=gpt9"], "gpt9"),
    (
        "no gold at all",
        lambda task: [edit(task / "examples.jsonl", line, gold_ids=[]) for line in (1, 3)],
        [],
        "no query has a gold document",
    ),
]


@pytest.mark.parametrize(
    ("spoil", "options", "expected"), [c[1:] for c in BRIGHT_MISTAKES], ids=[c[0] for c in BRIGHT_MISTAKES]
)
def test_bright_folder(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    spoil: Callable[[Path], Any],
    options: list[str],
    expected: str,
) -> None:
    spoil(bright_folder(tmp_path / "bright"))
    line = refuse(capsys, tmp_path, eval_cli.main, bright_arguments(tmp_path, "retriever=bm25", *options))
    assert expected in line


def test_long_instruction_in_evaluation(capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_model: Path) -> None:
    bright_folder(tmp_path / "bright")
    arguments = bright_arguments(tmp_path, f"model.path={tiny_model}", "query_max_tokens=8")
    assert "query_max_tokens" in refuse(capsys, tmp_path, eval_cli.main, arguments)


def test_query_without_gold_is_left_out_and_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Not a mistake: counted, and not part of the mean."""
    bright_folder(tmp_path / "bright")
    assert run(eval_cli.main, bright_arguments(tmp_path, "retriever=bm25")) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and "1 queries without gold left out" in captured.out
    metrics = json.loads((tmp_path / "out" / "biology" / "metrics.json").read_text())
    assert metrics["num_queries"] == 2
    rows = (tmp_path / "out" / "biology" / "per_query.jsonl").read_text().splitlines()
    assert [json.loads(row)["id"] for row in rows] == ["q0", "q2"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["counts"]["biology"]["queries_without_gold"] == 1


def test_beir_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root = tmp_path / "beir"
    (root / "qrels").mkdir(parents=True)
    corpus, queries, qrels = root / "corpus.jsonl", root / "queries.jsonl", root / "qrels" / "test.tsv"
    good = {
        corpus: b'{"_id": "d1", "title": "", "text": "one"}\n{"_id": "d2", "title": "T", "text": "two"}\n',
        queries: b'{"_id": "q1", "text": "one?"}\n',
        qrels: b"query-id\tcorpus-id\tscore\nq1\td1\t1\n",
    }
    arguments = ["beir", f"data.dir={root}", f"output_dir={tmp_path / 'out'}", "retriever=bm25"]
    for file, content, expected in (
        (corpus, b"", "corpus.jsonl"),
        (corpus, good[corpus] + b'{"_id": "d1", "text": "other"}\n', "corpus.jsonl:3"),
        (corpus, good[corpus] + b'{"_id": "d3"}\n', "corpus.jsonl:3"),
        (corpus, good[corpus] + b'{"_id": "d3", "text": "\xff"}\n', "corpus.jsonl:3"),
        (queries, b'{"_id": "q2", "text": "one?"}\n', "'q1'"),
        (queries, b'{"_id": "q1"}\n', "queries.jsonl:1"),
        (qrels, b"query-id\tcorpus-id\tscore\nq1\td9\t1\n", "d9"),
        (qrels, good[qrels] + b"q1\td2\tyes\n", "test.tsv:3"),
        (qrels, good[qrels] + b"q1\td2\n", "test.tsv:3"),
        (qrels, b"query-id\tcorpus-id\tscore\nq1\td1\t0\n", "gold"),
        (qrels, b"", "test.tsv"),
    ):
        for path, standard in good.items():
            path.write_bytes(content if path == file else standard)
        line = refuse(capsys, tmp_path, eval_cli.main, arguments)
        assert expected in line
    line = refuse(capsys, tmp_path, eval_cli.main, [*arguments, "split=dev"])
    assert "dev.tsv" in line and "test" in line


def test_scoring(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run_file, qrels, excluded = tmp_path / "run.trec", tmp_path / "qrels.txt", tmp_path / "excluded.jsonl"
    good = {
        run_file: b"q1 Q0 d1 1 2.0 me\nq1 Q0 d2 2 1.0 me\n",
        qrels: b"q1 0 d1 1\n",
        excluded: b'{"id": "q1", "excluded_ids": []}\n',
    }
    arguments = ["score", f"run={run_file}", f"qrels={qrels}", f"excluded={excluded}"]
    arguments.append(f"output={tmp_path / 'out' / 'metrics.json'}")
    for file, content, expected in (
        (run_file, b"", "run.trec"),
        (run_file, b"q1 Q0 d1 1 2.0\n", "run.trec:1"),
        (run_file, good[run_file] + b"q1 Q0 d1 3 0.5 me\n", "run.trec:3"),
        (run_file, good[run_file] + b"q1 Q0 d3 3 nan me\n", "run.trec:3"),
        (run_file, good[run_file] + b"q1 Q0 d3 3 high me\n", "run.trec:3"),
        (run_file, good[run_file] + b"q1 Q0 d\xe9 3 0.1 me\n", "run.trec:3"),
        (run_file, b"q9 Q0 d1 1 2.0 me\n", "share no query"),
        (qrels, b"q1 0 d1 0\n", "qrels.txt"),
        (qrels, b"q1 d1\n", "qrels.txt:1"),
        (qrels, b"", "qrels.txt"),
        (excluded, b'{"id": "q1"}\n', "excluded.jsonl:1"),
        (excluded, b"{", "excluded.jsonl:1"),
    ):
        for path, standard in good.items():
            path.write_bytes(content if path == file else standard)
        assert expected in refuse(capsys, tmp_path, eval_cli.main, arguments)
    run_file.unlink()
    assert f"{run_file}: no such file" in refuse(capsys, tmp_path, eval_cli.main, arguments)


def test_encoding(capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_model: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    arguments = ["encode", f"input={texts}", f"output_dir={tmp_path / 'out'}", f"model.path={tiny_model}"]
    query = [*arguments, "side=query"]
    for command, content, expected in (
        (arguments, b"", "texts.jsonl"),
        (arguments, b'{"id": "a", "content": "x"}\n{"id": "a", "content": "y"}\n', "texts.jsonl:2"),
        (arguments, b'{"id": "a", "query": "x"}\n', "texts.jsonl:1"),
        (query, b'{"id": "a", "content": "x"}\n', "texts.jsonl:1"),
        (query, b'{"id": "a\\nb", "query": "x"}\n', "line end"),
        ([*query, "instruction=Find it", "max_tokens=4"], b'{"id": "a", "query": "x"}\n', "max_tokens"),
    ):
        texts.write_bytes(content)
        assert expected in refuse(capsys, tmp_path, eval_cli.main, command)


def test_good_input_passes_where_the_bad_was_refused(capsys: pytest.CaptureFixture[str], finished_run: Path) -> None:
    """The cases above fail for their own reason: the same command with good rows went through."""
    assert Encoder.from_pretrained(str(finished_run / "out" / "model")).dimension == 32
