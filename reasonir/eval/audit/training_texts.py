"""Training rows as a stream of hashed texts, with the documents that the rows name. Holds one batch of rows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from reasonir.data.rows import Lookup
from reasonir.data.training_rows import OTHER_NAMES, TrainingExample, read_rows_and_examples
from reasonir.text.ngrams import HashedTexts, TextHasher

ROW_SIDES = ("query", "positive", "negative")
"""Sides of a row. A side's number is its place here."""
# Large enough that numpy works on whole arrays, small enough to hold: a row has up to some dozen texts.
BATCH_ROWS = 256


@dataclass(frozen=True, slots=True)
class RowText:
    """A text of a row. where: file and line. side: its place in ROW_SIDES."""

    row: str
    where: str
    side: int
    text: str


@dataclass(frozen=True, slots=True)
class NamedDocument:
    """A document that a row names by id as its seed. texts: hashes of the row's positives; None where unknown."""

    row: str
    where: str
    id: str
    texts: frozenset[int] | None

    def fits(self, exact: int) -> bool:
        """Return whether a document of this id can be the seed: it equals a positive, or the row holds ids only."""
        return self.texts is None or int(exact) in self.texts


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Some rows of one source."""

    source: str
    rows: int
    texts: list[RowText]
    hashed: HashedTexts
    named: list[NamedDocument]


def stream_rows(sources: list[str], lookup: Lookup | None, hasher: TextHasher) -> Iterator[RowBatch]:
    """Yield the rows of all sources in batches, as training reads them.

    Args:
        sources: Training files, or hub:owner/name.
        lookup: The texts of document ids in the rows; None where the rows hold texts.
        hasher: Hashes their texts.
    Raises:
        UserError: As `read_training_examples`.
    """
    for source in sources:
        # With the row: an example as training sees it no longer says by which ids its row named documents.
        pairs = read_rows_and_examples(source, lookup)
        while held := list(islice(pairs, BATCH_ROWS)):
            yield _hash_rows(source, held, lookup, hasher)


def _hash_rows(
    source: str, held: list[tuple[dict[str, Any], TrainingExample]], lookup: Lookup | None, hasher: TextHasher
) -> RowBatch:
    texts: list[RowText] = []
    for _, example in held:
        sides = ((example.query,), example.positives, example.negatives)
        for side, pieces in enumerate(sides):
            texts += [RowText(example.id, f"{source}:{example.line}", side, piece.text) for piece in pieces]
    hashed = hasher.hash(text.text for text in texts)
    positives: dict[str, set[int]] = {}
    for text, exact in zip(texts, hashed.exact.tolist(), strict=True):
        if ROW_SIDES[text.side] == "positive":
            positives.setdefault(text.where, set()).add(exact)
    named = []
    for row, example in held:
        where = f"{source}:{example.line}"
        for identifier, is_entry in _named_ids(row).items():
            known = None if is_entry and lookup is None else frozenset(positives[where])
            named.append(NamedDocument(example.id, where, identifier, known))
    return RowBatch(source, len(held), texts, hashed, named)


def _named_ids(row: Mapping[str, Any]) -> dict[str, bool]:
    """Return the ids by which a row may name documents, each with whether it stands in place of a positive.

    ReasonIR's HQ rows hold ids in place of positives: a positive without white space is taken for one. Rows of this
    project name their document in `id` or in `provenance`.
    """
    entries = row.get("pos") or row.get(OTHER_NAMES["pos"]) or []
    entries = [entries] if isinstance(entries, str) else entries
    texts = [entry if isinstance(entry, str) else entry[1] for entry in entries]
    named = {text: True for text in texts if len(text.split()) == 1}
    provenance = row.get("provenance")
    others = [row.get("id"), provenance.get("document") if isinstance(provenance, dict) else None]
    for identifier in others:
        if isinstance(identifier, str):
            # An id that also stands in place of a positive keeps that mark: without corpora it has no text.
            named.setdefault(identifier, False)
    return named
