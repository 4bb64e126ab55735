"""Recipe `mine`, top to bottom: rows in, the same rows with negatives that a retriever mined out.

Invariant: no negative is a positive of its query, by id or by text, in that row or in any row with the same query. No
negative is excluded for the query or repeats a negative that the row keeps. Rows keep their order and their other
fields. The same input, options and seed give the same bytes, and are not mined twice. Memory: the corpus, its index,
one block of rows.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from reasonir.core.errors import UserError
from reasonir.core.files import write_jsonl
from reasonir.core.progress import Progress
from reasonir.core.run_folder import RunFolder
from reasonir.core.stamp import checksums, digest_of
from reasonir.data.collections import Collection, read_documents
from reasonir.data.open_source import Form, open_source
from reasonir.data.training_rows import InstructedText
from reasonir.retrieval.bm25 import BM25Index
from reasonir.retrieval.ranking import DenseSearch
from reasonir.retrieval.top_k import exact_top_k
from reasonir.synth.config import DATA_FILE, MAY_DIFFER, MineConfig, Miner, PositiveForm
from reasonir.synth.recipes.inputs import positives_are_ids, read_rows_about
from reasonir.text.near_duplicates import overlap, shingles
from reasonir.text.words import one_spelling

ROWS_PER_BLOCK = 1_024
"""Rows that are ranked together; a dense miner reads all embeddings of the corpus once for each block."""
SHINGLED_DOCUMENTS = 8_192
"""Documents whose shingles stay in memory: positives and high ranks recur from row to row."""


@dataclass(frozen=True, slots=True)
class MiningRow:
    """A row to extend. fields: as it stands in the file. positives, negatives: texts. excluded: ids never ranked."""

    fields: dict[str, Any]
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
class MiningTask:
    """Documents and the rows to mine for. rows: called for each pass over them."""

    ids: list[str]
    texts: list[str]
    rows: Callable[[], Iterator[MiningRow]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Which ranked documents become negatives; each field is the option of its name (`MineConfig`)."""

    first_rank: int
    last_rank: int
    negatives_per_row: int
    draw: bool
    margin: float | None
    relative_margin: bool
    near_duplicate: float
    replace_negatives: bool
    seed: int

    def score_limit(self, lowest_positive: float) -> float:
        """Return the score that a negative must stay below, by the score of the row's lowest positive."""
        if self.margin is None:
            return float("inf")
        return lowest_positive - self.margin * (abs(lowest_positive) if self.relative_margin else 1.0)


def mine_negatives(config: MineConfig) -> dict[str, int]:
    """Write data.jsonl: the rows with `neg` extended, and in `mined` where each came from.

    Returns:
        Counts: rows, negatives, rows_short (fewer than asked for), rows_without (none found).
    Raises:
        UserError: unreadable input, ids that the corpus lacks, a negative form that the rows cannot take.
    """
    # 1 what ranks, and whether it was mined with before
    run = RunFolder(config.output_dir, config, resume=True, ignored=(*MAY_DIFFER, "chunk_tokens"))
    dense = None
    if config.retriever is Miner.dense:
        dense = DenseSearch.load(
            str(config.model.path), template=config.model.template.value, cache_dir=run.path,
            document_max_tokens=config.document_max_tokens, query_max_tokens=config.query_max_tokens,
            chunk_tokens=config.chunk_tokens,
        )  # fmt: skip
    inputs = [path for path in (config.rows, config.corpus, config.queries) if path and Path(path).exists()]
    fingerprint = dense.encoder.fingerprint if dense is not None else None
    # A set of the hub counts as unchanged.
    if before := run.finished_before(inputs, model_fingerprint=fingerprint):
        print(f"mined before, from the same input with the same model: {run.path / DATA_FILE}")
        return dict(before["counts"])
    # 2 what is mined for
    instruction = "" if config.instruction == "none" else config.instruction
    rules = Rules(**{name: getattr(config, name) for name in Rules.__dataclass_fields__})
    ids_form = config.form is PositiveForm.id
    if config.queries is None:
        tasks = iter([_open_rows(str(config.rows), str(config.corpus), ids_form)])
    else:
        tasks = _open_queries(config.queries, config.split, config.tasks, ids_form)
    counts: Counter[str] = Counter(rows=0, negatives=0, rows_short=0, rows_without=0)
    first = next(tasks)  # mistakes in the input before anything is written
    # 3 mine, write, report
    run.start()

    def rows() -> Iterator[dict[str, Any]]:
        for task in (one for part in ([first], tasks) for one in part):
            ranker = LexicalRanker(task) if dense is None else DenseRanker(task, dense, instruction)
            for row, chosen in _mine_task(task, ranker, rules):
                counts["rows"] += 1
                counts["negatives"] += len(chosen)
                counts["rows_short"] += len(chosen) < rules.negatives_per_row
                counts["rows_without"] += not chosen
                yield extend(row, chosen, task, ids_form, config.retriever.value, rules.replace_negatives)

    write_jsonl(run.path / DATA_FILE, rows())
    run.finish(
        inputs=inputs, counts=dict(counts), outputs=checksums(run.path, [DATA_FILE]), model_fingerprint=fingerprint
    )
    short = f"{counts['rows_short']} rows got fewer than {rules.negatives_per_row}, {counts['rows_without']} none"
    print(f"{counts['rows']} rows, {counts['negatives']} negatives mined; {short}: {run.path / DATA_FILE}")
    return dict(counts)


