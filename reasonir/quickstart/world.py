"""The built-in world of `make quickstart`: a small retrieval benchmark that only the meaning of texts solves.

A text is made from latent attributes by a grammar; the words are in `lexicon.yaml`. A document states one value of each
of its task's four attributes in abstract terms; a query tells of the same values as things that somebody saw. Training
and evaluation share the vocabulary and no combination of values. A model must therefore learn what each expression
means and how meanings combine; remembered pairs do not help. Invariant: the files are a pure function of (seed, scale),
byte for byte, on every platform. Chance comes from `Random.random` alone, the one method whose sequence Python promises
to keep.
"""

import itertools
import json
import math
import re
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TypeVar

import yaml

from reasonir.core.files import whole_file

T = TypeVar("T")
Combination = tuple[str, ...]
Renderer = Callable[[Random, "Task", list[str]], str]

# Sizes at scale 1, which two cores train on in minutes.
EVALUATION_SHARE = 0.35  # of all combinations; the rest is for training
DOCUMENTS_PER_TASK = 400  # before twins and second golds
QUERIES_PER_TASK = 80
TRAINING_ROWS_PER_TASK = 2400
NEGATIVES_PER_ROW = 2
LONG_SHARE_TRAINING = 0.1  # a long query costs eight times the tokens of a short one
LONG_EVALUATION_PERIOD = 4  # each fourth evaluation query is long
LONG_WORDS = (250, 430)

INSTRUCTIONS: dict[str, str] = {
    "natural_science": "Find the principle that explains this",
    "office_cases": "Find the rule that settles this case",
    "data_functions": "Find the function that does this",
}

SHORT_FORMS = ("{0}. {1}, and {2}; {3}.", "{0}; {1}. {2}, and {3}.", "{0}; {1}, and {2}. {3}.")
SMALL_TALK_FORMS = (
    "{time}, {person} {deed} {place}.",
    "{time}, {person} {deed}, {aside}.",
    "{person} {deed} {place}, {aside}.",
    "{person} {deed} {place}.",
    "{time}, {person} told {listener} that {thought}.",
    "{place}, {person} told {listener} that {thought}, {aside}.",
)
PRONOUNS = ({"he": "he", "his": "his", "him": "him"}, {"he": "she", "his": "her", "him": "her"})


@dataclass(frozen=True, slots=True)
class Value:
    """How queries and documents express one value of an attribute."""

    query_clauses: tuple[str, ...]
    document_clauses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """A task: its attributes by name (the first is the subject), what frames a text, how documents look."""

    name: str
    attributes: dict[str, dict[str, Value]]
    frames: dict[str, tuple[str, ...]]
    opening_end: str
    render: Renderer

    def values(self, combination: Combination) -> list[Value]:
        """Look up the values that a combination names."""
        return [one[name] for one, name in zip(self.attributes.values(), combination, strict=True)]


def pick(rng: Random, items: Sequence[T]) -> T:
    """Choose one item uniformly."""
    return items[int(rng.random() * len(items))]


def shuffled(rng: Random, items: Iterable[T]) -> list[T]:
    """Permute uniformly (Fisher-Yates over `Random.random`)."""
    result = list(items)
    # By hand: Python keeps the sequence of `Random.random`, not that of `Random.shuffle`.
    for last in range(len(result) - 1, 0, -1):
        other = int(rng.random() * (last + 1))
        result[last], result[other] = result[other], result[last]
    return result


def _capitalised(text: str) -> str:
    """Raise the first letter and leave the rest as it is."""
    return text[:1].upper() + text[1:]


def _prose(rng: Random, task: Task, subject: str, clauses: list[str]) -> str:
    """Join a numbered title, the subject and the other clauses in any order, perhaps with a remark."""
    title = f"{pick(rng, task.frames['titles'])} {1 + int(rng.random() * 29)}.{1 + int(rng.random() * 9)}"
    sentences = [f"{_capitalised(clause)}." for clause in shuffled(rng, clauses)]
    if rng.random() < 0.5:
        sentences.append(pick(rng, task.frames["remarks"]))
    return f"{title}{subject}. {' '.join(sentences)}"


def _book_entry(rng: Random, task: Task, clauses: list[str]) -> str:
    """Render an entry of a text book of physics."""
    return _prose(rng, task, f". {_capitalised(clauses[0])}", clauses[1:])


