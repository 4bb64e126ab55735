"""Runs and relevance judgements, in the formats of TREC, BEIR and BRIGHT's score.json.

Invariant: what is written is read back to the last bit. Strict: what cannot be read is a `UserError` with file and
line. Leaves corpora and queries to `bright.py` and `beir.py`.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import whole_file

# Query id to {document id: score}.
Run = Mapping[str, Mapping[str, float]]


def read_qrels(path: str) -> dict[str, dict[str, int]]:
    """Read TREC qrels (query, 0, document, grade) or a BEIR tsv (query-id, corpus-id, score, with its header)."""
    qrels: dict[str, dict[str, int]] = {}
    for line, parts in _columns(path):
        if line == 1 and parts[0] == "query-id":
            continue
        if len(parts) not in (3, 4):
            raise UserError(f"{path}:{line}: {len(parts)} columns; qrels have 4 (TREC) or 3 (BEIR)")
        # Counted from the end: TREC's second column is unused, and BEIR has none.
        query, document, grade = parts[0], parts[-2], parts[-1]
        try:
            known = qrels.setdefault(query, {}).setdefault(document, int(grade))
        except ValueError as error:
            raise UserError(f"{path}:{line}: grade {grade!r} is not a whole number") from error
        if known != int(grade):
            raise UserError(f"{path}:{line}: query {query!r} grades document {document!r} twice, {known} and {grade}")
    return qrels


def read_run(path: str) -> dict[str, dict[str, float]]:
    """Read a TREC run (6 columns) or BRIGHT's score.json."""
    if path.endswith(".json"):
        return _read_score_json(path)
    run: dict[str, dict[str, float]] = {}
    for line, parts in _columns(path):
        if len(parts) != 6:
            raise UserError(f"{path}:{line}: {len(parts)} columns; a run has 6 (query Q0 document rank score name)")
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
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: broken JSON: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(hits, dict) for hits in content.values()):
        raise UserError(f"{path}: expected {{query id: {{document id: score}}}}")
    return {q: {d: _score(s, f"{path}: query {q!r}") for d, s in hits.items()} for q, hits in content.items()}


def _columns(path: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, columns): split at tabs where the line has any, at white space elsewhere."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    found = False
    with Path(path).open("rb") as stream:
        for line, raw in enumerate(stream, start=1):
            try:
                text = raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UserError(f"{path}:{line}: byte 0x{raw[error.start]:02x} is not UTF-8") from error
            if text.strip():
                found = True
                # Not split(): an id may hold a no-break space, at which split() would cut it.
                yield line, text.split("\t") if "\t" in text else [part for part in text.split(" ") if part]
    if not found:
        raise UserError(f"{path}: the file is empty")


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
