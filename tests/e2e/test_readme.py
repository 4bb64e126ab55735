"""What the README tells people to type is typed here, with tiny settings."""

import json
import re
import shlex
from pathlib import Path

import pytest

from reasonir.eval.cli import TASKS
from reasonir.eval.cli import main as evaluate
from reasonir.synth.cli import main as synthesise
from reasonir.train.cli import main as train
from tests.kit import synth_answers
from tests.kit.servers import ScriptedServer
from tests.kit.texts import SENTENCES, training_rows, write_rows

README = (Path(__file__).resolve().parent.parent.parent / "README.md").read_text(encoding="utf-8")
SMALL = [
    "max_steps=2", "global_batch_queries=4", "query_max_tokens=80", "document_max_tokens=80", "precision=fp32",
    "model.vocabulary_size=400", "model.hidden_size=32", "model.intermediate_size=48", "model.layers=2",
    "model.heads=4", "model.key_value_heads=2",
]  # fmt: skip


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


def test_the_stage_table_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    write_collection(tmp_path)
    commands = re.findall(r"\| `(reasonir-(?:train|eval) [^`]+)` \|", README)
    assert {shlex.split(command)[1] for command in commands[1:]} == set(TASKS)
    with ScriptedServer(synth_answers.good) as server:
        for command in commands:
            program, *arguments = shlex.split(command.replace("URL", server.url))
            if program == "reasonir-train":
                # The README starts from a folder; here a new model of the same shape is trained.
                arguments = [a for a in arguments if not a.startswith("model.path=")] + SMALL
            elif arguments[0] == "beir":
                arguments.append("output_dir=BEIR")
            with pytest.raises(SystemExit) as done:
                (train if program == "reasonir-train" else evaluate)(arguments)
            assert done.value.code == 0, command
    for written in ("DIR/model", "DIR/metrics.jsonl", "DIR/manifest.json", "A/results.json", "A/results.md",
                    "A/physics/run.trec", "B/physics/bm25.trec", "BEIR/metrics.json", "REWRITES/physics/mine_64.jsonl",
                    "CURVE/scaling.png", "FUSED/results.json", "RERANKED/rerank_only/results.json",
                    "COMPARED/compare.md", "OVERLAP/contamination.md", "PAGE/report.html", "metrics.json",
                    "OUT/embeddings.npy", "OUT/index/recall.json", "READ/results.md"):  # fmt: skip
        assert (tmp_path / written).exists(), written
    assert json.loads((tmp_path / "metrics.json").read_text())["ndcg_at_10"] == 1.0


def test_the_data_line_of_the_stage_table_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "corpus.jsonl", [{"id": f"d{i}", "content": text} for i, text in enumerate(SENTENCES)])
    (line,) = re.findall(r"\| `reasonir-synth ([^`]+)` \|", README)
    with ScriptedServer(synth_answers.good) as server, pytest.raises(SystemExit) as done:
        synthesise(shlex.split(line.replace("URL", server.url)))
    assert done.value.code == 0
    for written in ("data.jsonl", "rejections.jsonl", "completions.jsonl", "report.md"):
        assert (tmp_path / "DATA" / written).is_file(), written


def test_the_python_lines_run(tiny, tmp_path, capsys):
    tiny.save_pretrained(str(tmp_path / "model"))
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    exec(code.replace("outputs/quickstart/model", str(tmp_path / "model")), {})
    assert re.search(r"^\[\[-?[01]?\.\d+\]\]", capsys.readouterr().out, re.MULTILINE)
