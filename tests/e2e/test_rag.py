"""`reasonir-eval multiple_choice` and `gpqa` on a real server: what is retrieved is what is read, after a kill too."""

import csv
import hashlib
import json
import math
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reasonir.core.files import read_jsonl
from reasonir.eval import cli
from tests.kit.fork import Started
from tests.kit.servers import Reply, ScriptedServer, prompt_of
from tests.kit.shared import SHARED_DATA, requires_shared_data
from tests.kit.texts import write_rows

# Each starts several commands.
pytestmark = pytest.mark.seconds(20)

BIOLOGY = SHARED_DATA / "openstax_biology"
MADE_HERE = ("completions.jsonl", "manifest.json", "config.yaml")
Script = Callable[[dict[str, Any], int], str | Reply]


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Eight sections of two passages, a question to each; the even ones are found by their words."""
    passages, questions = [], []
    for i in range(8):
        topic = f"topic{i}" if i % 2 == 0 else "nothing in common"
        passages += [{"id": f"s{i}_{n}", "content": f"About {topic}, part {n}: the clue is clue{i}x{n}."}
                     for n in (0, 1)]  # fmt: skip
        questions.append(
            {"id": f"q{i}", "question": f"Case {i}: what follows for topic{i}?", "module": f"s{i}",
             "options": ["iron", "gold", "tin", "lead"], "answer": "ABCD"[i % 4],
             "category": f"subject {i % 2}", "group": "all of them"}
        )  # fmt: skip
    write_rows(tmp_path / "passages.jsonl", passages)
    write_rows(tmp_path / "questions.jsonl", questions)
    return tmp_path


def run(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> tuple[str, str]:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    captured = capsys.readouterr()
    assert exit_info.value.code == code, captured.err
    return captured.out, captured.err


def options(root: Path, server: ScriptedServer, out: str, *more: str) -> list[str]:
    return ["multiple_choice", f"data.file={root}/questions.jsonl", f"datastore={root}/passages.jsonl",
            "gold_field=module", "retriever=bm25", "queries=question", "generator=openai", "generator.model=m",
            f"generator.base_url={server.url}", "generator.send_seed=true", f"output_dir={root}/{out}",
            *more]  # fmt: skip


def knows_what_it_reads(questions: list[dict[str, Any]], clues: dict[str, list[str]]) -> Script:
    """A reader that is right exactly where a clue of the question's section stands in the prompt."""

    def tail(question: dict[str, Any]) -> str:
        options = zip("ABCD", question["options"], strict=False)
        return "\n".join([f"Question: {question['question']}", *(f"{letter}. {text}" for letter, text in options)])

    by_tail = {tail(question): question for question in questions}

    def answer(body: dict[str, Any], earlier: int) -> str:
        prompt = prompt_of(body)
        asked = by_tail[prompt[prompt.rindex("Question: ") :]]
        right = any(clue in prompt for clue in clues[asked["module"]])
        letter = asked["answer"] if right else "BCDA"["ABCD".index(asked["answer"])]
        return f"Let me think.\nThe answer is ({letter})."

    return answer


def rows_of(folder: Path, name: str) -> list[Any]:
    return [row for _, row in read_jsonl(folder / name)]


def check_that_reading_is_retrieval(folder: Path, top: int) -> dict[str, Any]:
    """Accuracy with retrieval equals the hit rate at `top`, question by question; closed book is all wrong."""
    report = json.loads((folder / "accuracy.json").read_text())
    hit = {row["id"]: bool(set(row["gold"]) & {h["id"] for h in row["hits"][:top]})
           for row in rows_of(folder, "retrieved.jsonl")}  # fmt: skip
    right = {row["id"]: row["correct"] for row in rows_of(folder, "answers.jsonl") if row["condition"] == "retrieved"}
    assert right == hit and 0 < sum(hit.values()) < len(hit)
    assert report["conditions"]["closed_book"]["all"]["correct"] == 0
    assert report["conditions"]["retrieved"]["all"]["accuracy"] == report["retrieval"]["at"][str(top)]["rate"]
    difference = report["differences"][0]
    assert difference["gained"] == sum(hit.values()) and difference["lost"] == 0
    return report


