"""Recipe `mine`, top to bottom: rows in, the same rows with negatives that a retriever mined out.

Invariant: no negative is a positive of its query, by id or by text, in that row or in any row with the same query;
none is excluded for the query or repeats a negative that the row has. Rows keep their order and their other fields.
The same input, options and seed give the same bytes. Memory: the corpus, its index, one row at a time.
"""

import hashlib
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from reasonir.core.errors import UserError
from reasonir.core.files import write_jsonl
from reasonir.core.progress import Progress
from reasonir.core.run_folder import RunFolder
from reasonir.data.beir import read_beir
from reasonir.data.bright import list_bright_tasks, read_bright
from reasonir.data.collections import Collection, read_documents
from reasonir.data.training_rows import InstructedText, read_training_examples, read_training_rows
from reasonir.model import Encoder
from reasonir.retrieval.bm25 import BM25Index, analyse, tie_ranks
from reasonir.synth.config import MAY_DIFFER, MineConfig, Miner, PositiveForm
from reasonir.synth.recipes.inputs import positives_are_ids
from reasonir.text.near_duplicates import overlap, shingles
from reasonir.text.words import one_spelling

DATA_FILE = "data.jsonl"
ROWS_PER_BLOCK = 1_024
TEXTS_PER_FILE = 4_096
QUERIES_AT_ONCE = 256
SHINGLED_DOCUMENTS = 8_192


@dataclass(frozen=True, slots=True)
class Mining:
    """A row to extend. positives: their texts; excluded: ids that must not be ranked."""

    row: dict[str, Any]
    id: str
    query: InstructedText
    positives: tuple[InstructedText, ...]
    negatives: tuple[str, ...]
    excluded: tuple[str, ...]

    @property
    def key(self) -> str:
        """What rows with the same query share."""
        return one_spelling(self.query.text)


@dataclass(slots=True)
class Source:
    """Documents and the rows to mine for; `rows` may be read again and again."""

    ids: list[str]
    texts: list[str]
    rows: Callable[[], Iterator[Mining]]


def mine_negatives(config: MineConfig) -> dict[str, int]:
    """Write data.jsonl: the rows with `neg` extended, and in `mined` where each came from.

    Returns:
        Counts: rows, negatives, rows_short (fewer than asked for), rows_without (none found).
    Raises:
        UserError: unreadable input, ids that the corpus lacks, a negative form that the rows cannot take.
    """
    run = RunFolder(config.output_dir, config, resume=True, ignored=(*MAY_DIFFER, "chunk_tokens"))
    encoder = None
    if config.retriever is Miner.dense:
        encoder = Encoder.from_pretrained(str(config.model.path), template=config.model.template.value)
    inputs = [path for path in (config.rows, config.corpus, config.queries) if path and Path(path).exists()]
    counts: Counter[str] = Counter(rows=0, negatives=0, rows_short=0, rows_without=0)
    sources = iter(open_sources(config))
    first = next(sources)  # mistakes in the input before anything is written
    run.start()

    def rows() -> Iterator[dict[str, Any]]:
        yield from mine_source(first, config, encoder, run.path, counts)
        for source in sources:
            yield from mine_source(source, config, encoder, run.path, counts)

    write_jsonl(run.path / DATA_FILE, rows())
    fingerprint = encoder.fingerprint if encoder is not None else None
    run.finish(inputs=inputs, counts=dict(counts), model_fingerprint=fingerprint)
    short = f"{counts['rows_short']} rows got fewer than {config.negatives_per_row}, {counts['rows_without']} none"
    print(f"{counts['rows']} rows, {counts['negatives']} negatives mined; {short}: {run.path / DATA_FILE}")
    return dict(counts)


