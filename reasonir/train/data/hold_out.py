"""Rows that are held out of the training data, to measure on.

Invariants: a query is held out or trained on, never both, in whichever sources and rows it stands. A row that is
trained on shares no positive with a held-out row; both are compared by text, without the instruction. Hard negatives
may be shared: a retriever meets the documents of its corpus in training too. The choice depends on (texts, share, most,
seed) alone.
"""

from dataclasses import dataclass

import numpy as np

from reasonir.core.errors import UserError
from reasonir.train.data.token_store import TokenStore

# Number of the random stream; `batches.py` has the others.
HOLD_OUT = 4


@dataclass(frozen=True, slots=True)
class Split:
    """The sources, each with its rows that are trained on and those that are held out.

    training: views of the sources. held_out: row numbers in each whole source. neither: rows of all sources that share
    a positive with a held-out row, and so are left out of training too.
    """

    training: list[TokenStore]
    held_out: list[np.ndarray]
    neither: int

    @property
    def lines(self) -> list[str]:
        """A line that says how many rows are held out; nothing where none is."""
        held, more = sum(map(len, self.held_out)), ""
        if self.neither:
            more = f"; {self.neither:,} further rows share a positive with them and are not trained on either"
        return [f"{held:,} rows are held out of training, to measure on (dev.share){more}"] if held else []


def hold_out(stores: list[TokenStore], share: float, most: int, seed: int) -> Split:
    """Hold out the rows of a share of the distinct queries.

    Args:
        stores: All sources.
        share: Of the queries of all sources together, at least one; 0 holds nothing out.
        most: Queries held out at most.
        seed: Of the choice.
    Raises:
        UserError: No row of a source is left to train on.
    """
    if not share:
        return Split(stores, [np.zeros(0, dtype=np.int64)] * len(stores), 0)
    # 1 queries, by text
    queries = [store.arrays["text_hashes"][store.queries] for store in stores]
    distinct = np.unique(np.concatenate(queries))
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, HOLD_OUT))))
    chosen = generator.permutation(distinct)[: min(most, max(1, round(share * len(distinct))))]
    held = [np.isin(texts, chosen) for texts in queries]
    # 2 their positives, wherever else they stand
    answers = [
        store.arrays["text_hashes"][store.arrays["positives"][store.listed_by("positive", rows)]]
        for store, rows in zip(stores, held, strict=True)
    ]
    shared = [_has_positive(store, np.concatenate(answers)) for store in stores]
    training = [store.only_rows(~answered) for store, answered in zip(stores, shared, strict=True)]
    for store in training:
        if not store.rows:
            raise UserError(f"dev.share={share:g} leaves no row of {store.path} to train on; lower it, or give dev.dir")
    # A held-out row has its own positives.
    neither = sum(int(answered.sum()) for answered in shared) - sum(int(rows.sum()) for rows in held)
    return Split(training, [np.flatnonzero(rows) for rows in held], neither)


def _has_positive(store: TokenStore, answers: np.ndarray) -> np.ndarray:
    """Return for each row whether one of its positives is among these texts."""
    found = np.isin(store.arrays["text_hashes"][store.arrays["positives"]], answers)
    # No row is without a positive, so no segment is empty.
    return np.logical_or.reduceat(found, store.arrays["positive_offsets"][:-1])