def test_what_is_retrieved_is_what_is_read(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clues = {f"s{i}": [f"clue{i}x"] for i in range(8)}
    with ScriptedServer(knows_what_it_reads(rows_of(world, "questions.jsonl"), clues)) as server:
        said, _ = run(options(world, server, "out", "top=2"), capsys)
    report = check_that_reading_is_retrieval(world / "out", 2)
    assert report["conditions"]["gold_passages"]["all"]["accuracy"] == 1.0
    assert report["retrieval"]["at"]["2"]["hits"] == 4
    assert report["conditions"]["retrieved"]["subjects"]["subject 0"]["accuracy"] == 1.0
    assert "| retrieved - closed book" in said and "+50.0" in said and (world / "out" / "results.md").is_file()


@requires_shared_data
@pytest.mark.shared_data
@pytest.mark.parametrize("top", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_biology_reads_what_is_retrieved(tmp_path: Path, top: int, capsys: pytest.CaptureFixture[str]) -> None:
    questions = rows_of(BIOLOGY, "multiple_choice.jsonl")
    clues: dict[str, list[str]] = {question["module"]: [] for question in questions}
    for row in rows_of(BIOLOGY, "passages.jsonl"):
        clues.setdefault(row["id"].rsplit("_", 1)[0], []).append(row["content"].strip())
    with ScriptedServer(knows_what_it_reads(questions, clues)) as server:
        run(["multiple_choice", f"data.file={BIOLOGY}/multiple_choice.jsonl", "gold_field=module", "retriever=bm25",
             f"datastore={BIOLOGY}/passages.jsonl", f"top={top}", "generator=openai", "generator.model=m",
             "gold=false", "context_tokens=100000", f"generator.base_url={server.url}", f"output_dir={tmp_path}/out"],
            capsys)  # fmt: skip
    report = check_that_reading_is_retrieval(tmp_path / "out", top)
    assert report["questions"] == 346 and report["retrieval"]["at"]["1"]["rate"] > 0.5


def by_chance(body: dict[str, Any], earlier: int) -> str:
    """Mostly one of the options, sometimes nothing that can be read; another one for another seed."""
    digest = hashlib.sha256((prompt_of(body) + str(body.get("seed"))).encode()).digest()
    return "I could not say." if digest[1] < 60 else f"Perhaps. The answer is ({'ABCD'[digest[0] % 4]})."


def test_samples_guesses_and_unreadable_answers(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedServer(by_chance) as server:
        run(options(world, server, "out", "samples=3", "generator.temperature=0.7"), capsys)
    report = json.loads((world / "out" / "accuracy.json").read_text())
    for name, entry in report["conditions"].items():
        answers = [row for row in rows_of(world / "out", "answers.jsonl") if row["condition"] == name]
        assert len(answers) == 24 and len({(row["id"], row["sample"]) for row in answers}) == 24
        unread = [row for row in answers if not row["letter"]]
        assert entry["all"]["unreadable"] == len(unread) and not any(row["correct"] for row in unread)
        assert all(row["guess"] in "ABCD" for row in unread) and len(entry["samples"]) == 3
        assert entry["all"]["accuracy"] == pytest.approx(sum(row["correct"] for row in answers) / 24)
        assert entry["all"]["accuracy_with_guesses"] >= entry["all"]["accuracy"]
    assert any(entry["all"]["unreadable"] for entry in report["conditions"].values())
    with ScriptedServer(by_chance) as server:
        _, said = run(options(world, server, "other", "samples=3"), capsys, code=2)
    assert "samples=3" in said and "generator.temperature" in said


def test_the_likeliest_letter_is_the_answer(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def knows(body: dict[str, Any], earlier: int) -> Reply:
        case = int(re.findall(r"Case (\d)", prompt_of(body))[-1])
        right, other = "ABCD"[case % 4], "ABCD"[(case + 1) % 4]
        shares = [(f" {right}", 0.2), (other, 0.3), (right, 0.15), ("The", 0.3)]  # 0.35 in two spellings
        logprobs = [(token, math.log(share)) for token, share in shares]
        return Reply(text="The", finish="length", logprobs=logprobs)  # as servers end an answer of one token

    with ScriptedServer(knows) as server:
        told, _ = run(options(world, server, "out", "prompt_form=letter"), capsys)
        assert all(body["max_tokens"] == 1 for body in server.bodies)
        _, said = run(options(world, server, "more", "prompt_form=letter", "samples=2"), capsys, code=2)
    assert "samples=2" in said
    report = json.loads((world / "out" / "accuracy.json").read_text())
    assert all(entry["all"]["accuracy"] == 1 for entry in report["conditions"].values())
    letters = report["conditions"]["retrieved"]["letters"]
    assert letters["chosen"] == letters["gold"] == letters["unbiased"] == [0.25] * 4 and letters["p_value"] == 1
    assert "a reader that prefers none shows the row unbiased" in told and "| retrieved: chosen" in told
    # The limit of one token is this command's own: nothing was cut.
    assert "cut at" not in told and {row["finish"] for row in rows_of(world / "out", "answers.jsonl")} == {"stop"}


def test_the_last_passages_are_dropped_to_fit(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedServer(by_chance) as server:
        said, _ = run(options(world, server, "out", "top=10", "context_tokens=330", "generator.max_new_tokens=100"),
                      capsys)  # fmt: skip
        prompts = [prompt_of(body) for body in server.bodies]
    answers = rows_of(world / "out", "answers.jsonl")
    hits = {row["id"]: [hit["id"] for hit in row["hits"]] for row in rows_of(world / "out", "retrieved.jsonl")}
    read = [row for row in answers if row["condition"] == "retrieved"]
    assert any(row["dropped"] for row in read) and "fewer passages, to fit" in said
    for row in read:
        assert row["passages"] == hits[row["id"]][: len(row["passages"])]
        assert len(row["passages"]) + row["dropped"] == len(hits[row["id"]])
    assert max(len(prompt.encode()) for prompt in prompts) <= 3 * 230


def test_reasoning_without_its_answer_is_searched_with(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def thinks(body: dict[str, Any], earlier: int) -> str:
        return "It must be about topic4.\nThe answer is (B)."

    with ScriptedServer(thinks) as server:
        run(options(world, server, "out", "queries=reasoning"), capsys)
        asked = len(server.bodies)
    rows = rows_of(world / "out", "retrieved.jsonl")
    assert all(row["query"] == "It must be about topic4." for row in rows) and rows[0]["hits"][0]["id"] in (
        "s4_0",
        "s4_1",
    )
    assert asked == 8 * 3  # closed book is paid for once
    write_rows(world / "mine.jsonl", [{"id": f"q{i}", "query": "topic6" if i else " "} for i in range(8)])
    with ScriptedServer(thinks) as server:
        _, said = run(options(world, server, "rewritten", f"queries={world}/mine.jsonl"), capsys, code=2)
    assert "mine.jsonl:1" in said and "'q0'" in said


@pytest.mark.seconds(15)
def test_killed_and_run_again_ends_with_the_same_bytes(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def files(folder: Path) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name not in MADE_HERE}

    with ScriptedServer(by_chance) as server:
        run(options(world, server, "whole"), capsys)
        whole = len(server.bodies)  # equal prompts are asked once
    with ScriptedServer(by_chance, latency=0.3) as server:
        command = options(world, server, "broken", "generator.max_concurrency=2")
        process = Started(["-m", "reasonir.eval", *command])
        log = world / "broken" / "completions.jsonl"
        while not log.is_file() or log.read_bytes().count(b"\n") < 5:
            time.sleep(0.05)
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    paid = log.read_bytes().count(b"\n")
    assert 5 <= paid < whole and not (world / "broken" / "accuracy.json").exists()
    with ScriptedServer(by_chance) as server:
        run(options(world, server, "broken"), capsys)
        assert len(server.bodies) == whole - paid
    assert files(world / "broken") == files(world / "whole")


def test_gpqa_options_are_shuffled_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = ["right", "left", "up", "down"]
    names = ["Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3",
             "Subdomain", "Record ID"]  # fmt: skip
    with (tmp_path / "gpqa.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(names)
        writer.writerows([f"Which way,\ncase {i}?", *original, "Optics", f"rec{i}"] for i in range(12))

    def reads_the_options(body: dict[str, Any], earlier: int) -> str:
        found = re.search(r"\(([A-D])\) right", prompt_of(body))
        assert found
        return rf"So it is \boxed{{{found[1]}}}"

    with ScriptedServer(reads_the_options) as server:
        run(["gpqa", f"data.file={tmp_path}/gpqa.csv", "generator=openai", "generator.model=m",
             f"generator.base_url={server.url}", f"output_dir={tmp_path}/out"], capsys)  # fmt: skip
    report = json.loads((tmp_path / "out" / "accuracy.json").read_text())
    assert list(report["conditions"]) == ["closed_book"] and report["conditions"]["closed_book"]["all"]["accuracy"] == 1
    rows = rows_of(tmp_path / "out", "questions.jsonl")
    assert len({row["answer"] for row in rows}) > 1
    assert all([original[place] for place in row["order"]] == row["options"] for row in rows)


def test_what_is_refused_names_the_thing(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedServer(by_chance) as server:
        for changed, words in (
            ("datastore=nowhere", "nowhere"),
            ("queries=option", "queries=option"),
            ("top=0", "top=0"),
            ("prompt_form=spoken", "prompt_form"),
            ("retriever=dense", "model.path"),
            ("retrievr=bm25", "retriever"),
        ):
            _, said = run(options(world, server, "out", changed), capsys, code=2)
            assert words in said and said.count("\n") == 1, said
        assert not server.bodies and not (world / "out").exists()
