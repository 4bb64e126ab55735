"""A finished folder of answers to questions: read whole and checked.

Invariant: every answer belongs to a question of the folder, and the answers have the accuracy that accuracy.json says.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import CONFIG_FILE, MANIFEST_FILE, read_jsonl
from reasonir.eval.rag.records import ACCURACY_FILE, ANSWERS_FILE, PASSAGES_FILE, QUESTIONS_FILE, RETRIEVED_FILE
from reasonir.eval.rag.table import NAMES

# Fields that a row must have, and their types.
FIELDS: Mapping[str, Mapping[str, type]] = {
    QUESTIONS_FILE: {"id": str, "text": str, "options": list, "answer": str, "subject": str, "group": str},
    ANSWERS_FILE: {
        "id": str, "condition": str, "sample": int, "letter": str, "stage": str, "guess": str, "correct": bool,
        "passages": list, "dropped": int, "finish": str, "error": str, "input_tokens": int, "output_tokens": int,
        "text": str,
    },
    RETRIEVED_FILE: {"id": str, "query": str, "gold": list, "hits": list},
    PASSAGES_FILE: {"id": str, "content": str},
}  # fmt: skip
# A row of one of the folder's files.
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answered:
    """What a folder holds. answers: by question, condition and sample. retrieved, passages: by id, {} where closed
    book only."""

    folder: Path
    report: dict[str, Any]
    questions: list[Record]
    answers: dict[str, dict[str, list[Record]]]
    retrieved: dict[str, Record]
    passages: dict[str, str]

    @property
    def conditions(self) -> list[str]:
        """The conditions, closed book first."""
        return [name for name in NAMES if name in self.report["conditions"]]

    def rows(self) -> Iterator[Record]:
        """Yield all answers."""
        for conditions in self.answers.values():
            for samples in conditions.values():
                yield from samples

    def files(self) -> list[Path]:
        """Return the files that were read."""
        names = (ACCURACY_FILE, *FIELDS, CONFIG_FILE, MANIFEST_FILE)
        return [path for name in names if (path := self.folder / name).is_file()]


def read_answered(folder: Path) -> Answered:
    """Read a folder that mmlu, gpqa or multiple_choice wrote.

    Raises:
        UserError: a file or a field missing, an id twice, an answer to no question, or answers that do not have the
            accuracy that accuracy.json says.
    """
    report = _read_report(folder / ACCURACY_FILE)
    questions = _by_id(folder / QUESTIONS_FILE)
    answers: dict[str, dict[str, list[Record]]] = {name: {} for name in questions}
    for line, row in _rows(folder / ANSWERS_FILE):
        where = f"{folder / ANSWERS_FILE}:{line}"
        if row["id"] not in questions:
            raise UserError(f"{where}: no question {row['id']!r} in {QUESTIONS_FILE}; run the same command again")
        if row["condition"] not in report["conditions"]:
            raise UserError(f"{where}: {ACCURACY_FILE} knows no condition {row['condition']!r}; run the command again")
        answers[row["id"]].setdefault(row["condition"], []).append(row)
    # A closed-book folder has no retrieved.jsonl, and its passages.jsonl is empty.
    searched = (folder / RETRIEVED_FILE).is_file()
    retrieved = _by_id(folder / RETRIEVED_FILE) if searched else {}
    passages = _by_id(folder / PASSAGES_FILE) if searched else {}
    texts = {name: row["content"] for name, row in passages.items()}
    found = Answered(folder, report, list(questions.values()), answers, retrieved, texts)
    _check_accuracy(found)
    return found


def _read_report(file: Path) -> dict[str, Any]:
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        # Looked up here, so that another command's file is refused before a page is half made.
        for entry in report["conditions"].values():
            _ = entry["all"]["accuracy"], entry["groups"], entry["subjects"]
        _ = report["retrieval"], report["title"], report["differences"], report["counts"], report["confidence"]
        unknown = set(report["conditions"]) - set(NAMES)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not an {ACCURACY_FILE} of ours ({error!r}); run the command again") from error
    if unknown:
        raise UserError(f"{file}: unknown condition {sorted(unknown)[0]!r}; one of {', '.join(NAMES)}")
    return dict(report)


def _rows(file: Path) -> Iterator[tuple[int, Record]]:
    if not file.is_file():
        raise UserError(f"{file.parent}: lacks {file.name}; run the command that wrote it again")
    if file.stat().st_size == 0:  # closed book only has no passages, which `read_jsonl` would refuse
        return
    for line, row in read_jsonl(file):
        for name, kind in FIELDS[file.name].items():
            # Not isinstance, for which true is a number.
            if type(row.get(name)) is not kind:
                raise UserError(f"{file}:{line}: a row needs `{name}` of type {kind.__name__}; run the command again")
        yield line, row


def _by_id(file: Path) -> dict[str, Record]:
    rows: dict[str, Record] = {}
    for line, row in _rows(file):
        if row["id"] in rows:
            raise UserError(f"{file}:{line}: {row['id']!r} stands twice; run the command that wrote it again")
        rows[row["id"]] = row
    return rows


def _check_accuracy(found: Answered) -> None:
    for condition, entry in found.report["conditions"].items():
        given = [samples[condition] for samples in found.answers.values() if condition in samples]
        shares = [sum(row["correct"] for row in rows) / len(rows) for rows in given]
        accuracy = sum(shares) / len(shares) if shares else math.nan
        # The two differ by the order of adding at most; anything more says that one file is of another run.
        if not math.isclose(accuracy, entry["all"]["accuracy"], abs_tol=1e-9):
            raise UserError(
                f"{found.folder}: {ANSWERS_FILE} has an accuracy of {accuracy:.4f} {NAMES[condition]}, but "
                f"{ACCURACY_FILE} says {entry['all']['accuracy']:.4f}; run the same command again"
            )
