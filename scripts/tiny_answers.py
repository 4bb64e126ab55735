"""What `tiny_server.py` answers: rules that read the built-in world's texts, in place of a language model.

It knows which words a query and which a document uses for the same thing (`reasonir.quickstart.world`), and nothing
else: with it the whole chain runs without a model, and what it writes is right by construction. It says nothing
about how well a real generator writes. Invariant: an answer depends on the request alone, so that a run that was
stopped goes on alike.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from reasonir.quickstart.world import (
    INSTRUCTIONS,
    TASKS,
    Combination,
    Task,
    pick,
    split_combinations,
    write_document,
    write_query,
)

QUERY_WORDS = 24
"""At least so many in a written query; the gates of hq ask for 20."""
EASY_WORDS = 8
"""Of a document's own, in an easy query: a run that the gate against copies lets pass."""
NOT_SETTLED = "Nothing that I was given to read settles this."


class Unanswerable(ValueError):
    """The request is none of this project's prompts, or is about texts that are not the world's."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a text of the world says: one value of each of its task's attributes."""

    task: Task
    values: Combination


def answer(body: dict[str, Any]) -> str:
    """Return the text that answers a chat request, by the form of answer that its prompt asks for.

    Raises:
        Unanswerable: no rule is for it.
    """
    opening = "\n".join(str(message["content"]) for message in body["messages"])
    for form, rule in RULES.items():
        if form in opening:
            return rule(opening, _chance(body))
    raise Unanswerable("this stand-in answers the prompts of reasonir/prompts alone")


def _chance(body: dict[str, Any]) -> Random:
    """Return chance of the request's own: the same request draws the same."""
    return Random(hashlib.sha256(json.dumps([body["messages"], body.get("seed")]).encode()).hexdigest())


# --- reading ----------------------------------------------------------------------------------------------------------


@cache
def _patterns(side: str) -> list[tuple[str, int, str, re.Pattern[str]]]:
    """Return every expression of one side of the lexicon: task, attribute's place, value, what it looks like."""
    found = []
    for task in TASKS.values():
        for place, attribute in enumerate(task.attributes.values()):
            for name, value in attribute.items():
                clauses = value.query_clauses if side == "query" else value.document_clauses
                for clause in clauses:
                    words = re.escape(" ".join(clause.split(" ~ ")[-1].split()).lower())
                    found.append((task.name, place, name, re.compile(re.sub(r"\\\{\w+\\\}", r"\\w+", words))))
    return found


@cache
def read(text: str, side: str) -> Meaning | None:
    """Return what a text of the world says; None where it lacks a value of some attribute.

    Args:
        text: white space and case do not matter.
        side: query or document, whose words are looked for.
    """
    words = " ".join(text.split()).lower()
    values: dict[str, dict[int, tuple[int, str]]] = {}
    for task, place, name, pattern in _patterns(side):
        if match := pattern.search(words):
            of_task = values.setdefault(task, {})
            of_task[place] = max(of_task.get(place, (0, "")), (len(match[0]), name))
    for task, of_task in values.items():
        if len(of_task) == len(TASKS[task].attributes):
            return Meaning(TASKS[task], tuple(of_task[place][1] for place in sorted(of_task)))
    return None


def _understood(text: str, side: str) -> Meaning:
    meaning = read(text, side)
    if meaning is None:
        raise Unanswerable(f"this stand-in reads the built-in world alone, and this {side} is not of it: {text[:80]!r}")
    return meaning


def _between(text: str, start: str, end: str) -> str:
    found = re.findall(f"{re.escape(start)}(.*?){re.escape(end)}", text, re.DOTALL)
    if not found:
        raise Unanswerable(f"the prompt has no part between {start.strip()!r} and {end.strip()!r}")
    # The last one: a worked example of another subject may come before the question.
    return str(found[-1]).strip()


def _number(text: str, pattern: str) -> int:
    found = re.findall(pattern, text)
    if not found:
        raise Unanswerable(f"the prompt names no number as in {pattern!r}")
    return int(found[-1])


def title(document: str) -> str:
    """Return what a document of the world goes by: its numbered title, or the name of its function."""
    return re.split(r"[,(]|\. ", document.removeprefix("### ").removeprefix("def "))[0].strip()


# --- writing data -----------------------------------------------------------------------------------------------------


def _query(chance: Random, meaning: Meaning, words: int) -> str:
    """Write a query of at least so many words: short ones, drawn again, long ones where those do not reach."""
    for attempt in range(20):
        text = write_query(chance, meaning.task, meaning.values, long=attempt >= 10)
        if len(text.split()) >= words:
            return text
    raise Unanswerable(f"no query of the world has {words} words")


def _document(chance: Random, meaning: Meaning, words: int) -> str:
    """Write a document, and others of its task after it until the words are reached, none of the same values."""
    texts = [write_document(chance, meaning.task, meaning.values)]
    while sum(len(text.split()) for text in texts) < words:
        other = tuple(pick(chance, list(attribute)) for attribute in meaning.task.attributes.values())
        if other != meaning.values:
            texts.append(write_document(chance, meaning.task, other))
    return "\n\n".join(texts)


def hard_query(prompt: str, chance: Random) -> str:
    """Answer hq: the document's values, told as somebody who saw them."""
    meaning = _understood(_between(prompt, "<passage>", "</passage>"), "document")
    query = f"{_query(chance, meaning, QUERY_WORDS)} What explains this?"
    return json.dumps({"idea": f"An entry on {meaning.task.name}.", "query": query})


