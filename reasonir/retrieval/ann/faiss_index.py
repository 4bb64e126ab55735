"""All that is done with faiss: training, filling and searching the files of an index.

Legend: N documents, S of them in a training sample, Q queries, C hits kept, D dimension. Inner products throughout.
Invariant: rows in a file count from 0. Leaves what the files are called, and which rows they hold, to `index.py`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from reasonir.core.errors import UserError
from reasonir.retrieval.top_k import release

BITS = 8
"""Of a byte of a code: 256 centroids."""
BLOCK_BYTES = 1 << 26
"""Of rows in float32 on their way into an index."""


def train_ivfpq(sample_SD: np.ndarray, lists: int, pq_bytes: int, seed: int, file: Path) -> None:
    """Write an empty index with `lists` centres and a product quantizer, both by k-means on float32 vectors.

    The centres are kept at unit length, as faiss does for inner products: a long one would draw all vectors to itself.
    """
    dimension = sample_SD.shape[1]
    metric = faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(dimension), dimension, lists, pq_bytes, BITS, metric)
    index.cp.spherical = True
    index.cp.max_points_per_centroid = len(sample_SD)  # the sample is what was asked for: all of it
    for parameters in (index.cp, index.pq.cp):
        parameters.seed = seed + 1
        parameters.min_points_per_centroid = 1  # faiss would only warn
    index.train(sample_SD)
    faiss.write_index(index, str(file))


def fill_shard(
    trained: Path | None, document_ND: np.ndarray, first: int, stop: int, file: Path, *, progress: Callable[[int], None]
) -> None:
    """Write an index of rows `first` to `stop`, converted to float32 block by block.

    Args:
        trained: an empty index; None for a flat one.
        progress: called with the number of rows added.
    """
    dimension = document_ND.shape[1]
    index = faiss.IndexFlatIP(dimension) if trained is None else faiss.read_index(str(trained))
    step = max(1, BLOCK_BYTES // (4 * dimension))
    for start in range(first, stop, step):
        rows = document_ND[start : min(start + step, stop)]
        index.add(np.ascontiguousarray(rows, dtype=np.float32))
        release(document_ND)
        progress(len(rows))
    faiss.write_index(index, str(file))


def open_shard(file: Path) -> Any:
    """Return the index of a file, memory-mapped.

    Raises:
        UserError: the file is not an index.
    """
    try:
        return faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise UserError(f"{file}: faiss cannot read it; build the index again with replace=true") from error


def search_shard(shard: Any, query_QD: np.ndarray, top: int, probes: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (Q, C) int64 of a shard's best hits, -1 where there is none, and their scores, -inf there.

    Args:
        query_QD: float32.
        probes: lists to search; None for a flat index.
    """
    if probes is not None:
        shard.nprobe = probes
    scores, rows = shard.search(np.ascontiguousarray(query_QD), min(top, shard.ntotal))
    scores[rows < 0] = -np.inf
    return rows, scores
