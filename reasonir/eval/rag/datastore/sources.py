"""The texts of a datastore's sources, in constant memory.

A row with `ctxs` is a question with the passages that a search found for it (the public pools of MassiveDS: `query`,
`raw_query`, and `ctxs` with "retrieval text", id, source); any other row is a document. Strict: what cannot be read is
a `UserError` with file and line.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.stamp import digest_of
from reasonir.data.collections import corpus_parts, document_fields, with_title
from reasonir.data.rows import read_rows
from reasonir.data.text_files import is_text_file

TABLES = (".jsonl", ".jsonl.gz", ".parquet")
CONTEXT_ID_DIGITS = 20
"""Hexadecimal, 80 bits: two of a billion texts share an id once in a million times."""

Part = tuple[str, Iterable[tuple[int, Mapping[str, Any]]]]
"""A file or split by name, and its rows with their lines."""


@dataclass(frozen=True, slots=True)
class SourceText:
    """A document or a context. id: None for a context. place: its file. where: file and line."""

    id: str | None
    title: str
    content: str
    place: str
    where: str

    @property
    def text(self) -> str:
        """Title and content as an encoder sees them (`reasonir.data.collections`)."""
        return with_title(self.title, self.content)


def read_source(source: str) -> Iterator[SourceText]:
    """Yield the documents and contexts of a source in its order; a text may come several times.

    Raises:
        UserError: when the line is reached.
    """
    for place, rows in _parts(source):
        for line, row in rows:
            if "ctxs" in row:
                yield from _contexts(row, place, f"{place}:{line}")
            else:
                yield _document(row, place, f"{place}:{line}")


def context_id(text: str) -> str:
    """Return a context's id: MassiveDS numbers its passages within each part of each source, so their hash is it."""
    return digest_of([text])[:CONTEXT_ID_DIGITS]


def _parts(source: str) -> Iterable[Part]:
    if source.startswith("hub:"):
        return corpus_parts(source)
    path = Path(source)
    if path.is_file() and not is_text_file(path.name):
        return [(source, read_rows(source))]
    if not path.exists():
        raise UserError(f"source={source}: no such file or folder")
    return _pool_parts(path) or corpus_parts(source)


def _pool_parts(folder: Path) -> list[Part]:
    """Return the tables of a folder whose first holds search results; none for a corpus."""
    files = sorted(str(file) for file in folder.rglob("*") if file.name.endswith(TABLES))
    # One row decides: the files of a pool have one form, and reading them all would read the source twice.
    if not files or "ctxs" not in next(read_rows(files[0]))[1]:
        return []
    return [(file, read_rows(file)) for file in files]


def _contexts(row: Mapping[str, Any], place: str, where: str) -> Iterator[SourceText]:
    contexts = row["ctxs"]
    if not isinstance(contexts, list):
        raise UserError(f"{where}: `ctxs` must be a list, not {type(contexts).__name__}")
    for number, context in enumerate(contexts):
        text = context.get("retrieval text") if isinstance(context, Mapping) else None
        if not isinstance(text, str):
            raise UserError(f'{where}: `ctxs`[{number}] needs a string "retrieval text"')
        # Without its id, which is unique within a part of a source only.
        yield SourceText(None, "", text, place, where)


def _document(row: Mapping[str, Any], place: str, where: str) -> SourceText:
    identifier, title, content = document_fields(row, where)
    return SourceText(identifier, title, content, place, where)
