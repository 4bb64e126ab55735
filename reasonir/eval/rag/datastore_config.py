"""The options of `datastore` and `index`: names, types, units. Values stand in `configs/eval/`."""

from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from omegaconf import MISSING

from reasonir.schema import UserError
from reasonir.settings import require

DATASTORE_MAY_DIFFER = (
    "output_dir", "debug", "passages", "passage_tokens", "plan_only", "dimension", "pq_bytes", "tokens_per_second",
)  # fmt: skip
"""Options that change no passage."""
INDEX_MAY_DIFFER = (
    "embeddings", "debug", "replace", "probes", "recall_at", "recall_target", "sample_queries", "queries", "refine",
)  # fmt: skip
"""Options that change no shard: with others an index is measured again, not built again."""
INDEX_FOLDER = "index"
SMALLEST_IVFPQ = 256
"""Vectors; a code of 8 bits tells 256 centroids apart, and training needs one vector for each."""


class Chunking(StrEnum):
    """What a document is cut into."""

    none = "none"
    words = "words"
    tokens = "tokens"


class IndexKind(StrEnum):
    """flat: exact. ivfpq: inverted lists (only some are searched) of vectors in a few bytes each."""

    flat = "flat"
    ivfpq = "ivfpq"


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
    chunk_size: int = MISSING
    """Words or tokens of a chunk; the last one of a document may be shorter."""
    overlap: int = MISSING
    """Words or tokens that a chunk shares with the one before it."""
    tokenizer: str | None = MISSING
    """Folder, tokenizer.json or hub id that chunk=tokens counts with."""
    passages: int | None = MISSING
    """Plan for so many passages before any work; null plans when the passages are counted."""
    passage_tokens: int = MISSING
    """Tokens of a passage on average, for a plan by `passages`."""
    plan_only: bool = MISSING
    """Print the plan and write nothing; without `passages` the sources are read and counted."""
    dimension: int = MISSING
    """Of the encoder to plan for (4,096: an 8B Llama)."""
    pq_bytes: int = MISSING
    """Bytes of a code of the ivfpq index to plan for."""
    tokens_per_second: float | None = MISSING
    """Your encoder's rate, all processes together; null plans for 1,000."""
    debug: bool = MISSING
    """Show tracebacks for mistakes in options and input too."""

    def validate(self) -> None:
        """Refuse values outside their range, and a run that has nothing to read."""
        for name in ("chunk_size", "passage_tokens", "dimension", "pq_bytes", "passages", "tokens_per_second"):
            value = getattr(self, name)
            require(value is None or 0 < value < float("inf"), name, value, "must be positive")
        if not 0 <= self.overlap < self.chunk_size:
            raise UserError(f"overlap={self.overlap} must be 0 or more, and less than chunk_size={self.chunk_size}")
        if self.chunk is Chunking.tokens and self.tokenizer is None and self.source:
            raise UserError("chunk=tokens needs tokenizer=FOLDER (the encoder's own fits best), or take chunk=words")
        if not self.source and not (self.plan_only and self.passages):
            raise UserError("source is missing: give source=[FILE,...], or plan_only=true passages=NUMBER")


@dataclass(kw_only=True, slots=True)
class IndexConfig:
    """Build a faiss index of encoded documents in shards, and measure its recall against exact search (resumable)."""

    embeddings: str = MISSING
    """Folder that `reasonir-eval encode side=document` wrote; the index goes to its subfolder index/."""
    kind: IndexKind = MISSING
    """flat (exact, float32) or ivfpq (approximate, `pq_bytes` a vector)."""
    lists: int | None = MISSING
    """Inverted lists (ivfpq); null is about 4 times the square root of the number of vectors, a power of two."""
    pq_bytes: int = MISSING
    """Bytes of a vector's code (ivfpq); must divide the dimension."""
    probes: int | None = MISSING
    """Lists searched for a query (ivfpq); null is the smallest tried that reaches `recall_target`."""
    refine: bool = MISSING
    """Rescore the first 10 times as many hits exactly, from embeddings.npy (ivfpq)."""
    shards: int = MISSING
    """Files to cut the index into; one at a time is held in memory, and a killed build goes on after the last whole
    one."""
    train_vectors: int | None = MISSING
    """Vectors drawn to train the lists and codes (ivfpq), in memory as float32; null is 40 for each list, at least
    10,240."""
    queries: str | None = MISSING
    """Folder of encoded queries (side=query) to measure recall with; null takes documents with noise, which are
    easier."""
    sample_queries: int = MISSING
    """Queries drawn to measure recall."""
    recall_at: int = MISSING
    """Hits that the recall is measured over."""
    recall_target: float = MISSING
    """Recall to reach where probes=null, above 0 and up to 1."""
    replace: bool = MISSING
    """Remove an index of other options that stands there."""
    seed: int = MISSING
    """Of all draws."""
    debug: bool = MISSING
    """Show tracebacks for mistakes in options and input too."""

    @property
    def output_dir(self) -> str:
        """Where the index goes."""
        return str(Path(self.embeddings) / INDEX_FOLDER)

    def validate(self) -> None:
        """Refuse values outside their range, and an environment without faiss."""
        for name in ("lists", "pq_bytes", "probes", "shards", "train_vectors", "sample_queries", "recall_at"):
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "must be positive")
        require(0 < self.recall_target <= 1, "recall_target", self.recall_target, "must lie above 0 and not above 1")
        require(self.seed >= 0, "seed", self.seed, "must be 0 or more")
        require_faiss()


def require_faiss() -> None:
    """Refuse an environment without faiss."""
    if find_spec("faiss") is None:
        raise UserError("the index needs the faiss package: pip install 'reasonir[faiss]'")
