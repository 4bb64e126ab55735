"""Throughput and memory of synthesis, one JSON line each.

    python scripts/bench_synth.py hq --documents 20000
    python scripts/bench_synth.py endpoint --documents 20000
    python scripts/bench_synth.py vllm --model FOLDER --documents 512

hq: `reasonir-synth recipe=hq` from a corpus to data.jsonl, start-up included, against a server process that answers
after 0.2 s; 32 requests in flight allow 160 a second. endpoint: the generator alone against such a server. vllm: tokens
per second of our generator over those of a bare `LLM.chat` call on the same prompts, in turns; median of rounds.
"""

import argparse
import json
import os
import random
import resource
import statistics
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import yaml

from reasonir.core.help import find_configs
from reasonir.llm import GeneratorConfig, Message, Request, open_generator
from reasonir.llm.config import Provider, Structured

ROOT = Path(__file__).resolve().parents[1]
TEXT = "The tide of a bay follows the moon, its shape and the wind. " * 40


def configured(**values: object) -> GeneratorConfig:
    content = yaml.safe_load((find_configs() / "generator" / "openai.yaml").read_text(encoding="utf-8"))
    content |= values
    engine, structured = Provider(content.pop("engine")), Structured(content.pop("structured"))
    return GeneratorConfig(**content, engine=engine, structured=structured)


def requests(count: int, words: int, max_new_tokens: int = 64, first: int = 0) -> Iterator[Request]:
    for number in range(first, first + count):
        text = f"Document {number}: {TEXT[: 6 * words]}"
        yield Request(id=str(number), messages=(Message("user", text),), temperature=0.7,
                      max_new_tokens=max_new_tokens)  # fmt: skip


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize() / 2**20


@contextmanager
def server(latency: float, *more: str) -> Iterator[str]:
    """Start a server process that takes `latency` seconds a request; yield its address."""
    command = [sys.executable, "-m", "tests.kit.servers", "--latency", str(latency), *more]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def bench_endpoint(documents: int, latency: float, concurrency: int, words: int) -> None:
    with server(latency) as url, tempfile.TemporaryDirectory() as folder:
        config = configured(base_url=url, model="m", max_concurrency=concurrency)
        with closing(open_generator(config, Path(folder) / "completions.jsonl")) as generator:
            _run_endpoint(generator, requests(documents, words), documents, concurrency / latency)


def words_answer(body: dict[str, Any], earlier: int = 0) -> str:
    """The server's answer in `hq`: 60 words a field, different for every prompt."""
    from tests.kit.synth_answers import name_of, prose

    fields = body["response_format"]["json_schema"]["schema"]["properties"]
    return json.dumps({field: prose(name_of(body) + field, 60) for field in fields})


def bench_hq(documents: int, latency: float, concurrency: int, words: int) -> None:
    """The whole command; without the report (it comes after the last answer) and the language gate (made-up words)."""
    draw = random.Random(0)
    vocabulary = ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(3, 9))) for _ in range(5_000)]
    with tempfile.TemporaryDirectory() as place:
        corpus, output = Path(place) / "corpus.jsonl", Path(place) / "output"
        with corpus.open("w", encoding="utf-8") as file:
            for number in range(documents):
                text = " ".join(draw.choices(vocabulary, k=words))
                file.write(json.dumps({"id": f"d{number}", "content": text}) + "\n")
        with server(latency, "--answer", "scripts.bench_synth:words_answer") as url:
            command = [sys.executable, "-m", "reasonir.synth", "recipe=hq", f"corpus={corpus}", f"output_dir={output}"]
            command += ["generator.model=m", f"generator.base_url={url}", "report=false", "gates.language=false"]
            command += [f"generator.max_concurrency={concurrency}"]
            started = time.monotonic()
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.monotonic() - started
        assert status == 0, f"reasonir-synth ended with status {status}"
        accepted = sum(1 for _ in (output / "data.jsonl").open(encoding="utf-8"))
    row = {"bench": "hq", "documents": documents, "accepted": accepted, "seconds": round(seconds, 1)}
    row |= {"documents_per_second": round(documents / seconds, 1)}
    row |= {"share_of_limit": round(documents / seconds * latency / concurrency, 3)}
    row |= {"peak_mib": round(used.ru_maxrss / 1024, 1), "cpu_ms_per_document": round(
        1000 * (used.ru_utime + used.ru_stime) / documents, 2)}  # fmt: skip
    print(json.dumps(row), flush=True)


