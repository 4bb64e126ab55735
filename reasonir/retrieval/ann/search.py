"""Searching an index: hits of its shards merged, and rescored from embeddings.npy.

Legend: N documents, Q queries, C candidates, K hits wanted, D dimension. Invariant: hits come by (score, row), both
descending, as from `exact_top_k`; the number of shards changes no result. Changes no file.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reasonir.core.errors import UserError
from reasonir.retrieval.ann.config import require_faiss
from reasonir.retrieval.ann.shards import open_shard, read_manifest, search_shard
from reasonir.retrieval.encoded_folder import open_encoded
from reasonir.retrieval.top_k import release

REFINE_FACTOR = 10
"""Candidates rescored for each hit wanted. Another factor changes the recall that recall.json promises."""
NOTHING = -1
QUERIES_BETWEEN_RELEASES = 64
"""Queries whose rows are read between two releases of the mapped pages, which bounds the memory."""


@dataclass(slots=True)
class Hits:
    """Hits of Q queries. rows: of the embeddings (Q, C) int64, -1 where there is none. scores: float32 (Q, C), -inf
    where there is none. seconds: what finding them took."""

    rows: np.ndarray
    scores: np.ndarray
    seconds: float = 0.0

    def best(self, top: int) -> "Hits":
        """Return the first `top` in order, padded where there are fewer."""
        # By score, equal scores by row, both descending: the order of exact search.
        order = np.lexsort((self.rows, self.scores), axis=-1)[:, ::-1][:, :top]
        # Padded, so that all shards and all numbers of probes have the same width.
        missing = ((0, 0), (0, top - order.shape[1]))
        rows, scores = (np.take_along_axis(values, order, axis=1) for values in (self.rows, self.scores))
        return Hits(
            np.pad(rows, missing, constant_values=NOTHING),
            np.pad(scores, missing, constant_values=-np.inf),
            self.seconds,
        )

    def join(self, other: "Hits") -> "Hits":
        """Return both sets of hits, in no order."""
        rows, scores = np.hstack([self.rows, other.rows]), np.hstack([self.scores, other.scores])
        return Hits(rows, scores, self.seconds + other.seconds)


def search_index(index: Path, query_QD: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Return every query's `top` best documents as the index finds them.

    Args:
        index: Folder that `find_index` returned, inside its encoded folder.
        query_QD: Any float type.
        top: Above 0; may exceed N.

    Returns:
        Rows of embeddings.npy (Q, top) int64, padded with -1, and scores (Q, top) float32, padded with -inf.

    Raises:
        UserError: another dimension, an index that faiss cannot read, or no faiss.
    """
    manifest = read_manifest(index)
    if query_QD.shape[1] != manifest["shape"][1]:
        raise UserError(f"{index} is of dimension {manifest['shape'][1]}, the queries are of {query_QD.shape[1]}")
    probes = manifest["probes"]
    # A flat index holds the vectors themselves: rescoring would give the same scores.
    refine = manifest["refine"] and probes is not None
    wanted = top * REFINE_FACTOR if refine else top
    hits = search_shards(index, manifest["files"], query_QD, wanted, [probes])[probes]
    if refine:
        hits = rescore(open_encoded(index.parent, "document").require_whole().embeddings_ND, query_QD, hits)
    hits = hits.best(top)
    return hits.rows, hits.scores


def search_shards(
    index: Path, files: Sequence[dict[str, Any]], query_QD: np.ndarray, top: int, tried: Sequence[int | None]
) -> dict[int | None, Hits]:
    """Return the first `top` hits for each number of probes; every shard is opened once.

    Args:
        index: Folder of the shards.
        files: The shards, as the manifest lists them.
        query_QD: Any float type.
        top: Hits wanted.
        tried: Numbers of probes; None for a flat index.
    """
    require_faiss()
    query_QD = np.asarray(query_QD, dtype=np.float32)
    found: dict[int | None, Hits] = {}
    # Shards outside, probes inside: one shard is open at a time, and each once.
    for file in files:
        shard = open_shard(index / file["file"])
        for probes in tried:
            # Opening is left out: a shard is opened once, whatever the number of queries.
            begun = time.perf_counter()
            rows, scores = search_shard(shard, query_QD, top, probes)
            # Rows of a file count from 0; -1 stays what it is.
            rows[rows >= 0] += file["first_row"]
            hits = Hits(rows, scores, time.perf_counter() - begun)
            # Cut after each shard, so that memory does not grow with their number.
            found[probes] = (found[probes].join(hits) if probes in found else hits).best(top)
    return found


def rescore(document_ND: np.ndarray, query_QD: np.ndarray, hits: Hits) -> Hits:
    """Return the same rows with their inner products, in no order.

    Args:
        document_ND: Any float type; memory-mapped, only the rows of the hits are read.
        query_QD: Any float type.
        hits: Whose rows to score.
    """
    begun = time.perf_counter()
    rows_QC = np.sort(hits.rows, axis=1)  # a disk is read in its own order
    scores_QC = np.full(rows_QC.shape, -np.inf, dtype=np.float32)
    for number, query in enumerate(np.asarray(query_QD, dtype=np.float32)):
        real = rows_QC[number] >= 0
        scores_QC[number, real] = document_ND[rows_QC[number, real]].astype(np.float32, copy=False) @ query
        # The rows of many queries together can be most of the file.
        if number % QUERIES_BETWEEN_RELEASES == 0:
            release(document_ND)
    return Hits(rows_QC, scores_QC, hits.seconds + time.perf_counter() - begun)
