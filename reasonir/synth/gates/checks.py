"""Which gates a text passes, by the options: from `GatesConfig` to the reason of a refusal.

The checks themselves are in `gates.py`; here are their limits, and the sentence that the model reads when refused.
"""

from reasonir.llm.attempts import Rejection
from reasonir.synth.config import GatesConfig
from reasonir.synth.gates import text as gates


def check_text(text: str, what: str, config: GatesConfig) -> Rejection | None:
    """Return what is wrong with a written text whatever it is for, None for nothing.

    Args:
        what: its name in sentences, such as "query".
    """
    if not text.strip():
        return Rejection("empty", f"The {what} is empty.")
    if config.refusals and (phrase := gates.refusal_phrase(text)):
        return Rejection("refusal", f"The {what} declines the task ({phrase!r}); write it as asked.")
    if config.boilerplate and (phrase := gates.boilerplate(text)):
        return Rejection("boilerplate", f"The {what} holds {phrase!r}; write the text itself and nothing around it.")
    if config.max_repetition < 1 and (share := gates.repetition(text)) > config.max_repetition:
        return Rejection("repetition", f"The {what} repeats itself ({share:.0%}); say each thing once.")
    if config.language and not gates.looks_english(text):
        return Rejection("language", f"The {what} is not in English; write it in English.")
    return None


def check_length(text: str, what: str, least: int, most: int | None = None) -> Rejection | None:
    """Return whether a text has too few or too many words."""
    count = gates.word_count(text)
    if count < least:
        return Rejection("too_short", f"The {what} has {count} words; it must have at least {least}.")
    if most is not None and count > most:
        return Rejection("too_long", f"The {what} has {count} words; it must have at most {most}.")
    return None


def check_query(query: str, document: str, config: GatesConfig) -> Rejection | None:
    """Return what keeps a query from standing on its own beside its document."""
    refusal = check_text(query, "query", config) or check_length(query, "query", config.min_words, config.max_words)
    if refusal is not None:
        return refusal
    if config.self_contained and (phrase := gates.source_mention(query)):
        return Rejection(
            "not_self_contained", f"The query says {phrase!r}, but its reader has no such text before them."
        )
    if config.copied_words and gates.shares_run(query, document, config.copied_words):
        run = gates.longest_copied_span(query, document)
        return Rejection("copied_span", f"The query repeats {run} words in a row of the document; use other words.")
    return None


def check_different(text: str, what: str, other: str, name: str, config: GatesConfig) -> Rejection | None:
    """Return whether a text says the same as another one of its row."""
    if config.near_duplicate and gates.near_duplicate(text, other, config.near_duplicate):
        return Rejection(f"{what}_like_{name}", f"The {what} is nearly the same as the {name}; write a different one.")
    return None
