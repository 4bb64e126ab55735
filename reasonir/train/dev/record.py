"""What the measurements of a run have said so far. It lies in every checkpoint: a resumed run goes on with it."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class DevRecord:
    """The best and the last measurement, by step and nDCG@10. stale: measurements made since the best one."""

    best_step: int
    best_ndcg_at_10: float
    last_step: int
    last_ndcg_at_10: float
    stale: int = 0


def add_measurement(record: DevRecord | None, step: int, ndcg_at_10: float) -> DevRecord:
    """Return the record with one more measurement; of equal ones the first stays the best.

    Args:
        record: So far; None before the first measurement.
        step: After which was measured.
        ndcg_at_10: What was found.
    """
    if record is None or ndcg_at_10 > record.best_ndcg_at_10:
        return DevRecord(best_step=step, best_ndcg_at_10=ndcg_at_10, last_step=step, last_ndcg_at_10=ndcg_at_10)
    return replace(record, last_step=step, last_ndcg_at_10=ndcg_at_10, stale=record.stale + 1)


def is_spent(record: DevRecord | None, patience: int) -> bool:
    """Return whether so many measurements brought nothing better that the run ends; a patience of 0 never ends."""
    return record is not None and 0 < patience <= record.stale
