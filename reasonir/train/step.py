"""One training step on one rank: a global batch in, this rank's share of its gradient out.

Invariant: loss and gradient do not depend on how the batch's texts were dealt to ranks, cut into chunks, kept or
replayed. Leaves reduction over ranks and the update to `engine.py`, logging and saving to `loop.py`.
"""

from dataclasses import dataclass

import numpy as np
import torch

from reasonir.model.packing import PackedTexts, token_budget_chunks
from reasonir.model.trunk.linear import rows_to_fill
from reasonir.train.data.batches import BatchPlan
from reasonir.train.gradcache import CacheReport, GraphBudget, backward_through_chunks
from reasonir.train.objectives.infonce import info_nce
from reasonir.train.parallel.cross_device import Deal, deal_texts, gather_documents, text_cost
from reasonir.train.parallel.engine import Engine
from reasonir.train.parallel.ranks import Ranks


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one rank did.

    loss_nats: this rank's share of the mean loss (all ranks' shares add up to it). tokens: of this rank.
    load_spread: how much more than the average rank the busiest one had to do. bad_rows: indices of the batch's rows
    whose loss is not finite, of this rank's queries.
    """

    loss_nats: float
    tokens: int
    load_spread: float
    cache: CacheReport
    bad_rows: list[int]


class TrainingStep:
    """Computes this rank's share of loss and gradient of global batches."""

    def __init__(
        self,
        engine: Engine,
        ranks: Ranks,
        *,
        chunk_tokens: int,
        temperature: float,
        graph_memory_gib: float | None,
        precision: str,
        wire: torch.dtype = torch.float32,
        attention_share: float = 0.0,
    ) -> None:
        """Set up for one engine.

        Args:
            chunk_tokens: of one forward pass.
            graph_memory_gib: None keeps a single graph, to measure it, until `budget.limit_bytes` is set.
            precision: "fp32" or "bf16" (autocast).
            wire: format of embeddings and their gradients between ranks.
            attention_share: weight of the quadratic part of a text's cost, for balance (`attention_share_of`).
        """
        self.engine, self.ranks = engine, ranks
        self.chunk_tokens = chunk_tokens
        self.temperature = temperature
        self.precision = precision
        self.wire = wire
        self.attention_share = attention_share
        # A kept graph is one forward pass less, which sharded engines would have to agree on.
        allowed = 1 if graph_memory_gib is None else int(graph_memory_gib * 2**30)
        self.budget = GraphBudget(0 if engine.lockstep else allowed)

    def deal(self, plan: BatchPlan) -> Deal:
        """Deal the batch's texts to ranks, evenly by cost."""
        costs = [
            text_cost(np.array([len(row) for row in ids]), self.attention_share)
            for ids in (plan.query_ids, plan.document_ids)
        ]
        return deal_texts(costs[0], costs[1], self.ranks.world)

    def __call__(self, plan: BatchPlan, scale: float = 1.0) -> StepResult:
        """Add the gradient of this rank's share of the batch's mean loss, times `scale`.

        Queries and documents go through the encoder together, sorted by length: the loss puts them back in order.
        Collective.
        """
        where, device = f"step {plan.step + 1}", self.ranks.device
        deal = self.deal(plan)
        queries, documents = deal.queries[self.ranks.rank], deal.documents[self.ranks.rank]
        ids = [*(plan.query_ids[i] for i in queries), *(plan.document_ids[i] for i in documents)]
        prefixes = np.concatenate([plan.query_prefixes[queries], plan.document_prefixes[documents]])
        lengths = np.array([len(row) for row in ids])
        chunks = self._chunks(plan, deal, lengths)
        packed = [PackedTexts.of([ids[i] for i in chunk], prefixes[chunk], device) for chunk in chunks]
        # Idle chunks repeat a text at the end; the loss does not look at them.
        original_order = torch.from_numpy(np.argsort(np.concatenate(chunks)[: len(ids)])).to(device)
        positive_index_B = torch.from_numpy(plan.positive_index_B[queries]).to(device)
        ignore_BN = torch.from_numpy(plan.ignore_BN[queries]).to(device)
        weight_B = torch.from_numpy(plan.weights[queries]).to(device)
        total_weight = float(plan.weights.sum())
        losses: list[torch.Tensor] = []

        def embed_chunk(i: int) -> torch.Tensor:
            self.ranks.phase(f"{where}: chunk {i + 1} of {len(packed)}")
            low = self.precision == "bf16"
            # Without its cache: a pass that keeps no graph would hold a bfloat16 copy of all weights to its end.
            with torch.autocast(device.type, torch.bfloat16, enabled=low, cache_enabled=False):
                return self.engine.embed(packed[i])

        def loss(embeddings: torch.Tensor) -> torch.Tensor:
            self.ranks.phase(f"{where}: gathering documents")
            ordered = embeddings[original_order]
            document_ND = gather_documents(ordered[len(queries) :], deal, self.wire)
            query_BD = ordered[: len(queries)]
            per_query = info_nce(query_BD, document_ND, positive_index_B, ignore_BN, self.temperature)
            losses.append(per_query.detach())
            return (per_query * weight_B).sum() * scale / total_weight

        tokens = [int(lengths[chunk].sum()) for chunk in chunks]
        value, report = backward_through_chunks(
            embed_chunk,
            # A graph holds what its stream is filled up with too (in bfloat16 none is: a little too much is counted).
            [count + rows_to_fill(count, torch.float32, device) for count in tokens],
            loss,
            budget=self.budget,
            parameters=list(self.engine.named.values()),
            device=device,
            backward=self.engine.backward,
        )
        bad = torch.nonzero(~torch.isfinite(losses[0])).flatten().tolist()
        return StepResult(float(value), int(lengths.sum()), deal.spread, report, [int(queries[i]) for i in bad])

    def _chunks(self, plan: BatchPlan, deal: Deal, own_lengths: np.ndarray) -> list[np.ndarray]:
        """Cut this rank's texts into chunks; as many as on every other rank where the engine asks for that."""
        chunks = token_budget_chunks(own_lengths, self.chunk_tokens)
        if not self.engine.lockstep:
            return chunks
        counts = []
        for queries, documents in zip(deal.queries, deal.documents, strict=True):
            lengths = [len(plan.query_ids[i]) for i in queries] + [len(plan.document_ids[i]) for i in documents]
            counts.append(len(token_budget_chunks(lengths, self.chunk_tokens)))
        return stretch_chunks(chunks, own_lengths, max(counts))


