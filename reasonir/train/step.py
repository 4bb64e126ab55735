"""One training step on one rank: a global batch in, this rank's share of loss and gradient out.

`TrainingStep.__call__` reads as a paper would print it; `gradcache.py` holds the mechanism of steps 1 and 3.
Invariant: loss and gradient do not depend on how the batch's texts are assigned to ranks, cut into chunks, kept or
replayed. Reduction over ranks and the update are the engine's.

Letters: B queries and N documents of the global batch, Q queries and M documents of this rank, C texts of this rank's
chunks (its queries, its documents, and repeated texts in idle chunks), D embedding dimension.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from reasonir.model.packing import PackedTexts, token_budget_chunks
from reasonir.train.data.batches import GlobalBatch
from reasonir.train.gradcache import CacheReport, GradCache, GraphBudget
from reasonir.train.objectives import Counted, Objective
from reasonir.train.parallel.cross_device import Assignment, assign_texts, gather_documents, text_cost
from reasonir.train.parallel.engine import Engine
from reasonir.train.parallel.ranks import Ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one rank does of a global batch.

    label: "step 3", for the watchdog. queries: indices of this rank's queries in the batch, ascending. token_ids,
    prefix_tokens: of this rank's queries and documents together, longest text first. original_order: places of the
    queries, then of the documents, in that order. chunk_count: chunks that the engine asks for; None leaves it open.
    positive_index_Q, ignore_QN, weight_Q: of this rank's queries. total_weight: of the whole batch.
    """

    label: str
    assignment: Assignment
    queries: np.ndarray
    token_ids: list[np.ndarray]
    prefix_tokens: np.ndarray
    original_order: torch.Tensor
    chunk_count: int | None
    positive_index_Q: torch.Tensor
    ignore_QN: torch.Tensor
    weight_Q: torch.Tensor
    total_weight: float

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text."""
        return np.array([len(ids) for ids in self.token_ids])

    def mean_loss(self, loss_Q: torch.Tensor) -> torch.Tensor:
        """Return this rank's part of the weighted mean over the batch; the parts of all ranks add up to the mean."""
        return (loss_Q * self.weight_Q).sum() / self.total_weight


