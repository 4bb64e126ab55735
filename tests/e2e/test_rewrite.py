"""reasonir-eval rewrite and scaling as a user runs them, against a server that behaves as told."""

import hashlib
import json
import math
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reasonir.eval import cli
from reasonir.eval.rewrite import scaling as scaling_module
from reasonir.retrieval import ranking
from tests.kit.fork import Started
from tests.kit.servers import Reply, ScriptedServer, error_reply
from tests.kit.texts import SENTENCES, note_encoded, write_rows

# Each starts several commands.
pytestmark = pytest.mark.seconds(20)

ROOT = Path(__file__).resolve().parents[2]
WORDS = " ".join(SENTENCES[:6]).lower().replace(",", "").replace(".", "").split()
TASKS = {"physics": 5, "kitchen": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small tasks; queries of two lines each."""
    root = tmp_path_factory.mktemp("data") / "bright"
    for task, count in TASKS.items():
        (root / task).mkdir(parents=True)
        write_rows(root / task / "documents.jsonl", [{"id": f"d{i}", "content": s} for i, s in enumerate(SENTENCES)])
        rows = [{"id": f"q/{i}", "query": f"{task} {i}:\n{SENTENCES[i]}", "gold_ids": [f"d{i}"],
                 "gold_ids_long": [f"d{i + 1}"], "excluded_ids": []} for i in range(count)]  # fmt: skip
        write_rows(root / task / "examples.jsonl", rows)
    return root


def answer(body: dict[str, Any], earlier: int = 0) -> Reply:
    """As many words as tokens are allowed, less a few at times; the same whenever it is asked for."""
    draw = random.Random(hashlib.sha256(json.dumps([body["messages"], body["seed"]]).encode()).hexdigest())
    limit = min(body["max_tokens"], 60)
    short = draw.random() < 0.5
    text = " ".join(draw.choice(WORDS) for _ in range(limit // 2 if short else limit))
    return Reply(text=text, finish="stop" if short or limit == 60 else "length")


def command(data: Path, out: Path, url: str, *options: str) -> list[str]:
    own = [f"data.dir={data}", "generator=openai", "generator.model=m", f"generator.base_url={url}", "name=mine"]
    own.append("generator.send_seed=true")  # the scripted answers are drawn by it
    return ["rewrite", *own, f"output_dir={out}", *options]


def run(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    """Run a command in this process; return what it printed (its one line of error, where it should fail)."""
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    captured = capsys.readouterr()
    assert exit_info.value.code == code, captured.err
    if code == 2:
        assert captured.err.count("\n") == 1 and "Traceback" not in captured.err
    return captured.err if code else captured.out


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def made(folder: Path) -> dict[str, bytes]:
    """Every file but those that tell of one run: its place, times, order of answers, what was in the cache."""
    own = ("manifest.json", "config.yaml", "completions.jsonl", "fingerprint.json")
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*"))
            if p.is_file() and p.name not in own}  # fmt: skip


def prompts_of(server: ScriptedServer) -> list[str]:
    return [body["messages"][0]["content"] for body in server.bodies]


def test_the_protocol_lengths_and_samples(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedServer(answer) as server:
        out = tmp_path / "out"
        said = run(command(data, out, server.url, "length_tokens=[8,32]", "samples=2"), capsys)
        bodies = server.bodies
    assert len(bodies) == 2 * 2 * 9
    assert {(body["temperature"], body["top_p"]) for body in bodies} == {(0.8, 0.8)}
    assert Counter(body["max_tokens"] for body in bodies) == {8: 18, 32: 18}
    for body in bodies:
        text = body["messages"][0]["content"]
        assert f"{body['max_tokens']} tokens" in text and text.startswith(("physics", "kitchen"))
        assert "\n" not in text.split("Before a search")[0].strip()
    assert len({(body["messages"][0]["content"], body["seed"]) for body in bodies}) == 36, "samples are drawn apart"
    names = ["mine_8", "mine_8_s2", "mine_32", "mine_32_s2"]
    for task, count in TASKS.items():
        texts = [[row["query"] for row in rows_of(out / task / f"{name}.jsonl")] for name in names]
        assert all(set(row) == {"id", "query"} for row in rows_of(out / task / "mine_8.jsonl"))
        assert [row["id"] for row in rows_of(out / task / "mine_32_s2.jsonl")] == [f"q/{i}" for i in range(count)]
        assert not set(texts[0]) & set(texts[1])
    lengths = json.loads((out / "lengths.json").read_text())
    assert list(lengths["rewritings"]) == names and lengths["original"]["all"]["queries"] == 9
    written = [row for task in TASKS for row in rows_of(out / task / "mine_32.jsonl")]
    counts = [len(row["query"].split()) for row in written]
    measured = lengths["rewritings"]["mine_32"]["all"]
    assert measured["words_mean"] == pytest.approx(statistics.fmean(counts))
    assert measured["words_median"] == statistics.median(counts)
    # The server ends by itself where it writes half of what it may.
    assert measured["ended_within_limit"] == sum(count == 16 for count in counts) / 9 and 16 in counts and 32 in counts
    assert lengths["tokens_by"].endswith("estimated") and measured["kept_original"] == 0
    assert "mine_32_s2" in said and f"queries={out}/mine_8" in said
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["counts"]["in"] == manifest["counts"]["rewritten"] == 36
    assert [Path(item["path"]).name for item in manifest["inputs"]] == ["examples.jsonl"] * 2

    def scored(queries: str) -> str:
        options = [f"data.dir={data}", "retriever=bm25", f"output_dir={tmp_path / queries.replace('/', '-')}"]
        run(["bright", *options, f"queries={queries}"], capsys)
        manifest = json.loads((tmp_path / queries.replace("/", "-") / "manifest.json").read_text())
        names = [Path(item["path"]).name for item in manifest["inputs"]]
        assert queries == "original" or names[-2:] == [f"{Path(queries).name}.jsonl"] * 2
        return (tmp_path / queries.replace("/", "-") / "physics" / "run.trec").read_text()

    assert len({scored("original"), scored(f"{out}/mine_8"), scored(f"{out}/mine_32")}) == 3


def test_more_lengths_later_pay_only_for_themselves(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ScriptedServer(answer) as server:
        line = command(data, tmp_path / "out", server.url)
        run([*line, "length_tokens=[8]"], capsys)
        first = made(tmp_path / "out" / "physics")
        run([*line, "length_tokens=[8,16]", "samples=2"], capsys)
        assert server.calls == 4 * 9
        assert "another configuration" in run([*line, "length_tokens=[8]", "append=true"], capsys, 2)
    assert first.items() < made(tmp_path / "out" / "physics").items()


def test_appended_rewritings_follow_the_query(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedServer(answer, batch_polls=0) as server:
        line = command(data, tmp_path / "out", server.url, "append=true", "tasks=[kitchen]", "generator=openai_batch")
        run([*line, "generator.batch_poll_seconds=0.05"], capsys)
        assert len(server.batches) == 1
    (row, *_), (given, *_) = rows_of(tmp_path / "out/kitchen/mine.jsonl"), rows_of(data / "kitchen/examples.jsonl")
    assert row["query"].startswith(f"{given['query']}\n\n") and len(row["query"]) > len(given["query"]) + 100


REFUSAL = "I'm sorry, but I can't help with that request."
TROUBLES: dict[str, Callable[[str], Reply]] = {
    "physics 0": lambda query: Reply(text=" \n "),
    "physics 1": lambda query: Reply(text=REFUSAL),
    "physics 2": lambda query: Reply(text=query),
    "physics 3": lambda query: Reply(text="on and on " * 30, finish="length"),
    "physics 4": lambda query: Reply(text="<think>Where would one look? " * 9, finish="length"),
    "kitchen 0": lambda query: Reply(text=None, refusal="No."),
    "kitchen 1": lambda query: error_reply(
        400, "request (9000 tokens) exceeds the available context size (4096 tokens)"
    ),
}
REASONS = ["empty", "refusal", "unchanged", "cut_off", "empty", "refusal", "server_error"]


def troubled(body: dict[str, Any], earlier: int) -> Reply:
    """Each query its own trouble; the rest: too many requests, a broken connection, a stall, then a good answer."""
    query = body["messages"][0]["content"].split(" Before a search")[0].split("\n\n")[0]
    for beginning, trouble in TROUBLES.items():
        if query.startswith(beginning):
            return trouble(query)
    if not earlier and query.startswith("kitchen 2"):
        return error_reply(429, "slow down", **{"Retry-After": "0"})
    if not earlier and query.startswith("kitchen 3"):
        return Reply(reset=True)
    return answer(body)


def test_what_will_not_do_leaves_the_query_as_it_is(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with ScriptedServer(troubled) as server:
        line = command(data, out, server.url, "generator.max_attempts=3")
        said = run(line, capsys)
        again = [body["messages"] for body in server.bodies if "Write it again" in body["messages"][-1]["content"]]
        retries = [turns for turns in again if len(turns) > 1]
        calls = server.calls
        said_again = run(line, capsys)
        assert server.calls == calls + 1, "only the failing server is asked again"
    originals = [row["query"] for task in TASKS for row in rows_of(data / task / "examples.jsonl")]
    texts = [row["query"] for task in TASKS for row in rows_of(out / task / "mine.jsonl")]
    assert texts[:7] == originals[:7] and not set(texts[7:]) & set(originals)
    manifest = json.loads((out / "manifest.json").read_text())["counts"]
    assert manifest["kept_original"] == dict(sorted(Counter(REASONS).items())) and manifest["rewritten"] == 2
    refused = rows_of(out / "refused.jsonl")
    assert [(row["id"], row["attempt"]) for row in refused[:3]] == [("q/0", 1), ("q/0", 2), ("q/0", 3)]
    assert Counter(row["reason"] for row in refused) == {
        reason: number * (1 if reason == "server_error" else 3) for reason, number in Counter(REASONS).items()
    }
    # Both say what was wrong. The second attempt shows the answer; the third does not, because it was the same again.
    assert len(again) == 6 * 2 and len(retries) == 6 and any(turns[1]["content"] == REFUSAL for turns in retries)
    assert any("It is the query itself." in turns[2]["content"] for turns in retries)
    lengths = json.loads((out / "lengths.json").read_text())["rewritings"]["mine"]
    assert lengths["all"]["kept_original"] == 7 and lengths["all"]["ended_within_limit"] == 1.0
    assert "kept as they were, unchanged: 1" in said and "asks the failing server" in said and said == said_again
    run(["bright", f"data.dir={data}", "retriever=bm25", f"queries={out}/mine", f"output_dir={tmp_path / 'b'}"], capsys)


def test_a_second_attempt_may_do(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def second(body: dict[str, Any], earlier: int) -> Reply:
        thoughts = Reply(text="<think>hm</think>\nHeat flows.")
        return Reply(text=REFUSAL) if len(body["messages"]) == 1 else thoughts

    with ScriptedServer(second) as server:
        run(command(data, tmp_path / "out", server.url, "tasks=[physics]"), capsys)
        assert server.calls == 10
    assert {row["query"] for row in rows_of(tmp_path / "out/physics/mine.jsonl")} == {"Heat flows."}


def test_an_answer_cut_at_its_length_is_taken(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The limit is the protocol's; without a length the same answer is refused (above)."""
    with ScriptedServer(lambda body, earlier: Reply(text="on and on", finish="length")) as server:
        run(command(data, tmp_path / "out", server.url, "length_tokens=[3]"), capsys)
        assert server.calls == 9
    assert {row["query"] for row in rows_of(tmp_path / "out/physics/mine_3.jsonl")} == {"on and on"}
    counts = json.loads((tmp_path / "out/manifest.json").read_text())["counts"]
    assert counts["cut_at_limit"] == counts["rewritten"] == 9


def test_a_length_does_not_count_thoughts_that_have_tokens_of_their_own(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def thinks(body: dict[str, Any], earlier: int) -> Reply:
        return Reply(text="<think>" + "hm " * 40 + "</think>" + "heat flows " * 3)

    with ScriptedServer(thinks) as server:
        line = command(data, tmp_path / "out", server.url, "length_tokens=[6]", "tasks=[physics]")
        run([*line, "generator.thinking_tokens=100"], capsys)
        assert {body["max_tokens"] for body in server.bodies} == {106}
        server.answer = lambda body, earlier: Reply(text="<think>hm</think>" + "heat flows " * 9)
        run(
            [*command(data, tmp_path / "more", server.url, "length_tokens=[6]"), "generator.thinking_tokens=100"],
            capsys,
        )
    assert {row["query"] for row in rows_of(tmp_path / "out/physics/mine_6.jsonl")} == {
        "heat flows " * 2 + "heat flows"
    }
    assert {row["query"] for row in rows_of(tmp_path / "more/physics/mine_6.jsonl")} == {
        "heat flows " * 2 + "heat flows"
    }
    counts = [json.loads((tmp_path / name / "manifest.json").read_text())["counts"] for name in ("out", "more")]
    assert [count["cut_at_limit"] for count in counts] == [0, 9]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_polite_stop_keeps_the_answers_in_flight(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals, status: int
) -> None:
    with ScriptedServer(answer, latency=1.0) as server:
        line = command(data, tmp_path / "out", server.url, "generator.max_concurrency=4")
        process = Started(["-m", "reasonir.eval", *line])
        while server.in_flight < 4:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == status and "Traceback" not in errors
        assert "4 of 4 answers in flight were kept" in errors
        assert len(rows_of(tmp_path / "out" / "completions.jsonl")) == server.paid == 4
        server.latency = 0.0
        run(line, capsys)
        assert server.paid == 9, "what was kept is not paid again"


def test_kills_change_no_byte_and_pay_nothing_twice(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def uneven(body: dict[str, Any], earlier: int) -> Reply:
        reply = answer(body)
        reply.seconds = 0.02 + len(reply.text or "") % 7 / 100
        return Reply(text="", seconds=0.02) if len(body["messages"]) == 1 and "kitchen" in str(body) else reply

    options = ("length_tokens=[8,16]", "samples=3", "generator.max_concurrency=2")
    broken = tmp_path / "broken"
    with ScriptedServer(uneven) as server:
        run(command(data, tmp_path / "whole", server.url, *options), capsys)
        needed, server.paid = server.paid, 0
        line = ["-m", "reasonir.eval", *command(data, broken, server.url, *options)]
        log = broken / "completions.jsonl"
        for _ in range(2):
            before = log.stat().st_size if log.exists() else 0
            process = Started(line)
            limit = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < limit:
                if log.exists() and log.stat().st_size > before + 900:
                    break
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert not (broken / "manifest.json").exists()
        assert 0 < len(rows_of(log)) < needed
        run(command(data, broken, server.url, *options), capsys)
        assert needed <= server.paid <= needed + 2 * 2
    assert made(broken) == made(tmp_path / "whole") and (broken / "manifest.json").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["length_tokens=[64,0]"], "length_tokens=[64, 0] must be positive"),
        (["length_tokens=[64,64]"], "names 64 twice"),
        (["length_tokens=[]"], "null sets no length"),
        (["samples=0"], "samples=0"),
        (["name=a/b"], "name=a/b must be a plain name"),
        (["name=original"], "name=original must be"),
        (["tasks=[physics,cooking]"], "no task 'cooking'; there are kitchen, physics"),
        (["data.hub=xlangai/BRIGHT"], "one of data.dir=FOLDER"),
        (["tokenizer=/nowhere.json"], "tokenizer=/nowhere.json does not load"),
        (["lenght_tokens=[64]"], "did you mean length_tokens?"),
        (["generator.temperature=-1"], "generator.temperature=-1"),
    ],
)
def test_rewrite_refuses(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], expected: str
) -> None:
    line = run([*command(data, tmp_path / "out", "http://127.0.0.1:1/v1"), *options], capsys, 2)
    assert expected in line and not (tmp_path / "out").exists()


