"""Checks on a generated text: pure, fast, without a model. Each says what is wrong, in the text's own words.

Invariant: a check looks at texts only and gives the same verdict in every process; where it cannot tell, the text
passes. The rules are for English. Which of them a recipe applies, and with which limits, is the recipe's business;
pairs and collections of texts that repeat each other belong to `duplicates.py`.
"""

import re

from reasonir.llm.refusals import refusal_phrase
from reasonir.text.language import looks_english
from reasonir.text.near_duplicates import DuplicateTexts, near_duplicate
from reasonir.text.words import words_and_operators

__all__ = [
    "DuplicateQueries", "boilerplate", "longest_copied_span", "looks_english", "near_duplicate", "refusal_phrase",
    "repetition", "shares_run", "source_mention", "word_count",
]  # fmt: skip
DuplicateQueries = DuplicateTexts


def word_count(text: str) -> int:
    """Return the number of words, separated by white space."""
    return len(text.split())


def shares_run(text: str, source: str, count: int) -> bool:
    """Say whether `count` words in a row of `text` stand in `source`: `longest_copied_span` reaches it, for less."""
    ours, theirs = words_and_operators(text), words_and_operators(source)
    if min(len(ours), len(theirs)) < count:
        return False
    runs = set(zip(*(ours[shift:] for shift in range(count)), strict=False))
    return any(run in runs for run in zip(*(theirs[shift:] for shift in range(count)), strict=False))


def longest_copied_span(text: str, source: str) -> int:
    """Return the length in words of the longest run of `text` that stands in `source`; punctuation and case are even.

    A suffix automaton of the source, walked along the text: time and memory grow linearly, whatever repeats. Source:
    Blumer et al. 1985.
    """
    moves: list[dict[str, int]] = [{}]
    link, length = [-1], [0]
    last = 0
    for word in words_and_operators(source):
        state = len(moves)
        moves.append({})
        link.append(0)
        length.append(length[last] + 1)
        here = last
        while here >= 0 and word not in moves[here]:
            moves[here][word] = state
            here = link[here]
        if here >= 0:
            there = moves[here][word]
            if length[there] != length[here] + 1:
                clone = len(moves)
                moves.append(moves[there].copy())
                link.append(link[there])
                length.append(length[here] + 1)
                while here >= 0 and moves[here].get(word) == there:
                    moves[here][word] = clone
                    here = link[here]
                link[there] = clone
                there = clone
            link[state] = there
        last = state
    longest = matched = here = 0
    for word in words_and_operators(text):
        while here and word not in moves[here]:
            here = link[here]
            matched = length[here]
        if word in moves[here]:
            here, matched = moves[here][word], matched + 1
        longest = max(longest, matched)
    return longest


_SOURCE = (
    r"(?:document|passage|text|article|excerpt|paragraph|snippet|reading|source (?:text|material|document)|context)"
)
_POINTED = (
    r"(?:given|provided|above|preceding|supplied|attached|accompanying|aforementioned|above-mentioned|referenced)"
)
# After these words the source is named, or the noun is another thing.
_PUBLIC = (
    r"(?! (?:of|by|on|from|titled|called|entitled|published|editor|box|field|file|object|model|processing|mining))"
)
_SAYS = (
    r"(?:says?|said|states?|mentions?|mentioned|describes?|discuss(?:es)?|explains?|argues?|argued|claims?|suggests?|"
    r"presents?|refers?|impl(?:y|ies)|notes?|mean(?:s|t)?|emphasi[sz]es?|highlights?|outlines?|concludes?|"
    r"conveys?|focus(?:es)? on|convinces?|propose[sd]?|tells? us|talks? about|assumes?)"
)
_IS_SAID = (
    r"(?:described|mentioned|discussed|stated|explained|presented|outlined|shown|defined|reported|introduced|listed|"
    r"referenced|covered|referred to|highlighted|proposed|noted|detailed|found|provided|given|used|contained)"
)
MENTIONS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b(?:according to|based (?:up)?on|as per|per|judging by) (?:only )?(?:the|this) (?:{_POINTED} )?"
        rf"(?:{_SOURCE}|authors?|study|paper|lecture|report|material|information (?:above|provided|given))\b{_PUBLIC}",
        rf"\b(?:the|this) {_POINTED} {_SOURCE}\b{_PUBLIC}",
        rf"\b(?:in|from|of|by|using|about|within) {_POINTED} {_SOURCE}\b{_PUBLIC}",
        rf"\b(?:the|this) {_SOURCE} (?:above|below|provided|given|supplied)\b",
        rf"\b{_IS_SAID} (?:\w+ )?(?:in|by|within|throughout) (?:the|this) (?:{_SOURCE}|authors?)\b{_PUBLIC}",
        rf"\b(?:does|do|did|would|is) (?:the|this) (?:{_SOURCE}|authors?)\b{_PUBLIC}(?: \w+)? {_SAYS}\b",
        rf"\b(?:the|this) (?:{_SOURCE}|authors?) (?:also |further |explicitly )?{_SAYS}\b(?!-)",
        rf"\b(?:main|central|key|primary) (?:idea|point|argument|theme|purpose|topic|message|claim) of (?:the|this) "
        rf"(?:{_SOURCE}|authors?)\b{_PUBLIC}",
        r"\bthe authors?['’]s? (?:\w+ )?(?:view|argument|claim|point|opinion|tone|purpose|perspective|main|position)",
        r"\b(?:in|from|within|throughout) (?:the|this) (?:passage|excerpt)\b(?! (?:of|from|between|through|to|into)\b)",
        rf"\bsummari[sz]e (?:the|this) {_SOURCE}\b{_PUBLIC}",
    )
]
NAMED = (
    "document", "passage", "text", "article", "excerpt", "paragraph", "snippet", "reading", "source", "author", "study",
    "paper", "lecture", "report", "material", "information",
)  # fmt: skip
"""Every pattern above needs one of these ("text" covers "context"); most queries hold none and are done at once."""
INTRODUCED = re.compile(
    r"\b(?:an?|this|my|some|one|another|recent|following|old) (?:[\w-]+ ){0,3}?(?:paper|book|novel|poem|essay|article|"
    r"passage|text|document|paragraph|textbook|excerpt|play|story|letter|study|report|blog|post|tutorial|contract)\b",
    re.IGNORECASE,
)


