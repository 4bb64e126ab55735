"""What a run is measured on while it trains: tokenised queries and documents of a task, and who answers whom.

Invariants: a set is a function of its data, its limits and the seed. Every query has a relevant document, and all
relevant documents of the queries are there, whatever the limits.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reasonir.core.errors import UserError
from reasonir.data.bright import bright_instruction
from reasonir.data.collections import Collection
from reasonir.data.open_source import DEFAULT_SPLIT, HUB, Form, open_source
from reasonir.model.templates import Template, TokenizedText
from reasonir.train.data.sources import Source, open_sources, read_all_documents
from reasonir.train.data.token_store import TokenStore

# Splits of a BEIR set's qrels, the first that there is: a model must not be chosen on the queries it is judged by.
SPLITS = ("dev", "validation", DEFAULT_SPLIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class DevData:
    """What to measure on, as the options say it.

    dir: folder, hub:owner/name or training rows. split: of a BEIR set's qrels; None is the first of `SPLITS`.
    instruction: auto, none, bright, or a text in which {task} stands for the task's name. max_queries, max_documents:
    of all sets together. documents: corpora in which ids of training rows are looked up.
    """

    dir: str | None
    share: float
    split: str | None
    instruction: str
    max_queries: int
    max_documents: int
    query_max_tokens: int
    document_max_tokens: int
    documents: tuple[str, ...]
    seed: int

    def limits(self, sets: int) -> tuple[int, int]:
        """Return how many queries and documents one of so many sets may have."""
        return max(1, self.max_queries // sets), max(1, self.max_documents // sets)


@dataclass(frozen=True, slots=True, kw_only=True)
class DevSet:
    """Queries to rank documents for.

    document_ids: distinct, they decide ties. gold: for each query, the grade of each relevant document, by place.
    excluded: for each query, the places of documents that are not ranked. available: queries and documents that there
    were before the limits.
    """

    name: str
    queries: list[TokenizedText]
    documents: list[TokenizedText]
    document_ids: list[str]
    gold: list[dict[int, int]]
    excluded: list[np.ndarray]
    available: tuple[int, int]

    @property
    def texts(self) -> list[TokenizedText]:
        """The queries, then the documents."""
        return [*self.queries, *self.documents]

    def describe(self) -> str:
        """Say how large the set is."""
        queries, documents = self.available
        tokens = sum(len(text.ids) for text in self.texts)
        return (
            f"{self.name} ({len(self.queries):,} of {queries:,} queries, {len(self.documents):,} of {documents:,} "
            f"documents, {tokens:,} tokens)"
        )


def require_place(place: str | None) -> None:
    """Refuse a dev.dir that is missing, before anything large is read for nothing."""
    if place is not None and not place.startswith(HUB) and not Path(place).exists():
        raise UserError(f"dev.dir={place}: no such file or folder")


def open_sets(
    data: DevData,
    sources: Sequence[Source],
    stores: Sequence[TokenStore],
    held_out: Sequence[np.ndarray],
    template: Template,
    common_instruction: str,
    cache_dir: str,
) -> list[DevSet]:
    """Open what a run is measured on: a set for each task of a folder, or for each source of rows.

    Args:
        data: What to measure on; without `dir` and `share` there is no set.
        sources: Of the training data.
        stores: Their tokens.
        held_out: Their rows that are held out.
        template: Turns an instruction and a text into tokens.
        common_instruction: The one instruction of the training queries, "" where they differ.
        cache_dir: Folder of tokenised sources.
    """
    if data.share:
        return _sets_of_rows(data, [source.name for source in sources], stores, held_out)
    if data.dir is None:
        return []
    if not _holds_rows(data.dir):
        return _sets_of_folder(data, data.dir, template, common_instruction)
    source = Source(data.dir, data.dir, ("",), data.documents, None, 0, None)
    limits = {"query_max_tokens": data.query_max_tokens, "document_max_tokens": data.document_max_tokens}
    opened = open_sources([source], read_all_documents([source]), template, cache_dir=cache_dir, **limits)
    return _sets_of_rows(data, [source.name], opened, [np.arange(store.rows) for store in opened])


def _holds_rows(place: str) -> bool:
    """Return whether a place holds training rows: a file, or hub:owner/name:configuration:split."""
    return Path(place).is_file() or place.count(":") > 1


def _sets_of_folder(data: DevData, place: str, template: Template, common_instruction: str) -> list[DevSet]:
    found = [name for name in SPLITS if Path(place, "qrels", f"{name}.tsv").is_file()]
    source = open_source(place, data.split or next(iter(found), None))
    if source.form is Form.texts:
        raise UserError(f"dev.dir={place} is no BRIGHT or BEIR folder, and no file of training rows")
    option = data.instruction
    if option == "auto":
        option = "bright" if source.form is Form.bright else common_instruction or "none"
    tasks, sets = source.tasks(), []
    for collection in source.collections(tasks):
        instruction = bright_instruction(option, collection.name, collection.instruction, False)
        sets.append(_set_of_collection(data, collection, instruction, template, len(tasks)))
    return sets


def _set_of_collection(
    data: DevData, collection: Collection, instruction: str, template: Template, sets: int
) -> DevSet:
    row_of = {document.id: row for row, document in enumerate(collection.documents)}
    # A judged document may lie outside the corpus; the loss needs one of each query that does not.
    judged = [query for query in collection.queries if not query.gold.keys().isdisjoint(row_of)]
    if not judged:
        raise UserError(f"dev.dir: {collection.name} has no query with a relevant document")
    most_queries, most_documents = data.limits(sets)
    queries = [judged[i] for i in _choose(len(judged), most_queries, data.seed)]
    relevant = (row_of[identifier] for query in queries for identifier in query.gold if identifier in row_of)
    documents = [collection.documents[i] for i in _choose(len(row_of), most_documents, data.seed, relevant)]
    place_of = {document.id: place for place, document in enumerate(documents)}
    excluded = [[place_of[i] for i in query.excluded_ids if i in place_of] for query in queries]
    return DevSet(
        name=collection.name,
        queries=template.encode([(instruction, query.text) for query in queries], data.query_max_tokens),
        documents=template.encode([("", document.text) for document in documents], data.document_max_tokens),
        document_ids=[document.id for document in documents],
        gold=[{place_of[i]: grade for i, grade in query.gold.items() if i in place_of} for query in queries],
        excluded=[np.array(sorted(places), dtype=np.int64) for places in excluded],
        available=(len(judged), len(row_of)),
    )


def _sets_of_rows(
    data: DevData, names: Sequence[str], stores: Sequence[TokenStore], rows: Sequence[np.ndarray]
) -> list[DevSet]:
    used = [(name, store, own) for name, store, own in zip(names, stores, rows, strict=True) if len(own)]
    return [_set_of_rows(data, Path(name).name, store, own, len(used)) for name, store, own in used]


def _set_of_rows(data: DevData, name: str, store: TokenStore, rows: np.ndarray, sets: int) -> DevSet:
    """Return the set of some rows of a source.

    A query is answered by every document whose text is a positive of one of its rows. The documents are those of the
    whole source: a few held-out rows alone would have too few to rank.
    """
    most_queries, most_documents = data.limits(sets)
    hashes, asked = store.arrays["text_hashes"], store.queries
    # 1 queries, by text index: the same question under two instructions is two
    distinct = np.unique(asked[rows])
    queries = distinct[_choose(len(distinct), most_queries, data.seed)]
    # 2 answers, by text
    answers: dict[int, set[int]] = {}
    for row in rows[np.isin(hashes[asked[rows]], hashes[queries])]:
        answers.setdefault(int(hashes[asked[row]]), set()).update(hashes[store.listed("positive", row)].tolist())
    # 3 documents
    pool = np.unique(np.concatenate([store.arrays["positives"], store.arrays["negatives"]]))
    relevant = np.flatnonzero(np.isin(hashes[pool], list(set().union(*answers.values()))))
    documents = pool[_choose(len(pool), most_documents, data.seed, relevant)]
    places: dict[int, list[int]] = {}
    for place, text_hash in enumerate(hashes[documents].tolist()):
        places.setdefault(text_hash, []).append(place)
    return DevSet(
        name=name,
        queries=[_stored(store, text) for text in queries],
        documents=[_stored(store, text) for text in documents],
        document_ids=[str(text) for text in documents],
        gold=[{p: 1 for answer in answers[int(hashes[text])] for p in places[answer]} for text in queries],
        excluded=[np.zeros(0, dtype=np.int64)] * len(queries),
        available=(len(distinct), len(pool)),
    )


def _stored(store: TokenStore, text: int) -> TokenizedText:
    return TokenizedText(store.text_ids(text), int(store.arrays["prefix_tokens"][text]), False)


def _choose(count: int, most: int, seed: int, required: Iterable[int] = ()) -> np.ndarray:
    """Return ascending numbers below `count`: the required ones, and others by chance until there are `most`."""
    first = np.unique(np.fromiter(required, dtype=np.int64))
    others = np.setdiff1d(np.arange(count), first)
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, count))))
    drawn = generator.permutation(others)[: max(0, most - len(first))]
    return np.sort(np.concatenate([first, drawn]))
