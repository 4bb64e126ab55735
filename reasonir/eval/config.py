"""The options of `reasonir-eval`'s tasks: names, types, units. Values stand in `configs/eval/`. Imports no torch."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from omegaconf import MISSING

from reasonir.eval.fusion_config import HybridConfig
from reasonir.schema import UserError
from reasonir.settings import Precision, TemplateChoice

BRIGHT_TASKS = (
    "biology", "earth_science", "economics", "psychology", "robotics", "stackoverflow", "sustainable_living",
    "leetcode", "pony", "aops", "theoremqa_questions", "theoremqa_theorems",
)  # fmt: skip
WITHOUT_PAGES = ("leetcode", "aops", "theoremqa_questions", "theoremqa_theorems")
"""Tasks that have no long documents."""
MAY_DIFFER = ("output_dir", "debug", "cache_dir", "chunk_tokens")
"""Options that change no result: an output folder may be continued with others."""


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
    chunk_tokens: int | None = MISSING
    """Tokens of one forward pass; null is 4,096 on a CPU, 65,536 on a GPU. Changes no result."""
    precision: Precision = MISSING
    """auto: bf16 on CUDA, fp32 on a CPU."""
    cache_dir: str = MISSING
    """Folder of cached embeddings, named by content, model and settings; under torchrun one that all ranks see."""

    def validate(self) -> None:
        """Refuse values outside their range."""
        if self.chunk_tokens is not None and self.chunk_tokens <= 0:
            raise UserError(f"chunk_tokens={self.chunk_tokens} must be positive")


@dataclass(kw_only=True, slots=True)
class RetrievalConfig(EncodingConfig):
    """What BRIGHT and BEIR share."""

    retriever: Retriever = MISSING
    """dense; bm25 (Lucene's, k1 0.9, b 0.4); bm25_query_weighted (BRIGHT's: BM25 weights on the query side too); hybrid
    (the first `top` of dense and of BM25, fused as `reasonir-eval fuse` does)."""
    hybrid: HybridConfig = MISSING
    query_max_tokens: int | None = MISSING
    """Tokens of a query's input; null is what the model declares."""
    document_max_tokens: int | None = MISSING
    """Tokens of a document's input; null is what the model declares."""
    top: int = MISSING
    """Documents kept a query, after its exclusions."""

    def validate(self) -> None:
        """Refuse values outside their range, and a dense retriever without a model."""
        EncodingConfig.validate(self)
        for name in ("query_max_tokens", "document_max_tokens", "top"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name}={value} must be positive")
        if self.retriever in (Retriever.dense, Retriever.hybrid) and self.model.path is None:
            raise UserError("model.path is missing: name the encoder, or retriever=bm25")


@dataclass(kw_only=True, slots=True)
class BrightDataConfig:
    """A BRIGHT folder or the hub's data set."""

    dir: str | None = MISSING
    """Folder with <task>/documents.jsonl and <task>/examples.jsonl; or one task's own folder."""
    hub: str | None = MISSING
    """Hub data set, such as xlangai/BRIGHT, or yale-nlp/Bright-Pro with its aspects."""


@dataclass(kw_only=True, slots=True)
class BrightConfig(RetrievalConfig):
    """Measure a retriever on BRIGHT (nDCG@10 per task and average), or on any folder in its format."""

    data: BrightDataConfig = MISSING
    tasks: list[str] | None = MISSING
    """Tasks to run; null is all that the folder or the hub's data set holds; with long=true, those of them that have
    pages (BRIGHT: 8)."""
    queries: str = MISSING
    """original, or rewritten queries: a name (<task>/<name>.jsonl in data.dir; the hub's <name>_reason), or a path
    DIR/NAME: DIR/<task>/NAME.jsonl, where reasonir-eval rewrite writes them, or DIR/NAME/<task>.jsonl."""
    long: bool = MISSING
    """Rank whole pages (long_documents, gold_ids_long) instead of passages."""
    instruction: str = MISSING
    """bright (per task, as the paper's evaluation; a folder's own instruction.txt comes first), none, or a text in
    which {task} stands for the task's name."""

    def validate(self) -> None:
        """Refuse both or neither source of data."""
        RetrievalConfig.validate(self)
        if (self.data.dir is None) == (self.data.hub is None):
            raise UserError("give one of data.dir=FOLDER and data.hub=xlangai/BRIGHT")


@dataclass(kw_only=True, slots=True)
class BeirDataConfig:
    """A BEIR folder or a set on the hub."""

    dir: str | None = MISSING
    """Folder with corpus.jsonl, queries.jsonl and qrels/<split>.tsv."""
    hub: str | None = MISSING
    """Hub data set in BEIR's layout, such as BeIR/scifact (its qrels in BeIR/scifact-qrels), mteb/scifact or
    R2MED/Biology; or a downloaded copy's folder."""


@dataclass(kw_only=True, slots=True)
class BeirConfig(RetrievalConfig):
    """Measure a retriever on a set in BEIR's format: a folder, or the hub's BeIR, mteb and R2MED sets."""

    data: BeirDataConfig = MISSING
    split: str = MISSING
    """Name of the qrels file, or split of the hub's qrels."""
    instruction: str = MISSING
    """none, or the text put before every query."""

    def validate(self) -> None:
        """Refuse both or neither source of data."""
        RetrievalConfig.validate(self)
        if (self.data.dir is None) == (self.data.hub is None):
            raise UserError("give one of data.dir=FOLDER and data.hub=BeIR/NAME")


@dataclass(kw_only=True, slots=True)
class ScoreConfig:
    """Score any run against any qrels with pytrec_eval."""

    run: str = MISSING
    """TREC run (6 columns) or BRIGHT's score.json."""
    qrels: str = MISSING
    """TREC qrels or BEIR tsv."""
    excluded: str | None = MISSING
    """JSONL rows with id and excluded_ids (BRIGHT's examples.jsonl): removed from the run before scoring."""
    output: str = MISSING
    """metrics.json to write; per_query.jsonl and manifest.json are put beside it."""
    debug: bool = MISSING
    """Show tracebacks for mistakes in options and input too."""


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
    max_tokens: int | None = MISSING
    """Tokens of an input; null is what the model declares."""
    dtype: str = MISSING
    """float32 or float16 of the stored array."""

    def validate(self) -> None:
        """Refuse values outside their range."""
        EncodingConfig.validate(self)
        if self.model.path is None:
            raise UserError("model.path is missing: name the encoder")
        if self.dtype not in ("float32", "float16"):
            raise UserError(f"dtype={self.dtype} must be float32 or float16")
        if self.max_tokens is not None and self.max_tokens <= 0:
            raise UserError(f"max_tokens={self.max_tokens} must be positive")
        if self.side is Side.document and self.instruction != "none":
            raise UserError("instruction belongs to side=query; documents carry none")


def describe(config: Any) -> str:
    """Return a short name for the data of a task, for a default output folder."""
    if isinstance(config, BrightConfig):
        queries = config.queries.rstrip("/").rsplit("/", 1)[-1]
        return f"bright-{(config.data.dir or config.data.hub or '').rstrip('/').rsplit('/', 1)[-1]}-{queries}"
    if isinstance(config, BeirConfig):
        return f"beir-{(config.data.dir or config.data.hub or '').rstrip('/').rsplit('/', 1)[-1]}-{config.split}"
    return f"encode-{config.input.rstrip('/').rsplit('/', 1)[-1]}-{config.side.value}"
