"""The built-in world of `make quickstart`: a small retrieval benchmark that only the meaning of its texts solves.

Owns the grammar that turns latent attributes into English (the words are in `world_lexicon.py`), the split and the
files. A document states one value of each of its task's four attributes in abstract terms; a query tells of the
same values as things somebody saw. Training and evaluation share the vocabulary and no combination of values, so a
model must learn what each expression means and compose, and cannot get by on remembered pairs. The invariant: the
files are a pure function of (seed, scale), byte for byte, on every platform. Chance comes from `Random.random`
alone, the one method whose sequence Python promises to keep.
"""

import itertools
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TypeVar

from reasonir.world_lexicon import DATA_FUNCTIONS, LEADS, MEN, NATURAL_SCIENCE, OFFICE_CASES, SMALL_TALK, WOMEN

T = TypeVar("T")
Combination = tuple[str, ...]

EVALUATION_SHARE = 0.35  # of all combinations; the rest is for training
DOCUMENTS_PER_TASK = 400  # at scale 1, before the twins
QUERIES_PER_TASK = 80
TRAINING_ROWS_PER_TASK = 2400
NEGATIVES_PER_ROW = 2
LONG_SHARE_TRAINING = 0.15  # long queries cost eight times the tokens of short ones
LONG_EVALUATION_PERIOD = 4  # each fourth evaluation query is long
LONG_WORDS = (250, 430)

INSTRUCTIONS: dict[str, str] = {
    "natural_science": "Given this situation, retrieve the principle that explains it",
    "office_cases": "Given this case, retrieve the rule that settles it",
    "data_functions": "Given this need, retrieve the documented function that serves it",
}


@dataclass(frozen=True, slots=True)
class Value:
    """One value of an attribute: its name and how queries and documents express it."""

    name: str
    query_clauses: tuple[str, ...]
    document_clauses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """One task: its attributes (the first is what the text is about) and the frames around their clauses."""

    name: str
    attributes: tuple[dict[str, Value], ...]
    openings: str
    opening_end: str
    questions: str
    render_document: Callable[[Random, list[str], list[str]], str]
    attribute_names: tuple[str, ...]


def alternatives(line: str) -> list[str]:
    """Split a lexicon line at its ` | ` separators."""
    return [part.strip() for part in line.split("|")]


def parse_block(block: str) -> dict[str, Value]:
    """Read one attribute of the lexicon: `name: query | query => document | document`, indented when continued."""
    values = {}
    for entry in re.split(r"\n(?=\S)", block.strip()):
        name, _, expressions = " ".join(entry.split()).partition(": ")
        query_side, document_side = expressions.split(" => ")
        values[name] = Value(name, tuple(alternatives(query_side)), tuple(alternatives(document_side)))
    return values


def pick(rng: Random, items: Sequence[T]) -> T:
    """Choose one item uniformly."""
    return items[int(rng.random() * len(items))]


def shuffled(rng: Random, items: Iterable[T]) -> list[T]:
    """Permute uniformly (Fisher-Yates over `Random.random`)."""
    result = list(items)
    for last in range(len(result) - 1, 0, -1):
        other = int(rng.random() * (last + 1))
        result[last], result[other] = result[other], result[last]
    return result


def capitalised(text: str) -> str:
    """Raise the first letter and leave the rest as it is."""
    return text[:1].upper() + text[1:]


# Documents -----------------------------------------------------------------------------------------------------


BOOK_TITLES = "Principle | Theorem | Textbook entry | Lemma | Proposition | Physical law"
BOOK_REMARKS = (
    "The statement presumes laboratory standards. | Derivations appear in the appendix. | Symbols follow "
    "international convention. | Quantitative treatment is deferred to the exercises. | Historical references "
    "are omitted. | Secondary contributions are neglected."
)
CONTRACT_TITLES = "Clause | Section | Article | Paragraph | Regulation | Provision"
CONTRACT_REMARKS = (
    "Definitions are set out in the annex. | Statutory entitlements remain unaffected. | Interpretation follows "
    "the prevailing edition. | Amendments require ratification. | Severability is maintained. | Cross-references "
    "are informative."
)
MANUAL_SUBJECTS = "relation | dataset | records | source | frame | data"
MANUAL_REMARKS = (
    "Complexity is documented in the reference guide. | Type annotations are enforced. | Deprecated aliases are "
    "unsupported. | Unicode is assumed. | Validation precedes execution. | Available in the stable namespace."
)


