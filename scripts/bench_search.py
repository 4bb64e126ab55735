"""Measure an index of lists and codes against exact search. One JSON line for each number of probes.

    python scripts/bench_search.py [--vectors 1000000 --dimension 384] [--lists 4096 --pq-bytes 64] [--probes 32]

The vectors are made: clusters of about 100, of unit length, with the variance of the directions falling off as it
does in real embeddings, and turned at random so that no part of a code gets more of it. Queries are further members
of the clusters. `index` is what `reasonir-eval index` builds, in a process of its own, whose peak memory counts;
`index+refine` rescores its first 10 * k hits from embeddings.npy; `exact` is `reasonir.retrieval.top_k.exact_top_k`.
Milliseconds are of all queries together, by query.
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from reasonir.core.files import file_sha256

CLUSTER = 100
SPREAD = 0.7
"""Length of a member's way from its cluster's centre, as a share of the centre's."""
ROWS_AT_ONCE = 16_384


def make_vectors(count: int, clusters: int, dimension: int, seed: int, file: Path) -> None:
    """Write float32 unit vectors; the clusters are the same for every seed."""
    shared, draw = np.random.default_rng(0), np.random.default_rng(seed)
    scale = (1 / np.sqrt(np.arange(1, dimension + 1))).astype(np.float32)
    turn = np.linalg.qr(shared.standard_normal((dimension, dimension)))[0].astype(np.float32)
    centres = shared.standard_normal((clusters, dimension), dtype=np.float32) * scale
    rows = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(count, dimension))
    for start in range(0, count, ROWS_AT_ONCE):
        size = min(ROWS_AT_ONCE, count - start)
        noise = draw.standard_normal((size, dimension), dtype=np.float32) * scale
        block = (centres[draw.integers(0, clusters, size)] + SPREAD * noise) @ turn
        rows[start : start + size] = block / np.linalg.norm(block, axis=1, keepdims=True)
    rows.flush()


def make_encoded(folder: Path, side: str, count: int, clusters: int, dimension: int, seed: int) -> None:
    """Write a folder as `reasonir-eval encode` does."""
    folder.mkdir()
    make_vectors(count, clusters, dimension, seed, folder / "embeddings.npy")
    (folder / "config.yaml").write_text(f"side: {side}\n")
    notes = {"sha256": file_sha256(folder / "embeddings.npy"), "counts": {"texts": count}}
    (folder / "manifest.json").write_text(json.dumps(notes))


def build(arguments: list[str]) -> None:
    """Run `reasonir-eval index` in this process, its words to standard error; print the peak memory."""
    from reasonir.eval import cli

    with contextlib.redirect_stdout(sys.stderr):
        try:
            cli.main(["index", *arguments])
        except SystemExit as done:
            if done.code:
                raise
    print(json.dumps({"peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)}))


def rows_of(recall: dict[str, Any], peak_gib: float) -> list[dict[str, Any]]:
    """Return the lines to print."""
    shared = {name: recall[name] for name in ("vectors", "dimension", "lists", "pq_bytes")}
    facts = {"bytes_per_vector": round(recall["bytes_per_vector"], 1)}
    facts |= {"build_seconds": recall["build_seconds"], "peak_gib": peak_gib}
    at = f"recall_at_{recall['recall_at']}"
    rows = []
    for variant, counted, time in (
        ("index", "recall", "seconds_per_query"),
        ("index+refine", "recall_refined", "refined_seconds_per_query"),
    ):
        for tried in recall["tried"]:
            found = {"probes": tried["probes"], at: round(tried[counted], 4), "ms": round(1_000 * tried[time], 3)}
            rows.append({"bench": "search", "variant": variant, **shared, **found, **facts, "device": "cpu"})
    exact = {at: 1.0, "ms": round(1_000 * recall["exact_seconds_per_query"], 3)}
    return [*rows, {"bench": "search", "variant": "exact", **shared, **exact, "device": "cpu"}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--lists", type=int, help="by default what reasonir-eval index takes")
    parser.add_argument("--pq-bytes", type=int, default=64)
    parser.add_argument("--probes", type=int, help="a number to measure beside the powers of two")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--train-vectors", type=int, help="by default what reasonir-eval index takes")
    parser.add_argument("--build", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build is not None:
        build(options.build)
        return
    with tempfile.TemporaryDirectory() as place:
        documents, queries = Path(place) / "documents", Path(place) / "queries"
        clusters = max(1, options.vectors // CLUSTER)
        make_encoded(documents, "document", options.vectors, clusters, options.dimension, 1)
        make_encoded(queries, "query", options.queries, clusters, options.dimension, 2)
        given = {"embeddings": documents, "queries": queries, "sample_queries": options.queries}
        given |= {name: getattr(options, name) for name in ("lists", "pq_bytes", "probes", "shards", "train_vectors")}
        arguments = [f"{name}={value}" for name, value in given.items() if value is not None]
        command = [sys.executable, __file__, "--build", *arguments]
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}  # as reasonir-eval sets it
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
        if done.returncode:
            sys.exit(done.returncode)
        recall = json.loads((documents / "index" / "recall.json").read_text())
    for row in rows_of(recall, json.loads(done.stdout)["peak_gib"]):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
