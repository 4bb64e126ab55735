"""The contrastive loss: InfoNCE of each query over all documents of the batch, a block of documents at a time.

Invariant: the loss of a query depends on its own scores only, so that ranks may compute their own rows.
Leaves averaging over queries (weights, ranks) and chunking to `step.py` and `gradcache.py`.

Letters: B queries, N documents of the whole batch (positives and hard negatives of all queries, each distinct text
once), M documents of a block, D embedding dimension.
"""

from collections.abc import Iterator
from typing import Any

import torch

BLOCK_SCORES = 2**22
"""Scores held at once: 16 MiB in float32. 64 queries of one rank against 4,096 documents are one block."""


def info_nce(
    query_BD: torch.Tensor,
    document_ND: torch.Tensor,
    positive_index_B: torch.Tensor,
    ignore_BN: torch.Tensor,
    temperature: float,
    block_scores: int = BLOCK_SCORES,
) -> torch.Tensor:
    """Score each query against all documents and return its cross-entropy with its positive.

    loss_i = -log( exp(s_ip / t) / sum over j not ignored of exp(s_ij / t) ), s the inner product, which is the cosine
    of normalised rows. Documents known to answer the query (other positives, equal texts) are ignored: counted as
    negatives they would push right answers away. arXiv 2504.20595 section 3, arXiv 1807.03748.

    Memory beyond the inputs and their gradients: `block_scores` numbers, twice, whatever N; the backward pass computes
    the scores again (one more product, small beside the encoder).

    Args:
        query_BD, document_ND: float, L2-normalised.
        positive_index_B: int64, column of each query's positive.
        ignore_BN: bool, True where a document is no negative of the query; False at the positive.
        temperature: > 0, dimensionless.
        block_scores: largest number of scores held at once; no less than one column is computed.
    Returns:
        Nats, (B,). Gradient reaches both inputs.
    Raises:
        ValueError: temperature <= 0.
    Precision: product and softmax in float32 (float64 for float64 input).
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    dtype = torch.promote_types(query_BD.dtype, torch.float32)
    width = max(1, block_scores // max(1, len(query_BD)))
    tensors = (query_BD.to(dtype), document_ND.to(dtype), positive_index_B, ignore_BN)
    loss_B = _InfoNCE.apply(*tensors, temperature, width)  # type: ignore[no-untyped-call]
    assert isinstance(loss_B, torch.Tensor)
    return loss_B


class _InfoNCE(torch.autograd.Function):
    """Forward: a running log-sum-exp over blocks. Backward: softmax minus the positive, block by block."""

    @staticmethod
    def forward(
        ctx: Any,
        query_BD: torch.Tensor,
        document_ND: torch.Tensor,
        positive_index_B: torch.Tensor,
        ignore_BN: torch.Tensor,
        temperature: float,
        width: int,
    ) -> torch.Tensor:
        total_B = query_BD.new_full((len(query_BD),), float("-inf"))
        positive_B = torch.empty_like(total_B)
        with torch.autocast(query_BD.device.type, enabled=False):
            for start, score_BM in _score_blocks(query_BD, document_ND, ignore_BN, temperature, width):
                total_B = torch.logaddexp(total_B, score_BM.logsumexp(dim=1))
                rows, columns = _positives_within(positive_index_B, start, score_BM.shape[1])
                positive_B[rows] = score_BM[rows, columns]
        ctx.save_for_backward(query_BD, document_ND, positive_index_B, ignore_BN, total_B)
        ctx.temperature, ctx.width = temperature, width
        return total_B - positive_B

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query_BD, document_ND, positive_index_B, ignore_BN, total_B = ctx.saved_tensors
        weight_B = gradients[0] / ctx.temperature
        query_gradient_BD, document_gradient_ND = torch.zeros_like(query_BD), torch.empty_like(document_ND)
        with torch.autocast(query_BD.device.type, enabled=False):
            for start, score_BM in _score_blocks(query_BD, document_ND, ignore_BN, ctx.temperature, ctx.width):
                share_BM = score_BM.sub_(total_B[:, None]).exp_()
                rows, columns = _positives_within(positive_index_B, start, share_BM.shape[1])
                share_BM[rows, columns] -= 1.0
                share_BM *= weight_B[:, None]
                block = slice(start, start + share_BM.shape[1])
                query_gradient_BD.addmm_(share_BM, document_ND[block])
                torch.mm(share_BM.T, query_BD, out=document_gradient_ND[block])
        return query_gradient_BD, document_gradient_ND, None, None, None, None


def _score_blocks(
    query_BD: torch.Tensor, document_ND: torch.Tensor, ignore_BN: torch.Tensor, temperature: float, width: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield each block's first column and its scores over the temperature, -inf where ignored."""
    for start in range(0, len(document_ND), width):
        block = slice(start, start + width)
        score_BM = query_BD @ document_ND[block].T
        yield start, score_BM.div_(temperature).masked_fill_(ignore_BN[:, block], float("-inf"))


def _positives_within(positive_index_B: torch.Tensor, start: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the queries whose positive lies in a block, and its column there."""
    inside_B = (positive_index_B >= start) & (positive_index_B < start + width)
    return inside_B.nonzero()[:, 0], positive_index_B[inside_B] - start
