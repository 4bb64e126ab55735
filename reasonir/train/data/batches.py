"""Which rows a step trains on: mixing sources, shuffling, and the batch with its known answers.

Invariant: the batch of a step is a pure function of (sources, weights, batch size, seed, step). There is no state, so
prefetching does not change the order and a resumed run jumps to any step.

Letters: B queries of a global batch, N distinct documents of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reasonir.core.errors import UserError
from reasonir.core.stamp import digest_of
from reasonir.train.data.token_store import TokenStore

# Numbers of random streams: two uses of one seed must not share their draws.
SHUFFLE, SCHEDULE, CHOICE, INSTRUCTION = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class GlobalBatch:
    """A global batch of one source. Documents are distinct texts; several queries may share a document.

    query_ids, document_ids: token ids, int32 arrays. *_prefixes: leading tokens that are not pooled.
    positive_index_B: column of each query's positive. ignore_BN: True at documents that must not count as negatives of
    the query. weights: float32 (B). row_names: "file:line" of each row, for messages.
    """

    step: int
    source: str
    query_ids: list[np.ndarray]
    query_prefixes: np.ndarray
    document_ids: list[np.ndarray]
    document_prefixes: np.ndarray
    positive_index_B: np.ndarray
    ignore_BN: np.ndarray
    weights: np.ndarray
    row_names: list[str]


class MixedBatches:
    """Global batches over several sources, each batch from one source.

    A source's rows form an endless sequence of shuffles, one an epoch. Its batch j covers rows [jB, (j+1)B) of the
    sequence, so the rows that an epoch leaves over open the next batch. Sources take turns by due times: batch j of a
    source with share p is due at (j + u) / p, with u uniform in [0, 1) drawn from (seed, source, j). Steps follow the
    order of due times. After any number of steps each source therefore has its share to within a batch or two.
    """

    def __init__(
        self,
        stores: list[TokenStore],
        weights: list[float] | None,
        global_batch_queries: int,
        negatives_per_query: int,
        seed: int,
        *,
        batch_sizes: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Mix sources.

        Args:
            stores: Tokens of the sources.
            weights: Share of the batches of each source, any scale; None draws all rows once an epoch.
            global_batch_queries: B.
            negatives_per_query: Hard negatives drawn for each query, if its row has as many.
            seed: Of the order.
            batch_sizes: B and hard negatives of each source; nothing is the two above for all.
        """
        if weights is not None and (len(weights) != len(stores) or min(weights) < 0 or not 0 < sum(weights) < np.inf):
            raise UserError(f"data.weights={weights} must be {len(stores)} finite numbers, not negative, not all zero")
        if global_batch_queries < 1:
            raise UserError(f"global_batch_queries={global_batch_queries} must be positive")
        self.stores = stores
        self.batch_queries = global_batch_queries
        self.negatives_per_query = negatives_per_query
        self.seed = seed
        pairs = batch_sizes or [(global_batch_queries, negatives_per_query)] * len(stores)
        self.sizes, self.negatives = ([pair[side] for pair in pairs] for side in (0, 1))
        self.shares = batch_shares([store.rows for store in stores], weights, self.sizes, global_batch_queries)
        self._schedule = np.empty((0, 2), dtype=np.int64)
        self._permutations: dict[tuple[int, int], np.ndarray] = {}

    @property
    def rows(self) -> int:
        """Rows of all sources."""
        return sum(store.rows for store in self.stores)

    @property
    def steps_per_epoch(self) -> float:
        """Steps that hold as many rows as there are."""
        return self.rows / self.average_queries

    @property
    def average_queries(self) -> float:
        """Queries of a batch, on average over many."""
        return average_queries(self.shares, self.sizes, self.batch_queries)

    @property
    def fingerprint(self) -> str:
        """Hash of everything that the sequence of batches depends on."""
        parts = [*(store.key for store in self.stores), self.shares.tolist(), self.batch_queries]
        # Where no source has numbers of its own, the hash is that of older checkpoints.
        usual = {*self.sizes} == {self.batch_queries} and {*self.negatives} == {self.negatives_per_query}
        own = [] if usual else [self.sizes, self.negatives]
        return digest_of([repr([*parts, self.negatives_per_query, self.seed, *own])])

    @property
    def common_query_instruction(self) -> str:
        """The one instruction of all queries of all sources; "" where they differ."""
        found = {store.meta["query_instruction"] for store in self.stores}
        return found.pop() or "" if len(found) == 1 else ""

    def source_of(self, step: int) -> tuple[int, int]:
        """Return the source of a step counted from 0, and how many batches the source gave before."""
        if step >= len(self._schedule):
            self._schedule = self._plan_schedule(max(1_024, 2 * (step + 1)))
        source, batch = self._schedule[step]
        return int(source), int(batch)

    def _plan_schedule(self, steps: int) -> np.ndarray:
        """Return (source, batch) of at least `steps` steps in the order of due times."""
        # Shares sum to 1, so about `horizon` batches are due by then; each source may lag by less than one.
        horizon = steps + len(self.stores)
        stamps, events = [], []
        for source, share in enumerate(self.shares):
            count = int(np.ceil(horizon * share)) + 1 if share > 0 else 0
            # More draws begin with the same ones, so that a longer plan begins with the shorter one.
            draws = self._generator(SCHEDULE, source, 0).random(count)
            due = (np.arange(count) + draws) / max(share, 1e-300)
            stamps.append(due)
            events.append(np.stack([np.full(count, source), np.arange(count)], axis=1))
        times, pairs = np.concatenate(stamps), np.concatenate(events)
        # Equal times go to the source that comes first. Batches due after the horizon may still be overtaken.
        order = np.lexsort((pairs[:, 0], times))
        return pairs[order][: np.searchsorted(times[order], horizon)]

    def _generator(self, stream: int, source: int, number: int) -> np.random.Generator:
        # Named, because numpy may change what default_rng draws from.
        return np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, stream, source, number))))

    def rows_of(self, step: int) -> tuple[int, np.ndarray, np.ndarray]:
        """Return (source, row indices (B,), the epoch each row is in (B,)) of a step."""
        source, batch = self.source_of(step)
        size = self.stores[source].rows
        # Rows of the source's endless sequence; a batch may reach over the end of an epoch.
        positions = np.arange(batch * self.sizes[source], (batch + 1) * self.sizes[source])
        epochs = positions // size
        rows = np.empty(len(positions), dtype=np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            rows[chosen] = self._permutation(source, int(epoch))[positions[chosen] % size]
        return source, rows, epochs

    def _permutation(self, source: int, epoch: int) -> np.ndarray:
        key = (source, epoch)
        if key not in self._permutations:
            # A batch may touch two epochs of a source, and jumps back are rare.
            if len(self._permutations) > 2 * len(self.stores) + 2:
                self._permutations.pop(next(iter(self._permutations)), None)
            shuffled = self._generator(SHUFFLE, source, epoch).permutation(self.stores[source].rows)
            self._permutations[key] = shuffled
        return self._permutations[key]

    def batch(self, step: int) -> GlobalBatch:
        """Return the global batch of a step counted from 0."""
        source, rows, epochs = self.rows_of(step)
        store = self.stores[source]
        # 1 one positive and some hard negatives of each row
        positives = np.array(
            [self._rotated(source, store.listed("positive", r), r, e, 1)[0] for r, e in zip(rows, epochs, strict=True)]
        )
        negatives = [
            self._rotated(source, store.listed("negative", r), r, e, self.negatives[source])
            for r, e in zip(rows, epochs, strict=True)
        ]
        # 2 a document of several rows is embedded once: as two columns it would be its own negative
        documents, columns = np.unique(np.concatenate([positives, *negatives]), return_inverse=True)
        # 3 tokens and labels
        queries = self._queries(source, rows, epochs)
        prefixes, lines = store.arrays["prefix_tokens"], store.arrays["lines"]
        positive_index = columns[: len(rows)].astype(np.int64)
        return GlobalBatch(
            step=step,
            source=store.path,
            query_ids=[store.text_ids(text) for text in queries],
            query_prefixes=prefixes[queries],
            document_ids=[store.text_ids(text) for text in documents],
            document_prefixes=prefixes[documents],
            positive_index_B=positive_index,
            ignore_BN=_known_answers(store, rows, queries, documents, positive_index),
            weights=store.arrays["weights"][rows],
            row_names=[f"{store.path}:{line}" for line in lines[rows]],
        )

    def require_weight(self, steps: range) -> None:
        """Refuse a run in which a batch has rows of weight 0 only: its loss would be 0 / 0.

        Raises:
            UserError: Names the first such step and its source.
        """
        # Sources of which a batch can be without weight: few have a row of weight 0 at all.
        doubtful = {i for i, store in enumerate(self.stores) if not store.arrays["weights"].all()}
        for step in steps if doubtful else ():
            if self.source_of(step)[0] in doubtful:
                source, rows, _ = self.rows_of(step)
                if not self.stores[source].arrays["weights"][rows].any():
                    raise UserError(
                        f"{self.stores[source].path}: all {len(rows)} rows of step {step + 1} have weight 0, so it has "
                        "no loss; remove rows of weight 0, or raise global_batch_queries"
                    )

    def _queries(self, source: int, rows: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        """Return the query texts of some rows, (B,): of several instructions each row takes one, the next an epoch."""
        asked = self.stores[source].arrays["row_query"][rows]
        if asked.ndim == 1:
            return asked
        drawn = zip(asked, rows, epochs, strict=True)
        return np.array([self._rotated(source, texts, r, e, 1, INSTRUCTION)[0] for texts, r, e in drawn])

    def _rotated(
        self, source: int, listed: np.ndarray, row: int, epoch: int, count: int, stream: int = CHOICE
    ) -> np.ndarray:
        """Return `count` entries of a list, or all if it has fewer; each epoch takes the next ones, all in turn."""
        if len(listed) <= count:
            return listed
        # A start of its own for each row, else all rows would begin with the first of their lists.
        mixed = np.random.SeedSequence((self.seed, stream, source, int(row))).generate_state(1)[0]
        start = int(mixed) + int(epoch) * count
        return listed[(start + np.arange(count)) % len(listed)]

    def epoch_report(self, steps_done: int) -> list[dict[str, Any]]:
        """Return what `steps_done` steps used of every source, and what they left out."""
        report = []
        # Counted from the schedule: nothing has to be stored in checkpoints.
        used = np.array([self.source_of(step)[0] for step in range(steps_done)], dtype=np.int64)
        for source, store in enumerate(self.stores):
            batches = int((used == source).sum())
            drawn = batches * self.sizes[source]
            report.append(
                {
                    "path": store.path,
                    "rows": store.rows,
                    "rows_left_out": store.left_out,
                    "rows_unusable": store.unusable,
                    "batches": batches,
                    "rows_drawn": drawn,
                    "epochs": round(drawn / store.rows, 4),
                    "rows_never_drawn": max(0, store.rows - drawn),
                    "truncated_queries": store.truncated_queries,
                    "truncated_documents": store.truncated_documents,
                }
            )
        return report


def batch_shares(
    rows: Sequence[int], weights: Sequence[float] | None, sizes: Sequence[int], usual_size: int
) -> np.ndarray:
    """Return each source's share of the batches.

    Args:
        rows: Of each source.
        weights: Shares of any scale; None draws every row once an epoch.
        sizes: Queries of each source's batches.
        usual_size: Queries of a batch of the run.
    """
    # A factor of exactly 1 where sizes are usual: the shares are those of the rows to the last bit.
    parts = weights if weights is not None else [n * (usual_size / size) for n, size in zip(rows, sizes, strict=True)]
    shares = np.array(parts, dtype=np.float64)
    return shares / shares.sum()


def average_queries(shares: np.ndarray, sizes: Sequence[int], usual_size: int) -> float:
    """Return the queries of a batch, on average over many; exactly the usual size where all batches have it.

    Args:
        shares: Of the batches, by source; they sum to 1.
        sizes: Queries of each source's batches.
        usual_size: Of a source without a size of its own.
    """
    return usual_size + float(shares @ (np.array(sizes) - usual_size))


def _known_answers(
    store: TokenStore, rows: np.ndarray, queries: np.ndarray, documents: np.ndarray, positive_index: np.ndarray
) -> np.ndarray:
    """Mark the documents of a batch that answer a query, other than its chosen positive.

    A document answers a query if its text equals a positive of the query's row, or of any other row of the batch with
    the same query text. Instructions do not count.

    Args:
        store: The batch's source.
        rows: Row of each query, (B,).
        queries: Text index of each query, (B,).
        documents: Text index of each document, (N,).
        positive_index: Column of each query's positive, (B,).
    Returns:
        bool (B, N), False at each query's positive.
    """
    # By text, not by text index: a text with another instruction has another index and the same answer.
    hashes = store.arrays["text_hashes"]
    columns: dict[int, list[int]] = {}
    for column, text_hash in enumerate(hashes[documents].tolist()):
        columns.setdefault(text_hash, []).append(column)
    answers: dict[int, set[int]] = {}
    for row, question in zip(rows, hashes[queries].tolist(), strict=True):
        answers.setdefault(question, set()).update(hashes[store.listed("positive", row)].tolist())
    ignore = np.zeros((len(rows), len(documents)), dtype=bool)
    for i, question in enumerate(hashes[queries].tolist()):
        for text_hash in answers[question]:
            ignore[i, columns.get(text_hash, [])] = True
    # Last, because the chosen positive is among the answers that were marked.
    ignore[np.arange(len(rows)), positive_index] = False
    return ignore
