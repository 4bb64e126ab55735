"""GradCache: the exact gradient of a loss over a whole batch, with the activations of one chunk in memory.

Gao et al., arXiv 2101.06983. The loss couples the texts of a batch only through their embeddings. Three steps follow:

1. `embed_chunks` embeds every chunk without a graph. A chunk whose graph fits the memory budget keeps it.
2. The caller computes the loss of all embeddings, and its gradient with respect to them.
3. `replay` embeds each chunk once more, with a graph, and sends the gradient of its embeddings through the graph.
   A chunk that kept its graph skips the second forward pass: 3 instead of 4 forward-equivalents of work.

Invariants: dropout draws the same numbers in both passes of a chunk. The backward passes run in the order of the
chunks, whether a graph was kept or replayed, so keeping graphs changes no number. If memory runs out beside kept
graphs, they are dropped and the step that failed is repeated once, with the same result.

Letters: B texts of a chunk, C texts of all chunks, D embedding dimension.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

import torch

from reasonir.train.memory.machine import is_out_of_memory

Result = TypeVar("Result")


class Chunk(Protocol):
    """Texts of one forward pass; `model.packing.PackedTexts` is one."""

    @property
    def computed_tokens(self) -> int:
        """Tokens that a graph of this chunk holds, for the memory budget."""
        ...


@dataclass(slots=True)
class GraphBudget:
    """How much memory kept graphs may fill, and what they fill: fixed_bytes + bytes_per_token x tokens each.

    Under autocast a graph holds a bfloat16 copy of every float32 matrix, however few tokens it has. Where graphs share
    the copies, only the first graph of a step is charged for them. One measured graph does not tell the two parts
    apart: until a graph of at most half, or at least twice, its tokens has been measured, a smaller graph is charged as
    much as the measured one, and a larger one in proportion. Both are upper bounds.

    limit_bytes: 0 keeps no graph. measured: tokens and bytes of the first graph, and of one of another size.
    used_bytes: filled in the current step. shared_copies: whether graphs share the copies of matrices.
    """

    limit_bytes: int
    measured: list[tuple[int, int]] = field(default_factory=list)
    used_bytes: float = 0.0
    shared_copies: bool = False

    @property
    def line(self) -> tuple[float, float]:
        """Return (bytes_per_token, fixed_bytes) through two measured graphs, or through one and zero."""
        (tokens, size), (others, other) = (*self.measured, (0, 0))[:2]
        slope = (size - other) / (tokens - others)
        return slope, max(size - slope * tokens, 0.0)

    def bytes_of(self, tokens: int) -> float:
        """Return what a graph of this many tokens fills; 0 before the first measurement."""
        if not self.measured:
            return 0.0
        per_token, fixed = self.line
        if self.shared_copies and self.used_bytes > 0:
            fixed = 0.0
        return fixed + per_token * (tokens if len(self.measured) > 1 else max(tokens, self.measured[0][0]))

    def admits(self, tokens: int) -> bool:
        """Return whether another chunk's graph fits. The first graph is always kept, to be measured."""
        if self.limit_bytes <= 0:
            return False
        return not self.measured or self.used_bytes + self.bytes_of(tokens) <= self.limit_bytes

    def lower(self) -> None:
        """Allow half of what was kept when memory ran out, from now on."""
        self.limit_bytes, self.used_bytes = int(min(self.limit_bytes, self.used_bytes / 2)), 0.0

    def wants(self, tokens: int) -> bool:
        """Return whether measuring a graph of this many tokens says something new."""
        if len(self.measured) != 1:
            return not self.measured
        known = self.measured[0][0]
        return 2 * tokens <= known or tokens >= 2 * known

    def charge(self, tokens: int, measured: int | None = None) -> None:
        """Count a kept graph, by its measured bytes if there are any."""
        if measured is not None:
            self.measured.append((tokens, measured))
        self.used_bytes += self.bytes_of(tokens)


@dataclass(slots=True)
class CacheReport:
    """What a step did: chunks whose graph was kept, chunks that were replayed."""

    kept_chunks: int
    replayed_chunks: int


