"""Rewriting by a real model of 135 M parameters on vLLM's own engine, then retrieval over two lengths."""

import json
from pathlib import Path

import pytest
import torch

from reasonir.core.files import read_jsonl
from reasonir.eval import cli
from tests.kit.shared import SHARED_DATA
from tests.kit.smollm2 import MODEL, needs_smollm2
from tests.kit.texts import SENTENCES, write_rows
from tests.kit.vllm import needs_vllm, run

pytestmark = [needs_vllm, needs_smollm2, pytest.mark.skipif(torch.cuda.is_available(), reason="the CPU's engine"),
              pytest.mark.filterwarnings("ignore")]  # fmt: skip
QUERIES = 6
LENGTHS = (16, 64)


def small_task(root: Path) -> str:
    """Some real queries with all their documents, where they lie beside the repository; else made here."""
    real = SHARED_DATA / "bright_mini" / "theoremqa_questions"
    task = root / real.name
    task.mkdir(parents=True)
    if real.is_dir():
        documents = [row for _, row in read_jsonl(real / "documents.jsonl")]
        examples = [row for _, (_, row) in zip(range(QUERIES), read_jsonl(real / "examples.jsonl"), strict=False)]
    else:
        documents = [{"id": f"d{i}", "content": f"{SENTENCES[i % 7]} Case {i}."} for i in range(50)]
        examples = [{"id": str(i), "query": f"{SENTENCES[i % 6]}\nWhy? {i}", "gold_ids": [f"d{i}"]}
                    for i in range(QUERIES)]  # fmt: skip
    write_rows(task / "documents.jsonl", documents)
    write_rows(task / "examples.jsonl", examples)
    return task.name


def evaluate(*arguments: str) -> None:
    """Run a task in this process, which has loaded what it needs."""
    with pytest.raises(SystemExit) as exit_info:
        cli.main(list(arguments))
    assert exit_info.value.code == 0


@pytest.mark.slow
def test_rewritten_by_vllm_then_measured_over_two_lengths(tmp_path: Path) -> None:
    task = small_task(tmp_path / "data")
    data, out = f"data.dir={tmp_path}/data", tmp_path / "rewrites"
    run("reasonir.eval", "rewrite", data, "generator=vllm", f"generator.model={MODEL}", "name=mine",
        "generator.enforce_eager=true", "generator.dtype=float32", f"length_tokens=[{','.join(map(str, LENGTHS))}]",
        f"output_dir={out}", f"tokenizer={MODEL}")  # fmt: skip
    lengths = json.loads((out / "lengths.json").read_text())["rewritings"]
    entries = [lengths[f"mine_{n}"]["all"] for n in LENGTHS]
    means = [entry["tokens_mean"] for entry in entries]
    assert all(entry["queries"] == QUERIES and entry["kept_original"] <= 2 for entry in entries)
    assert means == sorted(means) and means[0] < 20 and means[1] > 2 * means[0]
    evaluate("scaling", data, f"rewrites={out}", "name=mine", "retrievers=[bm25,bm25_query_weighted]",
             f"output_dir={tmp_path}/curve", f"tokenizer={MODEL}")  # fmt: skip
    curve = json.loads((tmp_path / "curve" / "scaling.json").read_text())["retrievers"]
    assert [point["tokens_mean"] for point in curve["bm25"][1:]] == pytest.approx(means)
    evaluate("bright", data, f"queries={out}/mine_64", "retriever=bm25", f"output_dir={tmp_path}/alone")
    results = [folder / "results.json" for folder in (tmp_path / "alone", tmp_path / "curve" / "bm25" / "mine_64")]
    assert results[0].read_bytes() == results[1].read_bytes() and task in results[0].read_text()
