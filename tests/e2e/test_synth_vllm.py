"""The paper's chains on the real vLLM engine with a tiny random model: filter, hq, vl, negatives, then training."""

import json
import re
from pathlib import Path

import pytest
import torch

from reasonir.core.files import read_jsonl
from reasonir.data.training_rows import read_training_examples
from tests.kit.shared import SHARED_DATA
from tests.kit.texts import SENTENCES
from tests.kit.vllm import needs_vllm, run, save_model

pytestmark = [needs_vllm, pytest.mark.skipif(torch.cuda.is_available(), reason="the CPU's engine"),
              pytest.mark.filterwarnings("ignore")]  # fmt: skip
DOCUMENTS = 50
LETTERS = '{type: string, pattern: "^[a-z ]{8,60}[?]$"}'
PROMPTS = Path(__file__).resolve().parents[2] / "reasonir" / "prompts"
# Noise passes no gate on sense; lengths, schema and order are what is left to see.
GATES = ["gates.language=false", "gates.refusals=false", "gates.boilerplate=false", "gates.self_contained=false",
         "gates.copied_words=0", "gates.duplicates=false", "gates.near_duplicate=1", "gates.min_words=1",
         "gates.no_content=false", "gates.headings=false", "gates.task_talk=false", "gates.task_lines=false",
         "gates.mixed_scripts=false", "gates.echo_words=0", "gates.max_gibberish=1", "gates.max_repetition=1",
         "gates.length_ratio=0", "gates.max_words=null"]  # fmt: skip


def corpus(folder: Path) -> list[dict]:
    """Fifty passages: of the biology book where it lies beside the repository, else made here."""
    book = SHARED_DATA / "openstax_biology" / "passages.jsonl"
    if not book.is_file():
        return [{"id": f"d{i}", "content": f"{SENTENCES[i % 7]} Case {i} of {i * i}."} for i in range(DOCUMENTS)]
    return [row for _, (_, row) in zip(range(DOCUMENTS), read_jsonl(book), strict=False)]


def short_prompts(folder: Path) -> Path:
    """Copy the prompts with answers of few plain letters: noise would fill any length, and holds every character."""
    folder.mkdir()
    for file in PROMPTS.glob("*.yaml"):
        text = re.sub(
            r"\{type: string(, (min|max)Length: (\d+|\"[^\"]*\"))*\}", LETTERS, file.read_text(encoding="utf-8")
        )
        (folder / file.name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.slow
def test_both_chains_end_in_rows_that_training_accepts(tmp_path: Path) -> None:
    passages = corpus(tmp_path)
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in passages), encoding="utf-8")
    save_model(tmp_path / "llm", [row["content"] for row in passages] + [p.read_text() for p in PROMPTS.glob("*")])
    common = [f"prompts={short_prompts(tmp_path / 'prompts')}", "generator=vllm", f"generator.model={tmp_path}/llm",
              "generator.enforce_eager=true", "generator.dtype=float32", "generator.temperature=1.0",
              "generator.max_new_tokens=400", "generator.max_attempts=4", "report=false", *GATES]  # fmt: skip
    run("reasonir.synth", "recipe=filter", f"corpus={tmp_path}/corpus.jsonl", f"output_dir={tmp_path}/filter")
    kept = [row for _, row in read_jsonl(tmp_path / "filter" / "documents.jsonl")]
    assert 20 < len(kept) <= DOCUMENTS
    run("reasonir.synth", "recipe=hq", f"corpus={tmp_path}/filter/documents.jsonl", f"output_dir={tmp_path}/hq",
        *common)  # fmt: skip
    run("reasonir.synth", "recipe=vl", f"output_dir={tmp_path}/vl", "pairs=12", "brainstorm_calls=2",
        "tasks_per_call=4", *common)  # fmt: skip
    for name in ("hq", "vl"):
        run("reasonir.synth", "recipe=negatives", f"rows={tmp_path}/{name}/data.jsonl",
            f"output_dir={tmp_path}/{name}_negatives", *common)  # fmt: skip
    files = [tmp_path / f"{name}_negatives" / "data.jsonl" for name in ("hq", "vl")]
    found = [list(read_training_examples(str(file))) for file in files]
    assert len(found[0]) > len(kept) / 2 and len(found[1]) > 3
    assert all(example.positives and example.negatives for examples in found for example in examples)
    run("reasonir.train", f"data.files=[{files[0]},{files[1]}]", f"output_dir={tmp_path}/run", "max_steps=2",
        "global_batch_queries=2", "precision=fp32", f"data.cache_dir={tmp_path}/cache", "model.vocabulary_size=400",
        "model.hidden_size=32", "model.intermediate_size=48", "model.layers=2", "model.heads=4",
        "model.key_value_heads=2", "query_max_tokens=60", "document_max_tokens=60")  # fmt: skip
    assert (tmp_path / "run" / "model" / "config.json").is_file()
