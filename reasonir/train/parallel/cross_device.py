"""Cross-device negatives: which rank embeds which texts of a global batch, and how embeddings and gradients travel.

Invariants: every rank knows the whole deal (it is a pure function of the batch), so ranks agree on counts and order
without a message; the loss does not depend on the deal; each rank's gradient is the derivative of the loss of all
ranks with respect to the embeddings it made.

Letters: W ranks, B queries and N distinct documents of the global batch, D embedding dimension.
"""

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist


@dataclass(frozen=True, slots=True)
class Deal:
    """Who embeds what. queries[r], documents[r]: ascending indices of rank r's. load: tokens-and-attention cost."""

    queries: list[np.ndarray]
    documents: list[np.ndarray]
    load: np.ndarray

    @property
    def spread(self) -> float:
        """How much longer the busiest rank works than the average one: 0 is perfect balance."""
        return float(self.load.max() / self.load.mean() - 1)


def text_cost(lengths: np.ndarray, attention_share: float) -> np.ndarray:
    """Return the relative work of embedding texts: linear in tokens plus attention, which is quadratic.

    Args:
        lengths: tokens of each text.
        attention_share: attention's work over the linear layers' for one token, times 1 / length (see
            `attention_share_of`).
    """
    return lengths * (1.0 + attention_share * lengths)


def attention_share_of(parameters: int, layers: int, hidden_size: int) -> float:
    """Return 2 · layers · hidden / parameters: scores and mix cost 4·d·L a token and layer, products 2 a parameter."""
    return 2.0 * layers * hidden_size / max(parameters, 1)


def deal_texts(query_costs: np.ndarray, document_costs: np.ndarray, ranks: int) -> Deal:
    """Deal a global batch to ranks: B / W queries each, documents so that the loads come out even.

    Longest first, each to the rank with the least load (queries: among ranks with room). Graham 1969: at most 4/3 of
    the best possible makespan; with hundreds of texts a rank, within a fraction of a percent.

    Raises:
        ValueError: B does not divide by the ranks.
    """
    count = len(query_costs)
    if count % ranks:
        raise ValueError(f"{count} queries do not divide by {ranks} ranks")
    heap = [(0.0, r) for r in range(ranks)]
    queries: list[list[int]] = [[] for _ in range(ranks)]
    documents: list[list[int]] = [[] for _ in range(ranks)]
    full: list[tuple[float, int]] = []
    for index in np.argsort(-query_costs, kind="stable"):
        load, r = heapq.heappop(heap)
        queries[r].append(int(index))
        entry = (load + float(query_costs[index]), r)
        if len(queries[r]) == count // ranks:
            full.append(entry)
        else:
            heapq.heappush(heap, entry)
    heap = full
    heapq.heapify(heap)
    for index in np.argsort(-document_costs, kind="stable"):
        load, r = heap[0]
        documents[r].append(int(index))
        heapq.heapreplace(heap, (load + float(document_costs[index]), r))
    loads = np.zeros(ranks)
    for load, r in heap:
        loads[r] = load
    return Deal([_ascending(q) for q in queries], [_ascending(d) for d in documents], loads)


def _ascending(indices: list[int]) -> np.ndarray:
    return np.array(sorted(indices), dtype=np.int64)


def gather_documents(local: torch.Tensor, deal: Deal, wire: torch.dtype) -> torch.Tensor:
    """Return all ranks' document embeddings in the order of the batch; the gradient returns to each one's maker.

    Args:
        local: float (documents of this rank, D), in the order of the deal.
        wire: format in which rows and their gradients travel.
    Returns:
        (N, D), the dtype of `local`. Backward adds the gradients of all ranks (reduce-scatter).
    Collective: forward and backward; all ranks must call, or none.
    """
    if len(deal.documents) == 1:
        return local
    most = max(len(indices) for indices in deal.documents)
    place = np.empty(sum(len(indices) for indices in deal.documents), dtype=np.int64)
    for r, indices in enumerate(deal.documents):
        place[indices] = r * most + np.arange(len(indices))
    where = torch.from_numpy(place).to(local.device)
    return _GatherRows.apply(local, where, most, len(deal.documents), wire)


class _GatherRows(torch.autograd.Function):
    """Rows of all ranks, padded to the same count on the wire; `where` maps a batch's row to its place there."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, local: torch.Tensor, where: torch.Tensor, most: int, ranks: int, wire: torch.dtype
    ) -> torch.Tensor:
        ctx.save_for_backward(where)
        ctx.sizes = (len(local), most, ranks, wire)
        padded = local.new_zeros(most, local.shape[1], dtype=wire)
        padded[: len(local)] = local
        everyone = local.new_empty(ranks * most, local.shape[1], dtype=wire)
        _all_gather(everyone, padded)
        return everyone[where].to(local.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        (where,) = ctx.saved_tensors
        count, most, ranks, wire = ctx.sizes
        everyone = gradient.new_zeros(ranks * most, gradient.shape[1], dtype=wire)
        everyone[where] = gradient.to(wire)
        own = gradient.new_empty(most, gradient.shape[1], dtype=wire)
        _reduce_scatter(own, everyone)
        return own[:count].to(gradient.dtype), None, None, None, None


def _all_gather(output: torch.Tensor, own: torch.Tensor) -> None:
    # torch 2.13 renames the function and warns about the old name.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(output, own)


def _reduce_scatter(own: torch.Tensor, everyone: torch.Tensor) -> None:
    scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    scatter(own, everyone)
