"""Record types and strict reading and writing of the files that hold them.

Invariant: what these functions return is whole and well-typed; anything else is a `UserError` that names file, line
and remedy. Reading streams. Leaves corpora, qrels and runs to `corpora.py`.
"""

import csv
import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonir.row_formats import detect_format

NO_CONFIGURATION = r"BuilderConfig .* not found|Couldn't find cache for .* for config"
"""How the datasets library says it; the second offline, where it knows only what its cache holds."""
LONGEST_CELL = 2**31 - 1
"""Characters of a cell of a table; the csv module refuses those over 131,072 otherwise."""
MAX_WEIGHT = 1e30
"""Weights are stored as float32."""


class UserError(ValueError):
    """A user's mistake; commands print it as one line and exit 2."""


class NoConfiguration(UserError):
    """A hub data set lacks the configuration asked for."""


class RunStopped(RuntimeError):
    """A run that must not go on, through nobody's typing; commands print it as one line and exit 1."""


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


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """Stands in a corpus for an id with several texts; `places` are files or splits, each with a text of its own."""

    places: tuple[str, ...]


Lookup = Mapping[str, str | Ambiguous]
"""Document ids and their texts."""


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of a .jsonl or .jsonl.gz file; blank lines are passed over.

    Raises:
        UserError: missing or empty file, broken JSON, a byte that is not UTF-8, a line that is not an object.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    opener = gzip.open if path.suffix == ".gz" else open
    found = False
    with opener(path, "rb") as stream:
        lines = enumerate(stream, start=1)
        while True:
            try:
                number, raw = next(lines)
            except StopIteration:
                break
            except (OSError, EOFError, zlib.error) as error:
                raise UserError(f"{path}: damaged file: {error}") from error
            if raw.strip():
                found = True
                yield number, _parse_line(path, number, raw)
    if not found:
        raise UserError(f"{path}: the file is empty")


def _parse_line(path: Path, number: int, raw: bytes) -> dict[str, Any]:
    try:
        row = json.loads(raw.decode("utf-8"))
        if b"\\ud" in raw.lower():  # JSON may spell half of a surrogate pair, which is no text
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{number}: byte 0x{raw[error.start]:02x} is not UTF-8; save it as UTF-8") from error
    except UnicodeEncodeError as error:
        raise UserError(f"{path}:{number}: half a surrogate pair (\\ud800 to \\udfff) is no text; remove it") from error
    except (ValueError, RecursionError) as error:  # ValueError also for a number of thousands of digits
        raise UserError(f"{path}:{number}: broken JSON: {error}") from error
    if not isinstance(row, dict):
        raise UserError(f"{path}:{number}: a line must hold one JSON object, not {type(row).__name__}")
    return row


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows, one JSON object a line, gzipped for .gz; the file appears complete or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.partial")
    try:
        count = _write_lines(scratch, rows, zipped=path.suffix == ".gz")
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    return count


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]], zipped: bool) -> int:
    count = 0
    with path.open("wb") as raw:
        # A fixed time stamp and no name: the same rows give the same bytes.
        stream = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if zipped else raw
        for row in rows:
            stream.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8"))
            count += 1
        if stream is not raw:
            stream.close()
        raw.flush()
        os.fsync(raw.fileno())
    return count