def test_rewrite_names_what_is_missing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["rewrite", f"data.dir={data}", f"output_dir={tmp_path / 'out'}"]
    assert "generator.model is missing" in run([*own, "name=mine"], capsys, 2)
    assert "name is missing" in run([*own, "generator.model=m"], capsys, 2)
    write_rows(tmp_path / "examples.jsonl", [{"id": "x", "query": " ", "gold_ids": [], "excluded_ids": []}])
    line = ["rewrite", f"data.dir={tmp_path}", "name=mine", "generator.model=m", f"output_dir={tmp_path / 'out'}"]
    assert "query 'x' is empty" in run(line, capsys, 2)


# --- scaling ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rewrites(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lengths 8 and 32 with two samples each, and one without a length."""
    out = tmp_path_factory.mktemp("rewrites")
    draw = random.Random(0)
    for task, count in TASKS.items():
        (out / task).mkdir()
        for name, words in (("mine_8", 8), ("mine_8_s2", 6), ("mine_32", 30), ("mine_32_s2", 32), ("mine", 50)):
            rows = [{"id": f"q/{i}", "query": " ".join(draw.choices(WORDS, k=words))} for i in range(count)]
            write_rows(out / task / f"{name}.jsonl", rows)
        write_rows(out / task / "minella_8.jsonl", [{"id": "other"}])
    return out


