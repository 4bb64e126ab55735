"""From the hidden states of a packed stream to one float32 vector of length 1 for each text.

Letters: B texts, T tokens of the packed stream, D embedding dimension.
"""

from enum import StrEnum

import torch


class Pooling(StrEnum):
    """Which hidden states make an embedding: all after the prefix, the first token's, or the last token's."""

    mean = "mean"
    cls = "cls"
    last = "last"


def pool(
    hidden_TD: torch.Tensor, lengths: torch.Tensor, prefix_tokens: torch.Tensor, pooling: Pooling = Pooling.mean
) -> torch.Tensor:
    """Take each text's first or last state, or the mean of its states after the prefix; scale to length 1.

    Source of the mean that leaves out the instruction: GritLM, arXiv 2402.09906. Sums are computed in float32 (in
    float64 for float64 input).

    Args:
        hidden_TD: States of the packed stream, any float dtype.
        lengths: int64 (B), tokens of each text; they sum to T.
        prefix_tokens: int64 (B), leading tokens that a mean leaves out, 0 <= prefix <= length.
        pooling: Which states to take.

    Returns:
        float32 (B, D) with rows of length 1.
    """
    hidden_TD = hidden_TD.to(torch.promote_types(hidden_TD.dtype, torch.float32))
    ends = torch.cumsum(lengths, 0)
    if pooling is not Pooling.mean:
        chosen_BD = hidden_TD[ends - lengths if pooling is Pooling.cls else ends - 1]
        return torch.nn.functional.normalize(chosen_BD, dim=-1)
    # An empty document has no token after its prefix: its prefix's last token is taken, as a mean of nothing is NaN.
    prefix_tokens = torch.minimum(prefix_tokens, lengths - 1)
    starts = ends - lengths
    tokens = hidden_TD.shape[0]
    # Pass `output_size`: computing it from `lengths` would synchronise with the GPU.
    first_T = torch.repeat_interleave(starts + prefix_tokens, lengths, output_size=tokens)
    pooled_T = torch.arange(tokens, device=hidden_TD.device) >= first_T
    # `unsafe` skips the check that `lengths` sum to T, which would synchronise as well.
    sums_BD = torch.segment_reduce(hidden_TD * pooled_T.unsqueeze(1), "sum", lengths=lengths, axis=0, unsafe=True)
    means_BD = sums_BD / (lengths - prefix_tokens).unsqueeze(1)
    return torch.nn.functional.normalize(means_BD, dim=-1)
