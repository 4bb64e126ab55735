"""Texts packed into one stream without padding, and chunks of texts within a token budget.

Letters: B texts, T tokens of the stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from reasonir.model.trunk.attention import Segments
from reasonir.model.trunk.linear import padded_length


@dataclass(frozen=True, slots=True)
class PackedTexts:
    """Texts end to end. token_ids: int64 (T); lengths, prefix_tokens: int64 (B)."""

    token_ids: torch.Tensor
    lengths: torch.Tensor
    prefix_tokens: torch.Tensor
    segments: Segments

    @classmethod
    def of(cls, ids: Sequence[np.ndarray], prefix_tokens: Sequence[int], device: Any = "cpu") -> "PackedTexts":
        """Lay token lists end to end on a device.

        Args:
            ids: Token ids of each text, any integer dtype.
            prefix_tokens: Leading tokens of each text that mean pooling leaves out.
            device: Where the stream goes.
        """
        lengths = [len(row) for row in ids]
        return cls(
            torch.from_numpy(np.concatenate(ids).astype(np.int64)).to(device),
            torch.tensor(lengths, device=device),
            torch.tensor(list(prefix_tokens), device=device),
            Segments.of(lengths, device),
        )

    @property
    def computed_tokens(self) -> int:
        """Tokens that a float32 trunk computes for these texts: on some CPUs it appends a few that nobody sees."""
        return padded_length(len(self.token_ids), torch.float32, self.token_ids.device)


def token_budget_chunks(lengths: Sequence[int] | np.ndarray, chunk_tokens: int) -> list[np.ndarray]:
    """Sort texts by length, longest first, and cut them into chunks of at most `chunk_tokens` tokens.

    A text longer than the budget gets a chunk of its own. Returns arrays of text indices; every index exactly once.
    """
    lengths = np.asarray(lengths)
    # Longest first: if memory does not suffice, the first chunk fails, not the last. Sorting also puts texts of equal
    # length side by side, which packed attention on a CPU computes as one batch. A stable sort keeps ties in input
    # order, so that chunks do not depend on numpy's sorting algorithm.
    order = np.argsort(-lengths, kind="stable")
    chunks, start, filled = [], 0, 0
    for position, index in enumerate(order):
        if position > start and filled + lengths[index] > chunk_tokens:
            chunks.append(order[start:position])
            start, filled = position, 0
        filled += int(lengths[index])
    if len(order):
        chunks.append(order[start:])
    return chunks
