"""Negatives that are probably answers: for any objective that honours `ignore_BN`, they are ignored and counted.

A document that the model puts above a query's positive, or close to it, is more often an answer that nobody marked
than a hard negative; as a negative it pushes a right answer away.

Letters: B queries, N documents of the whole batch, M documents of a block, D embedding dimension.
"""

from dataclasses import dataclass

import torch

from reasonir.train.objectives import Counted, Objective
from reasonir.train.objectives.infonce import BLOCK_SCORES

# Equal documents tie in exact arithmetic. Rounding, which differs between numbers of ranks, must not part them.
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class DropAbove:
    """The limit of a query's negatives: share * score of the query's positive + margin.

    The share is TopK-PercPos, 0.95 in arXiv 2407.15831 (NV-Retriever), which mines with it. The margin is the mask in
    the loss of Qwen3-Embedding, 0.1 in arXiv 2506.05176.
    """

    share: float = 1.0
    margin: float = 0.0


def without_false_negatives(
    query_BD: torch.Tensor,
    document_ND: torch.Tensor,
    positive_index_B: torch.Tensor,
    ignore_BN: torch.Tensor,
    objective: Objective,
    drop: DropAbove,
    block_scores: int = BLOCK_SCORES,
) -> Counted:
    """Return another objective's loss, without the negatives that score above their query's limit.

    The scores are those of the step's own embeddings, without a gradient: which documents are dropped is a constant.
    Memory: `block_scores` scores at once, for any N, because the marks are written into `ignore_BN`.

    Args:
        query_BD: Float, rows of length 1.
        document_ND: Float, rows of length 1.
        positive_index_B: The column of each query's positive, which is never dropped.
        ignore_BN: True at documents that are no negatives anyway; they are not counted. Dropped documents are True
            afterwards: the step makes this mask anew for each batch, and a copy would grow with N.
        objective: Computes the loss; bind it, and the rule, by `functools.partial`.
        drop: The limit of each query.
        block_scores: Largest number of scores held at once; a block has at least one document.
    Returns:
        The loss, what the objective counts itself, and `dropped_negatives`: pairs of query and document.
    """
    dropped = _mark(query_BD.detach(), document_ND.detach(), positive_index_B, ignore_BN, drop, block_scores)
    found = Counted.of(objective(query_BD, document_ND, positive_index_B, ignore_BN))
    return Counted(found.loss_B, {**found.counts, "dropped_negatives": dropped})


def _mark(
    query_BD: torch.Tensor,
    document_ND: torch.Tensor,
    positive_index_B: torch.Tensor,
    ignore_BN: torch.Tensor,
    drop: DropAbove,
    block_scores: int,
) -> torch.Tensor:
    """Mark the documents above their query's limit in `ignore_BN`, and return how many were not marked before."""
    dtype = torch.promote_types(query_BD.dtype, torch.float32)
    query_BD, document_ND = query_BD.to(dtype), document_ND.to(dtype)
    width = max(1, block_scores // max(1, len(query_BD)))
    rows_B = torch.arange(len(query_BD), device=query_BD.device)
    dropped = torch.zeros((), dtype=torch.int64, device=query_BD.device)
    # A share below 1 puts the limit below the positive itself: while others are marked, it counts as marked.
    ignore_BN[rows_B, positive_index_B] = True
    # As in `info_nce`: autocast must not lower the scores.
    with torch.autocast(query_BD.device.type, enabled=False):
        positive_B = (query_BD * document_ND[positive_index_B]).sum(dim=1)
        limit_B = drop.share * positive_B + drop.margin + ROUNDING
        for start in range(0, len(document_ND), width):
            ignore_BM = ignore_BN[:, start : start + width]
            above_BM = query_BD @ document_ND[start : start + width].T > limit_B[:, None]
            dropped += torch.count_nonzero(above_BM & ~ignore_BM)
            ignore_BM |= above_BM
    ignore_BN[rows_B, positive_index_B] = False
    return dropped
