"""Every command of the guides is carried out, with tiny settings, in the order in which the guide shows them.

A hub id is a folder of that name in the working directory, in the hub's own layout: it is typed as the guide has it.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from reasonir.core.files import read_jsonl
from reasonir.model import Encoder
from tests.kit import synth_answers
from tests.kit.collections import write_collection
from tests.kit.documents import DOCUMENTS, MAINS, ROOT, SMALL, TINY_MODEL, commands, own_command
from tests.kit.hub_sets import hub_set, task_rows
from tests.kit.launch import launch
from tests.kit.models import save_classifier
from tests.kit.servers import ScriptedServer
from tests.kit.texts import SENTENCES, training_rows, write_rows

GUIDES = ("README", "train", "recipe", "report", "evaluation", "synthesis", "publishing", "cluster")
QUICK = ("README", "report", "cluster")
OTHERS = ("start", "reproduce", "log")
"""Run by test_docs.py; by test_reproduce.py at another scale; how figures came about, at their size."""
COMMAND = r"(\w+=\S+ )*(reasonir-|torchrun |python -m |cp |scripts/|sbatch |make |git )"
PASSAGES = 260
"""As many as an index needs that is trained."""

REPLACED: list[tuple[str, str]] = [
    (r"^generator\.base_url=.*", "generator.base_url=SERVER"),
    (r"^generator=vllm$", "generator=openai"),
    (r"^model\.path=FOLDER$", "model.path=MODEL"),  # FOLDER is a BEIR folder
    (r"^data\.cache_dir=/shared/reasonir$", "data.cache_dir=token_cache"),
    (r"^(data\.sources\.vl\.global_batch_queries)=32$", r"\1=4"),  # there are 8 rows
    (r"^output_dir=run$", "output_dir=run/COUNT"),  # train.md: four ways to train one model
]
"""What replaces an option. SERVER is a server in this process, COUNT the number of the command."""

ADDED: list[tuple[str, list[str]]] = [
    (r"^train ", [*SMALL, "chunk_tokens=256"]),
    (r"^train (?!.*model\.dtype=)", ["precision=fp32"]),
    (r"^train (?!.*(model\.path|\+experiment)=)", TINY_MODEL),
    (r"^train .*\+experiment=", ["model.path=MODEL"]),
    (r"^eval (mmlu|gpqa) (?!.*generator=)", ["generator=openai", "generator.base_url=SERVER"]),
    (r"^eval rerank .*generator=vllm", ["generator.base_url=SERVER"]),
    (r"^eval index (?!.*kind=)", ["pq_bytes=8"]),
    (r"^synth .*classifier=", ["min_score=-99"]),  # it knows nothing
    (r"^synth .*recipe=vl ", ["pairs=6", "brainstorm_calls=1", "gates.length_ratio=0"]),  # its texts are of one length
]
"""What is added to a command that a pattern finds: small sizes, a model and a reader that can be here."""

FILLED_IN = {
    "TASK_ID/16": "TASK_ID/2", "[out/hq_0,...,out/hq_15]": "[out/hq_0,out/hq_1]",
    " ...": " corpus=out/filter/documents.jsonl generator.model=NAME generator.base_url=URL output_dir=out/mine",
}  # fmt: skip
"""What a guide's line stands for where it leaves something out; two tasks of an array in place of 16."""

GIVEN: dict[str, list[str]] = {
    "README": ["reasonir-eval encode input=corpus.jsonl model.path=reasonir/ReasonIR-8B output_dir=ENCODED"],
    "report": [
        "reasonir-eval bright data.dir=ROOT retriever=bm25 output_dir=out/bm25",
        "reasonir-eval bright data.dir=ROOT model.path=MODEL output_dir=out/dense",
        "reasonir-eval mmlu data.dir=MMLU datastore=corpus.jsonl retriever=bm25 output_dir=out/mmlu",
    ],
    "evaluation": [
        *(f"reasonir-eval bright data.hub=xlangai/BRIGHT retriever=bm25 output_dir={name}"
          for name in ("out/bm25", "out/baseline")),
        *(f"reasonir-eval bright data.hub=xlangai/BRIGHT model.path=MODEL output_dir={name}"
          for name in ("out/dense", "runs/seed_0", "runs/seed_1")),
        "reasonir-eval datastore source=[passages.jsonl] output_dir=out/gpqa_store",
        "reasonir-eval encode input=out/gpqa_store/passages.jsonl model.path=MODEL output_dir=out/gpqa_store/encoded",
    ],
    "publishing": ["reasonir-train data.files=[rows.jsonl] output_dir=DIR"],
}  # fmt: skip
"""What a guide takes for granted, made by commands too."""

