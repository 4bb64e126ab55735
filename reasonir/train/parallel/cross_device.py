"""Cross-device negatives: which rank embeds which texts of a global batch, and how embeddings and gradients travel.

Invariants: the assignment is a pure function of the batch, so all ranks agree on counts and order without a message.
The loss does not depend on the assignment. A rank's gradient is the derivative of the loss of all ranks with respect
to the embeddings that this rank made.

Letters: W ranks, B queries and N distinct documents of the global batch, M documents of one rank, P places a rank has
in the exchanged tensor (the largest M), D embedding dimension.
"""

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which rank embeds which texts.

    queries[r], documents[r]: ascending indices of rank r's texts in the batch. load: the ranks' work (`text_cost`).
    """

    queries: list[np.ndarray]
    documents: list[np.ndarray]
    load: np.ndarray

    @property
    def spread(self) -> float:
        """How much longer the busiest rank works than the average one; 0 is perfect balance."""
        return float(self.load.max() / self.load.mean() - 1)


def text_cost(lengths: np.ndarray, attention_share: float) -> np.ndarray:
    """Return the relative work of embedding texts: linear layers grow with the tokens, attention with their square.

    Args:
        lengths: Tokens of each text.
        attention_share: Attention's work over the linear layers' work in a text of one token (`attention_share_of`).
    """
    return lengths * (1.0 + attention_share * lengths)


def attention_share_of(parameters: int, layers: int, hidden_size: int) -> float:
    """Return attention's work over the linear layers' work in a text of one token: 2 layers hidden_size / parameters.

    Scores and mixing cost 4 D L operations a token and layer in a text of L tokens, linear layers 2 a parameter.

    Args:
        parameters: Weights of the layers, without embeddings.
        layers: Transformer layers.
        hidden_size: D.
    """
    return 2.0 * layers * hidden_size / max(parameters, 1)


def assign_texts(query_costs: np.ndarray, document_costs: np.ndarray, ranks: int) -> Assignment:
    """Assign a global batch to ranks: B / W queries each, documents so that the loads come out even.

    Longest first, each text to the rank with the least load (queries: among ranks that lack queries). Graham 1969: at
    most 4/3 of the best possible longest load. With hundreds of texts a rank it is within a fraction of a percent.

    Args:
        query_costs: Work of each query, (B,).
        document_costs: Work of each document, (N,).
        ranks: W.
    Raises:
        ValueError: B does not divide by the ranks.
    """
    count = len(query_costs)
    if count % ranks:
        raise ValueError(f"{count} queries do not divide by {ranks} ranks")
    # A heap of (load, rank): equal loads go to the lower rank, on every rank alike.
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
    # Documents go to any rank; only the queries have to be even, because each rank's scores are B / W rows.
    heap = full
    heapq.heapify(heap)
    for index in np.argsort(-document_costs, kind="stable"):
        load, r = heap[0]
        documents[r].append(int(index))
        heapq.heapreplace(heap, (load + float(document_costs[index]), r))
    loads = np.zeros(ranks)
    for load, r in heap:
        loads[r] = load
    return Assignment([_ascending(q) for q in queries], [_ascending(d) for d in documents], loads)


def _ascending(indices: list[int]) -> np.ndarray:
    return np.array(sorted(indices), dtype=np.int64)


def gather_documents(
    document_MD: torch.Tensor, assignment: Assignment, communication_dtype: torch.dtype
) -> torch.Tensor:
    """Return all ranks' document embeddings in the order of the batch; gradients return to the rank that made a row.

    Collective in forward and backward: all ranks must call, or none.

    Args:
        document_MD: Float, this rank's documents in the order of the assignment.
        assignment: The documents of every rank.
        communication_dtype: Format in which rows and their gradients travel.
    Returns:
        (N, D), the dtype of `document_MD`. Backward adds the gradients of all ranks (reduce-scatter).
    """
    if len(assignment.documents) == 1:
        return document_MD
    # The collectives want as many rows from every rank: each gets the places of the rank with most documents.
    places = max(len(indices) for indices in assignment.documents)
    place_N = np.empty(sum(len(indices) for indices in assignment.documents), dtype=np.int64)
    for r, indices in enumerate(assignment.documents):
        place_N[indices] = r * places + np.arange(len(indices))
    where_N = torch.from_numpy(place_N).to(document_MD.device)
    return _GatherRows.apply(document_MD, where_N, places, len(assignment.documents), communication_dtype)


class _GatherRows(torch.autograd.Function):
    """Exchanges P rows a rank, padded with zeros. where_N: the place of each row of the batch in the exchange."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, own_MD: torch.Tensor, where_N: torch.Tensor, places: int, ranks: int, dtype: torch.dtype
    ) -> torch.Tensor:
        """Return the rows of all ranks in the order of the batch, (N, D). Collective.

        Args:
            ctx: Keeps the places and sizes; the backward pass sends each row's gradient to its owner.
            own_MD: This rank's rows.
            where_N: The place of each row of the batch in the exchange.
            places: Rows that every rank sends, padding included.
            ranks: Number of ranks.
            dtype: Format of the rows between ranks.
        """
        ctx.save_for_backward(where_N)
        ctx.sizes = (len(own_MD), places, ranks, dtype)
        padded_PD = own_MD.new_zeros(places, own_MD.shape[1], dtype=dtype)
        padded_PD[: len(own_MD)] = own_MD
        everyone = own_MD.new_empty(ranks * places, own_MD.shape[1], dtype=dtype)
        _all_gather(everyone, padded_PD)
        return everyone[where_N].to(own_MD.dtype)

    @staticmethod
    def backward(ctx: Any, gradient_ND: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        (where_N,) = ctx.saved_tensors
        count, places, ranks, dtype = ctx.sizes
        everyone = gradient_ND.new_zeros(ranks * places, gradient_ND.shape[1], dtype=dtype)
        everyone[where_N] = gradient_ND.to(dtype)
        own_PD = gradient_ND.new_empty(places, gradient_ND.shape[1], dtype=dtype)
        _reduce_scatter(own_PD, everyone)
        return own_PD[:count].to(gradient_ND.dtype), None, None, None, None


def _all_gather(output: torch.Tensor, own: torch.Tensor) -> None:
    # torch 2.13 has renamed the function and warns about the old name; older versions have the old one only.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(output, own)


def _reduce_scatter(own: torch.Tensor, everyone: torch.Tensor) -> None:
    scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    scatter(own, everyone)
