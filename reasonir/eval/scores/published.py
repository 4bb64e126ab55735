"""Published BRIGHT results to print beside ours: nDCG@10 in points (hundredths), short documents.

Owns numbers copied from papers, each with its source; leaves printing to `tables.py`.
"""

from dataclasses import dataclass

from reasonir.data.bright import BRIGHT_TASKS

REASONIR = "arXiv 2504.20595"
BRIGHT = "arXiv 2407.12883"
REASONEMBED = "arXiv 2510.08252"
RANK1 = "arXiv 2502.18418"
BRIGHT_DOCUMENTS = dict(
    zip(
        BRIGHT_TASKS,
        (57_359, 121_249, 50_220, 52_835, 61_961, 107_081, 60_792, 413_932, 7_894, 188_177, 188_177, 23_839),
        strict=True,
    )
)
"""Passages of each task's corpus. A smaller corpus is an easier task: its scores do not compare."""


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One system's row. points: in the order of BRIGHT_TASKS; none where only the average is known to us.

    average: as printed, over all 12 tasks. queries: how they were made.
    """

    system: str
    source: str
    average: float
    points: tuple[float, ...] = ()
    queries: str = "original"

    def by_column(self) -> dict[str, float]:
        """Return points by task (none where only the average is known) and under `average`."""
        return {**dict(zip(BRIGHT_TASKS, self.points, strict=bool(self.points))), "average": self.average}


ORIGINAL = (
    PublishedRow(
        "ReasonIR-8B",
        REASONIR,
        24.4,
        (26.2, 31.4, 23.3, 30.0, 18.0, 23.9, 20.5, 35.0, 10.5, 14.7, 31.9, 27.2),
    ),
    PublishedRow("BM25", BRIGHT, 14.5, (18.9, 27.2, 14.9, 12.5, 13.6, 18.4, 15.0, 24.4, 7.9, 6.2, 10.4, 4.9)),
    PublishedRow("GRIT-7B", BRIGHT, 21.0, (24.8, 32.3, 18.9, 19.8, 17.1, 13.6, 17.8, 29.9, 22.0, 8.8, 25.2, 21.2)),
    PublishedRow("E5-mistral", BRIGHT, 17.9, (18.6, 26.0, 15.5, 15.8, 16.3, 11.2, 18.1, 28.7, 4.9, 7.1, 26.1, 26.8)),
    PublishedRow(
        "gte-Qwen1.5-7B",
        BRIGHT,
        22.5,
        (30.6, 36.4, 17.8, 24.6, 13.2, 22.2, 14.8, 25.5, 9.9, 14.4, 27.8, 32.9),
    ),
    PublishedRow("ReasonIR-8B trained on VL alone", REASONIR, 23.2),
    PublishedRow("ReasonEmbed-Llama-3.1-8B, plain InfoNCE", REASONEMBED, 34.9),
    PublishedRow("ReasonEmbed-Llama-3.1-8B", REASONEMBED, 36.2),
    PublishedRow("ReasonEmbed-Qwen3-8B", REASONEMBED, 38.1),
)
"""On BRIGHT's own queries."""
GPT4, LLAMA = "GPT-4 rewrite", "Llama-3.1-8B rewrite"
REWRITTEN = (
    PublishedRow(
        "ReasonIR-8B", REASONIR, 29.9, (43.6, 42.9, 32.7, 38.8, 20.9, 25.8, 27.5, 31.5, 19.6, 7.4, 33.1, 35.7), GPT4
    ),
    PublishedRow(
        "ReasonIR-8B + QwenRerank",
        REASONIR,
        36.9,
        (58.2, 53.2, 32.0, 43.6, 28.8, 37.6, 36.0, 33.2, 34.8, 7.9, 32.6, 45.0),
        GPT4,
    ),
    PublishedRow("ReasonIR-8B + BM25, 0.5 each", REASONIR, 32.0, (), GPT4),
    PublishedRow("ReasonIR-8B", REASONIR, 28.0, (), LLAMA),
    PublishedRow("ReasonIR-8B trained on HQ alone", REASONIR, 28.5, (), GPT4),
    PublishedRow("BM25", REASONIR, 27.0, (53.6, 54.1, 24.3, 38.7, 18.9, 27.7, 26.3, 19.3, 17.6, 3.9, 19.2, 20.8), GPT4),
    # The row that others quote. By its average alone: its two TheoremQA values circulate in either order.
    PublishedRow("BM25, as quoted elsewhere", RANK1, 26.5, (), GPT4),
    PublishedRow(
        "GRIT-7B", REASONIR, 23.4, (33.2, 33.0, 23.3, 30.6, 15.2, 17.5, 21.7, 33.2, 11.7, 6.8, 26.9, 28.0), GPT4
    ),
    PublishedRow("GRIT-7B", REASONIR, 17.3, (), "decomposed (20.4 before, by the same source)"),
)
"""On queries that a language model rewrote."""


def published_rows(queries: str) -> tuple[PublishedRow, ...]:
    """Return the rows that ours can stand beside.

    Args:
        queries: "original", or the name of any rewrite: those stand beside the rewritten rows.
    """
    return ORIGINAL if queries == "original" else REWRITTEN
