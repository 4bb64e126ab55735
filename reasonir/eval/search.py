"""Exact nearest neighbours by inner product, in blocks.

Legend: Q queries, N documents, D dimension, B queries of a block, M documents of a block.
Invariant: the result is the first `top` of a full sort by (score, document id), both descending, as trec_eval
breaks ties, whatever the block sizes. Owns no files; BM25 lives in `lexical.py`.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch

from reasonir.lexical import tie_ranks

RANK_BITS = 32
NEVER = torch.iinfo(torch.int64).min  # sorts behind every real score


def exact_top_k(
    query_QD: np.ndarray,
    document_ND: np.ndarray,
    top: int,
    excluded: Sequence[Collection[int] | np.ndarray] | None = None,
    *,
    ids: Sequence[str] | None = None,
    block_queries: int = 256,
    block_documents: int = 16_384,
    device: str | torch.device = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Return every query's `top` best documents by inner product.

    O(Q * N * D) time; memory beyond the inputs is about 20 bytes times block_queries * block_documents. A
    score and its document's place among the ids form one integer, so that a selection of distinct keys
    decides ties too.

    Args:
        query_QD: any float type.
        document_ND: any float type; may be memory-mapped, it is read block by block, once per block of
            queries.
        top: > 0; may exceed N.
        excluded: per query, rows of document_ND that are taken out before the cut.
        ids: document ids for the order of ties; without them the row number stands for the id.
        block_queries: queries scored together.
        block_documents: documents scored together.
        device: where to multiply.
    Returns:
        Rows of document_ND (Q, top) int64, padded with -1, and scores (Q, top) float32, padded with -inf.
    Raises:
        ValueError: sizes that do not fit, or an embedding that holds NaN or infinity.
    Precision: products in float32. Equal rows may differ in the last bit where a matrix product treats the
        edge of a block otherwise; within one block position scores are reproducible.
    """
    count = len(document_ND)
    check_sizes(query_QD, document_ND, top, excluded, ids)
    ranks = np.arange(count, dtype=np.int64) if ids is None else tie_ranks(ids)
    document_at_rank = np.empty(count, dtype=np.int64)
    document_at_rank[ranks] = np.arange(count)
    indices = np.full((len(query_QD), top), -1, dtype=np.int64)
    scores = np.full((len(query_QD), top), -np.inf, dtype=np.float32)
    for first in range(0, len(query_QD), block_queries):
        query_BD = to_float32(query_QD[first : first + block_queries], "query", first, device)
        banned = None if excluded is None else flatten(excluded[first : first + block_queries])
        best = torch.empty((len(query_BD), 0), dtype=torch.int64, device=device)
        for start in range(0, count, block_documents):
            document_MD = to_float32(document_ND[start : start + block_documents], "document", start, device)
            rank_M = torch.from_numpy(ranks[start : start + block_documents]).to(device)
            key_BM = to_keys(query_BD @ document_MD.T, rank_M)
            if banned is not None:
                mask(key_BM, banned, start)
            best = torch.cat([best, key_BM.topk(min(top, key_BM.shape[1]), sorted=False).values], dim=1)
            best = best.topk(min(top, best.shape[1])).values
        rows = slice(first, first + len(query_BD))
        write_hits(best.cpu(), document_at_rank, indices[rows], scores[rows])
    return indices, scores


def check_sizes(
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


def to_float32(rows: np.ndarray, kind: str, first: int, device: str | torch.device) -> torch.Tensor:
    """Copy a block of embeddings to the device; refuse what has no order."""
    block = torch.from_numpy(np.array(rows, dtype=np.float32)).to(device)
    finite = block.isfinite().all(dim=1)
    if not bool(finite.all()):
        row = first + int((~finite).nonzero()[0])
        raise ValueError(f"{kind} {row}: its embedding holds NaN or infinity")
    return block


def to_keys(score_BM: torch.Tensor, rank_M: torch.Tensor) -> torch.Tensor:
    """Return int64 keys that order as (score, rank): above the score, monotonic, below the rank."""
    bits = (score_BM + 0.0).view(torch.int32)  # + 0.0 turns -0.0, which equals 0.0, into it
    return (monotonic(bits).to(torch.int64) << RANK_BITS) | rank_M


def monotonic(bits: torch.Tensor) -> torch.Tensor:
    """Swap float32 bits (as int32) and integers of the same order (negative floats run backwards)."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def flatten(excluded: Sequence[Collection[int] | np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return (document row, query of the block) of every exclusion, ordered by document row."""
    queries = np.repeat(np.arange(len(excluded)), [len(rows) for rows in excluded])
    lists = [np.fromiter(rows, dtype=np.int64, count=len(rows)) for rows in excluded]
    documents = np.concatenate([np.zeros(0, dtype=np.int64), *lists])
    order = np.argsort(documents, kind="stable")
    return documents[order], queries[order]


def mask(key_BM: torch.Tensor, banned: tuple[np.ndarray, np.ndarray], start: int) -> None:
    """Put the block's excluded pairs behind everything, in place."""
    documents, queries = banned
    low, high = np.searchsorted(documents, [start, start + key_BM.shape[1]])
    rows = torch.from_numpy(queries[low:high]).to(key_BM.device)
    columns = torch.from_numpy(documents[low:high] - start).to(key_BM.device)
    key_BM[rows, columns] = NEVER


def write_hits(best: torch.Tensor, document_at_rank: np.ndarray, indices: np.ndarray, scores: np.ndarray) -> None:
    """Decode sorted keys into `indices` and `scores`, in place; excluded documents leave the padding."""
    keys = best.numpy()
    hit = keys != NEVER
    width = keys.shape[1]
    bits = monotonic((best >> RANK_BITS).to(torch.int32)).numpy()
    indices[:, :width][hit] = document_at_rank[keys[hit] & ((1 << RANK_BITS) - 1)]
    scores[:, :width][hit] = bits.view(np.float32)[hit]