def _numbered_prose(titles: str, remarks: str) -> Callable[[Random, list[str], list[str]], str]:
    """Make the renderer of text books and contracts: a numbered title, the subject, the rest in any order."""

    def render(rng: Random, clauses: list[str], names: list[str]) -> str:
        title = f"{pick(rng, alternatives(titles))} {1 + int(rng.random() * 29)}.{1 + int(rng.random() * 9)}"
        sentences = [f"{capitalised(clause)}." for clause in [clauses[0], *shuffled(rng, clauses[1:])]]
        if rng.random() < 0.5:
            sentences.append(pick(rng, alternatives(remarks)))
        return f"{title}. {' '.join(sentences)}"

    return render


def _manual_page(rng: Random, clauses: list[str], names: list[str]) -> str:
    """Render a function's documentation, as a Python stub or as a page of a reference manual."""
    (function, purpose), *options = [tuple(part.strip() for part in clause.split("~")) for clause in clauses]
    options = shuffled(rng, zip(names[1:], options, strict=True))
    subject = pick(rng, alternatives(MANUAL_SUBJECTS))
    remark = pick(rng, alternatives(MANUAL_REMARKS))
    signature = ", ".join([subject, "*", *(f'{name}="{code}"' for name, (code, _) in options)])
    if rng.random() < 0.5:
        lines = [f"    {name}: {meaning}." for name, (_, meaning) in options]
        body = "\n".join([f'    """{capitalised(purpose)}. {remark}', "", *lines, '    """'])
        return f"def {function}({signature}):\n{body}"
    lines = [f'- `{name}="{code}"`: {meaning}' for name, (code, meaning) in options]
    return "\n".join([f"### {function}({signature})", f"{capitalised(purpose)}. {remark}", *lines])


def write_document(rng: Random, task: Task, combination: Combination) -> str:
    """State a combination of values the way the task's documents do."""
    values = [attribute[name] for attribute, name in zip(task.attributes, combination, strict=True)]
    clauses = [pick(rng, value.document_clauses) for value in values]
    return task.render_document(rng, clauses, list(task.attribute_names))


# Queries -------------------------------------------------------------------------------------------------------


def _small_talk(rng: Random) -> str:
    """Compose one sentence that says nothing about any attribute."""
    part = {kind: pick(rng, alternatives(line)) for kind, line in SMALL_TALK.items()}
    listener = pick(rng, [person for person in alternatives(SMALL_TALK["person"]) if person != part["person"]])
    sentence = pick(
        rng,
        (
            "{time}, {person} {deed} {place}.",
            "{time}, {person} {deed}, {aside}.",
            "{person} {deed} {place}, {aside}.",
            "{time}, {person} told {listener} that {thought}.",
            "{place}, {person} {deed}.",
            "{person} thinks that {thought}.",
        ),
    )
    sentence = sentence.replace("{person} thinks", "{person} think" if part["person"] == "the twins" else "{person} thinks")
    return capitalised(sentence.format(listener=listener, **part))


def _query_clauses(rng: Random, task: Task, combination: Combination) -> list[str]:
    """Choose what was seen of each value, about one and the same person."""
    woman = rng.random() < 0.5
    name = pick(rng, alternatives(WOMEN if woman else MEN))
    person = {"name": name} | ({"he": "she", "his": "her", "him": "her"} if woman else {"he": "he", "his": "his", "him": "him"})
    values = [attribute[value] for attribute, value in zip(task.attributes, combination, strict=True)]
    return [pick(rng, value.query_clauses).format(**person) for value in values]


def _short_query(rng: Random, task: Task, clauses: list[str]) -> str:
    """Tell the clauses in one or two sentences, perhaps with a question."""
    subject = clauses[0]
    if rng.random() < 0.6:
        subject = f"{pick(rng, alternatives(task.openings))}{task.opening_end} {subject}"
    second, third, fourth = shuffled(rng, clauses[1:])
    form = pick(
        rng,
        (
            "{0}. {1}, and {2}; {3}.",
            "{0}; {1}. {2}, and {3}.",
            "{0}; {1}, and {2}. {3}.",
        ),
    )
    parts = re.split(r"(?<=\.) ", form.format(subject, second, third, fourth))
    text = " ".join(capitalised(part) for part in parts)
    return f"{text} {pick(rng, alternatives(task.questions))}" if rng.random() < 0.6 else text


