"""What a real language model of 135 M parameters writes, through vLLM's own server."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from reasonir.core.files import read_jsonl
from reasonir.llm.echoes import is_placeholder
from reasonir.synth.gates.text import asks, own_answer, source_mention
from tests.kit.smollm2 import MODEL, needs_smollm2
from tests.kit.vllm import run, serve

pytestmark = [pytest.mark.slow, needs_smollm2]
PASSAGES = {
    "tides": (
        "The moon pulls more strongly on the side of the earth that faces it than on the far side. The sea bulges "
        "on both sides, and as the earth turns below these bulges most coasts see two high tides a day. When sun "
        "and moon stand in one line, their pulls add up, and the tides are higher than usual."
    ),
    "bread": (
        "Yeast feeds on the sugar in dough and gives off carbon dioxide. Kneading joins the proteins of the flour "
        "into a net of gluten, which holds the gas in small bubbles. Dough that is kneaded too little lets the "
        "gas escape, and the loaf stays flat."
    ),
    "rust": (
        "Iron rusts where water and oxygen reach it together. Salt in the water carries charge and speeds the "
        "reaction up, which is why cars rust sooner near the sea. A coat of zinc protects the iron even where it "
        "is scratched, because zinc gives up its electrons first."
    ),
    "bees": (
        "A honeybee that has found flowers dances in the dark of the hive. The angle of her run against the "
        "vertical tells the others the direction against the sun, and the length of the run tells them the "
        "distance. Bees that follow the dance fly out and find the flowers."
    ),
    "glass": (
        "Glass that is cooled quickly at its surface and slowly inside is under pressure on the outside. A crack "
        "must first overcome this pressure, so tempered glass bears stronger blows. When it breaks at last, it "
        "falls into small blunt pieces instead of long splinters."
    ),
    "vaccine": (
        "A vaccine shows the immune system a harmless part of a germ. Some of the cells that react to it live on "
        "for years. When the real germ comes, these memory cells multiply within days, and the illness is stopped "
        "before it is felt."
    ),
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serve(MODEL, "--served-model-name", "smollm2", "--max-model-len", "2048") as root:
        yield root


def synthesize(folder: Path, server: str, recipe: str, *options: str) -> tuple[list[dict], list[dict]]:
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"id": name, "content": text}) + "\n" for name, text in PASSAGES.items()))
    run("reasonir.synth", f"recipe={recipe}", f"corpus={corpus}", f"output_dir={folder / recipe}", "report=false",
        f"generator.base_url={server}", "generator.model=smollm2", "generator.max_concurrency=6", *options)  # fmt: skip
    rejected = folder / recipe / "rejections.jsonl"
    refusals = [row for _, row in read_jsonl(rejected)] if rejected.stat().st_size else []
    return [row for _, row in read_jsonl(folder / recipe / "data.jsonl")], refusals


def test_questions_of_a_small_model_are_questions_at_a_temperature_that_varies(tmp_path: Path, server: str) -> None:
    """Its answers were placeholders of the prompt before; a seed at this temperature ended vLLM on a CPU."""
    rows, refusals = synthesize(tmp_path, server, "eq", "generator.temperature=0.8")
    ended = [row["id"] for row in rows] + [row["id"] for row in refusals if row["final"]]
    assert sorted(ended) == sorted(PASSAGES)
    assert len(rows) >= len(PASSAGES) // 3
    for row in rows:
        query = row["query"][1]
        assert asks(query) and not (is_placeholder(query) or own_answer(query) or source_mention(query)), query
    with urllib.request.urlopen(server.removesuffix("/v1") + "/health", timeout=5) as answer:
        assert answer.status == 200
