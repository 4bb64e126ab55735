"""The gates of every text that a language model writes, for synthesis and for rewritten queries alike."""

from collections.abc import Sequence
from dataclasses import dataclass

from reasonir.llm.attempts import Rejection
from reasonir.llm.echoes import boilerplate, echoed_words, is_placeholder
from reasonir.llm.refusals import refusal_phrase
from reasonir.text.language import looks_english
from reasonir.text.noise import gibberish, mixed_scripts, repetition


@dataclass(frozen=True, slots=True, kw_only=True)
class TextGates:
    """Which gates are on, and their limits; the fields are those of the options `gates.*` of synthesis."""

    language: bool
    refusals: bool
    boilerplate: bool
    echo_words: int
    mixed_scripts: bool
    max_gibberish: float
    max_repetition: float

    def check_text(
        self, text: str, what: str, prompt: Sequence[str] = (), given: Sequence[str] = ()
    ) -> Rejection | None:
        """Return why a written text is not taken; None for one that passes.

        Args:
            text: The written text.
            what: Its name in sentences, such as "query".
            prompt: The prompt's own texts (`Prompt.own_texts`), which the written text must not repeat.
            given: The texts that the prompt held for this item. Their words and scripts are no fault.
        """
        # First, because the other checks pass a text without words.
        if not text.strip():
            return Rejection("empty", f"The {what} is empty.")
        return self._check_talk(text, what, prompt, given) or self._check_letters(text, what, given)

    def _check_talk(self, text: str, what: str, prompt: Sequence[str], given: Sequence[str]) -> Rejection | None:
        if self.refusals and (phrase := refusal_phrase(text)):
            return Rejection("refusal", f"The {what} declines the task ({phrase!r}); write it as asked.")
        if self.echo_words and is_placeholder(text):
            return Rejection("prompt_echo", f"The {what} is a placeholder; write the whole {what} in its place.")
        if self.echo_words and (phrase := echoed_words(text, prompt, given, self.echo_words)):
            sentence = f"The {what} repeats words of these instructions ({phrase!r}); write a text of your own."
            return Rejection("prompt_echo", sentence)
        if self.boilerplate and (phrase := boilerplate(text)):
            return Rejection(
                "boilerplate", f"The {what} holds {phrase!r}; write the text itself and nothing around it."
            )
        return None

    def _check_letters(self, text: str, what: str, given: Sequence[str]) -> Rejection | None:
        if self.max_repetition < 1 and (share := repetition(text)) > self.max_repetition:
            return Rejection("repetition", f"The {what} repeats itself ({share:.0%}); say each thing once.")
        english = looks_english(text)
        if self.language and not english:
            return Rejection("language", f"The {what} is not in English; write it in English.")
        if self.mixed_scripts and (word := mixed_scripts(text, given)):
            return Rejection("mixed_scripts", f"The {what} mixes alphabets ({word[:20]!r}); write plain English words.")
        # The measure is of English words; another language has other pairs of letters.
        if self.max_gibberish < 1 and english and (share := gibberish(text)) > self.max_gibberish:
            return Rejection("gibberish", f"The {what} is partly made of letters that are no words; write plain prose.")
        return None
