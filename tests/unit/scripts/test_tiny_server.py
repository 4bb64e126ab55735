"""The stand-in for a language model: it reads the world's texts, answers every prompt of ours, leaves when alone."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from reasonir.eval.rag.read_answer import read_answer
from reasonir.eval.rag.records import Question
from reasonir.eval.rerank.answers import PHRASE, read_score
from reasonir.llm import prompts as prompting
from reasonir.llm.attempts import Rejection
from reasonir.quickstart.world import TASKS, split_combinations, write_document, write_evaluation, write_query
from reasonir.synth.gates.parse import read_fields

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
TASK = TASKS["office_cases"]
Messages = list[dict[str, str]]


@pytest.fixture(scope="module")
def rules() -> Iterator[Any]:
    sys.path.insert(0, str(SCRIPTS))
    try:
        import tiny_answers

        yield tiny_answers
    finally:
        sys.path.remove(str(SCRIPTS))


def ask(rules: Any, name: str, values: dict[str, Any], answer: str, lists: tuple[str, ...] = ()) -> tuple[str, Any]:
    """Return what is answered to one of the package's own prompts, and the fields that its schema finds in it."""
    prompt = prompting.load_prompt(name, None, values, answer, lists, retried=False)
    messages = [{"role": m.role, "content": m.content} for m in prompt.messages(values)]
    text = rules.answer({"messages": messages, "seed": 1})
    assert text == rules.answer({"messages": messages, "seed": 1}), "the same request, another answer"
    return text, read_fields(text, "stop", prompt.schema)


@pytest.mark.parametrize("task", TASKS)
def test_every_text_of_the_world_is_understood(rules: Any, task: str) -> None:
    documents, examples = write_evaluation(TASKS[task], 0, 0.25)
    texts = {row["id"]: row["content"] for row in documents}
    for example in examples:
        values = tuple(part.split(": ", 1)[1] for part in example["reasoning"].split("; "))
        assert rules.read(example["query"], "query").values == values
        assert {rules.read(texts[name], "document").values for name in example["gold_ids"]} == {values}
    assert all(rules.read(text, "document") for text in texts.values())


def test_queries_and_decoys_say_what_they_should(rules: Any) -> None:
    combination = split_combinations(TASK, 0)[1][0]
    document = write_document(Random(0), TASK, combination)
    for name in ("hq", "eq"):
        _, fields = ask(rules, name, {"document": document}, "query")
        assert not isinstance(fields, Rejection)
        side = {"hq": "query", "eq": "document"}[name]
        meaning = rules.read(fields["query"], side)
        assert name == "eq" or meaning.values == combination
    query = write_query(Random(0), TASK, combination, long=False)
    values = {"instruction": "", "query": query, "positive": document, "negatives": [], "min_words": 300}
    _, fields = ask(rules, "negatives", values, "negative")
    assert len(fields["negative"].split()) >= 300
    first = rules.read(fields["negative"].split("\n\n")[0], "document")
    assert sum(a != b for a, b in zip(first.values, combination, strict=True)) == 1


def test_brainstorming_and_long_pairs(rules: Any) -> None:
    example = write_document(Random(0), TASK, split_combinations(TASK, 0)[1][0])
    values = {"field": "law", "count": 5, "example": example}
    _, fields = ask(rules, "vl_tasks", values, "tasks", ("fields",))
    assert len(fields["tasks"]) == len(set(fields["tasks"])) == 5
    held_out = set(split_combinations(TASK, 0)[1])
    for task in fields["tasks"]:
        for words in (20, 200):
            values = {"task": task, "query_words": words, "positive_words": words}
            _, pair = ask(rules, "vl", values, "query positive")
            assert min(len(pair["query"].split()), len(pair["positive"].split())) >= words
            meaning = rules.read(pair["query"], "query")
            assert meaning.task is TASK and meaning.values not in held_out
            assert rules.read(pair["positive"].split("\n\n")[0], "document") == meaning


