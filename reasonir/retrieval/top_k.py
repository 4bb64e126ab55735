"""Exact nearest neighbours by inner product, in blocks.

Legend: Q queries, N documents, D dimension, B queries of a block, M documents of a block, K hits kept, C candidates.
Invariant: the result is the first `top` of a full sort by (score, document id), both descending, as trec_eval
breaks ties, whatever the block sizes. Owns no files; BM25 lives in `bm25.py`.
"""

import mmap
from collections.abc import Collection, Sequence

import numpy as np
import torch

from reasonir.retrieval.bm25 import tie_ranks

RANK_BITS = 32
"""Low half of a key: a document's place among the ids; up to 4 billion documents."""
NEVER = torch.iinfo(torch.int64).min  # sorts behind every real score
LOWEST = torch.finfo(torch.float32).min


def exact_top_k(
    query_QD: np.ndarray,
    document_ND: np.ndarray,
    top: int,
    excluded: Sequence[Collection[int] | np.ndarray] | None = None,
    *,
    ids: Sequence[str] | None = None,
    block_queries: int = 1_024,
    block_documents: int = 4_096,
    device: str | torch.device = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Return every query's `top` best documents by inner product.

    O(Q * N * D) time; memory beyond the inputs is about 4 bytes times block_documents * (block_queries + D), and 50
    bytes for every hit of a block of queries. Of a block of documents only those are looked at that reach what is the
    query's last hit so far; a score and its document's place among the ids form one integer, so that a selection of
    distinct keys decides ties too.

    Args:
        query_QD: Any float type.
        document_ND: Any float type; may be memory-mapped, it is read block by block, once per block of
            queries, and what was read is let go.
        top: > 0; may exceed N.
        excluded: per query, rows of document_ND that are taken out before the cut.
        ids: document ids for the order of ties; without them the row number stands for the id.
        block_queries: queries scored together.
        block_documents: documents scored together.
        device: where to multiply and select.
    Returns:
        Rows of document_ND (Q, top) int64, padded with -1, and scores (Q, top) float32, padded with -inf.
    Raises:
        ValueError: sizes that do not fit, or an embedding that holds NaN or infinity.
    Precision: products in float32. Equal rows may differ in the last bit where a matrix product treats the
        edge of a block otherwise; within one block position scores are reproducible.
    """
    count = len(document_ND)
    _check_sizes(query_QD, document_ND, top, excluded, ids)
    # 1 places of documents in the order of ids, and back
    ranks = np.arange(count, dtype=np.int64) if ids is None else tie_ranks(ids)
    document_at_rank = np.empty(count, dtype=np.int64)
    document_at_rank[ranks] = np.arange(count)
    # 2 room for the result, and for one block of documents
    indices = np.full((len(query_QD), top), -1, dtype=np.int64)
    scores = np.full((len(query_QD), top), -np.inf, dtype=np.float32)
    space = np.empty((min(block_documents, count), document_ND.shape[1]), dtype=np.float32)
    # 3 blocks of documents within blocks of queries: a memory-mapped corpus is read once for each block of queries
    for first in range(0, len(query_QD), block_queries):
        query_BD = _to_float32(query_QD[first : first + block_queries], device)
        _check_finite(query_BD, "query", first)
        banned = None if excluded is None else flatten(excluded[first : first + block_queries])
        best = torch.full((len(query_BD), min(top, count)), NEVER, dtype=torch.int64, device=device)
        for start in range(0, count, block_documents):
            document_MD = _to_float32(document_ND[start : start + block_documents], device, space)
            rank_M = torch.from_numpy(ranks[start : start + block_documents]).to(device)
            score_BM = (document_MD @ query_BD.T).T.contiguous()  # on a CPU a quarter faster than the other way
            # Finite scores can overflow their sum; the check then finds nothing and the search goes on.
            if not bool(score_BM.sum().isfinite()):  # whatever is not finite in a document is so in its scores too
                _check_finite(document_MD, "document", start)
            if banned is not None:
                _mask(score_BM, banned, start)
            best = _merge(best, score_BM, rank_M)
            # Without this the mapped corpus would count as this process's memory, page by page.
            release(document_ND)
        rows = slice(first, first + len(query_BD))
        _write_hits(best.cpu().sort(descending=True).values, document_at_rank, indices[rows], scores[rows])
    return indices, scores


def _merge(best_BK: torch.Tensor, score_BM: torch.Tensor, rank_M: torch.Tensor) -> torch.Tensor:
    """Return the best keys (B, K) of those so far and a block's, in no order; a score of -inf is no hit.

    Args:
        best_BK: int64 keys so far, NEVER where there are fewer.
        score_BM: float32, -inf where a document is excluded.
        rank_M: Places of the block's documents among the ids.
    """
    width, last_B = best_BK.shape[1], best_BK.amin(dim=1)
    # LOWEST, not -inf: an excluded document must not pass even where a list is not full.
    last_B = torch.where(last_B == NEVER, LOWEST, to_scores(last_B))
    passes_BM = score_BM >= last_B[:, None]
    if int(passes_BM.sum()) > 2 * len(best_BK) * width:  # a first block: let its own last hit decide
        if width <= score_BM.shape[1]:
            last_B = torch.maximum(last_B, largest(score_BM, width).amin(dim=1))
        passes_BM = score_BM >= last_B[:, None]
    query_C, column_C = passes_BM.nonzero(as_tuple=True)  # ordered by query
    if len(query_C) == 0:
        return best_BK
    counts_B = torch.bincount(query_C, minlength=len(best_BK))
    # Candidates come query by query: a candidate's column is its number less those of the queries before.
    place_C = torch.arange(len(query_C), device=query_C.device) - (counts_B.cumsum(0) - counts_B)[query_C]
    key_BC = torch.full((len(best_BK), int(counts_B.max())), NEVER, dtype=torch.int64, device=best_BK.device)
    key_BC[query_C, place_C] = to_keys(score_BM[query_C, column_C], rank_M[column_C])
    return largest(torch.cat([best_BK, key_BC], dim=1), width)


def largest(rows: torch.Tensor, k: int) -> torch.Tensor:
    """Return the k largest of each row, in no order."""
    if rows.device.type == "cpu":  # several times as fast as torch's selection
        return torch.from_numpy(np.partition(rows.numpy(), rows.shape[1] - k, axis=1)[:, rows.shape[1] - k :])
    return rows.topk(k, sorted=False).values


def release(rows: np.ndarray) -> None:
    """Let go of the pages of a memory-mapped array that were read; they stay in the system's cache."""
    mapped = getattr(rows, "_mmap", None)
    # Maps that nobody writes to: a private copy would lose its changes.
    if mapped is not None and rows.mode == "r" and hasattr(mmap, "MADV_DONTNEED"):  # type: ignore[attr-defined]
        mapped.madvise(mmap.MADV_DONTNEED)


def _check_sizes(
    query_QD: np.ndarray,
    document_ND: np.ndarray,
    top: int,
    excluded: Sequence[Collection[int] | np.ndarray] | None,
    ids: Sequence[str] | None,
) -> None:
    """Raise ValueError where the arguments do not fit each other."""
    if top < 1:
        raise ValueError(f"top: {top}; give at least 1")
    if query_QD.ndim != 2 or document_ND.ndim != 2 or query_QD.shape[1] != document_ND.shape[1]:
        raise ValueError(f"queries {query_QD.shape} and documents {document_ND.shape} have no common dimension")
    if excluded is not None and len(excluded) != len(query_QD):
        raise ValueError(f"excluded: {len(excluded)} entries for {len(query_QD)} queries")
    if ids is not None and len(ids) != len(document_ND):
        raise ValueError(f"ids: {len(ids)} for {len(document_ND)} documents")


def _to_float32(rows: np.ndarray, device: str | torch.device, space: np.ndarray | None = None) -> torch.Tensor:
    """Copy a block of embeddings to the device, on the way through `space`, which saves making room each time."""
    # On a CPU the tensor is `space` itself: a block is merged before the next one is copied.
    block = np.empty(rows.shape, dtype=np.float32) if space is None else space[: len(rows)]
    np.copyto(block, rows, casting="same_kind")
    return torch.from_numpy(block).to(device)


def _check_finite(block: torch.Tensor, kind: str, first: int) -> None:
    """Refuse embeddings that have no order; `first` is the row of the block's first."""
    finite = block.isfinite().all(dim=1)
    if not bool(finite.all()):
        row = first + int((~finite).nonzero()[0])
        raise ValueError(f"{kind} {row}: its embedding holds NaN or infinity")


def to_keys(score_C: torch.Tensor, rank_C: torch.Tensor) -> torch.Tensor:
    """Return int64 keys that order as (score, rank): above the score, monotonic, below the rank."""
    bits = (score_C + 0.0).view(torch.int32)  # + 0.0 turns -0.0, which equals 0.0, into it
    return (monotonic(bits).to(torch.int64) << RANK_BITS) | rank_C


def to_scores(keys: torch.Tensor) -> torch.Tensor:
    """Return the float32 scores of keys."""
    return monotonic((keys >> RANK_BITS).to(torch.int32)).view(torch.float32)


def monotonic(bits: torch.Tensor) -> torch.Tensor:
    """Swap float32 bits (as int32) and integers of the same order (negative floats run backwards)."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def flatten(excluded: Sequence[Collection[int] | np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return (document row, query of the block) of every exclusion, ordered by document row."""
    queries = np.repeat(np.arange(len(excluded)), [len(rows) for rows in excluded])
    lists = [
        rows if isinstance(rows, np.ndarray) else np.fromiter(rows, dtype=np.int64, count=len(rows))
        for rows in excluded
    ]
    documents = np.concatenate([np.zeros(0, dtype=np.int64), *lists])
    # By document: the exclusions of a block of documents are then one slice.
    order = np.argsort(documents)
    return documents[order], queries[order]


def _mask(score_BM: torch.Tensor, banned: tuple[np.ndarray, np.ndarray], start: int) -> None:
    """Put the block's excluded pairs behind everything, in place."""
    documents, queries = banned
    low, high = np.searchsorted(documents, [start, start + score_BM.shape[1]])
    rows = torch.from_numpy(queries[low:high]).to(score_BM.device)
    columns = torch.from_numpy(documents[low:high] - start).to(score_BM.device)
    score_BM[rows, columns] = -torch.inf


def _write_hits(best: torch.Tensor, document_at_rank: np.ndarray, indices: np.ndarray, scores: np.ndarray) -> None:
    """Decode sorted keys into `indices` and `scores`, in place; excluded documents leave the padding."""
    keys = best.numpy()
    hit = keys != NEVER
    width = keys.shape[1]
    values = to_scores(best).numpy()
    indices[:, :width][hit] = document_at_rank[keys[hit] & ((1 << RANK_BITS) - 1)]
    scores[:, :width][hit] = values[hit]


def as_run(
    queries: Sequence[str], ids: Sequence[str], indices: np.ndarray, scores: np.ndarray
) -> dict[str, dict[str, float]]:
    """Return rankings as {query id: {document id: score}}.

    Args:
        queries: Their ids, Q.
        ids: Of the documents.
        indices: Places in `ids` (Q, top), padded with -1 at the end.
        scores: Float (Q, top).
    """
    names, counts = np.array(ids, dtype=object), (indices >= 0).sum(axis=1)
    return {
        query: dict(zip(names[row[:count]].tolist(), values[:count].tolist(), strict=True))
        for query, row, values, count in zip(queries, indices, scores, counts, strict=True)
    }
