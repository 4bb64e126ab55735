"""One training step: a batch plan in, gradients on the parameters out.

Invariant: loss and gradient do not depend on how the batch's texts were cut into chunks, kept or replayed.
Leaves the optimizer, logging and saving to `loop.py`.
"""

from dataclasses import dataclass

import numpy as np
import torch

from reasonir.model.encoder import Encoder, PackedTexts, token_budget_chunks
from reasonir.train.data import BatchPlan
from reasonir.train.gradcache import CacheReport, GraphBudget, backward_through_chunks
from reasonir.train.loss import info_nce


@dataclass(frozen=True, slots=True)
class StepResult:
    """loss_nats: mean over queries. bad_rows: indices of the batch's rows whose loss or embeddings are not finite."""

    loss_nats: float
    tokens: int
    cache: CacheReport
    bad_rows: list[int]


class TrainingStep:
    """Computes loss and gradient of global batches with one encoder."""

    def __init__(
        self, encoder: Encoder, *, chunk_tokens: int, temperature: float, graph_memory_gib: float, precision: str
    ) -> None:
        self.encoder = encoder
        self.chunk_tokens = chunk_tokens
        self.temperature = temperature
        self.precision = precision
        self.budget = GraphBudget(int(graph_memory_gib * 2**30))

    def __call__(self, plan: BatchPlan) -> StepResult:
        """Add the gradient of the batch's mean loss to the parameters' gradients.

        Queries and documents go through the encoder together, sorted by length: the loss puts them back in order.
        """
        queries = len(plan.query_ids)
        ids = [*plan.query_ids, *plan.document_ids]
        prefixes = np.concatenate([plan.query_prefixes, plan.document_prefixes])
        lengths = np.array([len(row) for row in ids])
        chunks = token_budget_chunks(lengths, self.chunk_tokens)
        device = self.encoder.device
        packed = [PackedTexts.of([ids[i] for i in chunk], prefixes[chunk], device) for chunk in chunks]
        original_order = torch.from_numpy(np.argsort(np.concatenate(chunks))).to(device)
        positive_index_B = torch.from_numpy(plan.positive_index_B).to(device)
        ignore_BN = torch.from_numpy(plan.ignore_BN).to(device)
        weight_B = torch.from_numpy(plan.weights).to(device)
        losses: list[torch.Tensor] = []

        def embed_chunk(i: int) -> torch.Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                return self.encoder(packed[i])

        def loss(embeddings: torch.Tensor) -> torch.Tensor:
            ordered = embeddings[original_order]
            per_query = info_nce(ordered[:queries], ordered[queries:], positive_index_B, ignore_BN, self.temperature)
            losses.append(per_query.detach())
            return (per_query * weight_B).sum() / weight_B.sum()

        value, report = backward_through_chunks(
            embed_chunk,
            [int(lengths[chunk].sum()) for chunk in chunks],
            loss,
            budget=self.budget,
            parameters=list(self.encoder.parameters()),
            device=device,
        )
        bad = torch.nonzero(~torch.isfinite(losses[0])).flatten().tolist()
        return StepResult(float(value), int(lengths.sum()), report, bad)