def easy_query(prompt: str, chance: Random) -> str:
    """Answer eq: a plain question in the document's own words."""
    meaning = _understood(_between(prompt, "<passage>", "</passage>"), "document")
    clauses = [_own_words(chance, meaning, place) for place in range(len(meaning.values))]
    asked = [" ".join(clause.split()[:EASY_WORDS]) for clause in clauses]
    return json.dumps({"query": f"Which entry deals with the following: {'; '.join(asked)}?"})


def _own_words(chance: Random, meaning: Meaning, place: int) -> str:
    value = meaning.task.values(meaning.values)[place]
    return pick(chance, value.document_clauses).replace(" ~ ", " ")


def decoy(prompt: str, chance: Random) -> str:
    """Answer negatives: a document that differs from the positive in one value."""
    meaning = _understood(_between(prompt, "Document that serves it:\n", "\nNow write a decoy"), "document")
    place = int(chance.random() * len(meaning.values))
    others = [value for value in list(meaning.task.attributes.values())[place] if value != meaning.values[place]]
    values = (*meaning.values[:place], pick(chance, others), *meaning.values[place + 1 :])
    text = _document(chance, Meaning(meaning.task, values), _number(prompt, r"at least (\d+) words"))
    return json.dumps({"negative": text})


def tasks(prompt: str, chance: Random) -> str:
    """Answer the brainstorming: what the example's task of the world is about (without one, all), in several voices."""
    count = _number(prompt, r"Name (\d+) such tasks")
    example = re.search(r"<example>(.*?)</example>", prompt, re.DOTALL)  # a worked example of the prompt has none
    names = list(INSTRUCTIONS) if example is None else [_understood(example[1], "document").task.name]
    voices = (
        "a letter",
        "a diary",
        "a long message",
        "a transcript",
        "a report",
        "a complaint",
        "a note",
        "an account",
    )
    named = [
        f"{INSTRUCTIONS[name]}: the long text is {voice} of somebody who saw it happen"
        for voice in voices
        for name in names
    ]
    return json.dumps({"tasks": named[:count]})


def long_pair(prompt: str, chance: Random) -> str:
    """Answer vl: a query and a document of the same values, drawn among those of the world's training half."""
    asked = _between(prompt, "A search task: ", "\n")
    name = next((name for name, words in INSTRUCTIONS.items() if asked.startswith(words)), None)
    if name is None:
        raise Unanswerable(f"this stand-in knows the tasks that it named itself, not {asked[:80]!r}")
    training, _ = split_combinations(TASKS[name], 0)
    meaning = Meaning(TASKS[name], pick(chance, training))
    query = _query(chance, meaning, _number(prompt, r"query has at least (\d+) words"))
    positive = _document(chance, meaning, _number(prompt, r"positive at least (\d+) words"))
    return json.dumps({"query": query, "positive": positive})


# --- reading at test time ---------------------------------------------------------------------------------------------


def rewriting(prompt: str, chance: Random) -> str:
    """Answer rewrite: the query's values in the words of documents, all of them."""
    meaning = _understood(prompt.split("\n\nBefore a search is made")[0], "query")
    parts = [
        clause.replace(" ~ ", " ") for value in meaning.task.values(meaning.values) for clause in value.document_clauses
    ]
    return f"The case turns on what an entry would call {'; '.join(parts)}."


def score(prompt: str, chance: Random) -> str:
    """Answer pointwise reranking: 5 where all values agree, else how many do, at most 3."""
    query = _understood(_between(prompt, "<post>", "</post>"), "query")
    document = read(_between(prompt, "<text>", "</text>"), "document")
    agreed = 0
    if document is not None and document.task is query.task:
        agreed = sum(ours == theirs for ours, theirs in zip(query.values, document.values, strict=True))
    return f"Relevance score: {5 if document == query else min(agreed, 3)}"


def choice(prompt: str, chance: Random) -> str:
    """Answer a multiple-choice question: the option that names a passage of the question's values; else none."""
    front, _, asked = prompt.rpartition("Question: ")
    question, *_ = re.split(r"\n\s*\(?A[.)] ", asked)
    options = dict(re.findall(r"^\(?([A-J])[.)] (.+)$", asked, re.MULTILINE))
    wanted = _understood(question, "query")
    for passage in re.split(r"^\[\d+\] ", front.split("Answer this multiple-choice question")[0], flags=re.MULTILINE)[
        1:
    ]:
        letters = [letter for letter, option in options.items() if option.strip() == title(passage)]
        if letters and read(passage, "document") == wanted:
            said = f"\\boxed{{{letters[0]}}}" if "\\boxed{}" in prompt else f"The answer is ({letters[0]})."
            return f"A passage that I was given says what the question asks about.\n{said}"
    return NOT_SETTLED


RULES: dict[str, Callable[[str, Random], str]] = {
    "Find the idea that the passage turns on": hard_query,
    "Write one question, in English": easy_query,
    "Now write a decoy": decoy,
    "such tasks, each in one English sentence": tasks,
    "Make up one case of it": long_pair,
    "Before a search is made for this": rewriting,
    "Relevance score: N": score,
    "The answer is (X).": choice,
    "\\boxed{}": choice,
}
"""What a prompt says of the form of its answer, and the rule that gives it."""