def source_mention(text: str) -> str | None:
    """Return the words by which a query leans on a text that its reader does not have; None where it stands alone.

    "According to the passage", "the author argues", "the above text", "described in this document". A source that
    the query itself brings in before ("I read a paper ... the author claims") is its own, and so are things that only
    share the name: a legal document, a text editor, the passage of time, the author of a named book.
    """
    folded = text.casefold()
    if not any(name in folded for name in NAMED):
        return None
    matches = [found for pattern in MENTIONS if (found := pattern.search(text))]
    for found in sorted(matches, key=lambda match: match.start()):
        if not INTRODUCED.search(text[: found.start()]):
            return found[0]
    return None


BOILERPLATE = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\[(?:insert|your|add|enter|placeholder|fill)\b(?![\w\[\].(]*\])[^\]\n]*\]|\[(?:insert|placeholder)\]",
        r"\[(?:name|your name|company(?: name)?|date|city|topic|author(?: name)?|specific [^\]\n]+)\](?!\()",
        r"<(?:insert|your|placeholder)[ -][^>\n]{2,60}>",
        r"\blorem ipsum\b",
        r"\b(?:insert|add|put) (?:your )?(?:\w+ ){0,2}here\b(?=\s*[\])>.]*\s*(?:$|[\])>]))",
        r"\A\W*(?:sure|certainly|of course|absolutely|okay|ok)[!,.:]+ (?:here|i['’]ve|i have|i can|below)\b",
        r"\A\W*(?:here(?: is|['’]s| are)|below is) (?:an?|the|your|my|one) (?:\w+[ -]){0,5}?(?:query|question|document|"
        r"passage|hard negative|json|response|output|rewrite|rewritten)\b[^.?!\n]{0,80}:",
        r"\A\W*(?:hard[- _]negative(?:[- _]document)?|positive[- _]document|user[- _]query|rewritten query)\W*:",
        r"\blet me know if you(?:['’]d| would| need| have| want)\b[^\n]{0,80}\W*\Z",
        r"\bas requested in (?:the|your) (?:prompt|instructions)\b",
    )
]
REPEATED_WORDS = 4
CHARACTER_LOOP = re.compile(r"(\S{1,8}?)\1{7,}")


def boilerplate(text: str) -> str | None:
    """Return what a writer left unfilled or said around the text ("[insert name]", "Sure, here is"), or None."""
    return next((found[0] for pattern in BOILERPLATE if (found := pattern.search(text))), None)


def repetition(text: str) -> float:
    """Return how much of a text repeats itself, 0 to 1.

    The larger of two shares: runs of four words that stood before, and characters in loops of eight or more turns
    ("ahahahahahahahahah"). Prose lies below 0.05, code and tables below 0.3; a model caught in a loop nears 1.
    Under eight words only loops of characters count.
    """
    looped = sum(len(found[0]) for found in CHARACTER_LOOP.finditer(text)) / max(len(text), 1)
    parts = words_and_operators(text)
    if len(parts) < 2 * REPEATED_WORDS:
        return looped
    runs = list(zip(parts, parts[1:], parts[2:], parts[3:], strict=False))
    return max(looped, 1 - len(set(runs)) / len(runs))
