"""Ranks the documents of one collection for its queries: by an encoder, by BM25, or by both fused.

Invariant: a ranking holds no excluded document; exclusions are applied before the first `top` are taken.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reasonir.data.collections import Collection, Query
from reasonir.data.trec import Run
from reasonir.model.encoder import Encoder
from reasonir.retrieval.bm25 import BM25Index, QueryWeighting
from reasonir.retrieval.config import RetrievalConfig, Retriever
from reasonir.retrieval.embeddings import Encoded, embed_cached, encode_share, encoding_precision
from reasonir.retrieval.fusion import fuse_runs
from reasonir.retrieval.sharding import EncodingSettings, own_device
from reasonir.retrieval.top_k import as_run, exact_top_k

HYBRID_PARTS = ("dense", "bm25")


@dataclass(frozen=True, slots=True)
class Sought:
    """What is ranked. judged: the queries that have a gold document. counts: filled on the way, for the manifest."""

    collection: Collection
    judged: list[Query]
    instruction: str
    counts: dict[str, Any] = field(default_factory=dict)

    @property
    def ids(self) -> list[str]:
        """Ids of the documents, in their order."""
        return [document.id for document in self.collection.documents]

    def excluded(self) -> list[np.ndarray]:
        """Return, for each query, the rows of the documents that must not be ranked."""
        row_of = {identifier: row for row, identifier in enumerate(self.ids)}
        lists = ({row_of[i] for i in query.excluded_ids if i in row_of} for query in self.judged)
        return [np.array(sorted(rows), dtype=np.int64) for rows in lists]

    def run(self, indices: np.ndarray, scores: np.ndarray) -> Run:
        """Return a run of document rows (Q, top), -1 where there are fewer, and their scores."""
        return as_run([query.id for query in self.judged], self.ids, indices, scores)


def rank_documents(config: RetrievalConfig, encoder: Encoder | None, sought: Sought) -> dict[str, Run]:
    """Return the run under "", and for a hybrid the two that it was fused of under their names.

    A hybrid fuses the first `top` of each list: a document of neither list is not in the run, and what a document of
    one list gets for the other is `fusion.py`'s to say. `fuse` of the two lists gives the same run.
    """
    if encoder is None:
        weighted = config.retriever is Retriever.bm25_query_weighted
        return {"": rank_lexical(config, sought, "bm25" if weighted else "plain")}
    if config.retriever is not Retriever.hybrid:
        return {"": rank_dense(config, encoder, sought)}
    hybrid = config.hybrid
    weighting: QueryWeighting = "plain" if hybrid.lexical.value == "bm25" else "bm25"
    parts = rank_dense(config, encoder, sought), rank_lexical(config, sought, weighting)
    fused = fuse_runs(parts, hybrid.method, hybrid.weights, config.top, hybrid.rrf_k)
    without = {f"queries_without_{n}_hits": m for n, m in zip(HYBRID_PARTS, fused.missing, strict=True) if m}
    sought.counts.update(without)
    return {"": fused.run, **dict(zip(HYBRID_PARTS, parts, strict=True))}


def rank_dense(config: RetrievalConfig, encoder: Encoder, sought: Sought) -> Run:
    """Embed documents and queries (or reuse them) and search exactly."""
    embeddings = []
    for side, texts, settings in sides(config, encoder, sought):
        label = f"{sought.collection.name} {side}"
        cache = Path(config.cache_dir).expanduser()
        encoded = embed_cached(encoder, texts, settings, cache, label, config.chunk_tokens)
        embeddings.append(encoded.embeddings)
        sought.counts.update({f"{side}_truncated": encoded.truncated_texts, f"{side}_reused": encoded.reused})
        print(_tell(label, encoded, settings))
    documents, queries = embeddings
    found = exact_top_k(queries, documents, config.top, sought.excluded(), ids=sought.ids, device=encoder.device)
    return sought.run(*found)


def open_encoder(config: RetrievalConfig) -> Encoder | None:
    """Load the encoder on this rank's device; None for BM25."""
    if config.retriever not in (Retriever.dense, Retriever.hybrid):
        return None
    return Encoder.from_pretrained(str(config.model.path), template=config.model.template.value, device=own_device())


def encode_own_share(config: RetrievalConfig, encoder: Encoder, sought: Sought) -> None:
    """Encode what falls to this rank of a collection's texts; rank 0 ranks."""
    for side, texts, settings in sides(config, encoder, sought):
        label, cache = f"{sought.collection.name} {side}", Path(config.cache_dir).expanduser()
        encode_share(encoder, texts, settings, cache, label, config.chunk_tokens)


def sides(config: RetrievalConfig, encoder: Encoder, sought: Sought) -> list[tuple[str, list[str], EncodingSettings]]:
    """Return documents and queries, each with how it is encoded."""
    precision, default = encoding_precision(config.precision.value, encoder), encoder.default_max_tokens
    documents = [document.text for document in sought.collection.documents]
    queries = [query.text for query in sought.judged]
    return [
        ("documents", documents, EncodingSettings("", config.document_max_tokens or default, precision)),
        ("queries", queries, EncodingSettings(sought.instruction, config.query_max_tokens or default, precision)),
    ]


def _tell(label: str, encoded: Encoded, settings: EncodingSettings) -> str:
    how = "reused from the cache" if encoded.reused else "encoded"
    cut = f", {encoded.truncated_texts} cut at {settings.max_tokens} tokens" if encoded.truncated_texts else ""
    return f"{label}: {len(encoded.embeddings)} {how}{cut}"


def rank_lexical(config: RetrievalConfig, sought: Sought, weighting: QueryWeighting) -> Run:
    """Rank by BM25; instructions are for encoders only."""
    collection = sought.collection
    if collection.index is None:
        collection.index = BM25Index(sought.ids, [document.text for document in collection.documents])
    queries = [query.text for query in sought.judged]
    return sought.run(*collection.index.search(queries, config.top, sought.excluded(), weighting))