@dataclass(frozen=True, slots=True)
class Negative:
    """A document that becomes a negative. row: its place in the corpus. rank: from 1, exclusions taken out."""

    row: int
    rank: int
    score: float


def _mine_task(task: MiningTask, ranker: "Ranker", rules: Rules) -> Iterator[tuple[MiningRow, list[Negative]]]:
    """Yield a task's rows with their negatives."""
    picker = Picker(task, rules)
    rows = task.rows()
    progress = Progress("mine", 0, "rows")
    while block := list(islice(rows, ROWS_PER_BLOCK)):
        places, scores = ranker.rank(block, [picker.excluded(row) for row in block], rules.last_rank)
        # Without a margin no score limits a negative, and positives need not be scored.
        lowest = ranker.lowest_positives(block) if rules.margin is not None else [float("inf")] * len(block)
        for row, found, values, floor in zip(block, places, scores, lowest, strict=True):
            yield row, picker.pick(row, found, values, floor)
        progress.update(len(block))
    progress.close()


# --- what to mine for -------------------------------------------------------------------------------------------------


def _open_queries(folder: str, split: str, tasks: list[str] | None, ids_form: bool) -> Iterator[MiningTask]:
    """Yield a benchmark's documents with rows made of its queries: one task, or each task of a BRIGHT root."""
    # Without the split: for a place on the hub a named split would mean BEIR's layout.
    source = open_source(folder)
    if source.form is Form.beir:
        source = replace(source, split=split)
    elif folder.startswith("hub:") and not tasks:
        raise UserError(f"queries={folder} needs tasks=[NAME,...]")
    names = (tasks if source.form is Form.bright else None) or source.tasks()
    for collection in source.collections(names):
        # BRIGHT numbers the queries of every task from 0.
        yield _open_collection(collection, ids_form, f"{collection.name}/" if len(names) > 1 else "")


def _open_rows(rows_file: str, corpus: str, ids_form: bool) -> MiningTask:
    """Return a corpus with the training rows of a file, whose positives are texts, or all are ids of the corpus."""
    documents = read_documents(corpus)
    # Asked at once: a file that is missing is said before anything is written.
    rows_hold_ids = positives_are_ids(rows_file, documents)
    if ids_form and not rows_hold_ids:
        raise UserError(f"form=id: the positives of {rows_file} are no ids of {corpus}; use form=text")

    def rows() -> Iterator[MiningRow]:
        for fields, example in read_rows_about(rows_file, documents):
            yield MiningRow(
                fields=fields,
                id=example.id,
                query=example.query,
                positives=example.positives,
                negatives=tuple(negative.text for negative in example.negatives),
                excluded=tuple(map(str, fields.get("excluded_ids") or ())),
            )

    return MiningTask(list(documents), list(documents.values()), rows)


def _open_collection(collection: Collection, ids_form: bool, prefix: str) -> MiningTask:
    texts = {document.id: document.text for document in collection.documents}

    def rows() -> Iterator[MiningRow]:
        for query in collection.queries:
            # A row without a positive trains nothing.
            gold = [i for i in query.gold if i in texts]
            if not gold:
                continue
            entries = [i if ids_form else texts[i] for i in gold]
            fields: dict[str, Any] = {
                "id": prefix + query.id,
                "query": [collection.instruction, query.text],
                "pos": [["", entry] for entry in entries],
                "neg": [],
            }
            positives = tuple(InstructedText("", texts[i]) for i in gold)
            asked = InstructedText(collection.instruction, query.text)
            yield MiningRow(fields, fields["id"], asked, positives, (), query.excluded_ids)

    return MiningTask(list(texts), list(texts.values()), rows)


