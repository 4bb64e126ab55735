"""Ranks documents for queries: by an encoder, by BM25, or by both fused.

Invariant: a ranking holds no excluded document; exclusions are applied before the first `top` are taken.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reasonir.data.collections import Document
from reasonir.data.trec import Run
from reasonir.model.encoder import Encoder
from reasonir.retrieval.arithmetic import Notice, encoding_precision
from reasonir.retrieval.bm25 import BM25Index
from reasonir.retrieval.config import FusionMethod, Lexical, RetrievalConfig, Retriever
from reasonir.retrieval.embeddings import Encoded, embed_cached, encode_share
from reasonir.retrieval.fusion import fuse_runs
from reasonir.retrieval.sharding import EncodingSettings, own_device
from reasonir.retrieval.top_k import as_run, exact_top_k

# Also the names of the lists' run files, dense.trec and bm25.trec.
HYBRID_PARTS = ("dense", "bm25")


@dataclass(frozen=True, slots=True)
class SearchTask:
    """Documents to rank, and the queries to rank them for.

    name: the task's name in progress lines. documents: distinct ids. queries: texts by id. instruction: the text that
    an encoder puts before every query. excluded: by query id, the ids of documents that are never ranked for the
    query; ids that `documents` lacks are ignored.
    """

    name: str
    documents: Sequence[Document]
    queries: Mapping[str, str]
    instruction: str = ""
    excluded: Mapping[str, Collection[str]] = field(default_factory=dict)

    @property
    def ids(self) -> list[str]:
        """Ids of the documents, in their order."""
        return [document.id for document in self.documents]

    @property
    def texts(self) -> list[str]:
        """Texts of the documents, in their order."""
        return [document.text for document in self.documents]

    def excluded_rows(self) -> list[np.ndarray]:
        """Return, for each query, the ascending rows of the documents that must not be ranked."""
        row_of = {identifier: row for row, identifier in enumerate(self.ids)}
        sets = ({row_of[i] for i in self.excluded.get(query, ()) if i in row_of} for query in self.queries)
        return [np.array(sorted(rows), dtype=np.int64) for rows in sets]

    def run(self, indices: np.ndarray, scores: np.ndarray) -> Run:
        """Return a run of document rows (Q, top), -1 where there are fewer, and their scores."""
        return as_run(list(self.queries), self.ids, indices, scores)


@dataclass(frozen=True, slots=True)
class Ranked:
    """The result of a search.

    run: the ranking. parts: the lists that a hybrid's run was fused of, by `HYBRID_PARTS`; empty for one retriever.
    counts: what the manifest says of the search, such as how many texts were cut.
    """

    run: Run
    parts: Mapping[str, Run] = field(default_factory=dict)
    counts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EncodingJob:
    """Texts that are encoded alike.

    kind: documents or queries. instructions: one for each text, in place of the one of `settings`.
    """

    kind: str
    texts: Sequence[str]
    settings: EncodingSettings
    instructions: Sequence[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseSearch:
    """An encoder and how it encodes documents and queries; embeddings are cached in `cache_dir`.

    precision: fp32 or bf16. chunk_tokens: tokens of one forward pass; None lets the encoder choose; changes no result.
    notice: why this precision, said before the first text is encoded.
    """

    encoder: Encoder
    document_max_tokens: int
    query_max_tokens: int
    precision: str
    cache_dir: Path
    chunk_tokens: int | None = None
    notice: Notice = field(default_factory=Notice)

    @classmethod
    def load(
        cls,
        path: str,
        *,
        template: str,
        device: str | None = None,
        document_max_tokens: int | None,
        query_max_tokens: int | None,
        precision: str = "auto",
        cache_dir: Path,
        chunk_tokens: int | None,
    ) -> "DenseSearch":
        """Load an encoder and fill in what it declares.

        Args:
            path: Hub id or folder.
            template: A preset of `reasonir.model.presets`, or auto.
            device: Where to encode; None is the GPU where there is one, else the CPU.
            document_max_tokens: Tokens of a document's input; None is what the model declares.
            query_max_tokens: Tokens of a query's input; None is what the model declares.
            precision: auto, fp32 or bf16.
            cache_dir: Embeddings go to its folder `embeddings`.
            chunk_tokens: Tokens of one forward pass; None lets the encoder choose.
        """
        encoder = Encoder.from_pretrained(path, template=template, device=device)
        chosen, notice = encoding_precision(precision, encoder, cache_dir)
        return cls(
            encoder=encoder,
            document_max_tokens=document_max_tokens or encoder.default_max_tokens,
            query_max_tokens=query_max_tokens or encoder.default_max_tokens,
            precision=chosen,
            cache_dir=cache_dir,
            chunk_tokens=chunk_tokens,
            notice=notice,
        )

    def document_job(self, texts: Sequence[str], instructions: Sequence[str] | None = None) -> EncodingJob:
        """Return how documents are encoded: without an instruction, unless each brings its own."""
        # ReasonIR's documents carry no instruction at test time; mining hands in those of training rows.
        settings = EncodingSettings("", self.document_max_tokens, self.precision)
        return EncodingJob("documents", texts, settings, instructions)

    def query_job(self, texts: Sequence[str], instruction: str | Sequence[str]) -> EncodingJob:
        """Return how queries are encoded behind one instruction, or behind one each."""
        one, each = (instruction, None) if isinstance(instruction, str) else ("", instruction)
        return EncodingJob("queries", texts, EncodingSettings(one, self.query_max_tokens, self.precision), each)

    def encoding_jobs(self, task: SearchTask) -> list[EncodingJob]:
        """Return how the documents and then the queries of a task are encoded."""
        return [self.document_job(task.texts), self.query_job(list(task.queries.values()), task.instruction)]

    def embed(self, job: EncodingJob, label: str) -> Encoded:
        """Return a job's embeddings from the cache, encoding them first where it has none (rank 0)."""
        self.notice.say()
        return embed_cached(
            self.encoder, job.texts, job.settings, self.cache_dir, label, self.chunk_tokens, job.instructions
        )

    def encode_share(self, task: SearchTask) -> None:
        """Encode the texts of a task that fall to this rank; rank 0 joins them when it ranks."""
        # The jobs of `rank`, so that the shares have the cache keys that rank 0 looks for.
        for job in self.encoding_jobs(task):
            label = f"{task.name} {job.kind}"
            encode_share(self.encoder, job.texts, job.settings, self.cache_dir, label, self.chunk_tokens)

    def rank(self, task: SearchTask, top: int) -> Ranked:
        """Embed documents and queries (or reuse them), search exactly, and print what was encoded."""
        # 1 embeddings, from the cache where it has them
        embeddings: list[np.ndarray] = []
        counts: dict[str, Any] = {}
        for job in self.encoding_jobs(task):
            encoded = self.embed(job, f"{task.name} {job.kind}")
            embeddings.append(encoded.embeddings)
            counts |= {f"{job.kind}_truncated": encoded.truncated_texts, f"{job.kind}_reused": encoded.reused}
            print(_tell(f"{task.name} {job.kind}", encoded, job.settings))
        # 2 exact search where the encoder is, ties by id
        documents, queries = embeddings
        excluded, device = task.excluded_rows(), self.encoder.device
        found = exact_top_k(queries, documents, top, excluded, ids=task.ids, device=device)
        return Ranked(task.run(*found), counts=counts)


