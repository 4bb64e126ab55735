"""Runs and relevance judgements, in the formats of TREC, BEIR and BRIGHT's score.json.

Invariant: what is written is read back to the last bit. Strict: what cannot be read is a `UserError` with file and
line. Leaves corpora and queries to `bright.py` and `beir.py`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import BYTE_ORDER_MARK, parse_json, whole_file

# Query id to {document id: score}.
Run = Mapping[str, Mapping[str, float]]
# First columns of the headers of BEIR's files.
HEADERS = (b"query-id", b"query_id", b"qid", b"q_id")


def read_qrels(path: str) -> dict[str, dict[str, int]]:
    """Read TREC qrels (query, 0, document, grade) or a BEIR tsv (query-id, corpus-id, score, with its header)."""
    qrels: dict[str, dict[str, int]] = {}
    sizes = (4, 3)
    for line, raw in _lines(path):
        if line == 1 and raw.split(b"\t")[0] in HEADERS:
            sizes = (3, 4)
            continue
        # "a b", "d" and 1 of BEIR, or "a", "b", "d" and 1 of TREC: only a header tells.
        if sizes[0] == 4 and len(raw.split()) == 4 and raw.count(b"\t") == 2:
            raise UserError(f"{path}:{line}: spaces beside tabs; put the header query-id, corpus-id, score first")
        parts = _columns(raw, sizes, f"{path}:{line}", "qrels have 4 (TREC) or 3 (BEIR)")
        # Counted from the end: TREC's second column is unused, and BEIR has none.
        add_grade(qrels, parts[0], parts[-2], parts[-1], f"{path}:{line}")
    return qrels


def add_grade(qrels: dict[str, dict[str, int]], query: str, document: str, grade: Any, where: str) -> None:
    """Enter a judgement.

    Args:
        qrels: Filled.
        query: Its id.
        document: Its id.
        grade: A whole number, also as text or with the decimals .0, as a table of floats is written.
        where: File and line, for messages.

    Raises:
        UserError: a grade that is no whole number, or another grade than before; the last one would win.
    """
    try:
        number = float(grade)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    # trec_eval knows whole grades only.
    if not number.is_integer():
        raise UserError(f"{where}: grade {grade!r} is not a whole number")
    known = qrels.setdefault(query, {}).setdefault(document, int(number))
    if known != number:
        raise UserError(f"{where}: query {query!r} grades document {document!r} twice, {known} and {int(number)}")


def read_run(path: str) -> dict[str, dict[str, float]]:
    """Read a TREC run (6 columns) or BRIGHT's score.json."""
    if path.endswith(".json"):
        return _read_score_json(path)
    run: dict[str, dict[str, float]] = {}
    for line, raw in _lines(path):
        parts = _columns(raw, (6,), f"{path}:{line}", "a run has 6 (query Q0 document rank score name)")
        hits = run.setdefault(parts[0], {})
        if parts[2] in hits:
            raise UserError(f"{path}:{line}: query {parts[0]!r} ranks document {parts[2]!r} twice")
        # The score orders, as in trec_eval; the column of ranks is not read.
        hits[parts[2]] = _score(parts[4], f"{path}:{line}")
    return run


def _score(value: Any, where: str) -> float:
    try:
        score = float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: score {value!r} is not a number") from error
    if not math.isfinite(score):
        raise UserError(f"{where}: score {value!r} is not finite")
    return score


def _read_score_json(path: str) -> dict[str, dict[str, float]]:
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    try:
        content = parse_json(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: broken JSON: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(hits, dict) for hits in content.values()):
        raise UserError(f"{path}: expected {{query id: {{document id: score}}}}")
    return {q: {d: _score(s, f"{path}: query {q!r}") for d, s in hits.items()} for q, hits in content.items()}


def _lines(path: str) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, by number, without a byte order mark and what ends the line."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    found = False
    with Path(path).open("rb") as stream:
        for line, raw in enumerate(stream, start=1):
            content = raw.removeprefix(BYTE_ORDER_MARK).rstrip()
            if content:
                found = True
                yield line, content
    if not found:
        raise UserError(f"{path}: the file is empty")


def _columns(raw: bytes, sizes: Sequence[int], where: str, expected: str) -> list[str]:
    """Return the columns of a line, split as trec_eval does: at any white space, whatever the mixture.

    Args:
        raw: The line.
        sizes: Numbers of columns that it may have, the likeliest first.
        where: File and line, for messages.
        expected: Says the sizes in words.

    Raises:
        UserError: another number of columns, or a byte that is not UTF-8.
    """
    # Bytes split at ASCII's white space alone: an id may hold a no-break space, at which a text would be cut.
    anywhere, at_tabs = raw.split(), raw.split(b"\t")
    # Ids that hold spaces need tabs around them.
    found = next((parts for size in sizes for parts in (anywhere, at_tabs) if len(parts) == size), None)
    if found is None:
        raise UserError(f"{where}: {len(anywhere)} columns; {expected}")
    try:
        return [part.decode("utf-8") for part in found]
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: byte 0x{error.object[error.start]:02x} is not UTF-8") from error


def write_run(path: str | Path, run: Run, name: str) -> None:
    """Write a TREC run, best first, scores with all their digits; tabs where an id holds a space.

    Args:
        path: The file; its folder must exist.
        run: Scores by query and document.
        name: Of the system, the last column; without white space.
    """
    with whole_file(path) as stream:
        for query, hits in run.items():
            # Equal scores by id, descending, as trec_eval orders them.
            ordered = sorted(hits.items(), key=lambda hit: (hit[1], hit[0]), reverse=True)
            for rank, (document, score) in enumerate(ordered, start=1):
                separator = "\t" if " " in query or " " in document else " "
                # repr is the shortest text that is read back to the last bit.
                stream.write(separator.join((query, "Q0", document, str(rank), repr(score), name)) + "\n")
