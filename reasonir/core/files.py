"""JSON and JSON lines: reading with file and line, writing beside and renaming."""

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError

CONFIG_FILE, MANIFEST_FILE, METRICS_FILE = "config.yaml", "manifest.json", "metrics.jsonl"


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: complete under its final name or not there at all."""
    scratch = path.with_name(f".{path.name}.partial")
    with scratch.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(scratch, path)


def file_sha256(path: str | Path) -> str:
    """Return the hex digest of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