def _tell(label: str, encoded: Encoded, settings: EncodingSettings) -> str:
    how = "reused from the cache" if encoded.reused else "encoded"
    cut = f", {encoded.truncated_texts} cut at {settings.max_tokens} tokens" if encoded.truncated_texts else ""
    return f"{label}: {len(encoded.embeddings)} {how}{cut}"


class LexicalSearch:
    """BM25, with the index of the documents that were searched last: tasks that share them index them once."""

    def __init__(self, variant: Lexical) -> None:
        self.variant = variant
        self._documents: Sequence[Document] | None = None
        self._index: BM25Index | None = None

    def rank(self, task: SearchTask, top: int) -> Ranked:
        """Rank by BM25; instructions are for encoders only."""
        # Identity: evaluations of the same documents hand on one list, and comparing texts would take long.
        if self._index is None or self._documents is not task.documents:
            # The old index goes first: two of them need not fit into memory.
            self._documents = self._index = None
            self._documents, self._index = task.documents, BM25Index(task.ids, task.texts)
        queries = list(task.queries.values())
        return Ranked(task.run(*self._index.search(queries, top, task.excluded_rows(), self.variant)))


@dataclass(frozen=True, slots=True)
class Fusion:
    """How two lists become one. weights: of the dense list and of BM25's. rrf_k: the constant of method rrf."""

    method: FusionMethod
    weights: Sequence[float]
    rrf_k: float


@dataclass(frozen=True, slots=True)
class Searcher:
    """A retriever ready to search: `dense`, `lexical`, or both with the `fusion` that joins their lists."""

    dense: DenseSearch | None = None
    lexical: LexicalSearch | None = None
    fusion: Fusion | None = None

    @property
    def encoder(self) -> Encoder | None:
        """The encoder; None for BM25 alone."""
        return None if self.dense is None else self.dense.encoder

    def rank(self, task: SearchTask, top: int) -> Ranked:
        """Return the first `top` documents of every query.

        A hybrid fuses the first `top` of each list: a document of neither list is not in the run, and `fusion.py` says
        what a document of one list gets for the other. `reasonir-eval fuse` of the two lists gives the same run.
        """
        if self.dense is None:
            assert self.lexical is not None, "a searcher has a retriever"
            return self.lexical.rank(task, top)
        if self.lexical is None:
            return self.dense.rank(task, top)
        assert self.fusion is not None, "two lists need a fusion"
        # Both lists are cut at `top` first, as the run files that `reasonir-eval fuse` reads.
        parts = self.dense.rank(task, top), self.lexical.rank(task, top)
        runs = [part.run for part in parts]
        fused = fuse_runs(runs, self.fusion.method, self.fusion.weights, top, self.fusion.rrf_k)
        without = {f"queries_without_{n}_hits": m for n, m in zip(HYBRID_PARTS, fused.missing, strict=True) if m}
        return Ranked(fused.run, dict(zip(HYBRID_PARTS, runs, strict=True)), {**parts[0].counts, **without})


def open_searcher(config: RetrievalConfig) -> Searcher:
    """Make the retriever of a configuration ready; an encoder is loaded on this rank's device."""
    retriever = config.retriever
    if retriever not in (Retriever.dense, Retriever.hybrid):
        return Searcher(lexical=LexicalSearch(Lexical(retriever.value)))
    dense = DenseSearch.load(
        str(config.model.path),
        template=config.model.template.value,
        device=own_device(),
        document_max_tokens=config.document_max_tokens,
        query_max_tokens=config.query_max_tokens,
        precision=config.precision.value,
        cache_dir=Path(config.cache_dir).expanduser(),
        chunk_tokens=config.chunk_tokens,
    )
    if retriever is Retriever.dense:
        return Searcher(dense)
    hybrid = config.hybrid
    return Searcher(dense, LexicalSearch(hybrid.lexical), Fusion(hybrid.method, hybrid.weights, hybrid.rrf_k))