# --- which documents --------------------------------------------------------------------------------------------------


class Picker:
    """Decides which of a row's ranked documents become its negatives."""

    def __init__(self, task: MiningTask, rules: Rules) -> None:
        """Pass over the task's rows once, to know every positive of every query."""
        self._texts, self._rules = task.texts, rules
        self._row_of = {identifier: row for row, identifier in enumerate(task.ids)}
        # Equal texts share a spelling, so that a positive is known under any id.
        self._spelling = [_spelling_key(text) for text in task.texts]
        self._row_of_spelling = {spelling: row for row, spelling in enumerate(self._spelling)}
        self._shingles = lru_cache(SHINGLED_DOCUMENTS)(lambda row: shingles(task.texts[row]))
        self._positives: defaultdict[str, set[str]] = defaultdict(set)  # keys of spellings, by query
        self._strays: defaultdict[str, list[str]] = defaultdict(list)  # positives that the corpus lacks, by query
        for row in task.rows():
            for positive in row.positives:
                spelling = _spelling_key(positive.text)
                # Kept as texts: near copies of a positive that the corpus lacks are refused as well.
                if spelling not in self._row_of_spelling and spelling not in self._positives[row.key]:
                    self._strays[row.key].append(positive.text)
                self._positives[row.key].add(spelling)

    def excluded(self, row: MiningRow) -> np.ndarray:
        """Return the rows of the documents that must not be ranked for a row."""
        return np.array(sorted({self._row_of[i] for i in row.excluded if i in self._row_of}), dtype=np.int64)

    def pick(self, row: MiningRow, places: np.ndarray, scores: np.ndarray, lowest_positive: float) -> list[Negative]:
        """Return the negatives of a row, best rank first. The draw depends on the seed, the row's id and its query.

        Args:
            row: What to mine for.
            places: Rows of the corpus (top,), best first, -1 where there are fewer.
            scores: Theirs.
            lowest_positive: Score of the row's lowest positive.
        """
        rules = self._rules
        limit = rules.score_limit(lowest_positive)
        window = [
            Negative(int(place), rank, float(score))
            for rank, (place, score) in enumerate(zip(places, scores, strict=True), start=1)
            if place >= 0 and rank >= rules.first_rank and score < limit
        ]
        if rules.draw:
            random.Random(f"{rules.seed}|{row.id}|{row.query.text}").shuffle(window)
        # The cheap test comes first: equal texts by key, near copies by shingles only for what is left.
        kept = () if rules.replace_negatives else row.negatives
        taken = {*self._positives[row.key], *map(_spelling_key, kept)}
        copied = self._positive_shingles(row) if rules.near_duplicate else []
        chosen: list[Negative] = []
        for candidate in window:
            if len(chosen) == rules.negatives_per_row:
                break
            spelling = self._spelling[candidate.row]
            if spelling in taken or not self._texts[candidate.row].strip():
                continue
            if any(overlap(self._shingles(candidate.row), other) >= rules.near_duplicate for other in copied):
                continue
            # The corpus may hold the same text under a second id.
            taken.add(spelling)
            chosen.append(candidate)
        # A draw has shuffled the window.
        return sorted(chosen, key=lambda one: one.rank)

    def _positive_shingles(self, row: MiningRow) -> list[set[tuple[str, ...]]]:
        known = (self._row_of_spelling.get(spelling) for spelling in self._positives[row.key])
        rows = sorted(place for place in known if place is not None)
        return [*map(self._shingles, rows), *map(shingles, self._strays.get(row.key, ()))]


def _spelling_key(text: str) -> str:
    return digest_of([one_spelling(text)])[:24]


def extend(
    row: MiningRow, chosen: list[Negative], task: MiningTask, ids_form: bool, miner: str, replace_negatives: bool
) -> dict[str, Any]:
    """Return the row's fields with further negatives, spelt as its positives are, and where each came from.

    Args:
        row: As it was read.
        chosen: The negatives to add.
        task: Whose documents they are.
        ids_form: Whether to write ids instead of texts.
        miner: What ranked them, for `mined`.
        replace_negatives: Whether they take the place of the row's own. A row without new ones keeps its own.
    """
    given = "negative" if row.fields.get("negative") is not None else "neg"
    fields = row.fields | {given: [], "mined": []} if replace_negatives and chosen else row.fields
    old = fields.get(given) or []
    # Spelt as the row's first positive is: a text alone, or [instruction, text].
    first = (row.fields.get("pos") or row.fields.get("positive") or [""])[0]
    names = task.ids if ids_form else task.texts
    new = [names[one.row] if isinstance(first, str) else [first[0], names[one.row]] for one in chosen]
    mined = [{"id": task.ids[one.row], "rank": one.rank, "score": round(one.score, 6), "by": miner} for one in chosen]
    return {
        **fields,
        given: [*([old] if isinstance(old, str) else old), *new],
        "mined": [*(fields.get("mined") or []), *mined],
    }


