"""The recipes' inputs as streams: corpora document by document, rows line by line, and a shard's part of them.

Invariant: items come in the order of the input. Memory grows by some 30 bytes for each item (hashes of ids), whatever
the length of its text.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.stamp import digest_of
from reasonir.data.collections import read_lookup, stream_documents
from reasonir.data.rows import Lookup, read_rows
from reasonir.data.training_rows import (
    InstructedText,
    TrainingExample,
    read_rows_and_examples,
    read_training_rows,
)
from reasonir.text.digests import DigestTable


@dataclass(slots=True)
class Item:
    """One piece of work. id: its name in all outputs. position: its place in the whole input, all shards together."""

    id: str
    position: int
    source: Any = field(default=None)


@dataclass(frozen=True, slots=True)
class Row:
    """A training row: its fields in the file, and its resolved texts; only a query has no positives."""

    fields: dict[str, Any]
    query: InstructedText
    positives: tuple[InstructedText, ...]
    negatives: tuple[InstructedText, ...]


def take_shard(items: Iterable[Item], shard: tuple[int, int], limit: int | None) -> Iterator[Item]:
    """Yield the items of a shard.

    Args:
        items: The whole input.
        shard: (i, n): the items whose id's hash is i modulo n.
        limit: Takes the shard from so many first items; None from all.
    """
    part, parts = shard
    # `limit` counts before the split, so that the shards together are the run without shards.
    for item in islice(items, limit):
        # Not the built-in hash, which differs from process to process.
        if parts == 1 or int(digest_of([item.id])[:16], 16) % parts == part:
            yield item


def read_corpus(path: str) -> Iterator[Item]:
    """Yield the documents of a corpus; `source` is the Document, or None if an earlier one has the same id."""
    known = DigestTable()
    for position, document in enumerate(stream_documents(path)):
        yield Item(document.id, position, None if known.seen(document.id) else document)


def read_query_rows(path: str, corpus: str | None) -> Iterator[Item]:
    """Yield training rows; `source` is a Row. Document ids are looked up in `corpus` if it is not None.

    Raises:
        UserError: Training would refuse a row; names file and line.
    """
    documents: Lookup | None = None if corpus is None else read_lookup(corpus)
    # All fields, because the row is written again with them.
    for position, (fields, example) in enumerate(read_rows_and_examples(path, documents)):
        yield Item(example.id, position, Row(fields, example.query, example.positives, example.negatives))


def read_queries(path: str) -> Iterator[Item]:
    """Yield the queries of training rows or of JSONL with id and query; `source` is a Row of the query alone."""
    for position, (line, fields) in enumerate(read_rows(path)):
        query = fields.get("query")
        if isinstance(query, str):
            instructed = InstructedText("", query)
        elif isinstance(query, (list, tuple)) and len(query) == 2 and all(isinstance(part, str) for part in query):
            instructed = InstructedText(query[0], query[1])
        else:
            raise UserError(f"{path}:{line}: `query` must be a text or an [instruction, text] pair")
        if not instructed.text.strip():
            raise UserError(f"{path}:{line}: `query` is empty; remove the row or give it a text")
        # The line number stands in for an id, as it does in training.
        identifier = fields.get("id")
        yield Item(str(line) if identifier is None else str(identifier), position, Row(fields, instructed, (), ()))


def positives_are_ids(path: str, documents: Lookup) -> bool:
    """Return whether the first row of a file names its positives by ids of a corpus."""
    _, first = next(read_training_rows(path), (0, {}))
    entries = first.get("pos", first.get("positive")) or [""]
    entry = entries[0] if isinstance(entries, list) else entries
    name = entry[-1] if isinstance(entry, (list, tuple)) and entry else entry
    return str(name) in documents


def read_rows_about(path: str, documents: Lookup) -> Iterator[tuple[dict[str, Any], TrainingExample]]:
    """Yield rows with all their fields and as training reads them; their positives are all texts, or all ids.

    Args:
        path: A file of training rows.
        documents: The corpus.

    Raises:
        UserError: as training refuses a row, or an id where the first row has texts, which would be taken for a text.
    """
    are_ids = positives_are_ids(path, documents)
    for row, example in read_rows_and_examples(path, documents if are_ids else None):
        named = None if are_ids else next((p.text for p in example.positives if p.text in documents), None)
        if named is not None:
            raise UserError(
                f"{path}:{example.line}: `pos` names document id {named!r}, but the first row holds texts; give all "
                "rows one form"
            )
        yield row, example


def count_lines(path: str) -> int:
    """Return the number of lines of a plain file, for the progress bar; 0 for other inputs."""
    file = Path(path)
    if not file.is_file() or file.suffix not in (".jsonl", ".json"):
        return 0
    with file.open("rb") as stream:
        # In blocks: a line may hold a whole document.
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


def cut_words(text: str, most: int | None) -> tuple[str, int]:
    """Return a text's first words with the layout between them, and the number of words cut off."""
    if most is None:
        return text, 0
    # By matches and not by `split`, which would lose the line breaks of code and lists.
    ends = [found.end() for found in re.finditer(r"\S+", text)]
    return (text, 0) if len(ends) <= most else (text[: ends[most - 1]], len(ends) - most)