def _long_query(rng: Random, task: Task, clauses: list[str]) -> str:
    """Scatter the clauses over several hundred words of small talk, the subject first."""
    opening = f"{capitalised(pick(rng, alternatives(task.openings)))}{task.opening_end} {clauses[0]}."
    told = [opening, *(f"{pick(rng, alternatives(LEADS))} {clause}." for clause in shuffled(rng, clauses[1:]))]
    target_words = LONG_WORDS[0] + int(rng.random() * (LONG_WORDS[1] - LONG_WORDS[0]))
    words = sum(len(sentence.split()) for sentence in told)
    talk: list[str] = []
    while words < target_words:
        talk.append(_small_talk(rng))
        words += len(talk[-1].split())
    places = sorted(shuffled(rng, range(len(talk) + len(told)))[: len(told)])
    sentences = list(talk)
    for place, sentence in zip(places, told, strict=True):
        sentences.insert(place, sentence)
    return f"{' '.join(sentences)} {pick(rng, alternatives(task.questions))}"


def write_query(rng: Random, task: Task, combination: Combination, long: bool) -> str:
    """Tell of a combination of values as somebody who saw it would, briefly or at length."""
    clauses = _query_clauses(rng, task, combination)
    return _long_query(rng, task, clauses) if long else _short_query(rng, task, clauses)


# Tasks, split and files ----------------------------------------------------------------------------------------


def _task(
    name: str,
    blocks: dict[str, str],
    frames: dict[str, str],
    render: Callable[[Random, list[str], list[str]], str],
) -> Task:
    """Parse a task's word lists."""
    attributes = tuple(parse_block(block) for block in blocks.values())
    return Task(
        name=name, attributes=attributes, render_document=render, attribute_names=tuple(blocks), **frames
    )


TASKS: dict[str, Task] = {
    "natural_science": _task(
        "natural_science",
        NATURAL_SCIENCE,
        {
            "openings": "at my aunt's cottage | in our first winter in the flat | during the school trip | at the "
            "bakery where I work | last Tuesday | on the campsite | while we were redecorating | at my neighbour's",
            "opening_end": ",",
            "questions": "Why is that? | What is going on here? | What lies behind it? | How come? | Who can tell me why?",
        },
        _numbered_prose(BOOK_TITLES, BOOK_REMARKS),
    ),
    "office_cases": _task(
        "office_cases",
        OFFICE_CASES,
        {
            "openings": "as far as I know | according to the porter | by all accounts | to cut a long tale short | "
            "believe it or not | so I hear | to put it plainly | if I get it right",
            "opening_end": ",",
            "questions": "What follows from that? | Where do we stand? | What may we do now? | What are we to make of "
            "it? | Which way does this go?",
        },
        _numbered_prose(CONTRACT_TITLES, CONTRACT_REMARKS),
    ),
    "data_functions": _task(
        "data_functions",
        DATA_FUNCTIONS,
        {
            "openings": "I keep the lists for our choir | I help out in a garden shop | I sit at the vet's front desk | "
            "we are getting ready for the village fair | I look after my uncle's garage | I do the paperwork of the "
            "football club | I sit at the museum till | it is about our farm",
            "opening_end": ":",
            "questions": "What do I use? | What could I call for that? | How do I go about it? | Is there something "
            "ready-made? | What would you take?",
        },
        _manual_page,
    ),
}


def split_combinations(task: Task, seed: int) -> tuple[list[Combination], list[Combination]]:
    """Divide a task's combinations into those of training and those of evaluation, independent of the scale."""
    everything = shuffled(Random(f"{seed}/{task.name}/split"), itertools.product(*task.attributes))
    held_out = round(len(everything) * EVALUATION_SHARE)
    return everything[held_out:], everything[:held_out]


def _scaled(count: int, scale: float) -> int:
    return max(2, round(count * scale))


def _evaluation_queries(
    task: Task, seed: int, scale: float, combinations: list[Combination]
) -> Iterable[tuple[int, dict[str, str]]]:
    """Yield (index of the combination, row without ids of documents), no text twice."""
    rng = Random(f"{seed}/{task.name}/queries")
    seen: set[str] = set()
    for number in range(_scaled(QUERIES_PER_TASK, scale)):
        index = number % len(combinations)
        text = _fresh(seen, lambda: write_query(rng, task, combinations[index], _is_long(number)))  # noqa: B023
        reason = "; ".join(f"{key}: {value}" for key, value in zip(task.attribute_names, combinations[index], strict=True))
        yield index, {"id": f"{task.name}-{number:04d}", "query": text, "reasoning": f"The story shows {reason}."}
