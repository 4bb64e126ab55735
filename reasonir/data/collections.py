"""Documents, queries and collections of them, and corpora read from every form that documents come in.

Invariant: within a corpus an id stands for exactly one text. Strict: what cannot be read is a `UserError` with file and
line. Leaves the queries to `bright.py` and `beir.py`, and the question which of the two a folder is to
`open_source.py`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.data.aspects import Aspect
from reasonir.data.rows import (
    Ambiguous,
    Lookup,
    add_once,
    check_text,
    find_hub,
    find_jsonl,
    first_given,
    load_hub,
    read_rows,
    text_id,
)
from reasonir.data.text_files import find_text_files, is_text_file, read_text_files

# What a folder that is a corpus holds.
LAYOUTS = "documents.jsonl or corpus.jsonl, also .gz, folders of them, or .txt and .md files"
# The names that BRIGHT, BEIR, Tevatron and Anserini give the fields of a document, and of a query.
DOCUMENT_IDS, DOCUMENT_TEXTS = ("id", "_id", "docid"), ("content", "text", "contents")
QUERY_IDS, QUERY_TEXTS = ("id", "_id", "query_id"), ("query", "text")


@dataclass(frozen=True, slots=True)
class Document:
    """A document of a corpus; its text may be empty."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Query:
    """A query.

    gold: relevant documents with their grades, all > 0; some may lie outside the corpus. excluded_ids: documents that
    must not be ranked for this query (BRIGHT: what the query was made from). aspects: parts of its need, where the data
    set names them.
    """

    id: str
    text: str
    gold: Mapping[str, int]
    excluded_ids: tuple[str, ...] = ()
    aspects: tuple[Aspect, ...] = ()


@dataclass(slots=True)
class Collection:
    """A corpus and its queries.

    instruction: what the folder asks to put before queries ("" where it says nothing). identical_ids: queries that
    exclude the document with their own id, by BEIR's rule.
    """

    name: str
    documents: list[Document]
    queries: list[Query]
    instruction: str = ""
    identical_ids: int = 0

    def unreachable(self) -> dict[str, int]:
        """Count the relevant judgements that no search can meet, which count as missed; none of them is left out."""
        ids = {document.id for document in self.documents}
        missing = sum(i not in ids for query in self.queries for i in query.gold)
        excluded = sum(len(query.gold.keys() & set(query.excluded_ids) & ids) for query in self.queries)
        return {"judgements_not_in_corpus": missing, "judgements_excluded": excluded}


def read_documents(path: str) -> dict[str, str]:
    """Read a corpus as {id: text}, in file order.

    Args:
        path: A BRIGHT task folder or root (its tasks merged), a BEIR folder or corpus file, a table (.jsonl, .jsonl.gz,
            .parquet, .csv, .tsv) of id and content, .txt and .md files in a folder, or one, or
            hub:owner/name[:configuration].

    Raises:
        UserError: missing, empty, malformed, or one id with two texts.
    """
    documents: dict[str, str] = {}
    for place, rows in corpus_parts(path):
        add_documents(documents, rows, place)
    if not documents:
        raise UserError(f"{path}: the corpus is empty")
    return documents


def stream_documents(path: str) -> Iterator[Document]:
    """Yield the documents of a corpus as they stand in its files, in constant memory; an id may come twice.

    Raises:
        UserError: as `read_documents`, when the line is reached.
    """
    for place, rows in corpus_parts(path):
        for line, row in rows:
            yield _parse_document(row, f"{place}:{line}")


def read_lookup(path: str) -> Lookup:
    """Read a corpus for looking up ids, as `read_documents` does, but let its tasks disagree.

    BRIGHT numbers the documents of each task on their own, so that an id may name two texts. Such an id becomes
    `Ambiguous` and is refused only where a row uses it. Within one file an id with two texts is a mistake all the same.
    """
    parts = []
    for place, rows in corpus_parts(path):
        documents: dict[str, str] = {}
        add_documents(documents, rows, place)
        parts.append((place, documents))
    if not any(documents for _, documents in parts):
        raise UserError(f"{path}: the corpus is empty")
    return merge_lookups(parts)


def merge_lookups(parts: Sequence[tuple[str, Lookup]]) -> Lookup:
    """Return one lookup made of several, each given with its name; ids that they disagree on become `Ambiguous`."""
    # No copy: the texts of a corpus fill gigabytes.
    if len(parts) == 1:
        return parts[0][1]
    merged: dict[str, str | Ambiguous] = {}
    disputed: set[str] = set()
    for _, documents in parts:
        for identifier, text in documents.items():
            if isinstance(text, Ambiguous) or merged.setdefault(identifier, text) != text:
                disputed.add(identifier)
    for identifier in disputed:
        merged[identifier] = Ambiguous(_places_of(identifier, parts))
    return merged


