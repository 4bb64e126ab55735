"""The share of exact search's hits that an index finds, for several numbers of probes, and which number to take.

Legend: Q queries, K hits that count, D dimension. Invariant: recall is measured on the index as it lies on disk,
against `reasonir.retrieval.top_k.exact_top_k` on the same queries.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reasonir.core.errors import UserError
from reasonir.retrieval.ann.search import REFINE_FACTOR, rescore, search_shards
from reasonir.retrieval.encoded_folder import EncodedFolder, open_encoded
from reasonir.retrieval.top_k import exact_top_k

NOISE = 0.5
"""Length of the noise on a document that serves as a query, as a share of the document's own."""
MOST_PROBES = 1_024
"""The largest number of probes that is measured: each number searches all queries once more."""


def draw_queries(
    encoded: EncodedFolder, queries: str | None, sample: int, seed: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return queries (Q, D) float32, and where they come from.

    Args:
        encoded: The documents.
        queries: Folder of encoded queries; None takes documents with noise.
        sample: Queries to draw, Q at most.
        seed: Of the draw.

    Raises:
        UserError: encoded queries of another dimension or model.
    """
    # A generator of its own: the seed also draws training vectors, and neither draw may shift the other.
    draw = np.random.default_rng(seed)
    if queries is None:
        documents = encoded.embeddings_ND
        chosen = np.sort(draw.choice(len(documents), min(sample, len(documents)), replace=False))
        rows = documents[chosen].astype(np.float32)
        # Scaled to each document: embeddings need not have length 1.
        noise = draw.standard_normal(rows.shape, dtype=np.float32)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
        return rows + NOISE * lengths * noise, {"queries": "documents with noise", "queries_sha256": None}
    given = open_encoded(Path(queries), "query").require_whole()
    if given.shape[1] != encoded.shape[1]:
        raise UserError(f"queries={queries}: dimension {given.shape[1]}, the documents have {encoded.shape[1]}")
    # Vectors of two models have no common directions, even where the dimension is the same.
    if given.model != encoded.model:
        raise UserError(f"queries={queries} are of another model than {encoded.folder}; encode both with one")
    chosen = np.sort(draw.choice(given.shape[0], min(sample, given.shape[0]), replace=False))
    return given.embeddings_ND[chosen].astype(np.float32), {"queries": queries, "queries_sha256": given.sha256}


def _probes_to_try(lists: int | None, asked: int | None) -> list[int | None]:
    """Return powers of two up to all lists or 1,024, and the number asked for; [None] for a flat index."""
    if lists is None:
        return [None]
    most = min(lists, MOST_PROBES)
    powers = {2**power for power in range(most.bit_length())}
    return sorted(powers | {most} | ({asked} if asked else set()))  # type: ignore[type-var]


def measure(
    document_ND: np.ndarray,
    index: Path,
    files: Sequence[dict[str, Any]],
    query_QD: np.ndarray,
    *,
    lists: int | None,
    probes: int | None,
    refine: bool,
    recall_at: int,
    recall_target: float,
) -> dict[str, Any]:
    """Return recall and seconds for several numbers of probes, and the number chosen, as recall.json has them.

    Args:
        document_ND: What the index was built from.
        index: Folder of the shards.
        files: The shards, as the manifest lists them.
        query_QD: float32.
        lists: Inverted lists of the index; None for a flat one.
        probes: The number to take; None takes the smallest that reaches the target.
        refine: Whether hits are to be rescored from the embeddings.
        recall_at: Hits that the recall is measured over.
        recall_target: Recall to reach.
    """
    count = len(query_QD)
    top = min(recall_at, len(document_ND))
    begun = time.perf_counter()
    # 1 the truth, and what it costs
    exact_QK, _ = exact_top_k(query_QD, document_ND, top)
    exact_seconds = (time.perf_counter() - begun) / count
    # 2 every number of probes, with and without rescoring: the reader sees what other options would give
    tried = []
    numbers = _probes_to_try(lists, probes)
    # Wide enough for rescoring; a flat index is exact and rescored by nobody.
    breadth = top if lists is None else REFINE_FACTOR * top
    for number, hits in search_shards(index, files, query_QD, breadth, numbers).items():
        plain = _recall(hits.best(top).rows, exact_QK)
        row: dict[str, Any] = {"probes": number, "recall": plain, "seconds_per_query": hits.seconds / count}
        if lists is not None:
            refined = rescore(document_ND, query_QD, hits)
            row |= {"recall_refined": _recall(refined.best(top).rows, exact_QK)}
            row |= {"refined_seconds_per_query": refined.seconds / count}
        tried.append(row)
    # 3 the smallest number that reaches the target, else the largest tried
    counted = "recall_refined" if refine and lists is not None else "recall"
    reached = [row["probes"] for row in tried if row[counted] >= recall_target]
    chosen = probes if lists is not None and probes else (reached or numbers[-1:])[0]
    return {
        "recall_at": top,
        "sample_queries": count,
        "exact_seconds_per_query": exact_seconds,
        "refine": refine and lists is not None,
        "tried": tried,
        "recall_target": recall_target,
        "probes": chosen,
        "recall": next(row[counted] for row in tried if row["probes"] == chosen),
    }


def _recall(found_QK: np.ndarray, exact_QK: np.ndarray) -> float:
    """Return the share of the exact hits that were found."""
    return float(np.mean([np.isin(exact, found).mean() for exact, found in zip(exact_QK, found_QK, strict=True)]))


def describe(recall: dict[str, Any]) -> str:
    """Return recall.json as lines for a reader."""
    kind = recall["kind"]
    if recall["lists"] is not None:
        kind += f" of {recall['lists']:,} lists, {recall['pq_bytes']} bytes a code"
    lines = [
        f"{kind}: {recall['vectors']:,} vectors of dimension {recall['dimension']:,}, "
        f"{recall['bytes_per_vector']:,.1f} bytes each, built in {recall['build_seconds']:,.1f} s",
        f"recall@{recall['recall_at']} against exact search over {recall['sample_queries']} queries "
        f"({recall['queries']}), and milliseconds a query:",
        f"  {'probes':>8} {'recall':>8} {'ms':>8}" + (f" {'rescored':>9} {'ms':>8}" if recall["lists"] else ""),
    ]
    for row in recall["tried"]:
        probes = "all" if row["probes"] is None else f"{row['probes']:,}"
        line = f"  {probes:>8} {row['recall']:8.3f} {1_000 * row['seconds_per_query']:8.2f}"
        if "recall_refined" in row:
            line += f" {row['recall_refined']:9.3f} {1_000 * row['refined_seconds_per_query']:8.2f}"
        lines.append(line + (" <" if row["probes"] == recall["probes"] else ""))
    lines.append(f"  {'exact':>8} {1:8.3f} {1_000 * recall['exact_seconds_per_query']:8.2f}")
    if recall["recall"] < recall["recall_target"]:
        lines.append(f"recall {recall['recall']:.3f} is below recall_target={recall['recall_target']}; more probes, "
                     "refine=true or more pq_bytes raise it")  # fmt: skip
    return "\n".join(lines)