def read_rows(source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line or row number from 1, object) of .jsonl, .jsonl.gz, .parquet or hub:owner/name[:config[:split]].

    A .csv or .tsv file has a line of column names first, and every value is a text.
    """
    if source.startswith("hub:"):
        yield from _read_hub(source)
    elif source.endswith((".csv", ".tsv")):
        yield from _read_table(source)
    elif source.endswith(".parquet"):
        yield from _read_parquet(source)
    else:
        yield from read_jsonl(source)


def _read_table(source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    if not Path(source).is_file():
        raise UserError(f"{source}: no such file")
    csv.field_size_limit(LONGEST_CELL)
    line, found = 1, False
    with Path(source).open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t" if source.endswith(".tsv") else ",", strict=True)
        try:
            for row in rows:
                line, begins = rows.line_num, line + 1  # a quoted cell may hold line ends
                if None in row or None in row.values():
                    raise UserError(f"{source}:{begins}: the line has another number of cells than the column names")
                found = True
                yield begins, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{source}: cannot be read after line {line}: {error}") from error
    if not found:
        raise UserError(f"{source}: the file is empty (its first line holds the column names)")


def _read_parquet(source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    if not Path(source).is_file():
        raise UserError(f"{source}: no such file")
    try:
        file = pyarrow.parquet.ParquetFile(source)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UserError(f"{source}: not a parquet file: {str(error).splitlines()[0]}") from error
    number = 0
    batches = file.iter_batches(batch_size=1_000)
    while True:
        try:
            batch = next(batches, None)
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise UserError(f"{source}:{number + 1}: damaged file: {str(error).splitlines()[0]}") from error
        if batch is None:
            break
        for row in batch.to_pylist():
            number += 1
            yield number, row
    if not number:
        raise UserError(f"{source}: the file is empty")


def _read_hub(source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    name, configuration, split = [*source.removeprefix("hub:").split(":"), "", ""][:3]
    yield from enumerate(load_hub(name, configuration or None, split or "train"), start=1)


def load_hub(name: str, configuration: str | None, split: str | None) -> Any:
    """Load a split of a hub data set (all splits by name, for None) through the datasets library.

    Args:
        name: owner/name, or a folder laid out as a data set of the hub.
    Raises:
        NoConfiguration: the data set is there but lacks the configuration.
        UserError: anything else that goes wrong.
    """
    import datasets

    try:
        return datasets.load_dataset(name, configuration, split=split, **_own_cache(name))
    except Exception as error:  # the library raises a dozen unrelated types
        where = ":".join(part for part in (name, configuration, split) if part)
        # Of rows that do not fit each other the library says only that an error occurred; the cause says which.
        cause = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
        message = str(cause).strip().splitlines()
        said = f"hub:{where} cannot be loaded: {message[0] if message else type(cause).__name__}"
        absent = configuration is not None and re.match(NO_CONFIGURATION, str(error))
        raise (NoConfiguration if absent else UserError)(said) from error


def _own_cache(name: str) -> dict[str, str]:
    """Return the option that keeps a folder's rows apart in the cache of the datasets library.

    The library knows a folder with a card by its last name alone: it would give out the rows of another folder of
    that name, or those from before a change.
    """
    if not Path(name).is_dir():
        return {}
    from datasets import config

    files = sorted(path.resolve() for path in Path(name).rglob("*") if path.is_file())
    state = repr([(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files])
    return {"cache_dir": str(Path(config.HF_DATASETS_CACHE) / hashlib.sha256(state.encode()).hexdigest()[:16])}


def find_hub(name: str, configuration: str, split: str | None) -> Any | None:
    """Load a split as `load_hub` does; None where the data set has no such configuration."""
    try:
        return load_hub(name, configuration, split)
    except NoConfiguration:
        return None


@dataclass(slots=True)
class RowsReport:
    """What reading a source finds out. format: its name, "" for this project's own. unusable: rows without a positive
    in a format that has such rows."""

    format: str = ""
    unusable: int = 0


def read_training_rows(source: str, report: RowsReport | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, row) of a source of training rows, in this project's form whatever tool it was written for.

    Args:
        report: filled while the rows are read.
    Raises:
        UserError: a row that is not written as the first one is.
    """
    form, report = None, report or RowsReport()
    for line, row in read_rows(source):
        form = form or detect_format(row)
        report.format = form.name
        try:
            translated = form.translate(row)
        except ValueError as error:
            raise UserError(f"{source}:{line}: {error} (the first row is in the format of {form.name})") from error
        if translated is None:
            report.unusable += 1
        else:
            yield line, translated


def read_training_examples(
    source: str,
    documents: Lookup | None = None,
    instruction: str = "",
    min_positive_words: int = 0,
    on_left_out: Callable[[TrainingExample], None] | None = None,
    report: RowsReport | None = None,
) -> Iterator[TrainingExample]:
    """Yield the training rows of a source; extra fields of a row are ignored.

    Rows in the format of another tool (`row_formats.py`) are read as what they say here.
    A `pos` or `neg` entry is a text, an [instruction, text] pair, or, where `documents` is given, a document id in
    either place. With `documents`, every `pos` must be an id; a `neg` may also be a text: whatever holds white space
    (ReasonIR's HQ rows pair document ids with written negatives). `positive` and `negative` are other names of the two
    (the E5 collection's), under which a single text needs no list.

    Args:
        instruction: for queries that bring none.
        min_positive_words: rows whose every positive has fewer words are not yielded.
        on_left_out: called with each row that is not yielded.
        report: filled while the rows are read.
    Raises:
        UserError: naming source and line.
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
            query=query if query.instruction else InstructedText(instruction, query.text),
            positives=positives,
            negatives=tuple(_entries(row, "neg", where, documents)),
            weight=_weight(row.get("weight"), where),
            line=line,
        )
        if all(len(positive.text.split()) < min_positive_words for positive in positives):
            if on_left_out is not None:
                on_left_out(example)
        else:
            yield example


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
        piece = _instructed(entry, f"{where}: `{field}`[{position}]")
        if documents is not None:
            piece = InstructedText(piece.instruction, _resolve(piece.text, field, where, documents))
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
        return InstructedText("", entry)
    if isinstance(entry, (list, tuple)) and len(entry) == 2 and all(isinstance(part, str) for part in entry):
        return InstructedText(entry[0], entry[1])
    found = "missing" if entry is None else f"a {type(entry).__name__}"
    raise UserError(f"{where} must be a text or an [instruction, text] pair, but is {found}")


def _weight(value: Any, where: str) -> float:
    if value is None:
        return 1.0
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= MAX_WEIGHT:
        raise UserError(f"{where}: `weight` is {value!r}; it must be a number from 0 to {MAX_WEIGHT:g}")
    return float(value)