def mine_source(
    source: Source, config: MineConfig, encoder: Encoder | None, folder: Path, counts: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Yield a source's rows with their negatives."""
    ranker: Ranker = LexicalRanker(source) if encoder is None else DenseRanker(source, config, encoder, folder)
    picker = Picker(source, config)
    rows = source.rows()
    progress = Progress("mine", 0, "rows")
    while block := list(islice(rows, ROWS_PER_BLOCK)):
        positions, scores = ranker.rank(block, [picker.excluded(row) for row in block], config.last_rank)
        floors = ranker.lowest_positives(block) if config.margin is not None else [float("inf")] * len(block)
        for row, found, values, floor in zip(block, positions, scores, floors, strict=True):
            chosen = picker.pick(row, found, values, floor)
            counts["rows"] += 1
            counts["negatives"] += len(chosen)
            counts["rows_short"] += len(chosen) < config.negatives_per_row
            counts["rows_without"] += not chosen
            yield extend(row, chosen, source, config)
        progress.update(len(block))
    progress.close()


# --- what to mine for -------------------------------------------------------------------------------------------------


def open_sources(config: MineConfig) -> Iterator[Source]:
    """Yield the corpora with their rows: one, or one for each task of a BRIGHT root."""
    if config.queries is None:
        yield _open_rows(config)
        return
    several = False
    if (Path(config.queries) / "qrels").is_dir():
        collections: Iterable[Collection] = [read_beir(config.queries, config.split)]
    else:
        hub = config.queries.startswith("hub:")
        if hub and not config.tasks:
            raise UserError(f"queries={config.queries} needs tasks=[NAME,...]")
        tasks = config.tasks or list_bright_tasks(config.queries)
        collections, several = read_bright(config.queries, tasks), len(tasks) > 1
    for collection in collections:
        yield _open_collection(collection, config.form is PositiveForm.id, f"{collection.name}/" if several else "")


def _open_rows(config: MineConfig) -> Source:
    documents = read_documents(str(config.corpus))
    source = str(config.rows)
    ids_form = positives_are_ids(source, documents)
    if config.form is PositiveForm.id and not ids_form:
        raise UserError(f"form=id: the positives of {source} are no ids of {config.corpus}; use form=text")

    def rows() -> Iterator[Mining]:
        # The same file twice: once as it is, once as training reads it.
        examples = read_training_examples(source, documents if ids_form else None)
        for (_, row), example in zip(read_training_rows(source), examples, strict=True):
            yield Mining(
                row=row,
                id=example.id,
                query=example.query,
                positives=example.positives,
                negatives=tuple(negative.text for negative in example.negatives),
                excluded=tuple(row.get("excluded_ids") or ()),
            )

    return Source(list(documents), list(documents.values()), rows)


def _open_collection(collection: Collection, ids_form: bool, prefix: str) -> Source:
    texts = {document.id: document.text for document in collection.documents}

    def rows() -> Iterator[Mining]:
        for query in collection.queries:
            if not query.gold:
                continue
            entries = [i if ids_form else texts[i] for i in query.gold]
            row: dict[str, Any] = {
                "id": prefix + query.id,
                "query": [collection.instruction, query.text],
                "pos": [["", entry] for entry in entries],
                "neg": [],
            }
            positives = tuple(InstructedText("", texts[i]) for i in query.gold)
            asked = InstructedText(collection.instruction, query.text)
            yield Mining(row, row["id"], asked, positives, (), query.excluded_ids)

    return Source(list(texts), list(texts.values()), rows)


# --- which documents --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Picker:
    """Decides which of a row's ranked documents become its negatives."""

    source: Source
    config: MineConfig
    _places: dict[str, int] = field(init=False)
    _golds: dict[str, set[str]] = field(init=False)
    _spelling: list[str] = field(init=False)
    _place_of: dict[str, int] = field(init=False)
    _strays: dict[str, list[str]] = field(init=False)  # positives that the corpus lacks
    _shingles: Any = field(init=False)

    def __post_init__(self) -> None:
        self._places = {identifier: place for place, identifier in enumerate(self.source.ids)}
        self._spelling = [_digest(text) for text in self.source.texts]
        self._shingles = lru_cache(SHINGLED_DOCUMENTS)(lambda place: shingles(self.source.texts[place]))
        self._golds, self._strays = defaultdict(set), defaultdict(list)
        self._place_of = {digest: place for place, digest in enumerate(self._spelling)}
        for row in self.source.rows():
            for positive in row.positives:
                digest = _digest(positive.text)
                if digest not in self._place_of and digest not in self._golds[row.key]:
                    self._strays[row.key].append(positive.text)
                self._golds[row.key].add(digest)

    def excluded(self, row: Mining) -> np.ndarray:
        """Return the places of the documents that must not be ranked for a row."""
        return np.array(sorted({self._places[i] for i in row.excluded if i in self._places}), dtype=np.int64)

    def pick(
        self, row: Mining, positions: np.ndarray, scores: np.ndarray, lowest_positive: float
    ) -> list[tuple[int, int, float]]:
        """Return (place, rank, score) of the negatives of a row, best rank first.

        Equal texts share a digest, so that a positive is known under any id. The draw depends on seed, row and query.
        """
        config = self.config
        most = self._most(lowest_positive)
        window = [
            (int(place), rank, float(score))
            for rank, (place, score) in enumerate(zip(positions, scores, strict=True), start=1)
            if place >= 0 and rank >= config.first_rank and score < most
        ]
        if config.draw:
            random.Random(f"{config.seed}|{row.id}|{row.query.text}").shuffle(window)
        taken = {*self._golds[row.key], *map(_digest, row.negatives)}
        copied = self._positive_shingles(row) if config.near_duplicate else []
        chosen: list[tuple[int, int, float]] = []
        for place, rank, score in window:
            if len(chosen) == config.negatives_per_row:
                break
            text = self._spelling[place]
            if text in taken or not self.source.texts[place].strip():
                continue
            if any(overlap(self._shingles(place), other) >= config.near_duplicate for other in copied):
                continue
            taken.add(text)
            chosen.append((place, rank, score))
        return sorted(chosen, key=lambda one: one[1])

    def _positive_shingles(self, row: Mining) -> list[set[tuple[str, ...]]]:
        places = sorted(self._place_of[digest] for digest in self._golds[row.key] if digest in self._place_of)
        return [*map(self._shingles, places), *map(shingles, self._strays.get(row.key, ()))]

    def _most(self, lowest_positive: float) -> float:
        margin = self.config.margin
        if margin is None:
            return float("inf")
        return lowest_positive - margin * (abs(lowest_positive) if self.config.relative_margin else 1.0)


def _digest(text: str) -> str:
    return hashlib.blake2b(one_spelling(text).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def extend(row: Mining, chosen: list[tuple[int, int, float]], source: Source, config: MineConfig) -> dict[str, Any]:
    """Return the row with further negatives, spelt as its positives are, and their provenance."""
    given = "negative" if row.row.get("negative") is not None else "neg"
    old = row.row.get(given) or []
    first = (row.row.get("pos") or row.row.get("positive") or [""])[0]
    names = source.ids if config.form is PositiveForm.id else source.texts
    new = [names[place] if isinstance(first, str) else [first[0], names[place]] for place, _, _ in chosen]
    mined = [
        {"id": source.ids[place], "rank": rank, "score": round(score, 6), "by": config.retriever.value}
        for place, rank, score in chosen
    ]
    return {
        **row.row,
        given: [*([old] if isinstance(old, str) else old), *new],
        "mined": [*(row.row.get("mined") or []), *mined],
    }


# --- rankings ---------------------------------------------------------------------------------------------------------


class Ranker(Protocol):
    """Ranks documents for rows."""

    def rank(self, rows: Sequence[Mining], excluded: list[np.ndarray], top: int) -> tuple[np.ndarray, np.ndarray]:
        """Return places (rows, top), -1 where there are fewer, and scores, best first."""
        ...

    def lowest_positives(self, rows: Sequence[Mining]) -> list[float]:
        """Return the score of each row's lowest positive, whether the corpus holds it or not."""
        ...


class LexicalRanker:
    """BM25 over the source's documents."""

    def __init__(self, source: Source) -> None:
        self._index = BM25Index(source.ids, source.texts)

    def rank(self, rows: Sequence[Mining], excluded: list[np.ndarray], top: int) -> tuple[np.ndarray, np.ndarray]:
        """Rank by BM25; instructions are for encoders only."""
        return self._index.search([row.query.text for row in rows], top, excluded)

    def lowest_positives(self, rows: Sequence[Mining]) -> list[float]:
        """Score the positives as if they stood in the index, with its frequencies and average length."""
        return [min(self._score(row.query.text, positive.text) for positive in row.positives) for row in rows]

    def _score(self, query: str, text: str) -> float:
        index, counts = self._index, Counter(analyse(text))
        norm = index.k1 * (1 - index.b + index.b * counts.total() / max(index.average_length, 1e-9))
        known = ((term, index.vocabulary[term]) for term in analyse(query) if term in index.vocabulary)
        return float(sum(index.idf[number] * counts[term] / (counts[term] + norm) for term, number in known))


class DenseRanker:
    """Exact inner products of an encoder's embeddings, which stay in the output folder, named by content."""

    def __init__(self, source: Source, config: MineConfig, encoder: Encoder, folder: Path) -> None:
        self._encoder, self._config, self._folder = encoder, config, folder / "embeddings"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._precision = "bf16" if encoder.device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
        self._ranks = tie_ranks(source.ids)
        self._documents = self._embed([InstructedText("", text) for text in source.texts], config.document_max_tokens)

    def rank(self, rows: Sequence[Mining], excluded: list[np.ndarray], top: int) -> tuple[np.ndarray, np.ndarray]:
        """Rank by inner product in float32; equal scores by id, descending."""
        queries = np.concatenate(self._queries(rows))
        parts = [
            self._rank_some(queries[start : start + QUERIES_AT_ONCE], excluded[start : start + QUERIES_AT_ONCE], top)
            for start in range(0, len(queries), QUERIES_AT_ONCE)
        ]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def _rank_some(self, queries: np.ndarray, excluded: list[np.ndarray], top: int) -> tuple[np.ndarray, np.ndarray]:
        device = self._encoder.device
        asked = torch.from_numpy(queries).to(device)
        places, scores, start = [], [], 0
        for documents in self._documents:
            products = asked @ torch.from_numpy(np.array(documents)).to(device).T
            for row, banned in enumerate(excluded):
                inside = banned[(banned >= start) & (banned < start + len(documents))] - start
                products[row, torch.from_numpy(inside).to(device)] = -torch.inf
            best = products.topk(min(top, len(documents)), dim=1)
            scores.append(best.values.cpu().numpy())
            places.append(best.indices.cpu().numpy() + start)
            start += len(documents)
        found, values = np.concatenate(places, axis=1), np.concatenate(scores, axis=1)
        order = np.lexsort((-self._ranks[found], -values), axis=1)[:, :top]
        found, values = np.take_along_axis(found, order, axis=1), np.take_along_axis(values, order, axis=1)
        return np.where(np.isneginf(values), -1, found), values

    def lowest_positives(self, rows: Sequence[Mining]) -> list[float]:
        """Score the positives with the document side of the encoder."""
        queries = np.concatenate(self._queries(rows))
        texts = [positive for row in rows for positive in row.positives]
        embedded = np.concatenate(self._embed(texts, self._config.document_max_tokens))
        owner = np.repeat(np.arange(len(rows)), [len(row.positives) for row in rows])
        lowest = np.full(len(rows), np.inf, dtype=np.float32)
        np.minimum.at(lowest, owner, np.einsum("nd,nd->n", queries[owner], embedded))
        return [float(value) for value in lowest]

    def _queries(self, rows: Sequence[Mining]) -> list[np.ndarray]:
        default = "" if self._config.instruction == "none" else self._config.instruction
        asked = [InstructedText(row.query.instruction or default, row.query.text) for row in rows]
        return self._embed(asked, self._config.query_max_tokens)

    def _embed(self, texts: Sequence[InstructedText], max_tokens: int | None) -> list[np.ndarray]:
        """Return embeddings file by file, each encoded only where the folder lacks it."""
        blocks, limit = [], max_tokens or self._encoder.default_max_tokens
        progress = Progress("encode", len(texts), "texts")
        for start in range(0, len(texts), TEXTS_PER_FILE):
            block = texts[start : start + TEXTS_PER_FILE]
            target = self._folder / f"{self._name(block, limit)}.npy"
            if not target.exists():
                scratch = target.with_suffix(".partial")
                with scratch.open("wb") as stream:
                    np.save(stream, self._encode(block, limit))
                os.replace(scratch, target)
            blocks.append(np.load(target, mmap_mode="r"))
            progress.update(len(block))
        progress.close()
        return blocks

    def _encode(self, block: Sequence[InstructedText], limit: int) -> np.ndarray:
        instructions, texts = [one.instruction for one in block], [one.text for one in block]
        return self._encoder.encode(texts, instructions, limit, self._config.chunk_tokens, self._precision)

    def _name(self, block: Sequence[InstructedText], limit: int) -> str:
        encoder = self._encoder
        digest = hashlib.sha256(f"{encoder.fingerprint}|{encoder.template.fingerprint}|".encode())
        digest.update(f"{limit}|{self._precision}|".encode())
        for one in block:
            for part in (one.instruction, one.text):
                encoded = part.encode("utf-8", "surrogatepass")
                digest.update(len(encoded).to_bytes(8, "little") + encoded)
        return digest.hexdigest()[:40]