def _places_of(identifier: str, parts: Sequence[tuple[str, Lookup]]) -> tuple[str, ...]:
    """Return the names of the lookups that give an id a text which no lookup before gives it."""
    found: dict[str, str] = {}
    for place, documents in parts:
        entry = documents.get(identifier)
        if isinstance(entry, Ambiguous):
            found |= {other: other for other in entry.places}
        elif entry is not None:
            # One place for each text: all places of one text would hide where another text lies.
            found.setdefault(entry, place)
    return tuple(found.values())


def corpus_parts(path: str) -> Iterator[tuple[str, Iterable[tuple[int, Mapping[str, Any]]]]]:
    """Yield the files of a corpus, or the splits of a hub data set, each by name with its rows and their lines.

    Args:
        path: As `read_documents` takes it. hub:owner/name[:configuration]; without a configuration, `documents`, else
            the only one that there is.
    """
    if path.startswith("hub:"):
        name, _, configuration = path.removeprefix("hub:").partition(":")
        splits = find_hub(name, configuration or "documents", None)
        # A named configuration that is missing is refused here.
        if splits is None:
            splits = load_hub(name, configuration or None, None)
        for split in splits:
            yield f"{path}/{split}", enumerate(splits[split], start=1)
        return
    files = _corpus_files(Path(path))
    if not files:
        folder, texts = find_text_files(Path(path))
        if not texts:
            raise UserError(f"{path}: no corpus here ({LAYOUTS})")
        yield path, read_text_files(folder, texts)
    for file in files:
        yield str(file), read_rows(str(file))


def _corpus_files(path: Path) -> list[Path]:
    """Return the tables of a corpus; none where the path may hold plain texts."""
    if path.is_file():
        return [] if is_text_file(path.name) else [path]
    for name in ("documents", "corpus"):
        found = find_jsonl(path, name)
        if found is not None:
            return [found]
    # Sorted, so that a corpus has the same order on every file system.
    return [found for folder in sorted(path.glob("*/")) if (found := find_jsonl(folder, "documents")) is not None]


def add_documents(documents: dict[str, str], rows: Iterable[tuple[int, Mapping[str, Any]]], source: str) -> None:
    """Parse the rows of a corpus into {id: text}.

    Args:
        documents: Filled; may hold documents already.
        rows: Lines and rows.
        source: The table's name, for messages.

    Raises:
        UserError: a row that is no document, or an id with two texts.
    """
    for line, row in rows:
        document = _parse_document(row, f"{source}:{line}")
        add_once(documents, document.id, document.text, f"{source}:{line}", "document")


def _parse_document(row: Mapping[str, Any], where: str) -> Document:
    identifier, title, text = document_fields(row, where)
    return Document(identifier, with_title(title, text))


def document_fields(row: Mapping[str, Any], where: str) -> tuple[str, str, str]:
    """Return id, title ("" for none) and text of a row of a corpus.

    Raises:
        UserError: one of them is missing or of another type, by `where`.
    """
    identifier, text = text_id(first_given(row, DOCUMENT_IDS), where), first_given(row, DOCUMENT_TEXTS)
    if identifier is None or not isinstance(text, str):
        raise UserError(
            f"{where}: a document needs an `id` (or `_id`, `docid`) and a string `content` (or `text`, `contents`)"
        )
    title = row.get("title")
    # A title may be a year.
    if title is not None and not isinstance(title, (str, int, float)):
        raise UserError(f"{where}: `title` must be a text, not {type(title).__name__}")
    return identifier, "" if title is None else str(title), check_text(text, where)


def query_fields(row: Mapping[str, Any], where: str) -> tuple[str, str]:
    """Return id and text of a row of queries; raises as `document_fields`."""
    identifier, text = text_id(first_given(row, QUERY_IDS), where), first_given(row, QUERY_TEXTS)
    if identifier is None or not isinstance(text, str):
        raise UserError(f"{where}: a query needs an `id` (or `_id`, `query_id`) and a string `query` (or `text`)")
    return identifier, check_text(text, where)


def read_query_texts(rows: Iterable[tuple[int, Mapping[str, Any]]], source: str) -> dict[str, str]:
    """Return the texts of queries by id.

    Args:
        rows: Lines and rows.
        source: The table's name, for messages.

    Raises:
        UserError: a row that is no query, or an id with two texts.
    """
    texts: dict[str, str] = {}
    for line, row in rows:
        add_once(texts, *query_fields(row, f"{source}:{line}"), f"{source}:{line}", "query")
    return texts


def with_title(title: str, text: str) -> str:
    """Return a document as encoders, searches and readers see it: the title, where there is one, and the text."""
    # Joined by a space, as BEIR's own code does.
    return f"{title} {text}".strip() if title else text
