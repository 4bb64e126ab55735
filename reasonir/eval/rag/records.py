"""What the parts of the RAG stage hand each other. Reads and writes nothing."""

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read off a completion. letter: "" where nothing was. stage: which rule read it, or why none did."""

    letter: str
    stage: str