PROMISED: dict[str, dict[str, str]] = {
    r"^train ": {"model/README.md": "Encoder.from_pre", "metrics.jsonl": r'"step": 2\b', "metrics.png": "PNG",
                  "manifest.json": r'"seed": [01]\b'},
    r"^train -m ": {"config.yaml": r"learning_rate: [12](\.0)?e-05"},
    r"^train .*lora=lora": {"adapter_config.json": '"peft_type": "LORA"'},
    r"^train .*tracking=wandb": {"wandb_id.txt": r"^\w+$", "offline-run-*/*.wandb": "train/loss_nats"},
    r"^eval bright ": {"results.json": r'"num_queries": [1-9]', "results.md": "nDCG@10", "run.trec": r"Q0 \S+ 1 ",
                       "metrics.json": "ndcg_at_10", "per_query.jsonl": "ndcg_at_10"},
    r"^eval bright .*retriever=hybrid": {"bm25.trec": "Q0", "dense.trec": "Q0"},
    r"^eval bright .*queries=\w": {"config.yaml": "queries: (gpt4_reason|out/rewrites/mine_256)"},
    r"^eval beir ": {"results.md": "nDCG@10", "per_query.jsonl": '"q0"', "run.trec": "q0 Q0 "},
    r"^eval rewrite ": {"*/mine_64.jsonl": r'"query": "\w', "*/mine_256.jsonl": r'"query": "\w'},
    r"^eval scaling ": {"scaling.md": r"\| 64 \| 256 \|", "scaling.png": "PNG", "results.json": "num_queries"},
    r"^eval fuse ": {"results.json": r'"num_queries": [1-9]', "run.trec": "Q0"},
    r"^eval rerank ": {"results.json": "num_queries", "rerank_only/results.json": "num_queries"},
    r"^eval compare ": {"compare.md": "Holm", "compare.json": r'"p_value": [01]', "differences.jsonl": '"difference"'},
    r"^eval contamination ": {"contamination.md": "13-gram", "contamination.json": r'"statement": "\w'},
    r"^eval card ": {"model/README.md": r"ndcg_at_10, in points[\s\S]*Compared: ROOT with rows.jsonl"},
    r"^eval report ": {"report.html": "</html>"},
    r"^eval score ": {"metrics.json": r'"ndcg_at_10": 1.0', "per_query.jsonl": '"id": "q0"'},
    r"^eval datastore ": {"passages.jsonl": '"content": ', "manifest.json": "passages"},
    r"^eval encode ": {"embeddings.npy": "NUMPY", "ids.txt": r"\w"},
    r"^eval index ": {"recall.json": '"recall', "shard-*.faiss": "^Ix|^Iw"},
    r"^eval (mmlu|gpqa|multiple_choice) ": {"results.md": "closed book", "accuracy.json": '"retrieved": {',
                                            "answers.jsonl": '"letter": "B"'},
    r"^eval mmlu .*datastore=out/store/encoded ": {"manifest.json": r'"search": ".*index"'},
    r"^synth .*recipe=filter ": {"documents.jsonl": '"content": "Why'},
    r"^synth .*recipe=(hq|vl|negatives|merge) ": {"data.jsonl": r'"recipe": "(hq|vl|negatives)"', "report.md": r"\d"},
    r"^synth .*recipe=(hq|vl|negatives) ": {"completions.jsonl": r"\w"},
}  # fmt: skip
"""The files that a command writes, as the guides say, and what each must hold."""

