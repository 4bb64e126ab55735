"""Checks on a generated text, without a model. Each returns the words that are wrong, or a number.

Invariant: a check sees texts only and gives the same result in every process. A text passes where a check cannot tell.
The patterns (patterns.yaml) and lists (words.yaml) are for English. `checks.py` applies the limits of the options.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import yaml

from reasonir.text.language import ENGLISH
from reasonir.text.words import words_and_operators, words_kept, words_of_prose


def word_count(text: str) -> int:
    """Return the number of words, separated by white space."""
    return len(text.split())


def shares_run(text: str, source: str, count: int) -> bool:
    """Return whether two texts share a run of words: `longest_copied_span(text, source) >= count`, but faster.

    Args:
        text: The written text.
        source: The text it may have been copied from.
        count: Words of the run.
    """
    ours, theirs = words_kept(text), words_kept(source)
    if min(len(ours), len(theirs)) < count:
        return False
    runs = set(zip(*(ours[shift:] for shift in range(count)), strict=False))
    return any(run in runs for run in zip(*(theirs[shift:] for shift in range(count)), strict=False))


def longest_copied_span(text: str, source: str) -> int:
    """Return the words of the longest run of `text` that `source` contains; punctuation and case are ignored."""
    # A suffix automaton of the source (Blumer et al. 1985) is walked along the text. Time and memory stay linear, also
    # for texts of a model in a loop, on which difflib's longest match is quadratic.
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
                # Longer runs of that state end at fewer places than this one, which therefore gets a state of its own.
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
    # matched: words of the longest run that ends at the current word and stands in the source.
    longest = matched = here = 0
    for word in words_and_operators(text):
        while here and word not in moves[here]:
            here = link[here]
            matched = length[here]
        if word in moves[here]:
            here, matched = moves[here][word], matched + 1
        longest = max(longest, matched)
    return longest


PATTERNS, WORDS = (
    yaml.safe_load(Path(__file__).with_name(name).read_text(encoding="utf-8"))
    for name in ("patterns.yaml", "words.yaml")
)


def _compile(pattern: str) -> re.Pattern[str]:
    # A part may hold other parts, but no deeper.
    for _ in range(2):
        pattern = re.sub(r"<(\w+)>", lambda name: PATTERNS["parts"].get(name[1], name[0]), pattern)
    return re.compile(pattern, re.MULTILINE)


Groups = list[tuple[list[str], list[re.Pattern[str]]]]
MENTIONS, POINTING, TASK_TALK = (
    [(group["any"], [_compile(pattern) for pattern in group["patterns"]]) for group in PATTERNS[name]]
    for name in ("mentions", "pointing", "task_talk")
)
INTRODUCED, ASKS, OWN_ANSWER = (
    [_compile(pattern) for pattern in PATTERNS[name]] for name in ("introduced", "asks", "own_answer")
)
HEADINGS = {form: re.compile(pattern, re.IGNORECASE) for form, pattern in PATTERNS["headings"].items()}
# Words within which "the equation above" can mean nothing that the query itself has said.
POINTING_WORDS = 12


def source_mention(text: str) -> str | None:
    """Return the words by which a query refers to a text that its reader does not have; None for a query without.

    Found are "according to the passage", "the author argues" or "this chapter". Not found are sources that the query
    introduces itself ("I read a paper ... the author claims") and other things of the same name: a legal document, a
    text editor, the passage of time, the author of a named book.
    """
    text = text.lower()
    matches = [
        *_search(MENTIONS, text),
        *(found for found in _search(POINTING, text) if not _can_point_back(text, found)),
    ]
    for found in sorted(matches, key=lambda match: match.start()):
        # Only what stands before the mention can have introduced its source.
        if not any(pattern.search(text[: found.start()]) for pattern in INTRODUCED):
            return found[0]
    return None


def _search(groups: Groups, text: str) -> Iterator[re.Match[str]]:
    """Yield the first match of every pattern in a text of lower case."""
    for words, patterns in groups:
        # A pattern takes a hundred times as long as the search for a word.
        if any(word in text for word in words):
            yield from filter(None, (pattern.search(text) for pattern in patterns))


def _can_point_back(text: str, found: re.Match[str]) -> bool:
    """Return whether the query itself can hold what "the equation above" or "the code below" points at."""
    beside = text[found.end() :] if "below" in found[0] else text[: found.start()]
    words = len(beside.split())
    # In one sentence of some fifteen words there is nothing yet to point at.
    whole = words > POINTING_WORDS and re.search(r"[.?!;]", beside) is not None
    return whole or words > 2 * POINTING_WORDS or re.search(r"[=:\n\d\"]", beside) is not None


def task_talk(text: str) -> str | None:
    """Return the words by which a document speaks of the task that it was written for ("the searcher"), or None."""
    found = next(_search(TASK_TALK, text.lower()), None)
    return found[0] if found else None


# "time" is a function word in lists of frequent words, and a subject of physics.
EMPTY_WORDS = frozenset([*ENGLISH - {"time"}, *WORDS["generic"].split(), *WORDS["little"].split()]) - {"time"}
FINITE, IMPERATIVES = frozenset(WORDS["finite"].split()), frozenset(WORDS["imperatives"].split())
HEADING_WORDS = frozenset(word.strip() for word in WORDS["heading_words"].split("|"))
SAME_TWICE = re.compile(
    r"\b(?:difference|relationship|connection)s? between (?:an? |the )?([^\W\d_][\w -]*?) and (?:an? |the )?\1\W*\Z"
)
OPERATORS = re.compile(r"[=+*/^<>√∫∑∂≤≥]|\\[a-z]+")


def has_content(query: str) -> bool:
    """Return whether a query names a subject: one word that is neither grammar nor generic ("idea", "the process").

    A formula is a subject, and so are two numbers. The difference between a thing and itself is none.
    """
    if SAME_TWICE.search(query.lower()):
        return False
    # The beginning is enough, but for a query that says nothing there.
    for part in (query[:400], query):
        words = words_of_prose(part)
        if any(not word.isdecimal() and word not in EMPTY_WORDS for word in words):
            return True
    return bool(OPERATORS.search(query)) or sum(map(str.isdecimal, words)) >= 2


# Words of the longest heading. A longer line without a verb is a list of keywords or a formula.
HEADING_MOST_WORDS, HEADING_MOST_CHARACTERS = 14, 200


def heading_form(query: str) -> str | None:
    """Return what makes a query a heading ("a numbered heading", "a title"), None for a question, problem or text."""
    # The first line of most queries is longer than any heading.
    if len(query.lstrip().partition("\n")[0]) > HEADING_MOST_CHARACTERS:
        return None
    lines = [line for line in query.split("\n") if line.strip()]
    forms = [_form_of_line(line.strip()) for line in lines[:4]]
    # One heading with a text below it is a post with a title.
    return forms[0] if forms and len(lines) <= 4 and all(forms) else None


def _form_of_line(line: str) -> str | None:
    words = re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", line)
    if len(words) > HEADING_MOST_WORDS:
        return None
    for form, pattern in HEADINGS.items():
        if pattern.search(line):
            return form
    if " ".join(words).lower() in HEADING_WORDS:
        return "a heading"
    if line.rstrip("\"'”’*_) ").endswith(("?", ".", "!")) or OPERATORS.search(line):
        return None
    if _is_title(words):
        return "a title"
    return None if _is_sentence(words) else "a phrase and no question"


def _is_title(words: list[str]) -> bool:
    """Return whether nearly all words of four letters or more are capitalised, and there are two of them at least."""
    longer = [word for word in words if len(word) >= 4]
    return len(longer) >= 2 and sum(word[0].isupper() for word in longer) >= 0.8 * len(longer)


def _is_sentence(words: list[str]) -> bool:
    folded = [word.lower().replace("’", "'") for word in words]
    return bool(folded) and (folded[0] in IMPERATIVES or not FINITE.isdisjoint(folded))


NUMBERED = re.compile(r"\A\W*(?:(?:task|step)\s*)?(?:\d+|[ivx]+|[a-z])\s*[.):]\s|\A\s*[-*•–#>]", re.IGNORECASE)
CLAUSE = frozenset(["that", "which", "who", "whose", "where", "whom"])
WRITER = frozenset(["i", "i'm", "i've", "i'd", "i'll", "my", "we", "we're", "our"])
POINTERS = frozenset(["this", "these"])
# "Find the law for a case." has six words.
TASK_LEAST_WORDS = 5


def task_fault(task: str) -> str | None:
    """Return what is wrong with the line of a brainstormed task, as the end of a sentence that begins "A task ..."."""
    words = re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", task)
    if NUMBERED.search(task):
        return "begins with a number or a mark"
    if len(words) < TASK_LEAST_WORDS:
        return f"has fewer than {TASK_LEAST_WORDS} words"
    if task.rstrip().endswith(":") or _is_title(words):
        return "is a heading"
    if words[0].lower().replace("’", "'") in WRITER:
        return "speaks of its writer"
    if words[0].lower() in POINTERS:
        return "points at a text instead of saying what is searched for"
    folded = Counter(word.lower() for word in words)
    if folded.keys().isdisjoint(FINITE | IMPERATIVES | CLAUSE):
        return "has no verb that says what is searched for"
    often = next((word for word, times in folded.items() if times > 2 and word not in ENGLISH), None)
    if often is not None:
        return f"repeats the word {often!r}"
    return None


def asks(query: str) -> bool:
    """Return whether a query asks for something: by a question mark, or by a request in words."""
    return "?" in query or any(pattern.search(query.lower()) for pattern in ASKS)


def own_answer(query: str) -> str | None:
    """Return the words by which a query answers itself; None for one that does not."""
    return next((found[0] for pattern in OWN_ANSWER if (found := pattern.search(query.lower()))), None)
