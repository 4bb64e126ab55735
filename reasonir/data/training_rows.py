"""Training rows: a query, documents that answer it, documents that only seem to.

Invariant: what these functions return is whole and well-typed; anything else is a `UserError` that names file, line
and remedy. Reading streams. Leaves the formats of other tools to `row_formats.py`, and tables to `rows.py`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reasonir.core.errors import UserError
from reasonir.data.row_formats import detect_format, obey_labels
from reasonir.data.rows import Lookup, check_text, read_rows

# Weights are stored as float32 (at most 3.4e38), with room for sums of many.
MAX_WEIGHT = 1e30


@dataclass(frozen=True, slots=True)
class InstructedText:
    """A text and the instruction before it ("" for none)."""

    instruction: str
    text: str


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A query, documents that answer it, documents that only seem to. `id` is the row's own or its line number."""

    id: str
    query: InstructedText
    positives: tuple[InstructedText, ...]
    negatives: tuple[InstructedText, ...]
    weight: float
    line: int


@dataclass(slots=True)
class RowsReport:
    """What reading a source finds out.

    format: the names of the rows' formats, "" for this project's own. unusable: rows that a label leaves without a
    positive, and that do not follow a row of the same query. joined: those that do; their texts are its negatives.
    """

    format: str = ""
    unusable: int = 0
    joined: int = 0


def query_text(row: Mapping[str, Any]) -> str:
    """Return the text of a row's query, without its instruction."""
    query = row["query"]
    return query if isinstance(query, str) else str(query[1])