def stretch_chunks(chunks: list[np.ndarray], lengths: np.ndarray, count: int) -> list[np.ndarray]:
    """Cut chunks further, the largest first, until there are `count`; idle ones repeat the shortest text.

    Returns:
        `count` chunks: the texts in the order they had, then idle chunks of one text each.
    """
    chunks = list(chunks)
    while len(chunks) < count and max(map(len, chunks)) > 1:
        sizes = [lengths[chunk].sum() if len(chunk) > 1 else 0 for chunk in chunks]
        largest = int(np.argmax(sizes))
        chunk = chunks[largest]
        half = int(np.searchsorted(np.cumsum(lengths[chunk]), sizes[largest] / 2)) + 1
        half = min(half, len(chunk) - 1)
        chunks[largest : largest + 1] = [chunk[:half], chunk[half:]]
    idle = np.array([int(np.argmin(lengths))])
    return chunks + [idle] * (count - len(chunks))


def largest_texts(query_max_tokens: int, document_max_tokens: int, chunk_tokens: int, ranks: int) -> BatchPlan:
    """Return a batch that gives every rank the largest chunk there can be: a query and documents of full length."""
    documents = max(1, (chunk_tokens - query_max_tokens) // document_max_tokens)
    ids = [np.full(query_max_tokens, 7, dtype=np.int32)] * ranks
    document_ids = [np.full(document_max_tokens, 7, dtype=np.int32)] * (ranks * documents)
    return BatchPlan(
        step=-1,
        source="largest texts",
        query_ids=ids,
        query_prefixes=np.zeros(ranks, dtype=np.int32),
        document_ids=document_ids,
        document_prefixes=np.zeros(len(document_ids), dtype=np.int32),
        positive_index_B=np.zeros(ranks, dtype=np.int64),
        ignore_BN=np.zeros((ranks, len(document_ids)), dtype=bool),
        weights=np.ones(ranks, dtype=np.float32),
        row_names=["largest texts"] * ranks,
    )