def test_rewriting_grading_and_reading(rules: Any) -> None:
    right, other = split_combinations(TASK, 0)[1][:2]
    query = write_query(Random(1), TASK, right, long=False)
    rewritten, _ = ask(rules, "rewrite", prompting.rewrite_values(query, None), "text")
    assert rules.read(rewritten, "document").values == right
    texts = {values: write_document(Random(2), TASK, values) for values in (right, other)}
    grades, problems = [], Counter[str]()
    for text in texts.values():
        values = {"query": query, "document": text, "scoring": "raw", "phrase": PHRASE}
        grades.append(read_score(ask(rules, "rerank_pointwise", values, "text")[0], problems))
    assert grades[0] == 1.0 > grades[1] and not problems
    options = tuple(rules.title(text) for text in texts.values())
    question = Question("q", query, options, "A", "", "", order=(0, 1))
    for form in ("phrase", "boxed"):
        read = {}
        for name, passages in (("closed", []), ("wrong", [texts[other]]), ("right", list(texts.values())[::-1])):
            values = {"passages": passages, "subject": "", "question": query, "letters": "A or B",
                      "options": list(zip("AB", options, strict=True))}  # fmt: skip
            read[name] = read_answer(ask(rules, f"rag_{form}", values, "text")[0], question).letter
        assert read == {"closed": "", "wrong": "", "right": "A"}


def test_other_texts_are_refused(rules: Any) -> None:
    for text in ("How are you?", "<passage>\nNo world.\n</passage> Find the idea that the passage turns on."):
        with pytest.raises(rules.Unanswerable, match="this stand-in"):
            rules.answer({"messages": [{"role": "user", "content": text}]})


def test_questions_can_be_told_by_the_gold_document_alone(rules: Any, tmp_path: Path) -> None:
    documents, examples = write_evaluation(TASK, 0, 0.25)
    folder = tmp_path / TASK.name
    folder.mkdir()
    for name, rows in (("documents", documents), ("examples", examples)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = [sys.executable, str(SCRIPTS / "tiny_questions.py"), str(folder), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(SCRIPTS.parent)})
    gold = json.loads((tmp_path / "gold.json").read_text())
    texts = {row["id"]: row["content"] for row in documents}
    with (tmp_path / "mmlu" / f"{TASK.name}_test.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    for number, (query, *options, key) in enumerate(rows, start=1):
        right = texts[gold[f"{TASK.name}/{number}"]]
        assert options["ABCD".index(key)] == rules.title(right) and len(set(options)) == 4
        assert rules.read(right, "document").values == rules.read(query, "query").values
    assert len(rows) >= 7 and {row[-1] for row in rows} == set("ABCD")


def call(url: str, body: Any) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_the_server_answers_and_leaves_with_whoever_started_it(tmp_path: Path, end: signal.Signals) -> None:
    address = tmp_path / "address"
    # A shell that waits for the server, as reproduce.sh does; it is ended, and nobody tells the server.
    line = f'"{sys.executable}" "{SCRIPTS}/tiny_server.py" "{address}" & echo $!; wait'
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS.parent)}
    with subprocess.Popen(["bash", "-c", line], stdout=subprocess.PIPE, text=True, env=environment) as shell:
        assert shell.stdout is not None
        server = int(shell.stdout.readline())
        deadline = time.monotonic() + 60
        while not address.exists():
            assert shell.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        url = address.read_text().strip()
        document = write_document(Random(0), TASK, split_combinations(TASK, 0)[1][0])
        prompt = prompting.load_prompt("hq", None, ("document",), "query").messages({"document": document})
        status, answer = call(url, {"messages": [{"role": m.role, "content": m.content} for m in prompt]})
        assert status == 200 and "query" in json.loads(answer["choices"][0]["message"]["content"])
        assert answer["model"] == "rules-not-a-model"
        for broken in ({}, {"messages": [{"role": "user", "content": "hello"}]}, [1]):
            status, answer = call(url, broken)
            assert status == 400 and answer["error"]["message"].startswith("rules-not-a-model:")
        shell.send_signal(end)
        shell.wait(timeout=20)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{server}").exists():
        assert time.monotonic() < deadline, "the server outlived its shell"
        time.sleep(0.1)
