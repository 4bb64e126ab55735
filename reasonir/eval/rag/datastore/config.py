"""The options of `datastore` and `index`: names, types, units. Values stand in `configs/eval/`."""

from dataclasses import dataclass
from enum import StrEnum

from omegaconf import MISSING

from reasonir.core.errors import UserError
from reasonir.core.fields import positive

DATASTORE_MAY_DIFFER = (
    "output_dir", "debug", "passages", "passage_tokens", "plan_only", "dimension", "pq_bytes", "tokens_per_second",
)  # fmt: skip
"""Options that change no passage."""


class Chunking(StrEnum):
    """What a document is cut into."""

    none = "none"
    words = "words"
    tokens = "tokens"


@dataclass(kw_only=True, slots=True)
class DatastoreConfig:
    """Pool sources into passages.jsonl, each text once, cut into chunks; say what encoding and indexing will take."""

    source: list[str] | None = MISSING
    """Corpora (JSONL or parquet of id and content, BRIGHT or BEIR folder, .txt and .md files or folders of them,
    hub:owner/name) and pools of search results (rows with `ctxs`, as
    hub:rulins/mmlu_searched_results_from_massiveds), one or several."""
    output_dir: str | None = MISSING
    """Folder of passages.jsonl; null names one under outputs/ by the sources."""
    chunk: Chunking = MISSING
    """none (a document is a passage), words (between white space) or tokens (of `tokenizer`; for texts without spaces
    too)."""
    chunk_size: int = positive()
    """Words or tokens of a chunk; the last one of a document may be shorter."""
    overlap: int = MISSING
    """Words or tokens that a chunk shares with the one before it."""
    tokenizer: str | None = MISSING
    """Folder, tokenizer.json or hub id that chunk=tokens counts with."""
    passages: int | None = positive()
    """Plan for so many passages before any work; null plans when the passages are counted."""
    passage_tokens: int = positive()
    """Tokens of a passage on average, for a plan by `passages`."""
    plan_only: bool = MISSING
    """Print the plan and write nothing; without `passages` the sources are read and counted."""
    dimension: int = positive()
    """Of the encoder to plan for (4,096: an 8B Llama)."""
    pq_bytes: int = positive()
    """Bytes of a code of the ivfpq index to plan for."""
    tokens_per_second: float | None = positive()
    """Your encoder's rate, all processes together; null plans for 1,000."""
    debug: bool = MISSING
    """Show tracebacks for mistakes in options and input too."""

    def validate(self) -> None:
        """Refuse chunks that never advance, and a run that has nothing to read."""
        if not 0 <= self.overlap < self.chunk_size:
            raise UserError(f"overlap={self.overlap} must be 0 or more, and less than chunk_size={self.chunk_size}")
        if self.chunk is Chunking.tokens and self.tokenizer is None and self.source:
            raise UserError("chunk=tokens needs tokenizer=FOLDER (the encoder's own fits best), or take chunk=words")
        if not self.source and not (self.plan_only and self.passages):
            raise UserError("source is missing: give source=[FILE,...], or plan_only=true passages=NUMBER")