@pytest.fixture
def scaling(data: Path, tiny_model: Path, rewrites: Path, tmp_path: Path) -> list[str]:
    """A command without its output folder."""
    sources = [f"data.dir={data}", f"rewrites={rewrites}", "name=mine", f"retrievers=[bm25,{tiny_model}]"]
    return ["scaling", *sources, f"cache_dir={tmp_path / 'cache'}"]


POINTS = ("original", "mine_8", "mine_8_s2", "mine_32", "mine_32_s2", "mine")


@pytest.mark.parametrize("long", ["false", pytest.param("true", marks=pytest.mark.slow)])
def test_every_point_is_what_bright_measures(
    long: str, scaling: list[str], data: Path, tiny_model: Path, rewrites: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    encoded = note_encoded(monkeypatch)
    indexed: list[int] = []

    class Noted(ranking.BM25Index):
        def __init__(self, ids: Any, texts: Any) -> None:
            indexed.append(len(ids))
            super().__init__(ids, texts)

    monkeypatch.setattr(ranking, "BM25Index", Noted)
    out = tmp_path / "out"
    said = run([*scaling, f"output_dir={out}", f"long={long}"], capsys)
    assert Counter(encoded)["", SENTENCES[0]] == 1, "documents are embedded once for all points and tasks of equal text"
    assert len(indexed) == len(TASKS), "and indexed once a task"
    curve = json.loads((out / "scaling.json").read_text())
    assert list(curve["retrievers"]) == ["bm25", tiny_model.name]
    for label, options in (("bm25", ["retriever=bm25"]), (tiny_model.name, [f"model.path={tiny_model}"])):
        scores = {name: json.loads((out / label / name / "results.json").read_text())["average"]["ndcg_at_10"]
                  for name in POINTS}  # fmt: skip
        for name in ("original", "mine_32_s2"):
            queries = "original" if name == "original" else f"{rewrites}/{name}"
            alone = tmp_path / f"{label}-{name}"
            own = [f"data.dir={data}", f"queries={queries}", f"cache_dir={tmp_path / 'cache'}", f"output_dir={alone}"]
            run(["bright", *own, *options, f"long={long}"], capsys)
            assert made(alone) == made(out / label / name), (label, name)
        row = {point["queries"]: point for point in curve["retrievers"][label]}
        assert list(row) == ["original", "mine_8", "mine_32", "mine"]
        assert row["original"]["ndcg_at_10"] == scores["original"] and row["mine"]["ndcg_at_10"] == scores["mine"]
        both = [scores["mine_32"], scores["mine_32_s2"]]
        assert row["mine_32"]["ndcg_at_10"] == pytest.approx(sum(both) / 2, abs=1e-15)
        assert row["mine_32"]["standard_deviation"] == pytest.approx(abs(both[0] - both[1]) / math.sqrt(2), abs=1e-12)
        assert (row["mine_8"]["words_mean"], row["mine_32"]["words_mean"]) == (7, 31)
        assert row["original"]["standard_deviation"] is None and len(set(scores.values())) > 2
    table = (out / "scaling.md").read_text()
    assert table.strip() in said and "| original | 8 | 32 | no length |" in table and " ± " in table
    assert (out / "scaling.png").read_bytes().startswith(b"\x89PNG")
    drawing = (out / "scaling.svg").read_text()
    assert "hollow: the queries as they are" in drawing and f"<!-- {tiny_model.name} -->" in drawing


@pytest.mark.slow
def test_scaling_broken_off_goes_on_to_the_same_bytes(
    scaling: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, broken = tmp_path / "whole", [*scaling, f"output_dir={tmp_path / 'broken'}"]
    run([*scaling, f"output_dir={whole}", f"cache_dir={tmp_path / 'other'}"], capsys)
    for calls in (3, 17):
        with pytest.MonkeyPatch.context() as patch:
            plain, done = scaling_module.evaluate_collection, []

            def fragile(*args: Any, plain: Any = plain, done: list[int] = done, calls: int = calls) -> Any:
                if len(done) == calls:
                    raise KeyboardInterrupt
                done.append(1)
                return plain(*args)

            patch.setattr(scaling_module, "evaluate_collection", fragile)
            with pytest.raises(SystemExit) as exit_info:
                cli.main(broken)
            assert exit_info.value.code == 130 and not (tmp_path / "broken" / "manifest.json").exists()
    capsys.readouterr()
    run(broken, capsys)
    assert made(tmp_path / "broken") == made(whole) and (tmp_path / "broken" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["length_tokens=[8,64]"], "mine_64.jsonl for kitchen, physics; make them with reasonir-eval rewrite"),
        (["name=yours"], "holds no <task>/yours_<length>.jsonl"),
        (["rewrites=/nowhere"], "rewrites=/nowhere: no such folder"),
        (["tasks=[cooking]"], "no task 'cooking'"),
        (["retrievers=[bm25,bm25]"], "names bm25 twice"),
        (["retrievers=[]"], "retrievers=[]"),
        (["retrievers=[bm25,/no/model]"], "/no/model: no such folder"),
        (["retrievers=[bm25,bm52]"], "bm52"),
        (["name=original"], "name=original"),
        (["top=0"], "top=0"),
        (["length_tokens=[-1]"], "length_tokens=[-1]"),
    ],
)
def test_scaling_refuses(
    scaling: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], expected: str
) -> None:
    line = run([*scaling, f"output_dir={tmp_path / 'out'}", *options], capsys, 2)
    assert expected in line and not (tmp_path / "out").exists()


def test_scaling_names_the_task_and_the_query_that_lack(
    data: Path, rewrites: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for task in TASKS:
        (tmp_path / "r" / task).mkdir(parents=True)
        for name in ("mine_8", "mine_32"):
            rows = rows_of(rewrites / task / f"{name}.jsonl")
            write_rows(tmp_path / "r" / task / f"{name}.jsonl", rows)
    own = ["scaling", f"data.dir={data}", f"rewrites={tmp_path}/r", "name=mine", "retrievers=[bm25]"]
    own.append(f"output_dir={tmp_path / 'out'}")
    (tmp_path / "r/physics/mine_32.jsonl").unlink()
    assert "lacks physics/mine_32.jsonl, which another task has" in run(own, capsys, 2)
    write_rows(tmp_path / "r/physics/mine_8.jsonl", [{"id": "q/0", "query": "x"}, {"id": "q/1", "query": " "}])
    line = run([*own, "length_tokens=[8]"], capsys, 2)
    assert "physics/mine_8.jsonl: the query of id 'q/1' is missing or empty" in line
    assert not (tmp_path / "out").exists()
