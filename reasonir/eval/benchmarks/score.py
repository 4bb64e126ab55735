"""`reasonir-eval score`: scores any run against any qrels."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reasonir.core.command import to_yaml
from reasonir.core.errors import UserError
from reasonir.core.files import (
    CONFIG_FILE,
    MANIFEST_FILE,
    lock_folder,
    read_jsonl,
    read_text,
    write_json,
    write_jsonl,
    write_text,
)
from reasonir.core.run_folder import build_manifest
from reasonir.data.bright import PLACEHOLDER
from reasonir.data.rows import add_once, text_id, text_ids
from reasonir.data.trec import read_qrels, read_run
from reasonir.eval.benchmarks.config import ScoreConfig
from reasonir.eval.scores.results import QUERIES_FILE
from reasonir.retrieval.metrics import score_run

SHOWN_METRICS = ("ndcg_at_10", "map_at_100", "recall_at_1", "recall_at_10", "recall_at_100", "mrr")


def score_files(config: ScoreConfig) -> None:
    """Read run and qrels, score, write metrics.json, per_query.jsonl and a manifest, print the means."""
    begun = time.time()
    run, qrels = read_run(config.run), read_qrels(config.qrels)
    excluded = _read_excluded(config.excluded) if config.excluded is not None else None
    scored = score_run(run, qrels, excluded)
    # All zero is no score: the ids of run and qrels do not match.
    if scored.missing_queries == len(scored.per_query):
        raise UserError(f"{config.run} and {config.qrels} share no query with a relevant document")
    counts = {
        "queries": len(scored.per_query),
        "queries_missing_in_run": scored.missing_queries,
        "queries_without_gold": scored.queries_without_gold,
        "run_queries_without_qrels": scored.unknown_queries,
    }
    inputs = [path for path in (config.run, config.qrels, config.excluded) if path is not None]
    with claim_output(Path(config.output), config) as output:
        write_jsonl(output.with_name(QUERIES_FILE), [{"id": i, **row} for i, row in scored.per_query.items()])
        write_json(output, scored.mean)
        write_json(output.with_name(MANIFEST_FILE), build_manifest(inputs, counts, begun))
    for name in SHOWN_METRICS:
        print(f"{name:14} {scored.mean[name]:.4f}")
    print(", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items()))


@contextmanager
def claim_output(output: Path, config: Any) -> Iterator[Path]:
    """Make the folder of a file to write and put the options beside the file; refuse a folder of another command.

    Within the block this process alone writes into the folder.
    """
    stored = output.with_name(CONFIG_FILE)
    if output.is_dir():
        raise UserError(f"output={output} is a folder; name a file in it")
    text = to_yaml(config)
    # Another command is one with other options' names. The same command may be repeated with other values.
    if stored.exists():
        options = {line.split(":")[0] for line in read_text(stored).splitlines() if line[:1].isalpha()}
        if options != {line.split(":")[0] for line in text.splitlines() if line[:1].isalpha()}:
            raise UserError(f"output={output}: {output.parent} holds another command's results; name another folder")
    output.parent.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(output.parent, wait=True)
    write_text(stored, text)
    yield output
    lock.release()


def _read_excluded(path: str) -> dict[str, list[str]]:
    """Read the excluded documents of every query from JSONL rows; BRIGHT writes "N/A" for none."""
    excluded: dict[str, list[str]] = {}
    for line, row in read_jsonl(path):
        where = f"{path}:{line}"
        identifier, ids = text_id(row.get("id"), where), text_ids(row.get("excluded_ids"), where)
        if identifier is None or ids is None:
            raise UserError(f"{where}: a row needs an `id` and a list `excluded_ids`")
        add_once(excluded, identifier, [i for i in ids if i != PLACEHOLDER], where, "query")
    return excluded