def _contract_clause(rng: Random, task: Task, clauses: list[str]) -> str:
    """Render a clause of a staff contract."""
    return _prose(rng, task, f", on {clauses[0]}", clauses[1:])


def _manual_page(rng: Random, task: Task, clauses: list[str]) -> str:
    """Render a function's documentation, as a Python stub or as a page of a reference manual."""
    (function, purpose), *rest = [clause.split(" ~ ") for clause in clauses]
    options = shuffled(rng, zip(list(task.attributes)[1:], rest, strict=True))
    title, remark = pick(rng, task.frames["titles"]), pick(rng, task.frames["remarks"])
    signature = ", ".join([title, "*", *(f'{name}="{code}"' for name, (code, _) in options)])
    if rng.random() < 0.5:
        lines = [f"    {name}: {meaning}." for name, (_, meaning) in options]
        body = [f'    """{_capitalised(purpose)}. {remark}', "", *lines, '    """']
        return "\n".join([f"def {function}({signature}):", *body])
    lines = [f'- `{name}="{code}"`: {meaning}' for name, (code, meaning) in options]
    return "\n".join([f"### {function}({signature})", f"{_capitalised(purpose)}. {remark}", *lines])


LEXICON = yaml.safe_load((Path(__file__).parent / "lexicon.yaml").read_text(encoding="utf-8"))
NEUTRAL_PARTS = {kind: tuple(parts) for kind, parts in LEXICON["neutral"].items()}


def _task(name: str, opening_end: str, render: Renderer) -> Task:
    """Return a task with its word lists."""
    words = LEXICON["tasks"][name]
    attributes = {
        attribute: {value: Value(tuple(told["query"]), tuple(told["document"])) for value, told in values.items()}
        for attribute, values in words["attributes"].items()
    }
    frames = {kind: tuple(parts) for kind, parts in words["frames"].items()}
    return Task(name, attributes, frames, opening_end, render)


TASKS: dict[str, Task] = {
    "natural_science": _task("natural_science", ",", _book_entry),
    "office_cases": _task("office_cases", ",", _contract_clause),
    "data_functions": _task("data_functions", ":", _manual_page),
}


def write_document(rng: Random, task: Task, combination: Combination) -> str:
    """State a combination of values in the way of the task's documents.

    Args:
        rng: Source of chance.
        task: One of TASKS.
        combination: A value's name for each attribute of the task.
    """
    clauses = [pick(rng, value.document_clauses) for value in task.values(combination)]
    return task.render(rng, task, clauses)


def _short_query(rng: Random, task: Task, clauses: list[str]) -> str:
    """Tell the clauses in two sentences, perhaps with a question."""
    subject = clauses[0]
    if rng.random() < 0.6:
        subject = f"{pick(rng, task.frames['openings'])}{task.opening_end} {subject}"
    told = pick(rng, SHORT_FORMS).format(subject, *shuffled(rng, clauses[1:]))
    text = " ".join(_capitalised(sentence) for sentence in re.split(r"(?<=\.) ", told))
    return f"{text} {pick(rng, task.frames['questions'])}" if rng.random() < 0.6 else text


def _small_talk(rng: Random, words: int) -> list[str]:
    """Compose so many words that say nothing about any attribute.

    The parts are dealt like cards: none comes again before all others of its kind have come.
    """
    decks: dict[str, list[str]] = {}

    def deal(kind: str) -> str:
        if not decks.get(kind):
            decks[kind] = shuffled(rng, NEUTRAL_PARTS[kind])
        return decks[kind].pop()

    sentences: list[str] = []
    while sum(len(sentence.split()) for sentence in sentences) < words:
        form = pick(rng, SMALL_TALK_FORMS)
        parts = {kind: deal(kind) for kind in re.findall(r"\{(\w+)\}", form) if kind != "listener"}
        listeners = [person for person in NEUTRAL_PARTS["person"] if person != parts["person"]]
        sentences.append(_capitalised(form.format(listener=pick(rng, listeners), **parts)))
    return sentences


