"""What the parts of the RAG stage hand each other. Reads and writes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

ACCURACY_FILE = "accuracy.json"
QUESTIONS_FILE, ANSWERS_FILE = "questions.jsonl", "answers.jsonl"
RETRIEVED_FILE, PASSAGES_FILE = "retrieved.jsonl", "passages.jsonl"
CLOSED, RETRIEVED, GOLD = "closed_book", "retrieved", "gold_passages"
"""What the reader has in front of it."""
LETTERS = "ABCDEFGHIJ"
"""Names of options, in the order shown; a question has at most ten."""


@dataclass(frozen=True, slots=True)
class Question:
    """A multiple-choice question as a reader sees it.

    options: in the order shown. answer: letter of the right one. subject, group: "" where the data names none.
    gold: ids of passages that hold the answer, or of the sections that they were cut from. order: for each option
    shown, its place in the file.
    """

    id: str
    text: str
    options: tuple[str, ...]
    answer: str
    subject: str = ""
    group: str = ""
    gold: tuple[str, ...] = ()
    order: tuple[int, ...] = ()

    @property
    def letters(self) -> str:
        """The letters of its options."""
        return LETTERS[: len(self.options)]


def with_options(text: str, options: Sequence[str]) -> str:
    """Return a question with its options, lettered, as one text."""
    return "\n".join([text, *(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))])


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read off a completion. letter: "" where nothing was. stage: which rule read it, or why none did."""

    letter: str
    stage: str
