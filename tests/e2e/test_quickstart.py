"""The built-in world through the real commands, small: world, training from nothing, evaluation."""

import json
from pathlib import Path

import pytest

from reasonir.eval.cli import main as evaluate
from reasonir.quickstart.world import generate_world
from reasonir.train.cli import main as train


def succeed(command, arguments):
    with pytest.raises(SystemExit) as done:
        command(arguments)
    assert done.value.code == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """One task of the world and a model that saw 40 batches of its training rows."""
    root = tmp_path_factory.mktemp("quickstart")
    generate_world(root / "world", scale=0.5)
    options = [
        "+experiment=quickstart", f"output_dir={root}/run", "max_steps=40", "warmup_steps=5",
        f"data.files=[{root}/world/train/office_cases.jsonl]", "query_max_tokens=96",
    ]  # fmt: skip
    succeed(train, options)
    return root


def ndcg(root: Path, name: str, *options: str) -> float:
    common = [f"data.dir={root}/world", "tasks=[office_cases]", f"output_dir={root}/{name}"]
    succeed(evaluate, ["bright", *common, *options])
    return json.loads((root / name / "results.json").read_text())["average"]["ndcg_at_10"]


@pytest.mark.seconds(60)
def test_training_from_nothing_beats_untrained_and_lexical_search(trained):
    rows = [json.loads(line) for line in (trained / "run" / "metrics.jsonl").read_text().splitlines()]
    keys = {"step", "train/loss_nats", "train/grad_norm", "train/learning_rate", "train/tokens", "train/step_seconds",
            "train/tokens_per_second", "train/real_token_fraction", "train/data_wait_seconds",
            "train/wall_tokens_per_second", "train/peak_memory_gib"}  # fmt: skip
    assert keys <= rows[0].keys()
    assert rows[-1]["train/loss_nats"] < rows[0]["train/loss_nats"] - 1.0
    untrained = ndcg(trained, "untrained", f"model.path={trained}/run/initial_model")
    lexical = ndcg(trained, "bm25", "retriever=bm25")
    learned = ndcg(trained, "trained", f"model.path={trained}/run/model")
    assert learned > max(untrained, lexical) + 0.1
    assert max(untrained, lexical) < 0.15


def test_the_manifest_accounts_for_every_row(trained):
    manifest = json.loads((trained / "run" / "manifest.json").read_text())
    (source,) = manifest["counts"]["sources"]
    assert source["rows"] == 1200
    assert source["rows_drawn"] == 40 * 32
    assert source["truncated_queries"] > 0
    assert manifest["inputs"][0]["rows"] == 1200
    assert manifest["counts"]["steps"] == 40


def test_the_trained_folder_embeds_equally_in_sentence_transformers(trained):
    from sentence_transformers import SentenceTransformer

    from reasonir.model import Encoder
    from reasonir.quickstart.world import INSTRUCTIONS

    encoder = Encoder.from_pretrained(str(trained / "run" / "model"))
    theirs = SentenceTransformer(str(trained / "run" / "model"), device="cpu")
    texts = ["He let the firm pay three dinners with an old school friend.", "Concealment is penalised."]
    queries = encoder.encode(texts, INSTRUCTIONS["office_cases"])
    assert abs(queries - theirs.encode(texts, prompt_name="query")).max() < 1e-5
    assert abs(encoder.encode(texts) - theirs.encode(texts)).max() < 1e-5
