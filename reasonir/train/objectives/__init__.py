"""Training objectives: one file each.

An objective is a function of embeddings and labels that returns a loss for each query (`Objective`). The training step
calls it and does not know which one it is. To add one: write its file here, with a slow reference in
`tests/reference/`, and let `loop.py` choose it. Its arguments beyond the four of `Objective` (a temperature, a margin)
are bound by `functools.partial` before the step gets it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Counted:
    """What an objective returns that has something to count beside its loss.

    counts: tensors of one number, by name; the names are the same in every step and on every rank. They are added up
    over ranks and stand in metrics.jsonl as `train/NAME`.
    """

    loss_B: torch.Tensor
    counts: Mapping[str, torch.Tensor]

    @classmethod
    def of(cls, found: "torch.Tensor | Counted") -> "Counted":
        """Return what an objective returned, a loss alone as one without counts."""
        return found if isinstance(found, Counted) else cls(found, {})


Objective = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor | Counted]
"""objective(query_BD, document_ND, positive_index_B, ignore_BN) -> loss_B, for B of the batch's queries and all its N
documents. `Counted(loss_B, counts)` in place of loss_B reports counts too.

query_BD, document_ND: float, rows of length 1. positive_index_B: int64, the column of each query's positive.
ignore_BN: bool, True at documents that must not count as negatives of the query. loss_B: float, differentiable in both
embeddings. Row i may depend on query i and the documents only, because each rank computes the rows of its own queries.
The step averages over queries, by their weights.
"""
