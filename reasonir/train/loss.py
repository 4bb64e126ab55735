"""The contrastive loss: InfoNCE of each query over all documents of the batch.

Invariant: the loss of a query depends on its own scores only, so that ranks may compute their own rows.
Leaves averaging over queries (weights, ranks) and chunking to `step.py` and `gradcache.py`.

Letters: B queries, N documents of the whole batch (positives and hard negatives of all queries, each distinct text
once), D embedding dimension.
"""

import torch


def info_nce(
    query_BD: torch.Tensor,
    document_ND: torch.Tensor,
    positive_index_B: torch.Tensor,
    ignore_BN: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """Score each query against all documents and return its cross-entropy with its positive.

    loss_i = -log( exp(s_ip / t) / sum over j not ignored of exp(s_ij / t) ), s the inner product, which is the cosine
    of normalised rows. Documents known to answer the query (other positives, equal texts) are ignored: counted as
    negatives they would push right answers away. arXiv 2504.20595 section 3, arXiv 1807.03748.

    Args:
        query_BD, document_ND: float, L2-normalised.
        positive_index_B: int64, column of each query's positive.
        ignore_BN: bool, True where a document is no negative of the query; False at the positive.
        temperature: > 0, dimensionless.
    Returns:
        Nats, (B,). Gradient reaches both inputs.
    Raises:
        ValueError: temperature <= 0.
    Precision: product and softmax in float32 (float64 for float64 input).
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    dtype = torch.promote_types(query_BD.dtype, torch.float32)
    scores_BN = query_BD.to(dtype) @ document_ND.to(dtype).T / temperature
    scores_BN = scores_BN.masked_fill(ignore_BN, float("-inf"))
    return torch.nn.functional.cross_entropy(scores_BN, positive_index_B, reduction="none")