@dataclass(slots=True)
class Graphs:
    """What `embed_chunks` leaves for `replay`.

    kept: a chunk's embeddings with their graph; None if the chunk must be replayed. text_counts: texts of each chunk.
    states: of the random number generators before each chunk and after the last one.
    """

    kept: list[torch.Tensor | None]
    text_counts: list[int]
    states: "_RandomStates"


@dataclass(frozen=True, slots=True, kw_only=True)
class GradCache:
    """Steps 1 and 3 for one model.

    embed: embeds a chunk, float32 (B, D). budget: decides which graphs are kept. parameters: all weights, also frozen
    ones; a graph refers to them without filling memory, so they are not measured. device: where dropout draws its
    numbers. backward: runs the backward pass of a scalar; an engine that owns the gradients gives its own. restart:
    forgets what `backward` has added since the step began.
    """

    embed: Callable[[Any], torch.Tensor]
    budget: GraphBudget
    parameters: Sequence[torch.Tensor]
    device: torch.device
    backward: Callable[[torch.Tensor], None] = torch.Tensor.backward
    restart: Callable[[], None] | None = None

    def embed_chunks(self, chunks: Sequence[Chunk]) -> tuple[torch.Tensor, Graphs]:
        """Embed all chunks, and keep the graphs that fit the budget (step 1).

        Returns:
            Embeddings in the order of the chunks, float32 (C, D), a leaf that requires a gradient; and what `replay`
            needs.
        """
        self.budget.used_bytes = 0.0
        embeddings = _GrowingRows()
        graphs = Graphs([], embeddings.counts, _RandomStates(self.device, len(chunks)))
        for i, chunk in enumerate(chunks):
            # Before either kind of pass: `replay` draws the same dropout again.
            graphs.states.save(i)
            again = any(kept is not None for kept in graphs.kept)
            embedding_BD = _within_memory(partial(self._embed_once, chunk), again)
            if embedding_BD is None:
                self._drop(graphs, i)
                embedding_BD = self._embed_once(chunk)
            graphs.kept.append(embedding_BD if embedding_BD.requires_grad else None)
            embeddings.add(embedding_BD.detach())
        graphs.states.save(len(chunks))
        return embeddings.together().requires_grad_(), graphs

    def replay(self, chunks: Sequence[Chunk], graphs: Graphs, gradient_CD: torch.Tensor) -> CacheReport:
        """Send the gradient of the embeddings through every chunk's graph (step 3).

        The backward pass starts from the sum of embedding times gradient. Its derivative with respect to the weights
        is the derivative of the loss. The sum is float32, whatever autocast does. Gradients add up in the parameters.

        Args:
            chunks: The chunks that `embed_chunks` was given.
            graphs: The second result of `embed_chunks`; its graphs are freed one by one.
            gradient_CD: Gradient of the loss with respect to the first result of `embed_chunks`.
        """
        replayed = sum(embedding is None for embedding in graphs.kept)
        # Without a kept graph a second attempt would be the same as the first.
        again = replayed < len(chunks)
        if _within_memory(partial(self._send_back, chunks, graphs, gradient_CD), again) is None:
            # A backward pass that failed has added a part of its gradient: all of them are done again.
            self._drop(graphs, len(chunks))
            (self.restart or partial(_forget_gradients, self.parameters))()
            self._send_back(chunks, graphs, gradient_CD)
            replayed = len(chunks)
        return CacheReport(len(chunks) - replayed, replayed)

    def _send_back(self, chunks: Sequence[Chunk], graphs: Graphs, gradient_CD: torch.Tensor) -> bool:
        for i, part_BD in enumerate(gradient_CD.split(graphs.text_counts)):
            embedding_BD = graphs.kept[i]
            if embedding_BD is None:
                graphs.states.restore(i)
                embedding_BD = self.embed(chunks[i])
            # Else the graph would live until the last chunk is done.
            graphs.kept[i] = None
            self.backward((embedding_BD * part_BD).sum())
        # Later draws must not depend on how many chunks were replayed.
        graphs.states.restore(len(chunks))
        return True

    def _drop(self, graphs: Graphs, i: int) -> None:
        """Free all kept graphs and allow fewer from now on; the random state becomes the one before chunk i."""
        used = self.budget.used_bytes
        self.budget.lower()
        graphs.kept[:] = [None] * len(graphs.kept)
        graphs.states.restore(i)
        print(
            f"memory ran out beside {used / 2**30:.2f} GiB of kept graphs: they are dropped and computed again; from "
            f"now on they may fill {self.budget.limit_bytes / 2**30:.2f} GiB",
            file=sys.stderr,
        )
        if self.device.type == "cuda":
            # Cached blocks of the sizes that did not fit are of no use to the next attempt.
            torch.cuda.empty_cache()

    def _embed_once(self, chunk: Chunk) -> torch.Tensor:
        """Embed a chunk, with its graph if the budget admits it."""
        if self.budget.admits(chunk.computed_tokens):
            return self._embed_and_charge(chunk)
        with torch.no_grad():
            return self.embed(chunk)

    def _embed_and_charge(self, chunk: Chunk) -> torch.Tensor:
        """Embed a chunk with its graph; measure the graph if that tells the budget something."""
        saved = SavedBytes(self.parameters) if self.budget.wants(chunk.computed_tokens) else None
        context: AbstractContextManager = saved.hooks if saved is not None else nullcontext()
        with context:
            embedding_BD = self.embed(chunk)
        self.budget.charge(chunk.computed_tokens, saved.total if saved is not None else None)
        return embedding_BD


