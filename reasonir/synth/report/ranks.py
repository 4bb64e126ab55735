"""Where BM25 and an encoder find the source of a query among other documents.

BM25 needs common words and an encoder does not. A query that the encoder alone finds is hard; one that neither finds
is likely to ask nothing, or nothing about its document.

Letters: Q queries, N documents of the pool, D dimension.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reasonir.core.progress import Progress
from reasonir.data.collections import stream_documents
from reasonir.retrieval.bm25 import BM25Index
from reasonir.synth.report.survey import Drawn

# Documents to search in. BM25 takes seconds for so many; an encoder of 22 million parameters about a minute of a core.
LEXICAL_POOL, DENSE_POOL = 20_000, 600
# Tokens of a text that the encoder reads, within that minute.
READ_TOKENS = 256
DEEPEST_RANK = 1_000
# A source counts as found among the first ten, but at most among the first twentieth of the pool: by chance alone no
# more than 5 % are found.
FOUND_RANK, FOUND_SHARE = 10, 20


@dataclass(frozen=True, slots=True)
class Pool:
    """Distinct texts to search in, and each query's source as a place among them; None where its text is not known."""

    texts: list[str]
    sources: list[int | None]

    @property
    def found_rank(self) -> int:
        """The last rank at which a source counts as found."""
        return max(1, min(FOUND_RANK, len(self.texts) // FOUND_SHARE))


def gather_pool(
    entries: Sequence[str | None],
    negatives: Sequence[str],
    corpus: str | None,
    others: Sequence[str],
    size: int,
    seed: int,
) -> Pool:
    """Return the sources of some rows among other documents.

    Args:
        entries: The first positive of each row, or its id in the corpus; None where there is no text to be found.
        negatives: Of the rows.
        corpus: Is read once, for texts of ids and for other documents; None takes `others`.
        others: Positives of other rows.
        size: Texts of the pool, unless sources and negatives are more.
        seed: Draws the other documents.
    """
    by_id: dict[str, str] = {}
    drawn: Drawn[str] = Drawn(size, seed, "pool")
    wanted = {*entries, *negatives}
    for document in stream_documents(corpus) if corpus else ():
        if document.id in wanted:
            by_id.setdefault(document.id, document.text)
        if document.text.strip():
            drawn.add(document.id, document.text)
    targets = [None if entry is None else by_id.get(entry, entry) for entry in entries]
    # Each text once: a copy of the source would stand beside it and push its rank down.
    sources = [target for target in targets if target is not None]
    texts = dict.fromkeys([*sources, *(by_id.get(entry, entry) for entry in negatives)])
    for text in drawn.values() if corpus else others:
        if len(texts) >= size:
            break
        texts.setdefault(text)
    place = {text: number for number, text in enumerate(texts)}
    return Pool(list(texts), [None if target is None else place[target] for target in targets])


def lexical_ranks(queries: Sequence[str], pool: Pool) -> list[int | None]:
    """Return BM25's rank of each query's source; None where BM25 does not find it, or beyond rank 1,000."""
    if not pool.texts:
        return [None] * len(queries)
    index = BM25Index(_tie_ids(len(pool.texts)), pool.texts)
    hits, _ = index.search(queries, top=min(DEEPEST_RANK, len(pool.texts)))
    return _places(hits, pool.sources)


def dense_ranks(query_QD: np.ndarray, document_ND: np.ndarray, sources: Sequence[int | None]) -> list[int | None]:
    """Return an encoder's rank of each query's source; every document has one.

    Args:
        query_QD: Unit rows.
        document_ND: Unit rows of the pool.
        sources: As in `Pool`.
    """
    if not len(document_ND):
        return [None] * len(query_QD)
    # Imported late: it needs torch, which a report without an encoder does not.
    from reasonir.retrieval.top_k import exact_top_k

    hits, _ = exact_top_k(query_QD, document_ND, len(document_ND), ids=_tie_ids(len(document_ND)))
    return _places(hits, sources)


def embed(model: str, queries: Sequence[str], documents: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the embeddings of queries and of documents, unit rows, each text cut at 256 tokens.

    Args:
        model: Folder or hub id of an encoder.
        queries: Q texts; they are read without an instruction.
        documents: N texts.

    Raises:
        UserError: The model does not load.
    """
    from reasonir.model.encoder import Encoder
    from reasonir.model.trunk.precision import choose_precision

    encoder = Encoder.from_pretrained(model)
    tokens = min(encoder.default_max_tokens, READ_TOKENS)
    # On a CPU the choice is a measurement of speed, on which no figure of a report may depend.
    precision = choose_precision(
        "fp32" if encoder.device.type == "cpu" else "auto", encoder.device, encoder.trunk, backward=False
    )[0]
    progress = Progress("report: encode", len(queries) + len(documents), "texts")
    query_QD, document_ND = (
        encoder.encode(texts, max_tokens=tokens, precision=precision, progress=progress.update)
        for texts in (queries, documents)
    )
    progress.close()
    return query_QD, document_ND


def ndcg_at_10(rank: int | None) -> float:
    """Return the nDCG@10 of a ranking with one relevant document."""
    return 1 / math.log2(rank + 1) if rank is not None and rank <= 10 else 0.0


def rank_buckets(ranks: Sequence[int | None]) -> dict[str, int]:
    """Return how many ranks lie in each range."""
    bounds = {"1": 1, "2-10": 10, "11-100": 100, f"101-{DEEPEST_RANK:,}": DEEPEST_RANK}
    buckets = dict.fromkeys([*bounds, "not found"], 0)
    for rank in ranks:
        name = next((name for name, bound in bounds.items() if rank is not None and rank <= bound), "not found")
        buckets[name] += 1
    return buckets


def _tie_ids(count: int) -> list[str]:
    # Ties go to the larger id: the sources, which come first in the pool, lose them.
    return [f"{number:08d}" for number in range(count)]


def _places(hits: np.ndarray, sources: Sequence[int | None]) -> list[int | None]:
    """Return the rank, from 1, of each query's source in its hits (Q, top)."""
    ranks: list[int | None] = []
    for row, source in zip(hits, sources, strict=True):
        # -1 pads hits and is no document.
        found = np.flatnonzero(row == source) if source is not None else np.zeros(0, np.int64)
        ranks.append(int(found[0]) + 1 if len(found) else None)
    return ranks
