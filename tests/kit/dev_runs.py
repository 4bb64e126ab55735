"""A small run that is measured while it trains, and what it left."""

import json
from pathlib import Path
from typing import Any

from reasonir.core.files import write_jsonl
from reasonir.model import Encoder
from reasonir.train.dev.sets import DevData, DevSet, open_sets
from tests.kit.texts import tiny_training, training_rows, write_rows

DEV_DEFAULTS: dict[str, Any] = {
    "dir": None, "share": 0.0, "split": None, "instruction": "auto", "max_queries": 100, "max_documents": 100,
    "query_max_tokens": 160, "document_max_tokens": 160, "documents": (), "seed": 0,
}  # fmt: skip


def opened(tiny: Encoder, folder: Path, common: str = "find it", **changes: Any) -> list[DevSet]:
    """Return the dev sets that these options open.

    Args:
        tiny: Whose template turns texts into tokens.
        folder: For the token cache.
        common: The instruction of the training queries.
        **changes: Options that are not `DEV_DEFAULTS`.
    """
    data = DevData(**{**DEV_DEFAULTS, **changes})
    return open_sets(data, [], [], [], tiny.template, common, str(folder / "cache"))


def measured_training(folder: Path, steps: int) -> list[str]:
    """Write training rows and a BEIR folder of other questions about them; return the options of a run over both."""
    rows = training_rows(18)
    beir = folder / "dev"
    (beir / "qrels").mkdir(parents=True, exist_ok=True)
    documents = [piece[0][1] for row in rows for piece in (row["pos"], row["neg"])]
    write_rows(beir / "corpus.jsonl", [{"_id": f"d{i}", "title": "", "text": t} for i, t in enumerate(documents)])
    write_jsonl(beir / "queries.jsonl", ({"_id": f"q{i}", "text": f"about {i}"} for i in range(18)))
    judged = "".join(f"q{i}\td{2 * i}\t1\n" for i in range(18))
    (beir / "qrels" / "dev.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}", encoding="utf-8")
    return [*tiny_training(folder, steps), f"dev.dir={beir}", "dev.every_steps=2", f"data.cache_dir={folder}/cache"]


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def dev_curve(folder: Path) -> list[tuple[int, float, float]]:
    """Return (step, loss, nDCG@10) of the measurements of a run."""
    return [
        (row["step"], row["dev/loss_nats"], row["dev/ndcg_at_10"]) for row in metrics(folder) if "dev/loss_nats" in row
    ]


def manifest(folder: Path) -> dict[str, Any]:
    """Return a finished run's manifest."""
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return found
