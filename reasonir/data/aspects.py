"""Aspects: the parts of what a query asks for, each with a weight and the documents that cover it.

They come in two forms. An example of a BRIGHT folder may hold `aspects`, a list of {"id", "weight", "gold_ids"}.
Bright-Pro (arXiv 2605.04018, yale-nlp/Bright-Pro on the hub) keeps them in a configuration of its own, `aspects`, with
rows `id`, `weight`, `supporting_docs`; a folder holds these rows in aspects.jsonl. The id of such a row names its
query: a prefix, the query's id, a number, as in "biology-0-a1" or "biology-0-aspect-1". Invariant: every aspect has a
positive weight and at least one document of the corpus. Metrics live in `reasonir.retrieval.aspect_metrics`.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from reasonir.core.errors import UserError
from reasonir.data.rows import first_given, text_ids

# The end of a Bright-Pro aspect's id, behind the query's id.
NUMBER = re.compile(r"-(?:a|aspect-)\d+$")


@dataclass(frozen=True, slots=True)
class Aspect:
    """A part of a query's need. weight: > 0, relative to the query's other aspects. gold_ids: documents covering it."""

    id: str
    weight: float
    gold_ids: tuple[str, ...]


def parse_aspects(entries: Any, where: str, documents: Collection[str]) -> tuple[Aspect, ...]:
    """Return the aspects that an example lists itself; none where the field is absent.

    Args:
        entries: The example's field `aspects`; None where it has none.
        where: Source and line of the example, for messages.
        documents: Ids of the corpus.

    Raises:
        UserError: an entry that is not an aspect of these documents.
    """
    if entries is None:
        return ()
    if not isinstance(entries, list):
        raise UserError(f"{where}: `aspects` must be a list")
    aspects: dict[str, Aspect] = {}
    for position, entry in enumerate(entries):
        _add(aspects, entry, f"{where}: `aspects`[{position}]", documents)
    return tuple(aspects.values())


def group_aspects(
    rows: Iterable[tuple[int, Mapping[str, Any]]], source: str, queries: Collection[str], documents: Collection[str]
) -> dict[str, tuple[Aspect, ...]]:
    """Return the aspects of every query, from rows whose ids name the query.

    Args:
        rows: Lines and rows of an aspects table.
        source: The table's name, for messages.
        queries: Ids of the task's queries.
        documents: Ids of the corpus.

    Raises:
        UserError: a row that names no query, or is not an aspect.
    """
    grouped: dict[str, dict[str, Aspect]] = {}
    for line, row in rows:
        query = _query_of(row.get("id"), queries)
        if query is None:
            raise UserError(
                f"{source}:{line}: the aspect id {row.get('id')!r} names no query; it must be the id of one of the "
                "examples (after any prefix and a hyphen), then -a and a number"
            )
        _add(grouped.setdefault(query, {}), row, f"{source}:{line}: the aspect", documents)
    return {query: tuple(aspects.values()) for query, aspects in grouped.items()}


def _query_of(identifier: Any, queries: Collection[str]) -> str | None:
    """Return the longest end of the id that is a query's id, after the number at its end was cut off."""
    if not isinstance(identifier, str) or NUMBER.search(identifier) is None:
        return None
    stem = NUMBER.sub("", identifier)
    # Prefixes are taken off at the front: the longest end wins, because ids of queries hold hyphens themselves.
    while stem not in queries and "-" in stem:
        stem = stem.split("-", 1)[1]
    return stem if stem in queries else None


def _add(aspects: dict[str, Aspect], entry: Any, where: str, documents: Collection[str]) -> None:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("id"), str):
        raise UserError(f"{where} needs a string `id`, a `weight` and a list `gold_ids` (or `supporting_docs`)")
    # Aspects without weights count alike.
    weight = entry.get("weight", 1)
    # Python counts a bool as a number.
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not number or not math.isfinite(weight) or weight <= 0:
        raise UserError(f"{where} has weight {weight!r}; it must be a positive number")
    gold = text_ids(first_given(entry, ("gold_ids", "supporting_docs")), where)
    if not gold:
        raise UserError(f"{where} needs `gold_ids` (or `supporting_docs`), a list of at least one document id")
    unknown = [i for i in gold if i not in documents]
    if unknown:
        raise UserError(f"{where} names document id {unknown[0]!r}, which is not in the corpus")
    if entry["id"] in aspects:
        raise UserError(f"{where} id {entry['id']!r} stands twice")
    # A document that is listed twice covers the aspect once.
    aspects[entry["id"]] = Aspect(entry["id"], float(weight), tuple(dict.fromkeys(gold)))