def _run_endpoint(generator: object, asked: Iterator[Request], documents: int, limit: float) -> None:
    started, cpu, done, memory = time.monotonic(), time.process_time(), 0, []
    for _ in generator.complete(asked):  # type: ignore[attr-defined]
        done += 1
        if done % max(1, documents // 10) == 0:
            memory.append(round(resident_mib(), 1))
    seconds = time.monotonic() - started
    row = {"bench": "endpoint", "documents": done, "requests_per_second": round(done / seconds, 1)}
    row |= {"share_of_limit": round(done / seconds / limit, 3), "resident_mib": memory}
    row |= {"cpu_ms_per_request": round(1000 * (time.process_time() - cpu) / done, 2), "torch": "torch" in sys.modules}
    print(json.dumps(row), flush=True)


def bench_vllm(model: str, documents: int, words: int, max_new_tokens: int, rounds: int) -> None:
    """Both ways in processes of their own that stay; they answer in turns, the same new prompts a round."""
    rates: dict[str, list[float]] = {"bare": [], "ours": []}
    processes = {}
    for way in rates:
        command = [sys.executable, __file__, f"vllm-{way}", "--model", model, "--documents", str(documents)]
        command += ["--words", str(words), "--max-new-tokens", str(max_new_tokens)]
        pipe = subprocess.PIPE
        processes[way] = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    try:
        for number in range(rounds + 1):
            for way, process in processes.items():
                assert process.stdin is not None and process.stdout is not None
                print(number, file=process.stdin, flush=True)
                rate = next(float(line[5:]) for line in process.stdout if line.startswith("rate "))
                rates[way] += [rate] if number else []  # the first is the warm-up
    finally:
        for process in processes.values():
            process.communicate()
    row: dict[str, Any] = {"bench": "vllm", "documents": documents, "rounds": rounds}
    for way, values in rates.items():
        row |= {f"{way}_tokens_per_second": [round(value) for value in values]}
    ratios = [ours / bare for ours, bare in zip(rates["ours"], rates["bare"], strict=True)]
    print(json.dumps({**row, "median_ratio": round(statistics.median(ratios), 3)}), flush=True)


def answer_rounds(answer: Callable[[list[Request]], int], documents: int, words: int, max_new_tokens: int) -> None:
    """Print tokens a second of each round whose number is read."""
    for line in sys.stdin:
        first = int(line) * documents
        asked = list(requests(documents, words, max_new_tokens, first))
        started = time.monotonic()
        tokens = answer(asked)
        print("rate", tokens / (time.monotonic() - started), flush=True)


def vllm_bare(model: str, documents: int, words: int, max_new_tokens: int) -> None:
    from vllm import LLM, SamplingParams

    llm = LLM(model=model, enforce_eager=True, disable_log_stats=True)

    def answer(some: list[Request]) -> int:
        conversations: list[Any] = [[{"role": "user", "content": r.messages[0].content}] for r in some]
        sampling = [SamplingParams(temperature=0.7, max_tokens=r.max_new_tokens) for r in some]
        return sum(len(o.outputs[0].token_ids) for o in llm.chat(conversations, sampling, use_tqdm=False))

    answer_rounds(answer, documents, words, max_new_tokens)


def vllm_ours(model: str, documents: int, words: int, max_new_tokens: int) -> None:
    config = configured(engine="vllm", model=model, enforce_eager=True, max_concurrency=1024)
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(open_generator(config, Path(folder) / "completions.jsonl")) as generator,
    ):
        answer_rounds(
            lambda some: sum(c.output_tokens for c in generator.complete(some)), documents, words, max_new_tokens
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=("hq", "endpoint", "vllm", "vllm-bare", "vllm-ours"))
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--words", type=int, default=0, help="of a document; default 120 for hq, else 400")
    parser.add_argument("--model", default="")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5, help="of vllm, in turns")
    given = parser.parse_args()
    given.words = given.words or (120 if given.engine == "hq" else 400)
    if given.engine == "hq":
        bench_hq(given.documents, given.latency, given.concurrency, given.words)
    elif given.engine == "endpoint":
        bench_endpoint(given.documents, given.latency, given.concurrency, given.words)
    elif given.engine.startswith("vllm-"):
        way = vllm_bare if given.engine == "vllm-bare" else vllm_ours
        way(given.model, given.documents, given.words, given.max_new_tokens)
    else:
        bench_vllm(given.model, given.documents, given.words, given.max_new_tokens, given.rounds)


if __name__ == "__main__":
    main()
