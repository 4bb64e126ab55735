"""Measures the model while it trains: loss and nDCG@10 on the dev sets, on all ranks together.

Invariants: a measurement changes neither weights nor random numbers. Chunks are cut before they are dealt to ranks, so
that any number of ranks computes the same forward passes; every rank computes as many of them as the others, as a
sharded engine demands. All ranks learn the same two numbers, and so decide alike.

Letters: Q queries and N documents of a set, T texts of all sets, D embedding dimension, W ranks.
"""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist

from reasonir.model.packing import PackedTexts, token_budget_chunks
from reasonir.train.dev.record import DevRecord, add_measurement, is_spent
from reasonir.train.dev.sets import DevSet
from reasonir.train.objectives import Counted, Objective
from reasonir.train.parallel.ranks import Ranks

CUT = 10  # of nDCG@10


class Embedder(Protocol):
    """The part of the training step that embeds; `train.step.TrainingStep` is one."""

    chunk_tokens: int

    def measuring(self) -> AbstractContextManager[None]:
        """Embed without dropout and graphs inside, and leave the random state as it is."""
        ...

    def embed_packed(self, texts: PackedTexts, label: str) -> torch.Tensor:
        """Embed the texts of one pass: float32 (texts, D)."""
        ...


class DevMeasurements:
    """The measurements of a run; without a set there are none."""

    def __init__(
        self,
        sets: Sequence[DevSet],
        ranks: Ranks,
        embedder: Embedder,
        objective: Objective,
        *,
        every_steps: int,
        patience: int,
        keep_best: bool,
    ) -> None:
        """Prepare the measurements.

        Args:
            sets: What is measured on; the result is the mean over them.
            ranks: All ranks of the run.
            embedder: Embeds chunks.
            objective: Loss of each query against all documents of its set.
            every_steps: Steps between measurements.
            patience: Measurements without a better one after which the run ends; 0 never ends it.
            keep_best: Whether the best step is kept and exported.
        """
        self.sets, self.ranks, self.embedder, self.objective = sets, ranks, embedder, objective
        self.every_steps, self.patience, self.keep_best = every_steps, patience, keep_best
        self._begun, self._seconds = time.perf_counter(), 0.0

    def announce(self, total: int) -> None:
        """Say what will be measured, and how often in a run of so many steps."""
        if self.sets and self.ranks.leads:
            times = -(-total // self.every_steps)
            what = ", ".join(dev.describe() for dev in self.sets)
            print(f"dev: every {self.every_steps} steps, {times} times in {total} steps: {what}")

    def due(self, step: int, total: int) -> bool:
        """Return whether to measure after a step (counted from 1); after the last step always."""
        return bool(self.sets) and (step % self.every_steps == 0 or step == total)

    def ends(self, record: DevRecord | None) -> bool:
        """Return whether patience is at its end."""
        return is_spent(record, self.patience)

    def wants_kept(self, record: DevRecord | None, step: int) -> bool:
        """Return whether the step is the best so far, and is to be kept."""
        return self.keep_best and record is not None and record.best_step == step

    def measure(self, step: int, record: DevRecord | None, row: dict[str, Any]) -> DevRecord:
        """Measure the model as it is. Collective.

        Args:
            step: Steps done.
            record: Of the measurements before.
            row: Of metrics.jsonl; gets the columns `dev/...`.
        """
        begun, label = time.perf_counter(), f"dev after step {step}"
        embedding_TD = self._embed(label)
        self.ranks.phase(f"{label}: scoring")
        # One rank scores: a sum of its numbers and of zeros is how the others learn them.
        found = self._score(embedding_TD) if self.ranks.leads else (0.0, 0.0)
        loss, ndcg = self.ranks.sum(found)
        seconds = time.perf_counter() - begun
        self._seconds += seconds
        row |= {"dev/loss_nats": loss, "dev/ndcg_at_10": ndcg, "dev/seconds": round(seconds, 4)}
        record = add_measurement(record, step, ndcg)
        if self.ranks.leads:
            older = f"{record.best_ndcg_at_10:.4f} after step {record.best_step} was better or equal"
            place = "the best so far" if record.best_step == step else older
            share = self._seconds / (time.perf_counter() - self._begun)
            cost = f"{seconds:.1f} s, {share:.0%} of the time so far"
            print(f"step {step}: dev loss {loss:.4f} nats, nDCG@10 {ndcg:.4f} ({place}); {cost}")
        return record

    def _embed(self, label: str) -> torch.Tensor:
        """Embed the texts of all sets, (T, D), on every rank. Collective."""
        texts = [text for dev in self.sets for text in dev.texts]
        chunks = token_budget_chunks([len(text.ids) for text in texts], self.embedder.chunk_tokens)
        device, world = self.ranks.device, self.ranks.world
        own = chunks[self.ranks.rank :: world]
        # A rank with a chunk less computes the last one too, which is the shortest, and throws it away.
        idle = -(-len(chunks) // world) - len(own)
        rows_TD: torch.Tensor | None = None
        with self.embedder.measuring():
            for number, chosen in enumerate([*own, *[chunks[-1]] * idle]):
                packed = PackedTexts.of(
                    [texts[i].ids for i in chosen], [texts[i].prefix_tokens for i in chosen], device
                )
                embedding_BD = self.embedder.embed_packed(packed, f"{label}: pass {number + 1}")
                if rows_TD is None:
                    rows_TD = embedding_BD.new_zeros(len(texts), embedding_BD.shape[1])
                if number < len(own):
                    rows_TD[torch.from_numpy(chosen).to(device)] = embedding_BD
        assert rows_TD is not None, "a set has texts"
        self.ranks.phase(f"{label}: gathering")
        if world > 1:
            # Each row is zero but on one rank, so the sum is exact.
            dist.all_reduce(rows_TD)
        return rows_TD

    def _score(self, embedding_TD: torch.Tensor) -> tuple[float, float]:
        """Return loss and nDCG@10, each the mean over the sets."""
        scores = []
        for dev, embedding in zip(self.sets, embedding_TD.split([len(dev.texts) for dev in self.sets]), strict=True):
            query_QD, document_ND = embedding.split([len(dev.queries), len(dev.documents)])
            scores.append((dev_loss(dev, query_QD, document_ND, self.objective), dev_ndcg(dev, query_QD, document_ND)))
        loss, ndcg = np.mean(scores, axis=0)
        return float(loss), float(ndcg)


def dev_loss(dev: DevSet, query_QD: torch.Tensor, document_ND: torch.Tensor, objective: Objective) -> float:
    """Return the mean loss of the queries against all documents of their set.

    A query's positive is the first of its relevant documents of the highest grade. Its other relevant documents and
    those that are excluded are no negatives.

    Args:
        dev: The set.
        query_QD: Embeddings of its queries.
        document_ND: Embeddings of its documents.
        objective: Loss of each query.
    """
    positive_Q = np.array([max(sorted(gold), key=lambda place: gold[place]) for gold in dev.gold])
    ignore_QN = np.zeros((len(dev.queries), len(dev.documents)), dtype=bool)
    for i, (gold, excluded) in enumerate(zip(dev.gold, dev.excluded, strict=True)):
        ignore_QN[i, [*gold, *excluded]] = True
    ignore_QN[np.arange(len(positive_Q)), positive_Q] = False
    device = query_QD.device
    labels = (torch.from_numpy(positive_Q).to(device), torch.from_numpy(ignore_QN).to(device))
    with torch.no_grad():
        loss_Q = Counted.of(objective(query_QD, document_ND, *labels)).loss_B
    return float(loss_Q.double().mean())


def dev_ndcg(dev: DevSet, query_QD: torch.Tensor, document_ND: torch.Tensor) -> float:
    """Return trec_eval's nDCG@10 of an exact search.

    Args:
        dev: The set.
        query_QD: Embeddings of its queries.
        document_ND: Embeddings of its documents.
    """
    # Here, because a run without a dev set starts without them.
    from reasonir.retrieval.metrics import score_run
    from reasonir.retrieval.top_k import as_run, exact_top_k

    arrays = (query_QD.cpu().numpy(), document_ND.cpu().numpy())
    ids = dev.document_ids
    found = exact_top_k(*arrays, CUT, dev.excluded, ids=ids, device=query_QD.device)
    names = [str(i) for i in range(len(dev.queries))]
    judged = ({ids[place]: grade for place, grade in gold.items()} for gold in dev.gold)
    qrels = dict(zip(names, judged, strict=True))
    return score_run(as_run(names, ids, *found), qrels).mean["ndcg_at_10"]
