"""What a language model's answer says in plain text: without its thoughts, and whether it declines.

Invariant: pure and fast; where it cannot tell, a text passes. The rules are for English.
"""

import re

# One pattern, so that each character is looked at once however often a looping model opens its thoughts.
THOUGHTS = re.compile(r"^.*?</think>|<think>.*?(?:</think>|\Z)", re.DOTALL)


def without_thoughts(text: str) -> str:
    """Return an answer without the thoughts that a reasoning model writes before it, ended or cut off."""
    return THOUGHTS.sub("", text).strip()


QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|‘[^’]{12,}’|(?<!\w)'[^'\n]{12,}'(?!\w)|(?m:^>.*$)")
_UNABLE = r"(?:can ?not|can[’']?t|won[’']?t|will not|(?:am|['’]m) (?:not able|unable) to|(?:am|['’]m) not going to)"
_ACT = (
    r"(?:assist|help|provide|fulfil?l|comply|generate|create|produce|write|answer|complete|share|offer|engage|proceed"
    r"|do that|do this|discuss|support|continue|process|respond)"
)
_ASKED = (
    r"(?:(?:with|to|in|on) )?(?:(?:this|that|your|the|any|such)(?: \w+)? (?:request|task|question|prompt|instruction"
    r"s?|content|information|material|document|passage|query)|with (?:this|that)|(?:a|the) hard[- ]negative|you with)"
)
REFUSALS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\bas an? (?:large |responsible |helpful )*(?:ai|artificial intelligence|language model)(?: language)?"
        r"(?: model| assistant| system| chatbot)?(?:,| i\b)",
        r"\bi(?: am|['’]m) (?:just |only |sorry,? (?:but )?i(?: am|['’]m) )?an? (?:ai|large language model|language "
        r"model|text-based ai)(?: (?:assistant|model|language model|developed|created|trained|and|so)\b|[,.;])",
        rf"\b(?:sorry|apologi[sz]e|apologies|unfortunately|regret(?:fully)?)\b[^.!?\n]{{0,60}}?\bi(?: |(?=['’]))"
        rf"{_UNABLE} (?:\w+ )?{_ACT}\b(?! but\b)",
        rf"\bi(?: |(?=['’])){_UNABLE} (?:\w+ )?{_ACT}\b(?: \w+)? ?{_ASKED}",
        r"\bi must (?:respectfully )?decline\b",
        r"\b(?:violates?|against) (?:my|our|openai['’]s) (?:\w+ )?(?:guidelines|policy|policies|programming)",
        r"\b(?:this|that|your) (?:request|prompt) (?:violates|goes against|cannot be (?:fulfilled|completed))",
    )
]
OPENING_WORDS, DOMINATED_SHARE = 12, 0.5


def refusal_phrase(text: str) -> str | None:
    """Return the words by which a model declines or speaks of itself; None for a text that does its task.

    The phrase must stand in the first twelve words, or the sentences with such phrases must make up half the text.
    What is quoted does not count, unless all is quoted. That a person cannot do or understand something is no
    refusal: it takes an apology, or an object that was asked for ("this request"), or a language model speaking.
    """
    plain = QUOTED.sub(" ", text)
    if len(plain.split()) < 3:
        plain = text.strip(" \t\n\"'“”‘’")
    matches = [found for pattern in REFUSALS if (found := pattern.search(plain))]
    if not matches:
        return None
    first = min(matches, key=lambda found: found.start())
    if len(plain[: first.start()].split()) < OPENING_WORDS:
        return first[0]
    sentences = re.split(r"(?<=[.!?])\s+|\n+", plain)
    declining = sum(len(s.split()) for s in sentences if any(pattern.search(s) for pattern in REFUSALS))
    return first[0] if declining >= DOMINATED_SHARE * len(plain.split()) else None
