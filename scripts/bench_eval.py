"""Measure exact search with metrics, and BM25. One JSON line each: variant, seconds, ratio, peak memory, device.

    python scripts/bench_eval.py [--queries 100 --documents 60000 --dimension 1024] [--repeats 5] [--scifact DIR]

search: from embeddings on disk to all metrics, with exclusions, top 1,000. `usual` scores all pairs, builds a Python
dictionary of all documents for every query and sorts it, as BRIGHT's own evaluation does; `ours` is
reasonir.retrieval.top_k. Both must give the same metrics. bm25: index of a BEIR folder and all of its queries.jsonl,
against the slow reference of the tests. Every measurement is a process of its own; variants take turns (A B A B ...),
the medians count. Seconds leave out imports; cpu_seconds (all threads) do not hang on neighbours; the
memory is all that the process ever held, imports included.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TOP = 1_000
GOLD, EXCLUDED_SHARE = 5, 0.03
CHECKED_QUERIES = 40


def make_input(folder: Path, queries: int, documents: int, dimension: int) -> None:
    """Write embeddings of unit length, and queries near their gold documents."""
    draw = np.random.default_rng(0)
    rows = np.lib.format.open_memmap(
        folder / "documents.npy", mode="w+", dtype=np.float32, shape=(documents, dimension)
    )
    for start in range(0, documents, 4_096):
        block = draw.standard_normal((min(4_096, documents - start), dimension), dtype=np.float32)
        rows[start : start + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    gold = np.array([draw.choice(documents, GOLD, replace=False) for _ in range(queries)])
    noise = draw.standard_normal((queries, dimension), dtype=np.float32) * (3 / dimension**0.5)
    near = rows[gold].sum(axis=1) + noise
    np.save(folder / "queries.npy", near / np.linalg.norm(near, axis=1, keepdims=True))
    np.save(folder / "gold.npy", gold)
    count = int(documents * EXCLUDED_SHARE)
    np.save(folder / "excluded.npy", np.array([draw.choice(documents, count, replace=False) for _ in range(queries)]))


def usual(folder: Path, ids: list[str], excluded: np.ndarray, qrels: dict[str, dict[str, int]]) -> dict[str, Any]:
    import pytrec_eval

    from reasonir.retrieval.metrics import CUTS, FAMILIES

    scores = (np.load(folder / "queries.npy") @ np.load(folder / "documents.npy", mmap_mode="r").T).tolist()
    run = {}
    for query, values, out in zip(qrels, scores, excluded, strict=True):
        hits = dict(zip(ids, values, strict=True))
        for row in out:
            hits.pop(ids[row])
        run[query] = dict(sorted(hits.items(), key=lambda hit: hit[1], reverse=True)[:TOP])
    measures = {f"{family}.{','.join(map(str, CUTS))}" for family in FAMILIES} | {"recip_rank"}
    return pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)


def ours(folder: Path, ids: list[str], excluded: np.ndarray, qrels: dict[str, dict[str, int]]) -> dict[str, Any]:
    from reasonir.retrieval.metrics import METRIC_OF_MEASURE, score_run
    from reasonir.retrieval.top_k import as_run, exact_top_k

    documents = np.load(folder / "documents.npy", mmap_mode="r")
    found, scores = exact_top_k(np.load(folder / "queries.npy"), documents, TOP, list(excluded), ids=ids)
    rows = score_run(as_run(list(qrels), ids, found, scores), qrels).per_query
    return {query: {name: row[metric] for name, metric in METRIC_OF_MEASURE.items()} for query, row in rows.items()}


def measure_search(variant: str, folder: Path) -> dict[str, Any]:
    """Run one variant in this process."""
    import pytrec_eval  # noqa: F401

    import reasonir.retrieval.top_k

    gold = np.load(folder / "gold.npy")
    ids = [f"document-{row}" for row in range(len(np.load(folder / "documents.npy", mmap_mode="r")))]
    qrels = {f"query-{q}": {ids[row]: 1 for row in rows} for q, rows in enumerate(gold)}
    excluded = np.load(folder / "excluded.npy")
    warm_up = np.ones((2, 8), dtype=np.float32)
    reasonir.retrieval.top_k.exact_top_k(warm_up, warm_up @ warm_up.T @ warm_up, 1)  # libraries start their threads
    begun, busy = time.perf_counter(), time.process_time()
    values = (ours if variant == "ours" else usual)(folder, ids, excluded, qrels)
    return {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - busy, "values": values}


def measure_bm25(folder: Path) -> dict[str, Any]:
    from reasonir.core.files import read_jsonl
    from reasonir.data.collections import read_documents
    from reasonir.retrieval.bm25 import BM25Index

    documents = read_documents(str(folder))
    queries = [row["text"] for _, row in read_jsonl(folder / "queries.jsonl")]
    begun = time.perf_counter()
    index = BM25Index(list(documents), documents.values())
    indexed = time.perf_counter()
    found, scores = index.search(queries, TOP)
    done = time.perf_counter()
    sample = [{int(i): float(s) for i, s in zip(found[q], scores[q], strict=True) if i >= 0} for q in checked(queries)]
    times = {"index_seconds": round(indexed - begun, 3), "search_seconds": round(done - indexed, 3)}
    return {"seconds": done - begun, **times, "queries": len(queries), "values": sample}


def checked(queries: list[str]) -> range:
    return range(0, len(queries), max(1, len(queries) // CHECKED_QUERIES))


def bm25_difference(folder: Path, sample: list[dict[str, float]]) -> float:
    """Return the largest relative difference between our scores and the slow computation's on the same terms."""
    sys.path.insert(0, str(ROOT))
    from reasonir.core.files import read_jsonl
    from reasonir.data.collections import read_documents
    from reasonir.retrieval.bm25 import analyse
    from tests.reference import bm25 as reference

    queries = [row["text"] for _, row in read_jsonl(folder / "queries.jsonl")]
    texts = list(read_documents(str(folder)).values())
    reference.analyse = analyse  # the slow one is for Latin letters only; the tests compare the two
    expected = reference.rank(texts, [queries[q] for q in checked(queries)], "bm25")
    differences = [0.0]
    for ours, slow in zip(sample, expected, strict=True):
        assert len(ours) == min(TOP, len(slow)), "the same documents share a term with the query"
        differences += [abs(score / slow[int(row)] - 1) for row, score in ours.items()]
    return max(differences)


