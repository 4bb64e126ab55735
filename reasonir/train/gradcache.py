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
    embeddings: list[torch.Tensor] = []
    kept: list[torch.Tensor | None] = []
    states = []
    for i, tokens in enumerate(chunk_tokens):
        states.append(_random_state(device))
        keep = budget.admits(tokens)
        embedding = _embed_kept(embed_chunk, i, tokens, budget, parameters) if keep else _embed_bare(embed_chunk, i)
        kept.append(embedding if keep else None)
        embeddings.append(embedding.detach())
    after_forward = _random_state(device)
    cached = torch.cat(embeddings).requires_grad_()
    value = loss(cached)
    (gradient,) = torch.autograd.grad(value, cached)
    parts = gradient.split([len(embedding) for embedding in embeddings])
    replayed = sum(embedding is None for embedding in kept)
    for i, part in enumerate(parts):
        graph = kept[i]
        if graph is None:
            _set_random_state(device, states[i])
            graph = embed_chunk(i)
        kept[i] = None
        backward((graph * part).sum())
    _set_random_state(device, after_forward)
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


def _random_state(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), on_device


def _set_random_state(device: torch.device, state: tuple[torch.Tensor, torch.Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