# --- rankings ---------------------------------------------------------------------------------------------------------


class LexicalRanker:
    """BM25 over a task's documents; instructions are for encoders only."""

    def __init__(self, task: MiningTask) -> None:
        self._index = BM25Index(task.ids, task.texts)

    def rank(self, rows: Sequence[MiningRow], excluded: list[np.ndarray], top: int) -> tuple[np.ndarray, np.ndarray]:
        """Return places (rows, top), best first, -1 where there are fewer, and scores.

        Args:
            rows: Whose queries to rank for, without their instructions.
            excluded: For each, the rows of documents that are taken out first.
            top: Documents kept.
        """
        return self._index.search([row.query.text for row in rows], top, excluded)

    def lowest_positives(self, rows: Sequence[MiningRow]) -> list[float]:
        """Return the score of each row's lowest positive, which counts as if it stood in the index."""
        return [min(self._index.score(row.query.text, text.text) for text in row.positives) for row in rows]


class DenseRanker:
    """Exact inner products of an encoder's embeddings, which stay in the output folder for the next attempt."""

    def __init__(self, task: MiningTask, dense: DenseSearch, instruction: str) -> None:
        """Embed the documents.

        Args:
            task: Whose documents to rank.
            dense: The encoder and its settings.
            instruction: For queries that bring none.
        """
        self._dense, self._instruction, self._ids = dense, instruction, task.ids
        self._row_of_text = {text: row for row, text in enumerate(task.texts)}
        self._documents = dense.embed(dense.document_job(task.texts), "documents").embeddings

    def rank(self, rows: Sequence[MiningRow], excluded: list[np.ndarray], top: int) -> tuple[np.ndarray, np.ndarray]:
        """Return places and scores as `LexicalRanker.rank` does, by inner product in float32.

        Args:
            rows: Whose queries to rank for, behind their instructions.
            excluded: For each, the rows of documents that are taken out first.
            top: Documents kept.
        """
        device = self._dense.encoder.device
        return exact_top_k(self._queries(rows), self._documents, top, excluded, ids=self._ids, device=device)

    def lowest_positives(self, rows: Sequence[MiningRow]) -> list[float]:
        """Return the score of each row's lowest positive, embedded as a document."""
        texts = [positive for row in rows for positive in row.positives]
        owner = np.repeat(np.arange(len(rows)), [len(row.positives) for row in rows])
        lowest = np.full(len(rows), np.inf, dtype=np.float32)
        # `at`, because a row with several positives stands several times in `owner`, and plain indexing keeps one.
        np.minimum.at(lowest, owner, np.einsum("nd,nd->n", self._queries(rows)[owner], self._embeddings_of(texts)))
        return [float(value) for value in lowest]

    def _embeddings_of(self, texts: Sequence[InstructedText]) -> np.ndarray:
        """Return positives as documents: those of the corpus from its embeddings, others encoded."""
        # A row's instruction for a positive belongs to its input, and the corpus has none.
        places = [-1 if one.instruction else self._row_of_text.get(one.text, -1) for one in texts]
        embedded = np.array(self._documents[np.maximum(places, 0)], dtype=np.float32)
        strange = [number for number, place in enumerate(places) if place < 0]
        if strange:
            others = [texts[number] for number in strange]
            job = self._dense.document_job([one.text for one in others], [one.instruction for one in others])
            embedded[strange] = self._dense.embed(job, "positives").embeddings
        return embedded

    def _queries(self, rows: Sequence[MiningRow]) -> np.ndarray:
        instructions = [row.query.instruction or self._instruction for row in rows]
        # With a margin a block's queries are asked for twice; the second time the cache has them.
        return self._dense.embed(
            self._dense.query_job([row.query.text for row in rows], instructions), "queries"
        ).embeddings


Ranker = LexicalRanker | DenseRanker