def run_alone(*arguments: str) -> dict[str, Any]:
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}  # as reasonir-eval sets it
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout)


def compare_search(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_input(folder, options.queries, options.documents, options.dimension)
        found: dict[str, list[dict[str, Any]]] = {"usual": [], "ours": []}
        for _ in range(options.repeats):
            for variant, runs in found.items():
                runs.append(run_alone("--measure", variant, "--folder", place))
    first = found["usual"][0]["values"]
    for run in (*found["usual"], *found["ours"]):
        assert run["values"].keys() == first.keys()
        worst = max(abs(value - first[q][name]) for q, row in run["values"].items() for name, value in row.items())
        assert worst < 1e-9, f"metrics differ by {worst}"

    def median(variant: str, name: str) -> float:
        return statistics.median(run[name] for run in found[variant])

    embeddings = 4 * options.documents * options.dimension / 2**20
    for variant in found:
        peak, seconds = median(variant, "peak_mib"), median(variant, "seconds")
        row = {"bench": "search", "variant": variant, "seconds": round(seconds, 3)}
        row |= {"ratio": round(median("usual", "seconds") / seconds, 2)}
        row |= {"cpu_seconds": round(median(variant, "cpu_seconds"), 3), "peak_mib": round(peak, 1)}
        row |= {"over_embeddings_mib": round(peak - embeddings, 1), "device": "cpu"}
        print(json.dumps(row), flush=True)


def compare_bm25(options: argparse.Namespace) -> None:
    runs = [run_alone("--measure", "bm25", "--folder", str(options.scifact)) for _ in range(options.repeats)]
    run = sorted(runs, key=lambda run: run["seconds"])[len(runs) // 2]
    difference = bm25_difference(options.scifact, run.pop("values"))
    assert difference < 1e-6, f"scores differ by {difference}"
    rounded = {"seconds": round(run.pop("seconds"), 3), "peak_mib": round(run.pop("peak_mib"), 1)}
    print(json.dumps({"bench": "bm25", "variant": "ours", **rounded, **run, "largest_difference": difference,
                      "device": "cpu"}))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--documents", type=int, default=60_000)
    parser.add_argument("--dimension", type=int, default=1_024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scifact", type=Path, help="BEIR folder for BM25; without it BM25 is not measured")
    parser.add_argument("--measure", choices=("usual", "ours", "bm25"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        bm25 = options.measure == "bm25"
        found = measure_bm25(options.folder) if bm25 else measure_search(options.measure, options.folder)
        kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({**found, "peak_mib": kib / 1024}))
        return
    compare_search(options)
    if options.scifact is not None:
        compare_bm25(options)


if __name__ == "__main__":
    main()