def _long_query(rng: Random, task: Task, clauses: list[str]) -> str:
    """Scatter the clauses over several hundred words of small talk, the subject first."""
    opening = f"{pick(rng, task.frames['openings'])}{task.opening_end} {clauses[0]}."
    rest = [f"{pick(rng, NEUTRAL_PARTS['lead'])} {clause}." for clause in shuffled(rng, clauses[1:])]
    told = [_capitalised(sentence) for sentence in (opening, *rest)]
    words = LONG_WORDS[0] + int(rng.random() * (LONG_WORDS[1] - LONG_WORDS[0]))
    sentences = _small_talk(rng, words - sum(len(sentence.split()) for sentence in told))
    places = sorted(shuffled(rng, range(len(sentences) + len(told)))[: len(told)])
    for place, sentence in zip(places, told, strict=True):
        sentences.insert(place, sentence)
    return f"{' '.join(sentences)} {pick(rng, task.frames['questions'])}"


def write_query(rng: Random, task: Task, combination: Combination, long: bool) -> str:
    """Tell of a combination of values as somebody who saw it would.

    Args:
        rng: Source of chance.
        task: One of TASKS.
        combination: A value's name for each attribute of the task.
        long: Scatter it over several hundred words of small talk, in place of two sentences.
    """
    # One person a query, so that the pronouns of its clauses agree.
    woman = rng.random() < 0.5
    person = PRONOUNS[woman] | {"name": pick(rng, NEUTRAL_PARTS["women" if woman else "men"])}
    clauses = [pick(rng, value.query_clauses).format(**person) for value in task.values(combination)]
    return _long_query(rng, task, clauses) if long else _short_query(rng, task, clauses)


def split_combinations(task: Task, seed: int) -> tuple[list[Combination], list[Combination]]:
    """Divide a task's combinations into those of training and of evaluation, whatever the scale."""
    # A generator of its own: other numbers of rows or queries must not move a combination to the other side.
    everything = shuffled(Random(f"{seed}/{task.name}/split"), itertools.product(*task.attributes.values()))
    held_out = round(len(everything) * EVALUATION_SHARE)
    return everything[held_out:], everything[:held_out]


def _scaled(count: int, scale: float) -> int:
    return max(2, round(count * scale))


def _fresh(seen: set[str], write: Callable[..., str], *arguments: object) -> str:
    """Write until a text is new, and remember it."""
    # A document that came twice would be an answer that no gold list names.
    for _ in range(1000):
        text = write(*arguments)
        if text not in seen:
            seen.add(text)
            return text
    raise AssertionError("the grammar is exhausted: the scale is too large for the word lists")


def write_evaluation(task: Task, seed: int, scale: float) -> tuple[list[dict], list[dict]]:
    """Compose a task's corpus and queries from the held-out combinations.

    Each combination has one document. Every fourth combination that queries ask for also has a twin: the same statement
    in other words, which its queries exclude, as BRIGHT excludes what a query was made from. Every eighth has a second
    gold document.

    Args:
        task: One of TASKS.
        seed: Of the world.
        scale: Factor on the numbers of documents and queries.

    Returns:
        Rows of documents.jsonl and of examples.jsonl.
    """
    rng = Random(f"{seed}/{task.name}/evaluation")
    _, held_out = split_combinations(task, seed)
    combinations = held_out[: _scaled(DOCUMENTS_PER_TASK, scale)]
    queries = _scaled(QUERIES_PER_TASK, scale)
    seen: set[str] = set()
    texts: list[tuple[int, str, str]] = []  # (combination's index, "gold" or "twin", text)
    for index, combination in enumerate(combinations):
        kinds = ["gold"]
        if index < queries:
            kinds += ["twin"] if index % 4 == 0 else ["gold"] if index % 8 == 3 else []
        for kind in kinds:
            texts.append((index, kind, _fresh(seen, write_document, rng, task, combination)))
    documents: list[dict] = []
    ids: dict[tuple[int, str], list[str]] = {}
    # Shuffled before they are numbered, so that no id tells which documents are gold.
    for number, (index, kind, text) in enumerate(shuffled(rng, texts)):
        documents.append({"id": f"{task.name}/{number:04d}.txt", "content": text})
        ids.setdefault((index, kind), []).append(documents[-1]["id"])
    examples = []
    for number in range(queries):
        index, long = number % len(combinations), number % LONG_EVALUATION_PERIOD == 1
        text = _fresh(seen, write_query, rng, task, combinations[index], long)
        values = zip(task.attributes, combinations[index], strict=True)
        examples.append(
            {
                "id": f"{task.name}-{number:04d}",
                "query": text,
                "reasoning": "; ".join(f"{name}: {value}" for name, value in values),
                "excluded_ids": ids.get((index, "twin"), []),
                "gold_ids": ids[index, "gold"],
            }
        )
    return documents, examples


