"""Reads multiple-choice questions: MMLU, GPQA, and any JSONL of questions with options.

Invariant: every question has 2 to 10 options that are not empty, an answer among them, and an id of its own; anything
else is a `UserError` with file, line and remedy. The order of options depends on the seed and the question's id alone.
"""

import csv
import difflib
import glob
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from reasonir.core.errors import UserError
from reasonir.core.files import read_jsonl
from reasonir.core.stamp import digest_of
from reasonir.data.rows import load_hub
from reasonir.eval.rag.records import LETTERS, Question

MMLU_GROUPS: dict[str, str] = yaml.safe_load(Path(__file__).with_name("mmlu_groups.yaml").read_text(encoding="utf-8"))
"""Group to its subjects."""
GROUP_OF = {subject: group for group, subjects in MMLU_GROUPS.items() for subject in subjects.split()}
MMLU_COLUMNS, MMLU_KEYS = 6, tuple("ABCD")
GPQA_OPTIONS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
OTHER_SPLIT_NAMES = {"val": "validation", "validation": "val"}
"""The csv files and the hub call one split by two names."""


def read_mmlu(source: str, split: str, subjects: Sequence[str] | None) -> list[Question]:
    """Return the questions of MMLU, by subject, with ids `<subject>/<n>` (n from 1).

    Args:
        source: a folder with `<subject>_<split>.csv` in it or in `<split>/`, or hub:owner/name[:configuration].
        split: dev, val or validation, test.
        subjects: only these; None or none named: all there are. One that MMLU does not know has no group.
    Raises:
        UserError: no such files or subject, or a row that is no question.
    """
    rows = _mmlu_hub(source, split) if source.startswith("hub:") else _mmlu_csv(source, split, subjects)
    counts: dict[str, int] = {}
    questions: list[Question] = []
    for where, subject, text, options, answer in rows:
        # The number within the subject is the id in MMLU's own files, so that a selection of subjects keeps it.
        counts[subject] = counts.get(subject, 0) + 1
        if subjects and subject not in subjects:
            continue
        name = f"{subject}/{counts[subject]}"
        _check(where, text, options)
        order = tuple(range(len(options)))
        questions.append(
            Question(name, text, options, LETTERS[answer], subject, GROUP_OF.get(subject, ""), order=order)
        )
    _require_subjects(source, subjects, list(counts))
    return questions


_MmluRow = tuple[str, str, str, tuple[str, ...], int]
"""Place, subject, question, options, index of the right one."""


def _mmlu_files(source: str, split: str) -> dict[str, Path]:
    """Return the csv file of each subject."""
    if not Path(source).is_dir():
        raise UserError(f"{source}: no such folder; name a folder of MMLU's csv files, or hub:cais/mmlu")
    # The authors' archive has a folder for each split; other copies keep all files in one folder.
    for name in (split, OTHER_SPLIT_NAMES.get(split, split)):
        for folder in (Path(source), Path(source) / name):
            if files := sorted(folder.glob(f"*_{glob.escape(name)}.csv")):
                return {file.name.removesuffix(f"_{name}.csv"): file for file in files}
    raise UserError(
        f"{source}: holds no <subject>_{split}.csv, nor does {split}/ in it; check the folder and the split"
    )


def _mmlu_csv(source: str, split: str, subjects: Sequence[str] | None) -> Iterator[_MmluRow]:
    files = _mmlu_files(source, split)
    _require_subjects(source, subjects, list(files))
    for subject, file in files.items():
        for line, row in _read_csv(file) if not subjects or subject in subjects else ():
            where = f"{file}:{line}"
            if len(row) != MMLU_COLUMNS:
                raise UserError(
                    f"{where}: {len(row)} columns, but MMLU has {MMLU_COLUMNS} (question, A, B, C, D, key); put texts "
                    "that hold a comma in quotes"
                )
            text, *options, key = (cell.strip() for cell in row)
            if key not in MMLU_KEYS:
                raise UserError(f"{where}: the key is {key[:40]!r}; the last column must be A, B, C or D")
            yield where, subject, text, tuple(options), LETTERS.index(key)