def read_training_rows(source: str, report: RowsReport | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, row) of a source of training rows, in this project's form whatever tool each was written for.

    sentence-transformers writes each mined negative as a labelled pair of its own, behind the positive of its query:
    those rows are joined.

    Args:
        source: A file of rows, or hub:owner/name[:configuration[:split]].
        report: Filled while the rows are read.

    Raises:
        UserError: a row that does not say what it means.
    """
    report = report or RowsReport()
    formats: dict[str, None] = {}
    # A labelled row waits for the labelled rows behind it.
    held: tuple[int, dict[str, Any]] | None = None
    for line, row in read_rows(source):
        form = detect_format(row)
        formats |= {form.name: None}
        report.format = " and ".join(filter(None, formats))
        try:
            own = obey_labels(row, form.translate(row))
        except ValueError as error:
            said = f" (the row is in the format of {form.name})" if form.name else ""
            raise UserError(f"{source}:{line}: {error}{said}") from error
        labelled = any(row.get(name) is not None for name in ("label", "labels", "score"))
        if labelled and own.get("pos") == [] and own.get("neg"):
            if held is not None and held[1].get("query") == own.get("query"):
                held[1]["neg"] = [*(held[1].get("neg") or []), *own["neg"]]
                report.joined += 1
            else:
                report.unusable += 1
            continue
        if held is not None:
            yield held
        held = (line, {**own}) if labelled else None
        if held is None:
            yield line, own
    if held is not None:
        yield held


def read_training_examples(
    source: str,
    documents: Lookup | None = None,
    instruction: str = "",
    min_positive_words: int = 0,
    on_left_out: Callable[[TrainingExample], None] | None = None,
    report: RowsReport | None = None,
) -> Iterator[TrainingExample]:
    """Yield the training rows of a source; extra fields of a row are ignored.

    Rows in the format of another tool are translated first (`row_formats.py`). A `pos` or `neg` entry is a text or an
    [instruction, text] pair. With `documents`, a document id stands in place of the text: every `pos` must be an id; a
    `neg` with white space in it is a text all the same (ReasonIR's HQ rows pair document ids with written negatives).
    `positive` and `negative` are other names of the two fields (the E5 collection's), and may hold a single text.

    Args:
        source: A file of rows, or hub:owner/name[:configuration[:split]].
        documents: Where ids are looked up; None where rows hold texts.
        instruction: For queries that bring none.
        min_positive_words: Rows in which every positive has fewer words are not yielded.
        on_left_out: Called with each row that is not yielded.
        report: Filled while the rows are read.

    Raises:
        UserError: naming source and line.
    """
    for _, example in read_rows_and_examples(source, documents, instruction, report):
        # One longer positive keeps the row, short ones included (docs/deviations.md).
        if all(len(positive.text.split()) < min_positive_words for positive in example.positives):
            if on_left_out is not None:
                on_left_out(example)
        else:
            yield example


def read_rows_and_examples(
    source: str, documents: Lookup | None = None, instruction: str = "", report: RowsReport | None = None
) -> Iterator[tuple[dict[str, Any], TrainingExample]]:
    """Yield every row with all its fields, and the same row as training reads it.

    Args:
        source: As in `read_training_examples`, like the other three.
        documents: Where ids are looked up.
        instruction: For queries that bring none.
        report: Filled while the rows are read.
    """
    for line, row in read_training_rows(source, report):
        where = f"{source}:{line}"
        query = _instructed(row.get("query"), f"{where}: `query`")
        if not query.text.strip():
            raise UserError(f"{where}: `query` is empty; remove the row or give it a text")
        positives = tuple(_entries(row, "pos", where, documents))
        if not positives:
            raise UserError(f"{where}: the row has no `pos`; every row needs at least one positive")
        example = TrainingExample(
            id=str(row["id"]) if row.get("id") is not None else str(line),
            # A query's own instruction outranks that of its source.
            query=query if query.instruction else InstructedText(instruction, query.text),
            positives=positives,
            negatives=tuple(_entries(row, "neg", where, documents)),
            weight=_weight(row.get("weight"), where),
            line=line,
        )
        yield row, example


OTHER_NAMES = {"pos": "positive", "neg": "negative"}


def _entries(row: Mapping[str, Any], field: str, where: str, documents: Lookup | None) -> Iterator[InstructedText]:
    entries, other = row.get(field), OTHER_NAMES[field]
    if row.get(other) is not None:
        if entries is not None:
            raise UserError(f"{where}: the row has both `{field}` and `{other}`; keep one of them")
        field, entries = other, [row[other]] if isinstance(row[other], str) else row[other]
    if entries is None:
        return
    if not isinstance(entries, list):
        raise UserError(f"{where}: `{field}` must be a list, not {type(entries).__name__}")
    for position, entry in enumerate(entries):
        # An id may be a number; Python counts a bool as one.
        if documents is not None and isinstance(entry, int) and not isinstance(entry, bool):
            entry = str(entry)
        piece = _instructed(entry, f"{where}: `{field}`[{position}]")
        if documents is not None:
            piece = InstructedText(piece.instruction, _resolve(piece.text, field, where, documents))
        # After the look-up: a corpus may hold empty documents, training rows may not name them.
        if not piece.text.strip():
            raise UserError(f"{where}: `{field}`[{position}] is empty; remove it or give it a text")
        yield piece


def _resolve(entry: str, field: str, where: str, documents: Lookup) -> str:
    found = documents.get(entry)
    if isinstance(found, str):
        return found
    if found is not None:
        places = " and ".join(found.places)
        raise UserError(
            f"{where}: `{field}` names document id {entry[:80]!r}, which is ambiguous: it has different texts in "
            f"{places}; name fewer corpora, or write the text into the row's `pos`"
        )
    if field.startswith("neg") and len(entry.split()) > 1:
        return entry
    holders = "data.documents (or data.sources.NAME.documents)"
    raise UserError(f"{where}: `{field}` names document id {entry[:80]!r}, which {holders} does not hold")


def _instructed(entry: Any, where: str) -> InstructedText:
    if isinstance(entry, str):
        return InstructedText("", check_text(entry, where))
    if isinstance(entry, (list, tuple)) and len(entry) == 2 and all(isinstance(part, str) for part in entry):
        return InstructedText(check_text(entry[0], where), check_text(entry[1], where))
    found = "missing" if entry is None else f"a {type(entry).__name__}"
    raise UserError(f"{where} must be a text or an [instruction, text] pair, but is {found}")


def _weight(value: Any, where: str) -> float:
    if value is None:
        return 1.0
    # Python counts a bool as a number.
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= MAX_WEIGHT:
        raise UserError(f"{where}: `weight` is {value!r}; it must be a number from 0 to {MAX_WEIGHT:g}")
    return float(value)
