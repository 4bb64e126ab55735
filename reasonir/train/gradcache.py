"""GradCache: the gradient of a loss over a whole batch, holding the activations of one chunk at a time.

The loss couples all texts only through their embeddings. So: embed every chunk without a graph, take the loss's
gradient with respect to the embeddings, then embed each chunk again with a graph and push its embeddings' gradient
through it. Exact, for any chunking. Gao et al., arXiv 2101.06983.

Invariants: dropout draws the same numbers in both passes; the chunks' backward passes run in the same order whether
a graph was kept or replayed, so that keeping graphs changes no bit of the result.

A chunk whose graph fits the memory budget keeps it from the first pass and is not replayed: 3 instead of 4
forward-equivalents of work.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

EmbedChunk = Callable[[int], torch.Tensor]
"""Embeds chunk i: float32 (texts of the chunk, D)."""


@dataclass(slots=True)
class GraphBudget:
    """How much memory kept graphs may take, and what a token's graph was measured to take.

    limit_bytes: 0 keeps no graph. bytes_per_token: largest seen, None before the first measurement.
    """

    limit_bytes: int
    bytes_per_token: float | None = None
    used_bytes: float = 0.0

    def admits(self, tokens: int) -> bool:
        """Return whether another chunk's graph fits; the first one is kept in any case, to be measured."""
        if self.limit_bytes <= 0:
            return False
        return self.bytes_per_token is None or self.used_bytes + self.bytes_per_token * tokens <= self.limit_bytes

    def charge(self, tokens: int, measured: int | None) -> None:
        """Count a kept graph, by measurement where there is one."""
        if measured is not None:
            self.bytes_per_token = max(self.bytes_per_token or 0.0, measured / tokens)
        self.used_bytes += (self.bytes_per_token or 0.0) * tokens


class _SavedBytes:
    """Counts the bytes that autograd saves inside a `with` block, each storage once, parameters left out."""

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        self._seen = {parameter.untyped_storage().data_ptr() for parameter in parameters}
        self.total = 0
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.total += storage.nbytes()
        return tensor


class _Rows:
    """Embeddings of the chunks so far, in one place that doubles when it is full.

    One small tensor a chunk, kept between the chunks' large ones, would leave the heap in pieces.
    """

    def __init__(self) -> None:
        self.counts: list[int] = []
        self._rows_ND: torch.Tensor | None = None

    def add(self, rows_BD: torch.Tensor) -> None:
        begin = sum(self.counts)
        stop = begin + len(rows_BD)
        if self._rows_ND is None or stop > len(self._rows_ND):
            larger_ND = rows_BD.new_empty(2 * stop, rows_BD.shape[1])
            if self._rows_ND is not None:
                larger_ND[:begin] = self._rows_ND[:begin]
            self._rows_ND = larger_ND
        self._rows_ND[begin:stop] = rows_BD
        self.counts.append(len(rows_BD))

    def together(self) -> torch.Tensor:
        """All rows, in the order in which they came: (N, D)."""
        assert self._rows_ND is not None, "no chunk was embedded"
        return self._rows_ND[: sum(self.counts)]


class _RandomStates:
    """The random numbers' states before every chunk and after the last, in one place as embeddings are."""

    def __init__(self, device: torch.device, chunks: int) -> None:
        self._device = device
        self._here = torch.get_rng_state().repeat(chunks + 1, 1)
        on_cuda = device.type == "cuda"
        self._there = torch.cuda.get_rng_state(device).repeat(chunks + 1, 1) if on_cuda else None

    def save(self, i: int) -> None:
        self._here[i] = torch.get_rng_state()
        if self._there is not None:
            self._there[i] = torch.cuda.get_rng_state(self._device)

    def restore(self, i: int) -> None:
        torch.set_rng_state(self._here[i].clone())  # a view would set the first row
        if self._there is not None:
            torch.cuda.set_rng_state(self._there[i].clone(), self._device)


@dataclass(slots=True)
class CacheReport:
    """What a pass did: chunks whose graph was kept, chunks that were replayed."""

    kept_chunks: int
    replayed_chunks: int


def backward_through_chunks(
    embed_chunk: EmbedChunk,
    chunk_tokens: Sequence[int],
    loss: Callable[[torch.Tensor], torch.Tensor],
    *,
    budget: GraphBudget,
    parameters: Sequence[torch.Tensor],
    device: torch.device,
    backward: Callable[[torch.Tensor], None] = torch.Tensor.backward,
) -> tuple[torch.Tensor, CacheReport]:
    """Accumulate d loss / d parameters over chunks of texts.

    Args:
        embed_chunk: called once or twice per chunk, in order.
        chunk_tokens: tokens of each chunk, for the memory budget.
        loss: maps the embeddings of all chunks, concatenated, to a scalar.
        parameters: excluded from the measured memory of a graph.
        backward: runs a scalar's backward pass; the engine's own where an engine owns the gradients.
    Returns:
        The detached loss, and what was kept. Gradients are added to the parameters.
    Precision: the surrogate (embedding times its gradient, summed) is float32, whatever autocast does.
    """
    budget.used_bytes = 0.0
    embeddings, states = _Rows(), _RandomStates(device, len(chunk_tokens))
    kept: list[torch.Tensor | None] = []
    for i, tokens in enumerate(chunk_tokens):
        states.save(i)
        keep = budget.admits(tokens)
        embedding = _embed_kept(embed_chunk, i, tokens, budget, parameters) if keep else _embed_bare(embed_chunk, i)
        kept.append(embedding if keep else None)
        embeddings.add(embedding.detach())
    states.save(len(chunk_tokens))
    cached = embeddings.together().requires_grad_()
    value = loss(cached)
    (gradient,) = torch.autograd.grad(value, cached)
    parts = gradient.split(embeddings.counts)
    replayed = sum(embedding is None for embedding in kept)
    for i, part in enumerate(parts):
        graph = kept[i]
        if graph is None:
            states.restore(i)
            graph = embed_chunk(i)
        kept[i] = None
        backward((graph * part).sum())
    states.restore(len(chunk_tokens))
    return value.detach(), CacheReport(len(parts) - replayed, replayed)


def _embed_bare(embed_chunk: EmbedChunk, i: int) -> torch.Tensor:
    with torch.no_grad():
        return embed_chunk(i)


def _embed_kept(
    embed_chunk: EmbedChunk, i: int, tokens: int, budget: GraphBudget, parameters: Sequence[torch.Tensor]
) -> torch.Tensor:
    saved = _SavedBytes(parameters) if budget.bytes_per_token is None else None
    context: AbstractContextManager = saved.hooks if saved is not None else nullcontext()
    with context:
        embedding = embed_chunk(i)
    budget.charge(tokens, saved.total if saved is not None else None)
    return embedding