ELSEWHERE = {
    "git clone": "", "make test": "", "make quickstart": "e2e/test_quickstart.py",
    "sbatch": "unit/scripts/test_scripts.py",
    "scripts/train.sh": "unit/scripts/test_scripts.py", "scripts/synth.sh": "e2e/test_synth.py",
    "scripts/reproduce.sh": "e2e/test_reproduce.py", "scripts/refresh.sh": "e2e/test_refresh.py",
}  # fmt: skip
"""What is no command of Python's, and the test that runs it."""


def answer(body: dict[str, Any], earlier: int = 0) -> str:
    """What a writer, a judge and a reader would say, in one."""
    said = synth_answers.good(body, earlier)
    if "response_format" in body:
        return said
    return f"{said}\nRelevance score: {len(said) % 6}\nThe answer is (B). \\boxed{{B}}"


def write_world(folder: Path, tiny: Encoder) -> None:
    """Everything that the guides' commands name and do not make: files, and what they take from the hub."""
    write_collection(folder)
    write_rows(folder / "train.jsonl", training_rows(6))
    for name in ("docs", "passages"):
        documents = [{"id": f"d{i}", "content": synth_answers.prose(f"text {i}", 60)} for i in range(20)]
        write_rows(folder / f"{name}.jsonl", documents)
    for name in ("MODEL", "reasonir/ReasonIR-8B"):
        tiny.save_pretrained(str(folder / name))
    save_classifier(folder / "HuggingFaceFW/fineweb-edu-classifier", ["LABEL_0"])
    bright, names = {task: task_rows(task) for task in ("biology", "pony")}, ("documents", "examples", "gpt4_reason")
    hub_set(folder / "xlangai/BRIGHT", {name: {task: rows[name] for task, rows in bright.items()} for name in names})
    hard = [{**row, "pos": [["", f"biology/{i}.txt"]]} for i, row in enumerate(training_rows(6))]
    hub_set(folder / "reasonir/reasonir-data", {"hq": {"train": hard}, "vl": {"train": training_rows(8)}})
    asked = {"question": "which body", "subject": "astronomy", "choices": ["one", "two", "three", "four"], "answer": 1}
    hub_set(folder / "cais/mmlu", {"all": {"test": [asked]}})
    found = [{"retrieval text": f"{SENTENCES[i % 6]} Case {i}.", "id": i, "source": "x"} for i in range(PASSAGES)]
    pool = {"default": {"train": [{"query": "q", "raw_query": "q", "ctxs": found}]}}
    hub_set(folder / "rulins/mmlu_searched_results_from_massiveds", pool)
    (folder / "data/echo-data").mkdir(parents=True)
    for source in yaml.safe_load((ROOT / "configs/data/sources/public.yaml").read_text()).values():
        write_rows(folder / "data/echo-data" / Path(source["path"]).name, training_rows(4))


def typed(guide: str) -> list[str]:
    """Return the lines of a guide in its order, with nothing left out: `...` filled in, an array's tasks in turn."""
    (document,) = (document for document in DOCUMENTS if document.stem == guide)
    text = document.read_text(encoding="utf-8")
    lines: list[str] = []
    for line in sorted(dict.fromkeys(commands(document)), key=lambda line: f"| `{line}` |" not in text):
        for left_out, words in FILLED_IN.items():
            line = line.replace(left_out, words)
        lines += [line.replace("$SLURM_ARRAY_TASK_ID", str(i)) for i in range(2 if "$SLURM" in line else 1)]
    return lines


def here(stage: str, arguments: list[str], server: str, count: int) -> list[str]:
    """Return the arguments with which a command runs here."""
    if "--cfg" in arguments or "dry_run=true" in arguments:
        return arguments
    line = f"{stage} {' '.join(arguments)}"
    for pattern, replacement in REPLACED:
        arguments = [re.sub(pattern, replacement, argument) for argument in arguments]
    arguments = arguments + [option for pattern, options in ADDED if re.search(pattern, line) for option in options]
    return [argument.replace("SERVER", server).replace("COUNT", str(count)) for argument in arguments]


