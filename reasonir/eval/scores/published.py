"""Published BRIGHT results to print beside ours, read from `published.yaml`: numbers of papers, with their sources."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from reasonir.data.bright import BRIGHT_TASKS


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One system's row of nDCG@10, in points.

    average: over all 12 tasks, as printed. points: in the order of BRIGHT_TASKS; empty where only the average is known
    to us. queries: how they were made.
    """

    system: str
    source: str
    average: float
    points: tuple[float, ...] = ()
    queries: str = "original"

    def by_column(self) -> dict[str, float]:
        """Return the points by task (none where only the average is known), and the average under `average`."""
        return {**dict(zip(BRIGHT_TASKS, self.points, strict=bool(self.points))), "average": self.average}


@dataclass(frozen=True, slots=True)
class TaskSize:
    """How much of a task was ranked. queries: judged ones. documents: of the corpus."""

    queries: int
    documents: int


def _rows(entries: list[dict[str, Any]]) -> tuple[PublishedRow, ...]:
    return tuple(PublishedRow(**{**entry, "points": tuple(entry.get("points", ()))}) for entry in entries)


_CONTENT = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
BRIGHT_SIZES = {task: TaskSize(facts["queries"], facts["documents"]) for task, facts in _CONTENT["tasks"].items()}
"""The full tasks. A smaller corpus is an easier task, and fewer queries are a sample: their scores do not compare."""
SHORT_NAMES: dict[str, str] = {task: facts["short"] for task, facts in _CONTENT["tasks"].items()}
"""Names of BRIGHT's tasks in narrow columns."""
ORIGINAL = _rows(_CONTENT["original"])
"""Rows on BRIGHT's own queries."""
REWRITTEN = _rows(_CONTENT["rewritten"])
"""Rows on queries that a language model rewrote."""


def published_rows(queries: str) -> tuple[PublishedRow, ...]:
    """Return the published rows on the same kind of queries: "original", or the name of any rewriting."""
    return ORIGINAL if queries == "original" else REWRITTEN


def why_not_comparable(task: str, size: TaskSize | None) -> str:
    """Return in words what separates a ranked task of BRIGHT's name from the full one; "" where nothing does.

    Args:
        task: Its name.
        size: How much of it was ranked; None where that is not known.
    """
    full = BRIGHT_SIZES[task]
    if size is None:
        return "how many queries and documents were ranked is not known"
    counts = [(size.queries, full.queries, "queries"), (size.documents, full.documents, "documents")]
    if all(found == whole for found, whole, _ in counts):
        return ""
    parts = [
        f"{found:,} of {whole:,} {noun}" if found <= whole else f"{found:,} {noun} where BRIGHT has {whole:,}"
        for found, whole, noun in counts
    ]  # fmt: skip
    return f"not the full task: {', '.join(parts)}"
