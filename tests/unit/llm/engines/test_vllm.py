"""The real engine on a CPU with a tiny random Llama: structured answers, logprobs, the log."""

import json
from contextlib import closing
from pathlib import Path

import pytest
import torch

from reasonir.llm import Message, Request, open_generator
from tests.kit.generators import Configured
from tests.kit.texts import SENTENCES
from tests.kit.vllm import TEMPLATE, needs_vllm, save_model

pytestmark = [needs_vllm, pytest.mark.skipif(torch.cuda.is_available(), reason="the CPU's engine"),
              pytest.mark.filterwarnings("ignore")]  # fmt: skip
SCHEMA = {
    "type": "object",
    "properties": {"query": {"type": "string", "maxLength": 20}, "level": {"type": "integer", "enum": [1, 2, 3]}},
    "required": ["query", "level"],
    "additionalProperties": False,
}


@pytest.mark.slow
@pytest.mark.parametrize("template", [TEMPLATE, None])
def test_every_answer_obeys_the_schema(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str | None
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    save_model(tmp_path / "model", SENTENCES, template)
    config = configured(engine="vllm", model=str(tmp_path / "model"), enforce_eager=True, dtype="float32")
    requests = [
        Request(id=str(n), messages=(Message("user", f"tide {n}"),), schema=SCHEMA, temperature=1.0, seed=n,
                max_new_tokens=200, top_logprobs=2)
        for n in range(8)
    ]  # fmt: skip
    too_long = Request(id="long", messages=(Message("user", "tide " * 12_000),))
    with closing(open_generator(config, tmp_path / "out" / "completions.jsonl")) as generator:
        found = {c.id: c for c in generator.complete([*requests, too_long])}
        again = {c.id: c for c in generator.complete(requests)}
    assert len(found) == 9 and found["long"].finish == "error" and "maximum context length" in found["long"].error
    for request in requests:  # strict=False: a bounded string may hold raw control characters
        answer = found[request.id]
        assert answer.finish == "stop" and set(json.loads(answer.text, strict=False)) == {"query", "level"}
        assert answer.output_tokens >= len(answer.logprobs) > 0 and again[request.id].cached
        assert again[request.id].text == answer.text and again[request.id].logprobs == answer.logprobs
