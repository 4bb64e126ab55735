"""The gates with their limits: from a text to a rejection whose sentence the model reads before its next attempt.

The patterns and measures are in `text.py`, `reasonir.text` and `reasonir.llm.refusals`.
"""

from dataclasses import dataclass

from reasonir.llm.attempts import Rejection
from reasonir.llm.refusals import refusal_phrase
from reasonir.synth.gates.text import (
    boilerplate,
    longest_copied_span,
    repetition,
    shares_run,
    source_mention,
    word_count,
)
from reasonir.text.language import looks_english
from reasonir.text.near_duplicates import near_duplicate


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """Which gates are on, and their limits; the fields are those of the options `gates.*`.

    Each method returns None for a text that passes.
    """

    language: bool
    refusals: bool
    self_contained: bool
    duplicates: bool
    copied_words: int
    near_duplicate: float
    min_words: int
    max_words: int | None
    max_repetition: float
    boilerplate: bool
    length_ratio: float

    def check_text(self, text: str, what: str) -> Rejection | None:
        """Apply the gates of every written text; `what` is its name in sentences, such as "query"."""
        # First, because the other checks pass a text without words.
        if not text.strip():
            return Rejection("empty", f"The {what} is empty.")
        if self.refusals and (phrase := refusal_phrase(text)):
            return Rejection("refusal", f"The {what} declines the task ({phrase!r}); write it as asked.")
        if self.boilerplate and (phrase := boilerplate(text)):
            return Rejection(
                "boilerplate", f"The {what} holds {phrase!r}; write the text itself and nothing around it."
            )
        if self.max_repetition < 1 and (share := repetition(text)) > self.max_repetition:
            return Rejection("repetition", f"The {what} repeats itself ({share:.0%}); say each thing once.")
        if self.language and not looks_english(text):
            return Rejection("language", f"The {what} is not in English; write it in English.")
        return None

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

    def check_query(self, query: str, document: str) -> Rejection | None:
        """Apply the gates of a query, which must make sense without its document."""
        rejection = self.check_text(query, "query") or self.check_length(query, "query")
        if rejection is not None:
            return rejection
        if self.self_contained and (phrase := source_mention(query)):
            sentence = f"The query says {phrase!r}, but its reader has no such text before them."
            return Rejection("not_self_contained", sentence)
        # The exact number costs more than the test, and only rejections need it.
        if self.copied_words and shares_run(query, document, self.copied_words):
            run = longest_copied_span(query, document)
            return Rejection("copied_span", f"The query repeats {run} words in a row of the document; use other words.")
        return None

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
