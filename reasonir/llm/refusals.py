"""A language model's answer without its thoughts, and whether the model declines to do what it was asked.

Invariant: pure and fast; a text that cannot be told from a good answer passes. The rules are for English.
"""

import re

# What reasoning models and the templates of their servers put around thoughts: tags, Mistral's brackets, Kimi's marks,
# and the channels of gpt-oss ("harmony"), whose marks some servers leave out: then `analysis` stands glued to the first
# word of the thoughts and `assistantfinal` to the first of the answer.
_TAG = r"(?:seed:)?(?:think|thinking|thoughts?|reasoning)"
_CHANNEL = r"<\|channel\|>\s*{}\b[^\n]{{0,80}}?<\|message\|>"
_MARKS = re.compile(
    rf"(?P<opening><{_TAG}>|\[think\]|◁think▷|<\|begin_of_thought\|>|{_CHANNEL.format('(?:analysis|commentary)')}"
    r"|(?-i:\A\s*analysis(?=[A-Z])|assistant(?:analysis|commentary)))"
    rf"|(?P<closing></{_TAG}>|\[/think\]|◁/think▷|<\|end_of_thought\|>|{_CHANNEL.format('final')}"
    r"|(?-i:\A\s*final(?=[A-Z{])|assistantfinal))",
    re.IGNORECASE,
)
_END_OF_TURN = re.compile(r"<\|(?:return|end|call)\|>\s*\Z")


def without_thoughts(text: str) -> str:
    """Return an answer without the thoughts that a reasoning model writes before it; "" where it never left them.

    The answer is what follows the last closing mark: thoughts may be nested, opened twice, or opened in the chat
    template and not in the answer. Where nothing follows, the answer stands before those thoughts. Thoughts that do not
    end are no answer, whatever they hold.
    """
    marks = [(found.start(), found.end(), found.lastgroup == "opening") for found in _MARKS.finditer(text)]
    stop = len(text)
    # From the end, each mark once: a looping model may write them by the thousand.
    while marks:
        while marks and marks[-1][2]:
            stop = marks.pop()[0]
        if not marks:
            break
        answer = text[marks.pop()[1] : stop]
        if answer.strip():
            return _END_OF_TURN.sub("", answer).strip()
        while marks and not marks[-1][2]:
            marks.pop()
        stop = marks[-1][0] if marks else 0
    return text[:stop].strip()


