"""Options of an approximate index."""

from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec

from omegaconf import MISSING

from reasonir.core.errors import UserError
from reasonir.core.fields import positive, random_seed, within

INDEX_MAY_DIFFER = (
    "embeddings", "debug", "replace", "probes", "recall_at", "recall_target", "sample_queries", "queries", "refine",
)  # fmt: skip
"""Options that change no shard: with others an index is measured again, not built again."""
INDEX_FOLDER = "index"
"""Where the index goes, inside the folder of the embeddings."""
SMALLEST_IVFPQ = 256
"""Fewest vectors: a code of 8 bits tells 256 centroids apart, and training needs one vector for each."""


class IndexKind(StrEnum):
    """flat: exact. ivfpq: inverted lists (only some are searched) of vectors in a few bytes each."""

    flat = "flat"
    ivfpq = "ivfpq"


@dataclass(kw_only=True, slots=True)
class IndexConfig:
    """Build a faiss index of encoded documents in shards, and measure its recall against exact search (resumable)."""

    embeddings: str = MISSING
    """Folder that `reasonir-eval encode side=document` wrote; the index goes to its subfolder index/."""
    kind: IndexKind = MISSING
    """flat (exact, float32) or ivfpq (approximate, `pq_bytes` a vector)."""
    lists: int | None = positive()
    """Inverted lists (ivfpq); null is about 4 times the square root of the number of vectors, a power of two."""
    pq_bytes: int = positive()
    """Bytes of a vector's code (ivfpq); must divide the dimension."""
    probes: int | None = positive()
    """Lists searched for a query (ivfpq); null is the smallest tried that reaches `recall_target`."""
    refine: bool = MISSING
    """Rescore the first 10 times as many hits exactly, from embeddings.npy (ivfpq)."""
    shards: int = positive()
    """Files to cut the index into; one at a time is held in memory, and a killed build goes on after the last whole
    one."""
    train_vectors: int | None = positive()
    """Vectors drawn to train the lists and codes (ivfpq), in memory as float32; null is 40 for each list, at least
    10,240."""
    queries: str | None = MISSING
    """Folder of encoded queries (side=query) to measure recall with; null takes documents with noise, which are
    easier."""
    sample_queries: int = positive()
    """Queries drawn to measure recall."""
    recall_at: int = positive()
    """Hits that the recall is measured over."""
    recall_target: float = within(0, 1, "(]")
    """Recall to reach where probes=null."""
    replace: bool = MISSING
    """Remove an index of other options that stands there."""
    seed: int = random_seed()
    """Seed of all draws: training vectors, k-means, sampled queries."""
    debug: bool = MISSING
    """Show tracebacks for mistakes in options and input too."""

    def validate(self) -> None:
        """Refuse an environment without faiss."""
        require_faiss()


def require_faiss() -> None:
    """Refuse an environment without faiss."""
    if find_spec("faiss") is None:
        raise UserError("the index needs the faiss package: pip install 'reasonir[faiss]'")