def carry_out(line: str, stage: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return the status of a command and what it said; in this process, or one of its own where engines shard.

    wandb's service would outlive its command here and be found by every process that a later test starts.
    """
    if stage == "train" and ("torchrun" in line or "-m" in arguments or "tracking=wandb" in arguments):
        done = launch(1, ["-m", "reasonir.train", *arguments], seconds=300)
        return done.returncode, done.stdout
    with pytest.raises(SystemExit) as ended:
        MAINS[stage](arguments)
    said = capsys.readouterr()
    return ended.value.code, said.out + said.err


def state(folder: Path) -> dict[Path, int]:
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def check(stage: str, arguments: list[str], fresh: list[Path], said: str) -> None:
    """Hold what a command wrote and said to what the guides promise of it."""
    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if "--cfg" in arguments or "dry_run" in options:
        planned = ["queries a step", "between ranks", "79.1 GiB (h100)", f"/ {options.get('planned_ranks', 128)} ranks"]
        shown = ["output_dir: outputs/hq"] if "--cfg" in arguments else planned
        assert [words for words in shown if words not in said] == [] and fresh == []
        return
    if "prepare" in arguments:
        assert "the token cache of this run is complete" in said and not Path(options["output_dir"]).exists()
        return
    target = Path(options.get("output_dir", Path(options.get("output", "")).parent))
    target = target.parent if "$" in target.name else target
    promised = [files for pattern, files in PROMISED.items() if re.search(pattern, f"{stage} {' '.join(arguments)} ")]
    assert promised
    for name, sign in (item for files in promised for item in files.items()):
        found = [path for path in fresh if path.match(name) and target in path.parents]
        assert len({path.parent for path in found}) > ("-m" in arguments), (name, fresh)
        for text in (path.read_bytes().decode(errors="replace") for path in found):
            assert re.search(sign, text), (name, text[:2000])


@pytest.fixture
def world(tiny: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory in which the commands of a guide can be typed."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    monkeypatch.setenv("REASONIR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the folder of reasonir's hub ids is called as the package
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    write_world(folder, tiny)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of so little work several only wait for each other
    yield folder
    torch.set_num_threads(threads)


@pytest.mark.seconds(90)
@pytest.mark.parametrize(
    "guide", [guide if guide in QUICK else pytest.param(guide, marks=pytest.mark.slow) for guide in GUIDES]
)
def test_every_command_of_a_guide_runs(guide, world, monkeypatch, capsys):
    lines, carried_out = typed(guide), set()
    with ScriptedServer(answer) as server:
        for count, line in enumerate([*GIVEN.get(guide, []), *lines]):
            own, before = own_command(line), state(world)
            if line.startswith("cp "):
                path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
                subprocess.run(["bash", "-c", line], check=True, env={**os.environ, "PATH": path})
            # Processes of accelerate: tests/distributed/test_accelerate.py starts them with the same files.
            elif own is None or line.startswith("accelerate "):
                continue
            else:
                for variable, value in re.findall(r"^([A-Z_]+)=(\S+) ", line):
                    monkeypatch.setenv(variable, value)
                stage, arguments = own[0], here(*own, server.url, count)
                code, said = carry_out(line, stage, arguments, capsys)
                assert code == 0, (line, said)
                check(stage, arguments, [path for path, at in state(world).items() if before.get(path) != at], said)
            carried_out.add(line)
    left = [line for line in lines if re.match(COMMAND, line) and line not in carried_out]
    assert [line for line in left if not any(words in line for words in ELSEWHERE)] == []
    if guide == "synthesis":  # the shards, merged, are what one run writes
        files = [[row for _, row in read_jsonl(f"out/{name}/data.jsonl")] for name in ("hq", "hq_merged")]
        whole, merged = ([(row["id"], row["query"], row["pos"]) for row in rows] for rows in files)
        assert merged == whole and len(whole) > 10


def test_no_guide_is_forgotten():
    typing = {document.stem for document in DOCUMENTS if any(map(own_command, commands(document)))}
    assert typing == {*GUIDES, *OTHERS}
    for words, file in ELSEWHERE.items():
        assert not file or Path(words).name.removeprefix("make ") in (ROOT / "tests" / file).read_text(encoding="utf-8")
