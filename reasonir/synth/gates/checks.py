"""The gates with their limits: from a text to a rejection whose sentence the model reads before its next attempt.

What is measured lies in `text.py`, and for all texts of language models in `reasonir.llm.text_gates`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from reasonir.llm.attempts import Rejection
from reasonir.llm.text_gates import TextGates
from reasonir.synth.gates.text import (
    asks,
    has_content,
    heading_form,
    longest_copied_span,
    own_answer,
    shares_run,
    source_mention,
    task_fault,
    task_talk,
    word_count,
)
from reasonir.text.near_duplicates import near_duplicate
from reasonir.text.words import words_and_operators

# Words of an idea in a row by which a query names it.
IDEA_WORDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates(TextGates):
    """Which gates are on, and their limits; the fields are those of the options `gates.*`.

    Each method returns None for a text that passes.
    """

    self_contained: bool
    no_content: bool
    headings: bool
    questions: bool
    names_idea: bool
    task_talk: bool
    task_lines: bool
    duplicates: bool
    copied_words: int
    near_duplicate: float
    min_words: int
    max_words: int | None
    length_ratio: float

    def check_length(self, text: str, what: str, least: int | None = None) -> Rejection | None:
        """Compare the number of words with the limits.

        Args:
            text: The written text.
            what: Its name in sentences.
            least: Fewest words; None is `min_words`.
        """
        count, least = word_count(text), self.min_words if least is None else least
        if count < least:
            return Rejection("too_short", f"The {what} has {count} words; it must have at least {least}.")
        if self.max_words is not None and count > self.max_words:
            return Rejection("too_long", f"The {what} has {count} words; it must have at most {self.max_words}.")
        return None

    def check_document(
        self, text: str, what: str, prompt: Sequence[str] = (), given: Sequence[str] = ()
    ) -> Rejection | None:
        """Apply the gates of a positive or negative, which must not speak of the task that it was written for.

        Args:
            text: The document.
            what: Its name in sentences.
            prompt: The prompt's own texts.
            given: The texts that the prompt held for this item.
        """
        rejection = self.check_text(text, what, prompt, given)
        if rejection is None and self.task_talk and (phrase := task_talk(text)):
            sentence = f"The {what} speaks of the task ({phrase!r}); its readers know nothing of a task."
            return Rejection("talks_about_task", sentence)
        return rejection

    def check_query(self, query: str, document: str, prompt: Sequence[str] = ()) -> Rejection | None:
        """Apply the gates of a query, which must make sense without its document.

        Args:
            query: The query.
            document: The document that it was written for.
            prompt: The prompt's own texts.
        """
        rejection = (
            self.check_document(query, "query", prompt, (document,))
            or self.check_length(query, "query")
            or self._check_sense(query)
        )
        if rejection is not None:
            return rejection
        # The exact number costs more than the test, and only rejections need it.
        if self.copied_words and shares_run(query, document, self.copied_words):
            run = longest_copied_span(query, document)
            return Rejection("copied_span", f"The query repeats {run} words in a row of the document; use other words.")
        return None

    def check_asks(self, query: str) -> Rejection | None:
        """Refuse a query that asks for nothing, or that answers itself."""
        if not self.questions:
            return None
        if not asks(query):
            return Rejection("no_question", "The query asks nothing; end it with what the person wants to know.")
        if phrase := own_answer(query):
            return Rejection("answers_itself", f"The query answers itself ({phrase!r}); leave the answer out.")
        return None

    def check_idea(self, query: str, idea: str) -> Rejection | None:
        """Refuse a query that names the idea which it is to be solved by: four words of it in a row, or all of it."""
        words = len(words_and_operators(idea))
        if self.names_idea and words and shares_run(query, idea, min(IDEA_WORDS, words)):
            return Rejection("names_idea", "The query names the idea that solves it; describe what happens instead.")
        return None

    def _check_sense(self, query: str) -> Rejection | None:
        if self.self_contained and (phrase := source_mention(query)):
            sentence = f"The query says {phrase!r}, but its reader has no such text before them."
            return Rejection("not_self_contained", sentence)
        if self.headings and (form := heading_form(query)):
            return Rejection("heading", f"The query is {form}; write a whole question or problem.")
        if self.no_content and not has_content(query):
            return Rejection("no_content", "The query names no subject; say what it is about.")
        return None

    def check_task(self, task: str, prompt: Sequence[str] = (), given: Sequence[str] = ()) -> Rejection | None:
        """Apply the gates of a brainstormed matching task, which is one sentence.

        Args:
            task: The line.
            prompt: The prompt's own texts.
            given: The texts that the prompt held for this request.
        """
        rejection = self.check_text(task, "task", prompt, given)
        if rejection is None and self.task_lines and (fault := task_fault(task)):
            return Rejection("task_line", f"A task {fault}; write each task as one whole sentence.")
        return rejection

    def check_different(self, text: str, what: str, other: str, name: str) -> Rejection | None:
        """Reject a text that is nearly the same as another one of its row.

        Args:
            text: The written text.
            what: Its name in sentences.
            other: The text beside it.
            name: The name of that text.
        """
        if self.near_duplicate and near_duplicate(text, other, self.near_duplicate):
            sentence = f"The {what} is nearly the same as the {name}; write a different one."
            return Rejection(f"{what}_like_{name}", sentence)
        return None