def _mmlu_hub(source: str, split: str) -> Iterator[_MmluRow]:
    name, configuration = [*source.removeprefix("hub:").split(":"), ""][:2]
    for number, row in enumerate(load_hub(name, configuration or "all", "validation" if split == "val" else split), 1):
        where = f"{source}:{number}"
        text, subject = _text(row, "question", where), _text(row, "subject", where)
        options = _options(row.get("choices"), where, "choices")
        yield where, subject, text, options, _answer(row.get("answer"), options, where)


def _require_subjects(source: str, subjects: Sequence[str] | None, known: Sequence[str]) -> None:
    for subject in subjects or ():
        if subject not in known:
            near = difflib.get_close_matches(subject, known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it holds {', '.join(sorted(known)[:5])}, ..."
            raise UserError(f"{source}: holds no subject {subject!r}; {hint}")


def read_gpqa(source: str, seed: int) -> list[Question]:
    """Return the questions of GPQA with their options in an order of their own.

    Args:
        source: a csv of GPQA, or hub:owner/name:configuration, as hub:Idavidrein/gpqa:gpqa_diamond.
        seed: with a record's id it gives the order of its options.
    Raises:
        UserError: a missing file or column, an empty text, a record id that repeats.
    """
    rows = _gpqa_hub(source) if source.startswith("hub:") else _gpqa_csv(source)
    questions: list[Question] = []
    places: dict[str, str] = {}
    for where, row in rows:
        name, text = _text(row, "Record ID", where), _text(row, "Question", where)
        if name in places:
            raise UserError(f"{where}: record {name!r} stands at {places[name]} too; remove one of the two")
        places[name] = where
        options = tuple(_text(row, column, where) for column in GPQA_OPTIONS)
        subject, group = (str(row.get(column) or "").strip() for column in ("Subdomain", "High-level domain"))
        # The file names the right answer first: a reader must not see this order.
        questions.append(_shuffled(Question(name, text, options, "A", subject, group), seed))
    return questions


def _gpqa_csv(source: str) -> Iterator[tuple[str, dict[str, str]]]:
    rows = _read_csv(Path(source))
    line, header = next(rows)
    for column in ("Question", *GPQA_OPTIONS, "Record ID"):
        if column not in header:
            raise UserError(f"{source}:{line}: no column {column!r}; the first line must name GPQA's columns")
    for line, row in rows:
        if len(row) != len(header):
            raise UserError(
                f"{source}:{line}: {len(row)} columns, but the first line names {len(header)}; put texts that "
                "hold a comma or a line break in quotes"
            )
        yield f"{source}:{line}", dict(zip(header, row, strict=True))


def _gpqa_hub(source: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    # GPQA's set has no configuration of its own name: each is a selection of the questions.
    name, configuration = [*source.removeprefix("hub:").split(":"), ""][:2]
    if not configuration:
        raise UserError(f"{source}: names no configuration; write {source}:gpqa_diamond (or gpqa_main)")
    # The hub keeps GPQA's only split under the name "train".
    for number, row in enumerate(load_hub(name, configuration, "train"), 1):
        yield f"{source}:{number}", row


def read_choices(path: str, seed: int | None, gold_field: str) -> list[Question]:
    """Return the questions of a JSONL file.

    A line holds `question`, `options` (a list, or a mapping from A, B, ... to texts) and `answer` (a letter, an index
    from 0, or an option's text); it may hold `id` (else: the line's number), `subject` or `category`, and `group`.

    Args:
        path: .jsonl or .jsonl.gz.
        seed: None keeps the order of options; a number shuffles them by it and the question's id.
        gold_field: the field that names gold passages or their sections (a text or a list of texts); "" for none.
    Raises:
        UserError: naming file and line.
    """
    questions: list[Question] = []
    lines: dict[str, int] = {}
    for number, row in read_jsonl(path):
        where = f"{path}:{number}"
        name = _optional(row, "id", where) or str(number)
        if name in lines:
            raise UserError(f"{where}: id {name!r} stands in line {lines[name]} too; give every question its own")
        lines[name] = number
        text = _text(row, "question", where)
        options = _options(row.get("options"), where, "options")
        _check(where, text, options)
        # MMLU itself has such questions, which are left as published; in a user's file they are a mistake.
        if len(set(options)) < len(options):
            equal = next(option for option in options if options.count(option) > 1)
            raise UserError(f"{where}: two options are {equal[:60]!r}; no answer could tell them apart, change one")
        answer = LETTERS[_answer(row.get("answer"), options, where)]
        subject = _optional(row, "subject", where) or _optional(row, "category", where)
        gold = _gold(row.get(gold_field) if gold_field else None, where, gold_field)
        order = tuple(range(len(options)))
        question = Question(name, text, options, answer, subject, _optional(row, "group", where), gold, order)
        questions.append(question if seed is None else _shuffled(question, seed))
    return questions


def _shuffled(question: Question, seed: int) -> Question:
    """Return a question with its options sorted by a hash of seed, id and place: the same anywhere and for ever."""
    # A hash in place of a random generator: no other question, and no version of a library, changes the order.
    places = range(len(question.options))
    order = tuple(sorted(places, key=lambda p: digest_of([f"{seed}\0{question.id}\0{p}"])))
    answer = LETTERS[order.index(LETTERS.index(question.answer))]
    return replace(question, options=tuple(question.options[p] for p in order), answer=answer, order=order)


def _read_csv(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line where it begins, cells) of each row that is not blank."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    # utf-8-sig: spreadsheets write a mark before the first column's name.
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: byte 0x{raw[error.start]:02x} is not UTF-8; save it as UTF-8") from error
    if not text.strip():
        raise UserError(f"{path}: the file is empty")
    reader = csv.reader(io.StringIO(text, newline=""))
    begin = 1
    try:
        for row in reader:
            if row:
                yield begin, row
            # A quoted cell may span lines: the row's place is where it begins.
            begin = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{begin}: not csv: {error}; is a quote left open?") from error


def _text(row: Mapping[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        found = "missing" if value is None else "empty" if isinstance(value, str) else f"a {type(value).__name__}"
        raise UserError(f"{where}: `{field}` is {found}; give it a text or remove the row")
    return value.strip()


def _optional(row: Mapping[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise UserError(f"{where}: `{field}` must be a text, not {type(value).__name__}")
    return str(value).strip()


def _check(where: str, text: str, options: Sequence[str]) -> None:
    if not text:
        raise UserError(f"{where}: the question is empty; give it a text or remove the row")
    for letter, option in zip(LETTERS, options, strict=False):
        if not option:
            raise UserError(f"{where}: option {letter} is empty; give it a text or remove the row")


def _options(value: Any, where: str, field: str) -> tuple[str, ...]:
    if isinstance(value, dict):
        letters = LETTERS[: len(value)]
        if sorted(value) != list(letters):
            raise UserError(f"{where}: `{field}` has the keys {', '.join(map(str, value))}; they must be A, B, C, ...")
        value = [value[letter] for letter in letters]
    if not isinstance(value, list) or not all(isinstance(option, str) for option in value):
        raise UserError(f'{where}: `{field}` must be a list of texts, or texts by letter ({{"A": ...}})')
    if not 2 <= len(value) <= len(LETTERS):
        raise UserError(f"{where}: `{field}` has {len(value)} entries; a question needs 2 to {len(LETTERS)}")
    return tuple(option.strip() for option in value)


def _answer(value: Any, options: Sequence[str], where: str) -> int:
    """Return the index of the right option: a letter, an index from 0 or an option's text names it."""
    letters = LETTERS[: len(options)]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(options):
        return value
    if isinstance(value, str) and value.strip():
        # "B" may be the letter of one option and the text of another (blood groups): then neither is meant for sure.
        said = value.strip()
        named = {index for index, option in enumerate(options) if option == said}
        if len(said) == 1 and said in letters:
            named.add(letters.index(said))
        if len(named) == 1:
            return named.pop()
        if named:
            raise UserError(
                f"{where}: `answer` {said!r} is the letter of one option and the text of another; use an index"
            )
    raise UserError(
        f"{where}: `answer` is {str(value)[:60]!r}; it must be a letter from A to {letters[-1]}, an index from 0 to "
        f"{len(options) - 1}, or the text of an option"
    )


def _gold(value: Any, where: str, field: str) -> tuple[str, ...]:
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) and name for name in ids):
        raise UserError(f"{where}: `{field}` must be an id or a list of ids, each a text that is not empty")
    return tuple(dict.fromkeys(ids))
