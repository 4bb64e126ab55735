"""Options of encoding texts and of retrieving documents, shared by all commands that do either."""

import math
from dataclasses import dataclass
from enum import StrEnum

from omegaconf import MISSING

from reasonir.core.errors import UserError, require
from reasonir.core.fields import Precision, TemplateChoice, at_least, positive


class Retriever(StrEnum):
    """How documents are ranked."""

    dense = "dense"
    bm25 = "bm25"
    bm25_query_weighted = "bm25_query_weighted"
    hybrid = "hybrid"


class Side(StrEnum):
    """Which kind of text is encoded."""

    query = "query"
    document = "document"


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """The encoder to measure."""

    path: str | None = MISSING
    """Hub id or folder of the encoder (dense retrieval only)."""
    template: TemplateChoice = MISSING
    """A preset: text form, attention and pooling; auto takes what the folder or a known hub id says, else reasonir for
    decoders and plain for encoders."""


@dataclass(kw_only=True, slots=True)
class EncodingConfig:
    """What every task that runs the encoder shares."""

    output_dir: str | None = MISSING
    """Folder of the results; null names one under outputs/ by task and options."""
    debug: bool = MISSING
    """Show tracebacks for mistakes in options and input too."""
    model: ModelConfig = MISSING
    chunk_tokens: int | None = positive()
    """Tokens of one forward pass; null is 4,096 on a CPU, 65,536 on a GPU. Changes no result."""
    precision: Precision = MISSING
    """auto: bf16 on CUDA, and on a CPU that multiplies bf16 at least 3 times as fast as fp32 (measured once for a
    cache_dir); else fp32."""
    cache_dir: str = MISSING
    """Folder of cached embeddings, named by content, model and settings; under torchrun one that all ranks see."""


class FusionMethod(StrEnum):
    """What is added up of each list."""

    linear = "linear"
    minmax = "minmax"
    zscore = "zscore"
    rrf = "rrf"


class Lexical(StrEnum):
    """Which BM25."""

    bm25 = "bm25"
    bm25_query_weighted = "bm25_query_weighted"


def check_weights(name: str, weights: list[float], lists: int) -> None:
    """Refuse weights that are not one for each list, not negative, not all zero.

    Args:
        name: The option's, for the message.
        weights: Its value.
        lists: How many are joined.
    """
    require(len(weights) == lists, name, weights, f"must be {lists} numbers, one for each list")
    # All zero would give every document the same score, and ids would rank.
    sound = all(math.isfinite(weight) and weight >= 0 for weight in weights) and any(weights)
    require(sound, name, weights, "must be numbers of 0 or more, and not all 0")


@dataclass(kw_only=True, slots=True)
class HybridConfig:
    """How BM25 and the encoder are put together (retriever=hybrid)."""

    method: FusionMethod = MISSING
    """linear (weighted scores as they are), minmax (scores from 0 to 1 per query), zscore, rrf (places only)."""
    weights: list[float] = MISSING
    """Of the dense list and of BM25's. Default 0.5 and 0.5: arXiv 2504.20595."""
    lexical: Lexical = MISSING
    """bm25 (Lucene's) or bm25_query_weighted (BRIGHT's)."""
    rrf_k: float = at_least(0)
    """The constant of rrf: weight / (rrf_k + place). 60: Cormack et al. 2009."""

    def validate(self) -> None:
        """Refuse weights outside their range."""
        check_weights("hybrid.weights", self.weights, 2)


@dataclass(kw_only=True, slots=True)
class RetrievalConfig(EncodingConfig):
    """What BRIGHT and BEIR share."""

    retriever: Retriever = MISSING
    """dense; bm25 (Lucene's, k1 0.9, b 0.4); bm25_query_weighted (BRIGHT's: BM25 weights on the query side too); hybrid
    (the first `top` of dense and of BM25, fused as `reasonir-eval fuse` does)."""
    hybrid: HybridConfig = MISSING
    query_max_tokens: int | None = positive()
    """Tokens of a query's input; null is what the model declares."""
    document_max_tokens: int | None = positive()
    """Tokens of a document's input; null is what the model declares."""
    top: int = positive()
    """Documents kept a query, after its exclusions."""

    def validate(self) -> None:
        """Refuse a dense retriever without a model."""
        if self.retriever in (Retriever.dense, Retriever.hybrid) and self.model.path is None:
            raise UserError("model.path is missing: name the encoder, or retriever=bm25")


@dataclass(kw_only=True, slots=True)
class EncodeConfig(EncodingConfig):
    """Encode a file of texts to embeddings.npy (resumable; several processes under torchrun)."""

    input: str = MISSING
    """A corpus (BRIGHT or BEIR folder, JSONL of id and content, folder of .txt and .md files) for documents; JSONL of
    id and query for queries."""
    side: Side = MISSING
    """query (with the instruction) or document."""
    instruction: str = MISSING
    """none, or the text put before every query (side=query only)."""
    max_tokens: int | None = positive()
    """Tokens of an input; null is what the model declares."""
    dtype: str = MISSING
    """float32 or float16 of the stored array."""

    def validate(self) -> None:
        """Refuse an encoding without a model, and options that do not fit each other."""
        if self.model.path is None:
            raise UserError("model.path is missing: name the encoder")
        if self.dtype not in ("float32", "float16"):
            raise UserError(f"dtype={self.dtype} must be float32 or float16")
        if self.side is Side.document and self.instruction != "none":
            raise UserError("instruction belongs to side=query; documents carry none")
