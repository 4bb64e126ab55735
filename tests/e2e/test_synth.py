"""reasonir-synth as a user runs it, against a server that behaves as told: kills, faults, shards, the whole chain."""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kit import fork, synth_answers
from tests.kit.servers import Reply, ScriptedServer, error_reply, misbehaviours

# Each starts several commands.
pytestmark = pytest.mark.seconds(25)

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
}
# Misbehaviours of the model: the server did answer.
ANSWERS = {"truncated", "fences", "prose", "empty", "null", "long", "refusal", "filtered"}
DOCUMENT = "Water that is warmed at the bottom of a vessel grows lighter and rises while colder water sinks. Number {}."


def command(recipe: str, folder: Path, url: str, *options: str) -> list[str]:
    own = [f"recipe={recipe}", f"output_dir={folder}", "generator=openai", "generator.model=m", "report=false"]
    own.append("generator.send_seed=true")  # the scripted answers are drawn by it
    return ["-m", "reasonir.synth", *own, f"generator.base_url={url}", *options]


def run(recipe: str, folder: Path, url: str, *options: str, status: int = 0) -> str:
    """Run a recipe; return what it printed (its errors, where it should fail)."""
    line = command(recipe, folder, url, *options)
    done = fork.run(line)
    assert done.returncode == status, done.stderr
    assert status or "Traceback" not in done.stderr
    return done.stderr if status else done.stdout


def write_corpus(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"id": f"doc {n}", "content": text}) + "\n" for n, text in enumerate(texts)))
    return path


def rows(folder: Path, name: str = "data.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def both_files(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "data.jsonl").read_bytes(), (folder / "rejections.jsonl").read_bytes()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus.jsonl", [DOCUMENT.format(number) for number in range(60)])


