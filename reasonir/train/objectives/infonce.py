"""The contrastive objective InfoNCE: the cross-entropy of each query with its positive, over all documents.

Invariant: the loss of a query depends on its own scores only, so each rank computes the rows of its own queries.
The scores are computed in blocks of documents, so memory does not grow with their number.

Letters: B queries, N documents of the whole batch (positives and hard negatives of all queries, each distinct text
once), M documents of a block, D embedding dimension.
"""

from collections.abc import Iterator
from typing import Any

import torch

# Scores held at once: 16 MiB in float32. 1,024 queries of one rank against 4,096 documents are one block.
BLOCK_SCORES = 2**22


def info_nce(
    query_BD: torch.Tensor,
    document_ND: torch.Tensor,
    positive_index_B: torch.Tensor,
    ignore_BN: torch.Tensor,
    temperature: float,
    block_scores: int = BLOCK_SCORES,
) -> torch.Tensor:
    """Score each query against all documents and return its cross-entropy with its positive.

    loss_i = -log( exp(s_ip / t) / sum over j not ignored of exp(s_ij / t) ). s is the inner product, which is the
    cosine of normalised rows. arXiv 1807.03748; with these negatives arXiv 2504.20595, section 3.

    Memory beyond the inputs and their gradients: twice `block_scores` numbers, for any N. The backward pass computes
    the scores again, which is one more matrix product and small beside the encoder. Product and softmax are float32
    (float64 for float64 input), whatever autocast does.

    Args:
        query_BD: Float, rows of length 1.
        document_ND: Float, rows of length 1.
        positive_index_B: int64, the column of each query's positive.
        ignore_BN: bool, True at documents that are no negatives of the query: other positives, equal texts. As
            negatives they would push right answers away. False at the positive.
        temperature: Above 0, dimensionless; divides the scores.
        block_scores: Largest number of scores held at once; a block has at least one document.
    Returns:
        Nats, (B,). The gradient reaches both embeddings.
    Raises:
        ValueError: The temperature is not positive.
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
    """Forward: a running log-sum-exp over blocks. Backward: softmax minus one at the positive, block by block."""

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
        """Return the loss of each query, (B).

        Args:
            ctx: Keeps the embeddings, not the scores: the backward pass computes each block again.
            query_BD: Embeddings of the queries.
            document_ND: Embeddings of all documents.
            positive_index_B: Row of each query's positive.
            ignore_BN: True where a document is no negative of the query.
            temperature: Divides the scores.
            width: Documents in a block.
        """
        total_B = query_BD.new_full((len(query_BD),), float("-inf"))
        positive_B = torch.empty_like(total_B)
        # Scores over a temperature of 0.02 reach 50, where bfloat16 has steps of 0.25: autocast must not lower them.
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
                # d loss_i / d score_ij = softmax_ij - [j is the positive of i]
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
    """Yield the first column of each block and its scores over the temperature, -inf at ignored documents."""
    for start in range(0, len(document_ND), width):
        block = slice(start, start + width)
        score_BM = query_BD @ document_ND[block].T
        yield start, score_BM.div_(temperature).masked_fill_(ignore_BN[:, block], float("-inf"))


def _positives_within(positive_index_B: torch.Tensor, start: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the queries whose positive lies in a block, and the positive's column within the block."""
    inside_B = (positive_index_B >= start) & (positive_index_B < start + width)
    return inside_B.nonzero()[:, 0], positive_index_B[inside_B] - start
