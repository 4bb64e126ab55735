"""One vector a text, in float32: a mean over the tokens that are not its instruction, or one token's state; length 1.

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
    """Take each text's first or last state, or average those after its prefix, and scale the vector to length 1.

    A text without any token after its prefix (an empty document) is represented by the prefix's last token;
    averaging nothing would give NaN. Source: instruction-masked mean pooling of GritLM, arXiv 2402.09906.

    Args:
        hidden_TD: states of the packed stream, any float dtype.
        lengths: int64 (B), tokens of each text, summing to T.
        prefix_tokens: int64 (B), leading tokens that a mean leaves out, 0 <= prefix <= length.
    Returns:
        float32 (B, D) with rows of length 1.
    Precision: sums in float32 (float64 for float64 input).
    """
    hidden_TD = hidden_TD.to(torch.promote_types(hidden_TD.dtype, torch.float32))
    ends = torch.cumsum(lengths, 0)
    if pooling is not Pooling.mean:
        chosen_BD = hidden_TD[ends - lengths if pooling is Pooling.cls else ends - 1]
        return torch.nn.functional.normalize(chosen_BD, dim=-1)
    prefix_tokens = torch.minimum(prefix_tokens, lengths - 1)
    starts = ends - lengths
    tokens = hidden_TD.shape[0]  # said, not summed: a GPU would be waited for
    first_T = torch.repeat_interleave(starts + prefix_tokens, lengths, output_size=tokens)
    pooled_T = torch.arange(tokens, device=hidden_TD.device) >= first_T
    sums_BD = torch.segment_reduce(hidden_TD * pooled_T.unsqueeze(1), "sum", lengths=lengths, axis=0, unsafe=True)
    means_BD = sums_BD / (lengths - prefix_tokens).unsqueeze(1)
    return torch.nn.functional.normalize(means_BD, dim=-1)
