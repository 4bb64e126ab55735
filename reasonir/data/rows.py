"""Rows of a table: JSON lines, parquet or a hub data set, each with its place for error messages."""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from reasonir.core.errors import NoConfiguration, UserError
from reasonir.core.files import read_jsonl
from reasonir.core.stamp import digest_of

# Messages of the datasets library for a configuration that does not exist: online, and offline from its cache.
NO_CONFIGURATION = r"BuilderConfig .* not found|Couldn't find cache for .* for config"
# Characters of a cell of a table. The csv module's own limit is 131,072, less than a long document.
LONGEST_CELL = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """An id with several texts. places: the files or splits, each of which gives it another text."""

    places: tuple[str, ...]


# Document ids and their texts.
Lookup = Mapping[str, str | Ambiguous]
Value = TypeVar("Value")
# A tab or line end within an id would break the lines of runs, qrels and ids.txt.
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


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
    # utf-8-sig: the byte order mark that spreadsheets write would become part of the first column's name.
    with Path(source).open(encoding="utf-8-sig", newline="") as stream:
        # strict: an open quote is refused, and does not swallow the rest of the file.
        rows = csv.DictReader(stream, delimiter="\t" if source.endswith(".tsv") else ",", strict=True)
        try:
            _refuse_repeats(rows.fieldnames or (), source)
            for row in rows:
                line, begins = rows.line_num, line + 1  # a quoted cell may hold line ends
                # DictReader keeps surplus cells under the name None, and puts None where a cell is missing.
                if None in row or None in row.values():
                    raise UserError(f"{source}:{begins}: the line has another number of cells than the column names")
                found = True
                yield begins, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{source}: cannot be read after line {line}: {error}") from error
    if not found:
        raise UserError(f"{source}: the file is empty (its first line holds the column names)")


def _refuse_repeats(columns: Sequence[str], source: str) -> None:
    """Refuse two columns of one name, of which rows would keep the last."""
    repeated = next((name for name in columns if list(columns).count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"{source}:1: the column {repeated!r} stands twice; rename one")


def _read_parquet(source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    if not Path(source).is_file():
        raise UserError(f"{source}: no such file")
    try:
        file = pyarrow.parquet.ParquetFile(source)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UserError(f"{source}: not a parquet file: {str(error).splitlines()[0]}") from error
    _refuse_repeats(file.schema_arrow.names, source)
    number = 0
    # In batches, because one row group may hold the whole file.
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
    """Load a split of a hub data set through the datasets library.

    Args:
        name: owner/name, or a folder laid out as a data set of the hub.
        configuration: None where the data set has only one.
        split: None returns all splits by name.

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

    The library knows a folder with a card by its last name alone. Without this option it would return the rows of
    another folder of that name, or the rows from before a change.
    """
    if not Path(name).is_dir():
        return {}
    from datasets import config

    files = sorted(path.resolve() for path in Path(name).rglob("*") if path.is_file())
    # Size and time in place of a checksum, which would read gigabytes at every start.
    state = repr([(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files])
    return {"cache_dir": str(Path(config.HF_DATASETS_CACHE) / digest_of([state])[:16])}


def find_hub(name: str, configuration: str, split: str | None) -> Any | None:
    """Load a split as `load_hub` does, or return None where the data set has no such configuration.

    Args:
        name: owner/name, or a folder laid out as a data set of the hub.
        configuration: The configuration that may be missing.
        split: None returns all splits by name.
    """
    try:
        return load_hub(name, configuration, split)
    except NoConfiguration:
        return None


def first_given(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    """Return the value of the first field that a row has; None where it has none of them."""
    return next((row[name] for name in names if row.get(name) is not None), None)


def text_id(value: Any, where: str) -> str | None:
    """Return an id as a text, a whole number as its digits; None for what is no id.

    Raises:
        UserError: a tab, a line end or another control character in it.
    """
    # Python counts a bool as a number. A float is no id: a table turned 7 into 7.0, which no judgement names.
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        return None
    if CONTROL.search(value) is not None:
        raise UserError(f"{where}: id {value!r} holds a tab, line end or control character; remove it")
    return value


def text_ids(values: Any, where: str) -> list[str] | None:
    """Return a list of ids as texts; None for what is no list of ids. Raises as `text_id` does."""
    found = [text_id(value, where) for value in values] if isinstance(values, list) else [None]
    return None if None in found else [identifier for identifier in found if identifier is not None]


def check_text(text: str, where: str) -> str:
    """Return a text; refuse NUL, at which some tokenizers end and which no written text holds."""
    if "\0" in text:
        raise UserError(f"{where} holds the character U+0000; remove it")
    return text


def add_once(known: dict[str, Value], identifier: str, value: Value, where: str, kind: str) -> None:
    """Enter a value under its id; the same value may come again.

    Args:
        known: Filled.
        identifier: The id.
        value: A text, a list of ids, ...
        where: File and line, for the message.
        kind: What the id names.

    Raises:
        UserError: the id has another value already; the last one would win without a word.
    """
    if known.setdefault(identifier, value) != value:
        what = "text" if isinstance(value, str) else "content"
        raise UserError(f"{where}: {kind} id {identifier!r} stands twice with different {what}; remove one")


def find_jsonl(folder: Path, name: str) -> Path | None:
    """Return the file NAME.jsonl or NAME.jsonl.gz of a folder; None where there is neither."""
    found = (folder / f"{name}{suffix}" for suffix in (".jsonl", ".jsonl.gz"))
    return next((file for file in found if file.is_file()), None)


def require_jsonl(folder: Path, name: str) -> Path:
    """Return the file NAME.jsonl or NAME.jsonl.gz of a folder.

    Raises:
        UserError: there is neither.
    """
    found = find_jsonl(folder, name)
    if found is None:
        raise UserError(f"{folder}: {name}.jsonl (or .jsonl.gz) is missing")
    return found