_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|‘[^’]{12,}’|(?<!\w)'[^'\n]{12,}'(?!\w)|(?m:^>.*$)")
# "I cannot", "I'm unable to", and what an assistant would do, and what it was asked for.
_UNABLE = r"(?:can ?not|can[’']?t|won[’']?t|will not|(?:am|['’]m) (?:not able|unable) to|(?:am|['’]m) not going to)"
_ACT = (
    r"(?:assist|help|provide|fulfil?l|comply|generate|create|produce|write|answer|complete|share|offer|engage|proceed"
    r"|do that|do this|discuss|support|continue|process|respond)"
)
_ASKED = (
    r"(?:(?:with|to|in|on) )?(?:(?:this|that|your|the|any|such)(?: \w+)? (?:request|task|question|prompt|instruction"
    r"s?|content|information|material|document|passage|query)|with (?:this|that)|(?:a|the) hard[- ]negative|you with)"
)
# What a prompt shows; with other words behind it ("the text of the law") it is something else.
_SHOWN = r"(?:passage|document|text|query|search request)"
_GIVEN = rf"(?:the|a|your|any) {_SHOWN}s?\b(?! (?:of|number|file|for (?!me\b|this\b)))"
_FIRST_PERSON = ("i can", "i won", "i will not", "i am", "i'm", "i’m")
_SPEAKER = ("ai", "artificial", "language model")
# Words of which a pattern needs one, and the pattern: most texts hold none of them, and words are found much faster.
_REFUSALS = [
    (words, re.compile(pattern))
    for words, pattern in (
        (
            _SPEAKER,
            r"\bas an? (?:large |responsible |helpful )*(?:ai|artificial intelligence|language model)(?: language)?"
            r"(?: model| assistant| system| chatbot)?(?:,| i\b)",
        ),
        (
            _SPEAKER,
            r"\bi(?: am|['’]m) (?:just |only |sorry,? (?:but )?i(?: am|['’]m) )?an? (?:ai|large language "
            r"model|language model|text-based ai)"
            r"(?: (?:assistant|model|language model|developed|created|trained|and|so)\b|[,.;])",
        ),
        (
            ("sorry", "apolog", "unfortunately", "regret"),
            rf"\b(?:sorry|apologi[sz]e|apologies|unfortunately|regret(?:fully)?)\b[^.!?\n]{{0,60}}?\bi(?: |(?=['’]))"
            rf"{_UNABLE} (?:\w+ )?{_ACT}\b(?! but\b)",
        ),
        (_FIRST_PERSON, rf"\bi(?: |(?=['’])){_UNABLE} (?:\w+ )?{_ACT}\b(?: \w+)? ?{_ASKED}"),
        (("decline",), r"\bi must (?:respectfully )?decline\b"),
        # Words of a model that overlooks the text before it.
        (
            ("please", "could you", "can you"),
            rf"\b(?:please|could you|can you) (?:provide|share|give|paste|send|supply)(?: me)?(?: with)? {_GIVEN}",
        ),
        (
            ("given", "provided", "supplied", "included"),
            rf"\bno (?:\w+ )?{_SHOWN} (?:(?:was|is|has been) )?(?:given|provided|supplied|included)\b",
        ),
        (
            ("you have", "you did"),
            rf"\byou (?:have|did)(?: not|n['’]t) (?:yet )?(?:provided?|shared?|given?|included?) {_GIVEN}",
        ),
        (
            _FIRST_PERSON,
            rf"\bi(?: |(?=['’])){_UNABLE} {_ACT} an? (?:\w+ )?(?:problem|question|query) (?:from|for|about) {_GIVEN}",
        ),
        (
            ("violat", "against"),
            r"\b(?:violates?|against) (?:my|our|openai['’]s) (?:\w+ )?(?:guidelines|policy|policies|programming)",
        ),
        (
            ("request", "prompt"),
            r"\b(?:this|that|your) (?:request|prompt) (?:violates|goes against|cannot be (?:fulfilled|completed))",
        ),
    )
]
# Words of a text within which a refusal must begin; else the share of the text that refusing sentences must make up.
_OPENING_WORDS, _DOMINATED_SHARE = 12, 0.5


def refusal_phrase(text: str) -> str | None:
    """Return the words by which a model declines or speaks of itself; None for a text that does its task.

    The phrase must stand in the first twelve words, or the sentences with such phrases must make up half the text.
    A quoted phrase does not count, unless the whole text is quoted. A person who cannot do or understand something does
    not refuse: a refusal has an apology, or names what was asked for ("this request"), or says that a language model
    speaks.
    """
    # In lower case: patterns that need not look at both cases take half the time.
    text = text.lower()
    patterns = [pattern for words, pattern in _REFUSALS if any(word in text for word in words)]
    if not patterns:
        return None
    plain = _QUOTED.sub(" ", text)
    # The whole text stands in quotes: what is quoted is the answer then.
    if len(plain.split()) < 3:
        plain = text.strip(" \t\n\"'“”‘’")
    matches = [found for pattern in patterns if (found := pattern.search(plain))]
    if not matches:
        return None
    first = min(matches, key=lambda found: found.start())
    if len(plain[: first.start()].split()) < _OPENING_WORDS:
        return first[0]
    sentences = re.split(r"(?<=[.!?])\s+|\n+", plain)
    declining = sum(len(s.split()) for s in sentences if any(pattern.search(s) for pattern in patterns))
    return first[0] if declining >= _DOMINATED_SHARE * len(plain.split()) else None