@contextmanager
def server_process(answer: str) -> Iterator[str]:
    line = [sys.executable, "-m", "tests.kit.servers", "--answer", f"tests.kit.synth_answers:{answer}"]
    with subprocess.Popen(line, env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def test_every_item_ends_once_in_the_order_of_the_input(tmp_path: Path, corpus: Path) -> None:
    with ScriptedServer(synth_answers.uneven) as server:
        run("hq", tmp_path / "out", server.url, f"corpus={corpus}", "generator.max_concurrency=16", "window=24")
        assert server.stats["most_in_flight"] > 4
    accepted, refused = rows(tmp_path / "out"), rows(tmp_path / "out", "rejections.jsonl")
    rejected = [line for line in refused if line["final"]]
    ends = [row["provenance"]["position"] for row in accepted] + [line["position"] for line in rejected]
    assert sorted(ends) == list(range(60))
    assert [row["id"] for row in accepted] == sorted((row["id"] for row in accepted), key=lambda i: int(i.split()[1]))
    # A repeated query is asked for again, as a placeholder is.
    assert {line["reason"] for line in refused if not line["final"]} == {"prompt_echo", "duplicate_query"}
    assert {row["provenance"]["attempt"] for row in accepted} >= {1, 2} and len(accepted) > 50
    assert len({row["query"][1] for row in accepted}) == len(accepted)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["counts"]["accepted"] == len(accepted) and manifest["counts"]["in"] == 60
    assert manifest["counts"]["rejected"] == Counter(line["reason"] for line in rejected)
    text = Path(synth_answers.__file__).parents[2] / "reasonir" / "prompts" / "hq.yaml"
    digest = hashlib.sha256(text.read_bytes()).hexdigest()
    assert manifest["prompts"][0]["sha256"] == digest
    assert {row["provenance"]["prompt_sha256"] for row in accepted} == {digest[:16]}


@pytest.mark.seconds(30)
@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_kills_change_no_byte_and_pay_nothing_twice(tmp_path: Path, corpus: Path, kills: int) -> None:
    draw = random.Random(0)
    options = (f"corpus={corpus}", "generator.max_concurrency=4", "window=8")
    with server_process("uneven") as url:
        run("hq", tmp_path / "unbroken", url, *options)
    with ScriptedServer(synth_answers.uneven) as server:
        killed = 0
        for _ in range(40):
            finished = tmp_path / "broken" / "manifest.json"
            process = fork.Started(command("hq", tmp_path / "broken", server.url, *options))
            log, begun = tmp_path / "broken" / "completions.jsonl", time.monotonic()
            before = log.stat().st_size if log.exists() else 0
            while process.poll() is None and time.monotonic() - begun < 60:
                if log.exists() and log.stat().st_size > before:
                    time.sleep(draw.uniform(0.0, 0.06))
                    break
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
            if killed == kills or finished.exists():
                break
        assert killed == kills and not finished.exists()
        assert both_files(tmp_path / "broken") != both_files(tmp_path / "unbroken")
        run("hq", tmp_path / "broken", server.url, *options)
        needed = len(rows(tmp_path / "broken", "completions.jsonl"))
        assert server.stats["paid"] <= needed + 4 * killed
    assert both_files(tmp_path / "broken") == both_files(tmp_path / "unbroken")


@pytest.mark.slow
def test_torn_lines_are_cut_off(tmp_path: Path, corpus: Path) -> None:
    with ScriptedServer(synth_answers.picky) as server:
        run("hq", tmp_path / "out", server.url, f"corpus={corpus}")
        whole, paid = both_files(tmp_path / "out"), server.stats["paid"]
        refusals = whole[1].splitlines(keepends=True)
        draw = random.Random(1)
        for _ in range(4):
            # A kill leaves the two files as they were at one moment: cut after a refusal and the rows before it.
            keep = draw.randrange(1, len(refusals))
            place = json.loads(refusals[keep - 1])["position"]
            data = b"".join(line for line in whole[0].splitlines(keepends=True)
                            if json.loads(line)["provenance"]["position"] < place)  # fmt: skip
            (tmp_path / "out" / "data.jsonl").write_bytes(data)
            (tmp_path / "out" / "rejections.jsonl").write_bytes(b"".join(refusals[:keep]) + refusals[keep][:25])
            run("hq", tmp_path / "out", server.url, f"corpus={corpus}")
            assert both_files(tmp_path / "out") == whole
        assert server.stats["paid"] == paid


@pytest.mark.seconds(15)
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_polite_stop_leaves_a_folder_to_go_on_with(
    tmp_path: Path, corpus: Path, number: signal.Signals, status: int
) -> None:
    with ScriptedServer(synth_answers.picky, latency=0.05) as server:
        line = command("hq", tmp_path / "out", server.url, f"corpus={corpus}", "generator.max_concurrency=4")
        process, data = fork.Started(line), tmp_path / "out" / "data.jsonl"
        deadline = time.monotonic() + 60
        while not (data.exists() and data.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == status and "Traceback" not in errors
        assert 0 < len(rows(tmp_path / "out")) < 55
        run("hq", tmp_path / "out", server.url, f"corpus={corpus}")
        run("hq", tmp_path / "whole", server.url, f"corpus={corpus}")
    assert both_files(tmp_path / "out") == both_files(tmp_path / "whole")


def test_a_misbehaving_server_loses_no_document(tmp_path: Path) -> None:
    names = list(misbehaviours(""))
    texts = [f"{DOCUMENT.format(number)} FAULT {name} {when}." for number, (name, when) in
             enumerate((name, when) for when in ("once", "always") for name in names)]  # fmt: skip
    corpus = write_corpus(tmp_path / "corpus.jsonl", texts)
    limits = ("generator.timeout_seconds=2", "generator.max_attempts=2", "gates.max_repetition=1")
    out, failing = tmp_path / "out", [name for name in names if name not in ANSWERS]
    with ScriptedServer(synth_answers.misbehaving) as server:
        errors = run("hq", out, server.url, f"corpus={corpus}", *limits, status=1)
        assert f"{len(failing)} requests got no answer, 2 attempts each" in errors
        assert not (out / "manifest.json").exists()
        unanswered = {line["id"] for line in rows(out, "rejections.jsonl") if line["reason"] == "unanswered"}
        assert unanswered <= {f"doc {len(names) + names.index(name)}" for name in failing} and len(unanswered) > 2
        assert not any(line["final"] for line in rows(out, "rejections.jsonl") if line["reason"] == "unanswered")
        paid, server.answer = server.paid, synth_answers.good
        run("hq", out, server.url, f"corpus={corpus}", *limits)
        assert server.paid == paid + len(failing), "the same command asks only what got no answer"
    accepted = {row["id"] for row in rows(out)}
    final = [line for line in rows(out, "rejections.jsonl") if line["final"]]
    assert len(final) == len({line["id"] for line in final})
    assert accepted | {line["id"] for line in final} == {f"doc {n}" for n in range(len(texts))}
    assert accepted & {line["id"] for line in final} == set()
    assert all(line["reason"] and line["detail"] for line in final)
    once = {f"doc {n}" for n in range(len(names))}
    assert len(once & accepted) >= len(names) - 2, [line for line in final if line["id"] in once]
    lost = {line["id"] for line in final} - once
    assert lost == {f"doc {len(names) + names.index(name)}" for name in ANSWERS - {"fences", "prose"}}


def test_a_refused_prompt_is_rejected_alone_and_an_outage_rejects_nothing(tmp_path: Path, corpus: Path) -> None:
    def refuses_some(body: dict[str, Any], earlier: int) -> str | Reply:
        text = json.dumps(body["messages"])
        if "Number 3." in text:
            return error_reply(400, "This text is not to the taste of the house.", "taste")
        if "Number 7." in text:
            return error_reply(400, "Content Exists Risk", "invalid_request_error")
        return synth_answers.good(body)

    with ScriptedServer(refuses_some) as server:
        out = tmp_path / "out"
        run("hq", out, server.url, f"corpus={corpus}", "limit=12", "generator.max_concurrency=3")
        final = {line["id"]: line["reason"] for line in rows(out, "rejections.jsonl") if line["final"]}
        assert final == {"doc 3": "server_error", "doc 7": "refusal"} and len(rows(out)) == 10
        server.answer = lambda body, earlier: error_reply(400, "nothing is to the taste of the house")
        errors = run("hq", tmp_path / "none", server.url, f"corpus={corpus}", "limit=2", status=2)
        assert "refuses every request: status 400: nothing is to the taste" in errors and errors.count("\n") == 1
        server.answer = lambda body, earlier: error_reply(503, "away")
        down = ("limit=2", "generator.max_attempts=1")
        errors = run("hq", tmp_path / "down", server.url, f"corpus={corpus}", *down, status=1)
        assert "2 requests got no answer" in errors and errors.count("\n") == 1
        for folder in ("none", "down"):
            assert both_files(tmp_path / folder) == (b"", b"") and not (tmp_path / folder / "manifest.json").exists()
        calls, server.answer = server.calls, synth_answers.good
        run("hq", tmp_path / "down", server.url, f"corpus={corpus}", *down)
        assert server.calls == calls + 2 and len(rows(tmp_path / "down")) == 2


@pytest.mark.seconds(15)
def test_shards_join_into_what_one_run_writes(tmp_path: Path, corpus: Path) -> None:
    """Without queries that two shards write alike: merging drops them, and one run would ask for them again."""
    with ScriptedServer(synth_answers.distinct) as server:
        run("hq", tmp_path / "whole", server.url, f"corpus={corpus}")
        for part in range(3):
            run("hq", tmp_path / f"part{part}", server.url, f"corpus={corpus}", f"shard={part}/3")
    sizes = [len(rows(tmp_path / f"part{part}")) for part in range(3)]
    assert min(sizes) > 10
    parts = ",".join(str(tmp_path / f"part{part}") for part in (2, 0, 1))
    merge = ["-m", "reasonir.synth", "recipe=merge", f"output_dir={tmp_path / 'merged'}", "report=false"]
    done = fork.run([*merge, f"inputs=[{parts}]"])
    assert done.returncode == 0, done.stderr
    assert both_files(tmp_path / "merged") == both_files(tmp_path / "whole")
    few = fork.run([*merge[:-2], f"output_dir={tmp_path / 'few'}", f"inputs=[{tmp_path / 'part0'}]"])
    assert few.returncode == 2 and "all shards 0/3 to 2/3 are needed" in few.stderr


def test_other_options_prompts_or_documents_are_refused(tmp_path: Path, corpus: Path) -> None:
    out = tmp_path / "out"
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    own = (ROOT / "reasonir/prompts/hq.yaml").read_text()
    (prompts / "hq.yaml").write_text(own.replace("hq-2", "mine"))
    options = (f"corpus={corpus}", f"prompts={prompts}")
    with ScriptedServer(synth_answers.picky) as server:
        run("hq", out, server.url, *options)
        assert {row["provenance"]["prompt"] for row in rows(out)} == {"mine"}
        before, calls = both_files(out), server.stats["calls"]
        run("hq", out, server.url, *options, "generator.max_concurrency=3")
        assert "seed: 0 -> 1" in run("hq", out, server.url, *options, "seed=1", status=2)
        (prompts / "hq.yaml").write_text(own)
        assert "begun with another prompt 'hq'" in run("hq", out, server.url, *options, status=2)
        (prompts / "hq.yaml").write_text(own.replace("{{ document }}", "{{ documnt }}"))
        assert "uses 'documnt'; there are document" in run("hq", tmp_path / "b", server.url, *options, status=2)
        (prompts / "hq.yaml").write_text(own.replace("hq-2", "mine"))
        corpus.write_text("".join(corpus.read_text().splitlines(keepends=True)[1:]))
        assert "the input changed" in run("hq", out, server.url, *options, status=2)
        assert server.stats["calls"] == calls
    assert both_files(out) == before and not (tmp_path / "b").exists()


def test_a_broken_line_is_named_and_what_came_before_is_kept(tmp_path: Path, corpus: Path) -> None:
    lines = corpus.read_text().splitlines(keepends=True)
    corpus.write_text("".join([*lines[:50], "{broken\n", *lines[50:]]))
    with ScriptedServer(synth_answers.picky) as server:
        errors = run("hq", tmp_path / "out", server.url, f"corpus={corpus}", status=2)
        assert f"{corpus}:51: broken JSON" in errors and errors.count("\n") == 1
        assert not (tmp_path / "out" / "manifest.json").exists()
        paid = server.stats["paid"]
        corpus.write_text("".join(lines))
        run("hq", tmp_path / "out", server.url, f"corpus={corpus}")
        done = {row["id"] for row in rows(tmp_path / "out")}
        assert "doc 0" in done and server.stats["answered_again"] == 0 and server.stats["paid"] > paid
        run("hq", tmp_path / "whole", server.url, f"corpus={corpus}")
    assert both_files(tmp_path / "out") == both_files(tmp_path / "whole")


def test_a_server_that_is_down_rejects_nothing(tmp_path: Path, corpus: Path) -> None:
    limits = ("generator.max_attempts=1", "generator.timeout_seconds=2", "generator.max_concurrency=2")
    with ScriptedServer(synth_answers.good) as server:
        url = server.url
    few = ("limit=3",)  # fewer than fail in a row before a server that answers with failures counts as down
    errors = run("hq", tmp_path / "out", url, f"corpus={corpus}", *limits, *few, status=1)
    assert f"{url} cannot be reached" in errors and errors.count("\n") == 1
    assert both_files(tmp_path / "out") == (b"", b"")


def test_a_finished_run_gets_a_report_with_an_encoder_and_pays_nothing(
    tmp_path: Path, corpus: Path, tiny_model: Path
) -> None:
    with ScriptedServer(synth_answers.good) as server:
        run("hq", tmp_path / "out", server.url, f"corpus={corpus}", "limit=12")
        paid, before = server.stats["paid"], both_files(tmp_path / "out")
        options = ("limit=12", "report=true", f"report_model={tiny_model}")
        printed = run("hq", tmp_path / "out", server.url, f"corpus={corpus}", *options)
        assert server.stats["paid"] == paid > 0
    report = (tmp_path / "out" / "report.md").read_text()
    assert f"{tmp_path}/out/report.md" in printed and both_files(tmp_path / "out") == before
    assert re.search(r"^\| source found by the encoder +\| +\d+ % \| 12 \|", report, re.MULTILINE)
    assert f"accepted rows per 100 requests (n = {paid} paid answers)." in report


@pytest.mark.seconds(40)
def test_the_whole_chain_ends_in_rows_that_training_accepts(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl", [DOCUMENT.format(n) + " " + synth_answers.prose(str(n), 60)
                                                      for n in range(12)])  # fmt: skip
    environment = {**ENVIRONMENT, "CORPUS": str(corpus), "MODEL": "m", "OUTPUT_DIR": str(tmp_path / "out"),
                   "PAIRS": "6", "PYTHON": sys.executable, "FILTER": "off", "CHAINS": "hq vl"}  # fmt: skip
    overrides = ["gates.length_ratio=0", "gates.max_repetition=1", "generator.send_seed=true"]
    with ScriptedServer(synth_answers.good) as server:
        done = subprocess.run(["bash", str(ROOT / "scripts/synth.sh"), *overrides], capture_output=True, text=True,
                              env=environment | {"BASE_URL": server.url})  # fmt: skip
    assert done.returncode == 0, done.stderr
    tasks = rows(tmp_path / "out" / "vl", "tasks.jsonl")
    told = json.loads((tmp_path / "out" / "vl" / "manifest.json").read_text())["counts"]["brainstorming"]
    assert (
        told["requests"] > 5
        and told["output_tokens"] > 1000
        and sum(told["refused_answers"].values()) == len(rows(tmp_path / "out" / "vl", "tasks_refused.jsonl"))
    )
    assert [task["id"] for task in tasks] == list(range(len(tasks))) and len(tasks) > 100
    for chain, count in (("hq", 12), ("vl", 6)):
        report = (tmp_path / "out" / f"{chain}_negatives" / "report.md").read_text()
        assert "## Are the queries hard?" in report and re.search(
            rf"^\| accepted +\| +{count} \|$", report, re.MULTILINE
        )
        assert (tmp_path / "out" / f"{chain}_negatives" / "report.png").stat().st_size > 5_000
        made = rows(tmp_path / "out" / f"{chain}_negatives")
        assert len(made) == count
        assert all(
            len(row["neg"][0][1].split()) >= 300 and row["provenance"]["from"]["recipe"] == chain for row in made
        )
    drawn = [row["provenance"]["query_words"][0] for row in rows(tmp_path / "out" / "vl")]
    assert len(set(drawn)) > 1 and all(300 <= words <= 2000 for words in drawn)
    files = ",".join(str(tmp_path / "out" / f"{chain}_negatives" / "data.jsonl") for chain in ("hq", "vl"))
    sizes = ["model.hidden_size=32", "model.intermediate_size=32", "model.layers=1", "model.heads=2",
             "model.key_value_heads=1", "model.vocabulary_size=300"]  # fmt: skip
    train = ["-m", "reasonir.train", f"data.files=[{files}]", f"output_dir={tmp_path / 'run'}", *sizes,
             "max_steps=2", "global_batch_queries=4", "query_max_tokens=256", "document_max_tokens=256"]  # fmt: skip
    trained = fork.run(train)
    assert trained.returncode == 0, trained.stderr


def test_the_judge_drops_and_relabels(tmp_path: Path, corpus: Path) -> None:
    with ScriptedServer(synth_answers.good) as server:
        run("hq", tmp_path / "hq", server.url, f"corpus={corpus}", "limit=60", "judge=true")
        scores = [row["provenance"]["judge"]["pos"][0] for row in rows(tmp_path / "hq")]
        assert len(scores) < 60 and set(scores) == {3, 4, 5}
        given = f"rows={tmp_path / 'hq' / 'data.jsonl'}"
        judged = ("judge=true", "judge.positive_min=0", "judge.relevant_negative=relabel")
        run("negatives", tmp_path / "relabel", server.url, given, *judged)
        run("negatives", tmp_path / "drop", server.url, given, *judged[:2])
    relabelled = rows(tmp_path / "relabel")
    assert len(relabelled) == len(scores)
    for row in relabelled:
        (score,) = row["provenance"]["judge"]["neg"]
        assert (len(row["pos"]), len(row["neg"])) == ((2, 0) if score > 2 else (1, 1))
    kept = [row["id"] for row in relabelled if row["neg"]]
    assert 0 < len(kept) < len(relabelled)
    assert [row["id"] for row in rows(tmp_path / "drop")] == kept


def test_rewrites_replace_or_extend_the_query(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    given = [{"id": "a", "query": ["Find it", "Why does\nit rise?"], "pos": ["x"]}, {"query": "And why does it sink?"}]
    source.write_text("".join(json.dumps(row) + "\n" for row in given))
    with ScriptedServer(synth_answers.good) as server:
        run("rewrite", tmp_path / "out", server.url, f"rows={source}", "length_tokens=128")
        run("rewrite", tmp_path / "more", server.url, f"rows={source}", "append=true")
        asked = [body["messages"][0]["content"] for body in server.bodies]
    assert any("Why does it rise?" in text and "128 tokens" in text for text in asked)
    first, second = rows(tmp_path / "out")
    assert first["query"][0] == "Find it" and len(first["query"][1].split()) >= 60 and first["pos"] == ["x"]
    assert second["id"] == "2" and isinstance(second["query"], str)
    assert rows(tmp_path / "more")[0]["query"][1].startswith("Why does\nit rise?\n\nWhy is it")
