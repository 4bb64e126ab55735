"""A finished folder of answers: read whole, checked, and cut down to what a page shows of each question.

Invariant: every answer belongs to a question of the folder, and the answers have the accuracy that accuracy.json
says. Texts stand apart from the list of questions, in chunks, so that a page unpacks those that are looked at.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import read_jsonl
from reasonir.eval.rag.records import (
    ACCURACY_FILE,
    ANSWERS_FILE,
    PASSAGES_FILE,
    QUESTIONS_FILE,
    RETRIEVED,
    RETRIEVED_FILE,
    with_options,
)
from reasonir.eval.rag.table import NAMES
from reasonir.eval.report.queries import cut

FILES = (ACCURACY_FILE, QUESTIONS_FILE, ANSWERS_FILE, RETRIEVED_FILE, PASSAGES_FILE)
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
"""Fields that a row must have, and their types."""
GOLD_READ, GOLD_FOUND, GOLD_MISSED, NO_GOLD = range(4)
"""Of a question: a gold passage was read; was among the hits but not read; was not; no gold passage is known."""
NOT_READ, READ, DROPPED = range(3)
"""Of a hit: too low; read by the reader; left out, as the prompt would not have fitted."""
CHUNK = 200
"""Questions whose texts are packed together."""
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """Characters kept of a passage, of a question or search query, and of an answer."""

    passage: int
    question: int
    answer: int


@dataclass(frozen=True, slots=True)
class Answered:
    """What a folder holds. answers: by question, condition and sample. retrieved, passages: by id, {} where closed
    book only."""

    folder: Path
    report: dict[str, Any]
    questions: list[Row]
    answers: dict[str, dict[str, list[Row]]]
    retrieved: dict[str, Row]
    passages: dict[str, str]

    @property
    def conditions(self) -> list[str]:
        """Return the conditions, closed book first."""
        return [name for name in NAMES if name in self.report["conditions"]]

    def rows(self) -> Iterator[Row]:
        """Yield all answers."""
        for conditions in self.answers.values():
            for samples in conditions.values():
                yield from samples


def read_folder(folder: Path) -> Answered:
    """Read a folder that mmlu, gpqa or multiple_choice wrote.

    Raises:
        UserError: a file or a field missing, an id twice, an answer to no question, or answers that do not have the
            accuracy that accuracy.json says.
    """
    report = _read_report(folder / ACCURACY_FILE)
    questions = _by_id(folder / QUESTIONS_FILE)
    answers: dict[str, dict[str, list[Row]]] = {name: {} for name in questions}
    for line, row in _rows(folder / ANSWERS_FILE):
        where = f"{folder / ANSWERS_FILE}:{line}"
        if row["id"] not in questions:
            raise UserError(f"{where}: no question {row['id']!r} in {QUESTIONS_FILE}; run the same command again")
        if row["condition"] not in report["conditions"]:
            raise UserError(f"{where}: {ACCURACY_FILE} knows no condition {row['condition']!r}; run the command again")
        answers[row["id"]].setdefault(row["condition"], []).append(row)
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
        for entry in report["conditions"].values():
            _ = entry["all"]["accuracy"], entry["groups"], entry["subjects"]
        _ = report["retrieval"], report["title"], report["differences"], report["counts"], report["confidence"]
        unknown = set(report["conditions"]) - set(NAMES)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not an {ACCURACY_FILE} of ours ({error!r}); run the command again") from error
    if unknown:
        raise UserError(f"{file}: unknown condition {sorted(unknown)[0]!r}; one of {', '.join(NAMES)}")
    return dict(report)


def _rows(file: Path) -> Iterator[tuple[int, Row]]:
    if not file.is_file():
        raise UserError(f"{file.parent}: lacks {file.name}; run the command that wrote it again")
    if file.stat().st_size == 0:
        return
    for line, row in read_jsonl(file):
        for name, kind in FIELDS[file.name].items():
            if type(row.get(name)) is not kind:
                raise UserError(f"{file}:{line}: a row needs `{name}` of type {kind.__name__}; run the command again")
        yield line, row


def _by_id(file: Path) -> dict[str, Row]:
    rows: dict[str, Row] = {}
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
        if not math.isclose(accuracy, entry["all"]["accuracy"], abs_tol=1e-9):
            raise UserError(
                f"{found.folder}: {ANSWERS_FILE} has an accuracy of {accuracy:.4f} {NAMES[condition]}, but "
                f"{ACCURACY_FILE} says {entry['all']['accuracy']:.4f}; run the same command again"
            )


def list_questions(found: Answered, limits: Limits) -> dict[str, Any]:
    """Return what the list shows and is filtered by: questions, options, letters chosen, whether gold was found."""
    groups = sorted({row["group"] for row in found.questions} - {""})
    subjects = sorted({row["subject"] for row in found.questions} - {""})
    pairs = [[found.conditions.index(move[side]) for side in "ab"] for move in found.report["differences"]]
    return {
        "conditions": [NAMES[name] for name in found.conditions],
        "pairs": pairs,
        "groups": groups,
        "subjects": subjects,
        "chunk": CHUNK,
        "questions": [
            {
                "id": row["id"],
                "text": cut(row["text"], limits.question),
                "options": [cut(str(option), limits.question) for option in row["options"]],
                "answer": row["answer"],
                "group": groups.index(row["group"]) if row["group"] else -1,
                "subject": subjects.index(row["subject"]) if row["subject"] else -1,
                "gold": gold_state(row["id"], found),
                "letters": [_letters(found.answers[row["id"]].get(name)) for name in found.conditions],
            }
            for row in found.questions
        ],
    }


def _letters(samples: Sequence[Row] | None) -> list[str] | None:
    return None if samples is None else [row["letter"] for row in samples]


def gold_state(name: str, found: Answered) -> int:
    """Say whether a gold passage of a question was read, only found, or missed; or that none is known."""
    row = found.retrieved.get(name)
    if row is None or not row["gold"]:
        return NO_GOLD
    gold = set(row["gold"])
    if any(gold & set(answer["passages"]) for answer in found.answers[name].get(RETRIEVED, [])):
        return GOLD_READ
    return GOLD_FOUND if gold & {hit["id"] for hit in row["hits"]} else GOLD_MISSED


def chunk_texts(found: Answered, limits: Limits) -> list[dict[str, Any]]:
    """Return what a question shows when it is opened, chunk by chunk, each with the passages that it names."""
    chunks = []
    for first in range(0, len(found.questions), CHUNK):
        places: dict[str, int] = {}
        shown = [_opened(row, found, limits, places) for row in found.questions[first : first + CHUNK]]
        texts = [cut(found.passages[name], limits.passage) if name in found.passages else None for name in places]
        chunks.append({"ids": list(places), "texts": texts, "questions": shown})
    return chunks


def _opened(question: Row, found: Answered, limits: Limits, places: dict[str, int]) -> dict[str, Any]:
    """Return one question's search query, gold passages, hits and answers; passages by their place."""
    name = question["id"]
    answers = found.answers[name]
    row = found.retrieved.get(name, {"query": "", "gold": [], "hits": []})
    gold, hits = set(row["gold"]), [hit["id"] for hit in row["hits"]]
    state = {}
    for answer in answers.get(RETRIEVED, []):  # the samples of a question read the same
        count = len(answer["passages"])
        state = dict.fromkeys(answer["passages"], READ)
        state |= dict.fromkeys(hits[count : count + answer["dropped"]], DROPPED)
    return {
        "query": _search_query(question, row["query"], limits.question),
        "gold": [[places.setdefault(i, len(places)), hits.index(i) + 1 if i in hits else 0] for i in row["gold"]],
        "hits": [
            [places.setdefault(i, len(places)), float(f"{hit['score']:.5g}"), int(i in gold), state.get(i, NOT_READ)]
            for i, hit in zip(hits, row["hits"], strict=True)
        ],
        "answers": [
            [
                {
                    "stage": answer["stage"].replace("_", " "),
                    "text": cut_middle(answer["text"], limits.answer),
                    "guess": "" if answer["letter"] else answer["guess"],
                    "finish": answer["finish"],
                    "error": cut(answer["error"], limits.passage),
                    "read": len(answer["passages"]),
                    "dropped": answer["dropped"],
                    "tokens": [answer["input_tokens"], answer["output_tokens"]],
                }
                for answer in answers.get(condition, [])
            ]
            for condition in found.conditions
        ],
    }


def _search_query(question: Row, query: str, characters: int) -> str | int:
    """Return 0 for the question itself, 1 for the question with its options, else the text searched with."""
    if query.strip() in ("", question["text"].strip()):
        return 0
    if query == with_options(question["text"], question["options"]):
        return 1
    return cut(query, characters)


def cut_middle(text: str, characters: int) -> str:
    """Return a text without its middle, where it is longer: an answer stands at its end."""
    text = text.strip()
    left_out = len(text) - characters
    if left_out <= 0:
        return text
    end = characters // 2
    return f"{text[: characters - end]} [… {left_out:,} characters left out …] {text[len(text) - end :]}"