def _neighbours(task: Task, combination: Combination, allowed: Collection[Combination]) -> list[Combination]:
    """List the allowed combinations that differ in exactly one attribute."""
    changed = (
        (*combination[:place], other, *combination[place + 1 :])
        for place, attribute in enumerate(task.attributes.values())
        for other in attribute
        if other != combination[place]
    )
    return [other for other in changed if other in allowed]


def _write_training(task: Task, seed: int, scale: float) -> list[dict]:
    """Compose a task's training rows: a query, the document of its combination, those of neighbours as negatives."""
    rng = Random(f"{seed}/{task.name}/training")
    combinations, _ = split_combinations(task, seed)
    seen: set[str] = set()
    documents = {one: _fresh(seen, write_document, rng, task, one) for one in combinations}
    rows: list[dict] = []
    order: list[Combination] = []
    for number in range(_scaled(TRAINING_ROWS_PER_TASK, scale)):
        order = order or shuffled(rng, combinations)
        combination, long = order.pop(), rng.random() < LONG_SHARE_TRAINING
        text = _fresh(seen, write_query, rng, task, combination, long)
        # One attribute apart: a negative that differs in more could be told by its subject alone.
        negatives = shuffled(rng, _neighbours(task, combination, documents))[:NEGATIVES_PER_ROW]
        rows.append(
            {
                "id": f"{task.name}-train-{number:05d}",
                "query": [INSTRUCTIONS[task.name], text],
                "pos": [["", documents[combination]]],
                "neg": [["", documents[other]] for other in negatives],
            }
        )
    return rows


def _write_rows(path: Path, rows: Iterable[dict]) -> None:
    """Write JSON lines with Unix line ends, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, per_process=True) as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def generate_world(root: Path, seed: int = 0, scale: float = 1.0) -> dict[str, int]:
    """Write the world: `<root>/<task>/{documents,examples}.jsonl, instruction.txt`, `<root>/train/<task>.jsonl`.

    Args:
        root: Folder, made where missing; files of an earlier world are replaced.
        seed: Any integer; another seed gives other texts and another split.
        scale: > 0, factor on documents, queries and rows (the corpus stops at all held-out combinations).

    Returns:
        Number of rows by file, as "<task>/documents", "<task>/examples", "train/<task>".

    Raises:
        ValueError: scale is not a positive number of at most 10.
    """
    if not (math.isfinite(scale) and 0 < scale <= 10):
        raise ValueError(f"scale={scale}: must be above 0 and at most 10")
    counts = {}
    for name, task in TASKS.items():
        documents, examples = write_evaluation(task, seed, scale)
        files = {f"{name}/documents": documents, f"{name}/examples": examples}
        files[f"train/{name}"] = _write_training(task, seed, scale)
        for file, rows in files.items():
            _write_rows(Path(root) / f"{file}.jsonl", rows)
            counts[file] = len(rows)
        (Path(root) / name / "instruction.txt").write_text(f"{INSTRUCTIONS[name]}\n", encoding="utf-8")
    return counts


USAGE = "usage: python -m reasonir.quickstart output_dir=DIR [seed=0] [scale=1.0]"


def _parse(arguments: Sequence[str]) -> tuple[Path, int, float]:
    """Read key=value arguments, refusing what is unknown, repeated or of a wrong type."""
    values: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key not in ("output_dir", "seed", "scale") or not equals or not value or key in values:
            raise ValueError(f"{argument}: unknown, empty or repeated; {USAGE}")
        values[key] = value
    if "output_dir" not in values:
        raise ValueError(f"output_dir is missing; {USAGE}")
    # Read here, so that the message names the option and not a line of Python.
    for key, kind, read in (("seed", "an integer", int), ("scale", "a number", float)):
        try:
            read(values.get(key, "1"))
        except ValueError:
            raise ValueError(f"{key}={values[key]}: must be {kind}") from None
    return Path(values["output_dir"]), int(values.get("seed", "0")), float(values.get("scale", "1"))


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit status."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(f"{USAGE}\nwrites the built-in world: BRIGHT folders and train/<task>.jsonl")
        return 0
    try:
        root, seed, scale = _parse(arguments)
        counts = generate_world(root, seed, scale)
    except (ValueError, OSError) as error:
        print(f"reasonir.quickstart: {error}", file=sys.stderr)
        return 2
    for file, rows in counts.items():
        print(f"{rows:6d}  {root / file}.jsonl")
    return 0
