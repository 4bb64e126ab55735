"""BRIGHT and BEIR folders, commands that must succeed, and rows that they write."""

import json
from pathlib import Path
from typing import Any

import pytest

from reasonir.eval import cli
from tests.kit.texts import SENTENCES, training_rows, write_rows

TEXTS = [
    *SENTENCES[:7],
    "Iron rusts where water and air meet it.",
    "Salt lowers the freezing point of water.",
]


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must succeed; return what it printed."""
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    captured = capsys.readouterr()
    assert exit_info.value.code == 0, captured.err
    # What precision=auto chose is said there, and nothing else.
    assert all(line.startswith("precision=auto: ") for line in captured.err.splitlines()), captured.err
    return captured.out


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write_collection(folder: Path) -> None:
    """A BRIGHT root `ROOT`, a BEIR folder `FOLDER`, a corpus, a run and qrels, as the README's commands name them."""
    texts = [f"principle {i} of bodies" for i in range(6)]
    write_rows(folder / "rows.jsonl", training_rows(12))
    write_rows(folder / "corpus.jsonl", [{"id": f"d{i}", "content": text} for i, text in enumerate(texts)])
    task = folder / "ROOT" / "physics"
    task.mkdir(parents=True)
    write_rows(task / "documents.jsonl", [{"id": f"d{i}", "content": text} for i, text in enumerate(texts)])
    example = {"id": "q0", "query": "which body", "excluded_ids": ["N/A"], "gold_ids": ["d1"]}
    write_rows(task / "examples.jsonl", [example])
    beir = folder / "FOLDER"
    (beir / "qrels").mkdir(parents=True)
    write_rows(beir / "corpus.jsonl", [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(texts)])
    write_rows(beir / "queries.jsonl", [{"_id": "q0", "text": "which body"}])
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td1\t1\n")
    asked = {"question": "which body", "options": ["one", "two", "three", "four"], "answer": "B"}
    write_rows(folder / "questions.jsonl", [{**asked, "gold": "d1"}])
    (folder / "MMLU").mkdir()
    (folder / "MMLU" / "astronomy_test.csv").write_text("which body,one,two,three,four,B\n")
    (folder / "gpqa_diamond.csv").write_text(
        "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3\nr,q,two,a,b,c\n"
    )
    (folder / "RUN").write_text("q0 Q0 d1 1 0.5 x\n")
    (folder / "QRELS").write_text("q0 0 d1 1\n")