@dataclass(frozen=True, slots=True)
class Chunk:
    """The texts of one forward pass. label: what the watchdog calls the pass, such as "step 3: chunk 1 of 7"."""

    texts: PackedTexts
    label: str

    @property
    def computed_tokens(self) -> int:
        """Tokens that the pass computes."""
        return self.texts.computed_tokens

    @property
    def padded_tokens(self) -> int:
        """Tokens with every text as long as the longest."""
        lengths = self.texts.segments.lengths
        return len(lengths) * max(lengths)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one rank did.

    loss_nats: this rank's share of the mean loss; the shares of all ranks add up to it. tokens: of this rank.
    load_spread: how much more work the busiest rank had than the average one. bad_rows: indices of the batch's rows
    whose loss is not finite, among this rank's queries. real_fraction: of what was computed; the rest was padding.
    counts: what the objective counted on this rank.
    """

    loss_nats: float
    tokens: int
    load_spread: float
    cache: CacheReport
    bad_rows: list[int]
    real_fraction: float = 1.0
    counts: Mapping[str, float] = field(default_factory=dict)


class TrainingStep:
    """Computes this rank's share of loss and gradient of global batches."""

    def __init__(
        self,
        engine: Engine,
        ranks: Ranks,
        objective: Objective,
        *,
        chunk_tokens: int,
        graph_memory_gib: float | None,
        precision: str,
        communication_dtype: torch.dtype = torch.float32,
        attention_share: float = 0.0,
        padded: bool = False,
    ) -> None:
        """Set up for one engine.

        Args:
            engine: Embeds chunks and owns the gradients.
            ranks: All ranks of the run.
            objective: Loss of each query (see `reasonir.train.objectives`).
            chunk_tokens: Tokens of one forward pass.
            graph_memory_gib: Memory for kept graphs, GiB. None keeps a single graph, to measure it, until
                `budget.limit_bytes` is set.
            precision: "fp32" or "bf16" (autocast).
            communication_dtype: Format of embeddings and their gradients between ranks.
            attention_share: Weight of the quadratic part of a text's cost, for balance (`attention_share_of`).
            padded: Whether the trunk pads a chunk to its longest text.
        """
        self.engine, self.ranks, self.objective = engine, ranks, objective
        self.chunk_tokens = chunk_tokens
        self.precision = precision
        self.communication_dtype = communication_dtype
        self.attention_share = attention_share
        self.padded = padded
        # A kept graph saves a forward pass, and the ranks of a sharded engine must all run the same number of them.
        allowed = 1 if graph_memory_gib is None else int(graph_memory_gib * 2**30)
        # On a GPU, and of a sharded model, a bfloat16 copy of all weights would take memory that others need.
        self.casts_once = precision == "bf16" and ranks.device.type == "cpu" and not engine.lockstep
        self.budget = GraphBudget(0 if engine.lockstep else allowed, shared_copies=self.casts_once)
        self.cache = GradCache(
            embed=self.embed,
            budget=self.budget,
            parameters=engine.parameters,
            device=ranks.device,
            backward=engine.backward,
            restart=engine.restart,
        )

    def __call__(self, batch: GlobalBatch, scale: float = 1.0) -> StepResult:
        """Add the gradient of this rank's share of the batch's mean loss to the weights' gradients.

        Collective.

        Args:
            batch: The same on all ranks.
            scale: Multiplies the gradient.
        """
        share = self.share_of(batch)  # this rank's texts
        chunks = self.pack(share)  # by token budget, longest first
        with torch.autocast(self.ranks.device.type, enabled=False):  # casts of weights live as long as this
            embeddings_CD, graphs = self.cache.embed_chunks(chunks)  # 1 without graphs, kept where memory allows
            found, gradient_CD = self.loss_and_gradient(embeddings_CD, share, scale)  # 2 gather, objective
            report = self.cache.replay(chunks, graphs, gradient_CD)  # 3 with graphs, backward
        # Only now: reading numbers waits for the device.
        loss_Q, counts = found.loss_B, {name: float(count) for name, count in found.counts.items()}
        bad_rows = share.queries[~torch.isfinite(loss_Q).cpu().numpy()].tolist()
        tokens, spread = int(share.lengths.sum()), share.assignment.spread
        real = tokens / sum(chunk.padded_tokens for chunk in chunks) if self.padded else 1.0
        return StepResult(float(share.mean_loss(loss_Q)), tokens, spread, report, bad_rows, real, counts)

    def share_of(self, batch: GlobalBatch) -> Share:
        """Return this rank's texts of a batch, longest first, and the labels of its queries."""
        lengths = [np.array([len(ids) for ids in texts]) for texts in (batch.query_ids, batch.document_ids)]
        costs = [text_cost(tokens, self.attention_share) for tokens in lengths]
        assignment = assign_texts(costs[0], costs[1], self.ranks.world)
        queries, documents = assignment.queries[self.ranks.rank], assignment.documents[self.ranks.rank]
        token_ids = [*(batch.query_ids[i] for i in queries), *(batch.document_ids[i] for i in documents)]
        prefix_tokens = np.concatenate([batch.query_prefixes[queries], batch.document_prefixes[documents]])
        # The order of `token_budget_chunks`: chunks of this list are its consecutive runs.
        order = np.argsort([-len(ids) for ids in token_ids], kind="stable")
        device = self.ranks.device
        return Share(
            label=f"step {batch.step + 1}",
            assignment=assignment,
            queries=queries,
            token_ids=[token_ids[i] for i in order],
            prefix_tokens=prefix_tokens[order],
            original_order=torch.from_numpy(np.argsort(order)).to(device),
            # A sharded engine gathers weights in every pass: a rank with fewer passes would leave the others waiting.
            chunk_count=self._chunks_of_every_rank(assignment, *lengths) if self.engine.lockstep else None,
            positive_index_Q=torch.from_numpy(batch.positive_index_B[queries]).to(device),
            ignore_QN=torch.from_numpy(batch.ignore_BN[queries]).to(device),
            weight_Q=torch.from_numpy(batch.weights[queries]).to(device),
            total_weight=float(batch.weights.sum()),
        )

    def _chunks_of_every_rank(self, assignment: Assignment, queries: np.ndarray, documents: np.ndarray) -> int:
        """Return the chunks of the rank that has most; every rank computes it from the lengths, without a message."""
        pairs = zip(assignment.queries, assignment.documents, strict=True)
        own = [np.concatenate([queries[q], documents[d]]) for q, d in pairs]
        return max(len(token_budget_chunks(lengths, self.chunk_tokens)) for lengths in own)

    def pack(self, share: Share) -> list[Chunk]:
        """Cut this rank's texts into chunks, as many as on every other rank if the engine asks for that."""
        lengths = share.lengths
        indices = token_budget_chunks(lengths, self.chunk_tokens)
        if share.chunk_count is not None:
            indices = stretch_chunks(indices, lengths, share.chunk_count)
        return [
            Chunk(
                PackedTexts.of([share.token_ids[i] for i in chosen], share.prefix_tokens[chosen], self.ranks.device),
                f"{share.label}: chunk {number} of {len(indices)}",
            )
            for number, chosen in enumerate(indices, start=1)
        ]

    def embed(self, chunk: Chunk) -> torch.Tensor:
        """Embed one chunk: float32 (texts, D)."""
        self.ranks.phase(chunk.label)
        device, low = self.ranks.device.type, self.precision == "bf16"
        with torch.autocast(device, torch.bfloat16, enabled=low, cache_enabled=self.casts_once):
            return self.engine.embed(chunk.texts)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Let `embed` compute as the finished model does, without dropout and graphs; random numbers stay."""
        model, on_cuda = self.engine.embed, self.ranks.device.type == "cuda"
        model.eval()
        with (
            torch.random.fork_rng([self.ranks.device] if on_cuda else []),
            torch.no_grad(),
            torch.autocast(self.ranks.device.type, enabled=False),  # casts of weights live as long as this
        ):
            yield
        model.train()

    def embed_packed(self, texts: PackedTexts, label: str) -> torch.Tensor:
        """Embed the texts of one pass: float32 (texts, D). `label` is what the watchdog calls it."""
        return self.embed(Chunk(texts, label))

    def loss_and_gradient(
        self, embeddings_CD: torch.Tensor, share: Share, scale: float = 1.0
    ) -> tuple[Counted, torch.Tensor]:
        """Gather the documents of all ranks and score this rank's queries against them (step 2 of GradCache).

        Collective.

        Args:
            embeddings_CD: Of the share's texts in its order, then of idle chunks.
            share: This rank's labels and weights.
            scale: Multiplies the gradient.
        Returns:
            The loss of each query, nats, (Q,), with what the objective counted, and the gradient of this rank's share
            of the mean loss, (C, D).
        """
        self.ranks.phase(f"{share.label}: gathering documents")
        # Rows of idle chunks stand behind the others. Nothing picks them, so their gradient is 0.
        ordered_CD = embeddings_CD[share.original_order]
        query_QD, document_MD = ordered_CD[: len(share.queries)], ordered_CD[len(share.queries) :]
        document_ND = gather_documents(document_MD, share.assignment, self.communication_dtype)
        found = Counted.of(self.objective(query_QD, document_ND, share.positive_index_Q, share.ignore_QN))
        (gradient_CD,) = torch.autograd.grad(share.mean_loss(found.loss_B) * scale, embeddings_CD)
        return Counted(found.loss_B.detach(), found.counts), gradient_CD


def stretch_chunks(chunks: list[np.ndarray], lengths: np.ndarray, count: int) -> list[np.ndarray]:
    """Cut chunks further, the largest first, until there are `count`. Idle chunks repeat the shortest text.

    Args:
        chunks: Indices of texts.
        lengths: Tokens of each text.
        count: At least as many as there are chunks.
    Returns:
        `count` chunks: the texts in the order they had, then idle chunks of one text each.
    """
    chunks = list(chunks)
    while len(chunks) < count and max(map(len, chunks)) > 1:
        # A chunk of one text cannot be cut, and so never is the largest.
        sizes = [lengths[chunk].sum() if len(chunk) > 1 else 0 for chunk in chunks]
        largest = int(np.argmax(sizes))
        chunk = chunks[largest]
        half = int(np.searchsorted(np.cumsum(lengths[chunk]), sizes[largest] / 2)) + 1
        # The second part must not be empty.
        half = min(half, len(chunk) - 1)
        chunks[largest : largest + 1] = [chunk[:half], chunk[half:]]
    idle = np.array([int(np.argmin(lengths))])
    return chunks + [idle] * (count - len(chunks))


def largest_batch(query_max_tokens: int, document_max_tokens: int, chunk_tokens: int, ranks: int) -> GlobalBatch:
    """Return a batch that gives every rank the largest chunk there can be: full, with the longest text in it.

    Args:
        query_max_tokens: Most tokens of a query; one query a rank.
        document_max_tokens: Most tokens of a document.
        chunk_tokens: Tokens of one forward pass.
        ranks: Ranks of the run.
    """
    lengths = _brim(query_max_tokens, document_max_tokens, chunk_tokens)
    # Any token id does: 7 stands in every vocabulary.
    document_ids = [np.full(length, 7, dtype=np.int32) for length in lengths[1:] for _ in range(ranks)]
    return GlobalBatch(
        step=-1,
        source="largest texts",
        query_ids=[np.full(lengths[0], 7, dtype=np.int32)] * ranks,
        query_prefixes=np.zeros(ranks, dtype=np.int32),
        document_ids=document_ids,
        document_prefixes=np.zeros(len(document_ids), dtype=np.int32),
        positive_index_B=np.zeros(ranks, dtype=np.int64),
        ignore_BN=np.zeros((ranks, len(document_ids)), dtype=bool),
        weights=np.ones(ranks, dtype=np.float32),
        row_names=["largest texts"] * ranks,
    )


def _brim(query_max_tokens: int, document_max_tokens: int, chunk_tokens: int) -> list[int]:
    """Return tokens of one query and of documents that fill a chunk, as many texts of full length as fit."""
    room = max(chunk_tokens, query_max_tokens, document_max_tokens)
    # The longer kind first, so that the chunk holds the longest text there is.
    if query_max_tokens >= document_max_tokens:
        query, documents = query_max_tokens, []
    else:
        documents = [document_max_tokens] * (room // document_max_tokens)
        query = min(query_max_tokens, room - sum(documents))
    rest = room - query - sum(documents)
    documents += [document_max_tokens] * (rest // document_max_tokens)
    if rest % document_max_tokens:
        documents.append(rest % document_max_tokens)
    # A step needs one of each: where a single text fills the chunk, the other has a token and a chunk of its own.
    return [query or 1, *(documents or [1])]