def _within_memory(compute: Callable[[], Result], again: bool) -> Result | None:
    """Return the result; None if memory ran out and there is to be another attempt.

    A function of its own, so that nothing of the failed attempt lives on.
    """
    try:
        return compute()
    except RuntimeError as error:
        if not again or not is_out_of_memory(error):
            raise
        return None


def _forget_gradients(parameters: Sequence[torch.Tensor]) -> None:
    for parameter in parameters:
        parameter.grad = None


class SavedBytes:
    """Counts the bytes that autograd saves inside `with counter.hooks`: each storage once, parameters left out."""

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        """Start at 0 bytes."""
        self._seen = {parameter.untyped_storage().data_ptr() for parameter in parameters}
        self.total = 0
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        # Views share a storage, which stays whole as long as one of them lives.
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.total += storage.nbytes()
        return tensor


class _GrowingRows:
    """Embeddings of the chunks so far, in one tensor that doubles when it is full.

    A small tensor for each chunk, kept between the large ones of the passes, would fragment the heap: memory would
    grow from step to step.
    """

    def __init__(self) -> None:
        self.counts: list[int] = []
        self._rows_CD: torch.Tensor | None = None

    def add(self, rows_BD: torch.Tensor) -> None:
        begin = sum(self.counts)
        stop = begin + len(rows_BD)
        if self._rows_CD is None or stop > len(self._rows_CD):
            larger_CD = rows_BD.new_empty(2 * stop, rows_BD.shape[1])
            if self._rows_CD is not None:
                larger_CD[:begin] = self._rows_CD[:begin]
            self._rows_CD = larger_CD
        self._rows_CD[begin:stop] = rows_BD
        self.counts.append(len(rows_BD))

    def together(self) -> torch.Tensor:
        """Return all rows in the order in which they came: (C, D)."""
        assert self._rows_CD is not None, "no chunk was embedded"
        return self._rows_CD[: sum(self.counts)]


class _RandomStates:
    """States of the random number generators before each chunk and after the last one, in one tensor a device."""

    def __init__(self, device: torch.device, chunks: int) -> None:
        self._device = device
        self._cpu = torch.get_rng_state().repeat(chunks + 1, 1)
        on_cuda = device.type == "cuda"
        self._cuda = torch.cuda.get_rng_state(device).repeat(chunks + 1, 1) if on_cuda else None

    def save(self, i: int) -> None:
        self._cpu[i] = torch.get_rng_state()
        if self._cuda is not None:
            self._cuda[i] = torch.cuda.get_rng_state(self._device)

    def restore(self, i: int) -> None:
        # set_rng_state ignores the offset of a view and would read the first row: hence the copies.
        torch.set_rng_state(self._cpu[i].clone())
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda[i].clone(), self._device)
