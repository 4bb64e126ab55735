r"""Reads the chosen option off a language model's completion.

Stages, the strongest first; the first that reads an option names it:
    boxed: `\boxed{...}` holds a letter, or an option's text.
    phrase, phrase_text: "the answer is" and its kin, then a letter, or an option's text.
    verdict: "C is correct", and of no other option is that said.
    line: letter and text of one option on a line of its own.
    text: an option's text is the whole completion, its first or last line, or its last sentence.
    letter: a lone capital that stands for an option: the completion's first word or whole line, "so C", "option C".
Where none reads one: empty, contradictory (several options named at once), refusal, none_found.

Invariant: pure, deterministic, linear in the text's length, and never a guess; what to do without an answer is the
caller's business. A letter in running text ("vitamin C", "A cell", "I think") is no answer.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from reasonir.eval.rag.phrases import SAY, plain
from reasonir.eval.rag.records import LETTERS, Question, Reading
from reasonir.llm.refusals import refusal_phrase, without_thoughts

BEFORE = 60
"""Characters before a phrase that are looked at."""
BOXES, BOX_CHARACTERS = 2, 2_000
BRACE = re.compile(r"[{}]")
ADDS_NOTHING = {
    "the", "or", "and", "also", "alternatively", "option", "possibly", "maybe", "either", "my", "answer", "is",
}  # fmt: skip
"""Words between two statements that do not take the first one back."""
REFUSAL_CHARACTERS = 4_000
"""A refusal stands early or makes up the text."""
RESTATED_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class Statement:
    """What a stretch of text says: these options are (or, negated, are not) the answer.

    letters: "" where it rules out all options; `stage` then says how.
    """

    letters: str
    start: int
    end: int
    stage: str
    negated: bool = False


class Options:
    """The options of a question, found again in a cleaned text."""

    def __init__(self, question: Question) -> None:
        self.letters = question.letters
        self.asks_exception = SAY["exception"].search(question.text) is not None
        self.texts = [plain(option).rstrip(" .") for option in question.options]
        # The longest form is tried first: "increase and then decrease" begins with another option's text.
        forms = {(form, letter) for text, letter in zip(self.texts, self.letters, strict=True) for form in _forms(text)}
        self.forms = sorted(forms, key=lambda form: (-len(form[0]), form))
        self.squeezed: dict[str, list[tuple[str, str]]] = {}
        for form, letter in self.forms:
            key = "".join(form.split())
            self.squeezed.setdefault(key.lower(), []).append((key, letter))

    def has(self, letter: str) -> bool:
        """Whether this is the letter of an option, in either case."""
        return len(letter) == 1 and letter.upper() in self.letters

    def starting_at(self, text: str, position: int) -> tuple[str, int]:
        """Return the letters of the longest option text that stands there and ends there, and its end; "" for none."""
        places = {position, article.end() if (article := SAY["article"].match(text, position)) else position}
        found: list[tuple[str, str, str]] = []
        end = position
        for form, letter in self.forms:
            # Forms of one length stand together: all of them are looked at before a shorter one is left out.
            if found and len(form) < len(found[0][0]):
                break
            for place in places:
                stop = place + len(form)
                if text[place:stop].lower() == form.lower() and SAY["text_ends"].match(text, stop):
                    found.append((form, letter, text[place:stop]))
                    end = max(end, stop)
        return _spelled_so(found), end

    def equal_to(self, text: str) -> str:
        """Return the letters of the options whose text this is; white space does not count."""
        squeezed = "".join(text.split()).rstrip(".")
        named = self.squeezed.get(squeezed.lower(), []) if squeezed else []
        return _spelled_so([(form, letter, squeezed) for form, letter in named])

    def also_called(self, letter: str) -> str:
        """Return the letters of the other options whose text is this letter (blood groups); "" where its own is."""
        named = "".join(own for own, text in zip(self.letters, self.texts, strict=True) if text == letter)
        return "" if letter in named else named


def _forms(text: str) -> Iterator[str]:
    bare = text[_end(SAY["article"], text, 0) :]
    unquoted = text[1:-1] if text[:1] in ('"', "'") and text[-1:] == text[:1] else text
    yield from {form for form in (text, bare, unquoted) if re.search(r"[^\W_]", form)}


def _spelled_so(found: list[tuple[str, str, str]]) -> str:
    """Return the letters of (option's text, letter, text said); exact spelling decides between "Aa" and "aa"."""
    exact = {letter for form, letter, said in found if form == said}
    return "".join(sorted(exact or {letter for _, letter, _ in found}))


def read_answer(text: str, question: Question) -> Reading:
    """Return the option that a completion chooses, and the stage that read it or the reason why none did.

    Of several statements the last of the strongest stage counts, unless two stand side by side and neither takes the
    other back. Thoughts of a reasoning model and a next question that the model asks itself are left out.
    """
    cleaned = _own_part(plain(without_thoughts(text)), question)
    if not cleaned:
        return Reading("", "empty")
    options = Options(question)
    # 1 the whole text is one letter; "A" stays open where it is also the text of another option
    if (whole := SAY["whole_letter"].fullmatch(cleaned)) and options.has(whole[1]):
        bare = cleaned == whole[1] and options.also_called(whole[1])
        return Reading("", "contradictory") if bare else Reading(whole[1].upper(), "letter")
    # 2 the strongest stage that names an option decides
    stages = (_boxed, _phrases, _verdicts, _lines, _texts, _letters)
    settled = (_settle(sorted(stage(cleaned, options), key=lambda s: s.start), cleaned) for stage in stages)
    reading = next((found for found in settled if found is not None), None)
    if reading is not None:
        return reading
    # 3 why none did
    if SAY["cannot_say"].search(cleaned) or refusal_phrase(cleaned[:REFUSAL_CHARACTERS]):
        return Reading("", "refusal")
    return Reading("", "none_found")


def _own_part(text: str, question: Question) -> str:
    """Return a text up to where the model asks itself a next question; repeating this one is no next question."""
    asked = _key(plain(question.text))[:RESTATED_CHARACTERS]
    for found in SAY["next_question"].finditer(text):
        if not _key(text[found.end() : found.end() + 4 * RESTATED_CHARACTERS]).startswith(asked):
            return text[: found.start()].strip()
    return text


def _key(text: str) -> str:
    return "".join(re.findall(r"[^\W_]+", text)).lower()


def _settle(statements: list[Statement], text: str) -> Reading | None:
    """Return what the statements of one stage come to; None where they name nothing."""
    standing: list[Statement] = []
    for statement in statements:
        if statement.negated:
            standing = [other for other in standing if other.letters != statement.letters]
        else:
            standing.append(statement)
    if not standing:
        return None
    # "B. The answer is C." beside each other contradict; with "Wait, no:" between them the last one counts.
    last = standing[-1]
    beside = [
        other for other in standing[-2:-1]
        if other.letters != last.letters and _adds_nothing(text[other.end : last.start])
    ]  # fmt: skip
    if len(last.letters) > 1 or beside or SAY["taken_back"].match(text, last.end):
        return Reading("", "contradictory")
    return Reading(last.letters, last.stage)


def _adds_nothing(gap: str) -> bool:
    return len(gap) < BEFORE and {word.lower() for word in re.findall(r"[^\W_]+", gap)} <= ADDS_NOTHING


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    """Return where a pattern that may be absent ends."""
    found = pattern.match(text, position)
    return found.end() if found else position


def _named_at(text: str, position: int, options: Options, stage: str) -> Statement | None:
    """Return what is named right at a position, after words that change nothing; None where it is no option."""
    # An option's text wins over a filler word: the option may be "none" or begin with "the".
    begin = _end(SAY["filler"], text, position)
    for place in (_end(SAY["space"], text, position), _end(SAY["space_or_quote"], text, position), begin):
        letters, end = options.starting_at(text, place)
        if letters and not options.has(text[place:end].strip("([{ ")):
            return None if SAY["asks"].match(text, end) else Statement(letters, place, end, f"{stage}_text")
    # Words that turn the statement round, or widen it to several options.
    if denied := SAY["negation"].match(text, begin):
        statement = _named_at(text, denied.end(), options, stage)
        if statement is None or statement.negated:
            return None
        if but := SAY["but"].match(text, statement.end):
            return _named_at(text, but.end(), options, stage)
        return replace(statement, negated=True)
    if several := SAY["several"].match(text, begin):
        statement = _letter_at(text, _end(SAY["filler"], text, several.end()), options, stage)
        return statement and replace(statement, letters=options.letters)
    if found := SAY["every"].match(text, begin):
        return Statement(options.letters, begin, found.end(), stage)
    if found := SAY["none"].match(text, begin):
        return Statement("", begin, found.end(), "refusal")
    return _letter_at(text, begin, options, stage, may_list="\n" in text[position:begin])


def _letter_at(text: str, begin: int, options: Options, stage: str, may_list: bool = False) -> Statement | None:
    """Return the statement of a letter, of the text beside it, and of letters joined to it.

    may_list: a new line has begun before it, where a list of all the options may begin.
    """
    found = SAY["letter"].match(text, begin)
    if not found:
        return None
    said, end = found["letter"], found.end()
    # A letter counts where its option's text follows, where it is bracketed, or where nothing else could be meant.
    letter, enclosed = said.upper(), bool(found["open"] or found["close"])
    beside = _end(SAY["delimiter"], text, end)
    own, own_end = options.starting_at(text, beside)
    if letter in own:
        end = own_end
    elif not enclosed and not _stands_alone(text, end, said):
        return None
    if SAY["asks"].match(text, end) or (may_list and _list_goes_on(text, end, letter)):
        return None
    # "E" of four options is a clear answer, and a wrong one; "I think" is none.
    if letter not in options.letters:
        clear = letter in LETTERS and SAY["text_ends"].match(text, found.end())
        return Statement("", begin, end, "none_found") if clear else None
    # "(C) Ribosome": the letter of one option with the text of another names both.
    letters = {letter}
    if letter not in own and "\n" not in text[end:beside] and SAY["line_ends"].match(text, own_end):
        letters.update(own)
    if not own and not enclosed:
        letters.update(options.also_called(said))
    while joined := SAY["joined"].match(text, end):
        other, end = joined["letter"], joined.end()
        if options.has(other) and (other.isupper() or SAY["text_ends"].match(text, end)):
            letters.add(other.upper())
    return Statement("".join(sorted(letters)), begin, end, stage)


def _stands_alone(text: str, end: int, letter: str) -> bool:
    """Whether a letter without brackets is one by itself; lower case and the pronoun need a clear end."""
    if letter.isupper() and letter != "I":
        return SAY["goes_on"].match(text, end) is not None
    joined = SAY["joined"].match(text, end)
    return SAY["text_ends"].match(text, joined.end() if joined else end) is not None


def _list_goes_on(text: str, end: int, letter: str) -> bool:
    following = re.compile(r"[^\n]{0,1000}\n+").match(text, end)
    heading = following and SAY["heading"].match(text, following.end())
    return bool(heading) and heading["letter"].upper() != letter  # type: ignore[index]


def _boxed(text: str, options: Options) -> list[Statement]:
    """Return the last box that holds something and the one before; nothing where the last names no option."""
    read = [_in_box(text, *box, options) for box in _boxes(text)]
    return [statement for statement in read if statement] if read and read[-1] else []


def _boxes(text: str) -> list[tuple[int, int, int]]:
    """Return (start, start of the content, its end) of the last two boxes that are closed and not empty."""
    boxes: list[tuple[int, int, int]] = []
    for opening in list(SAY["box"].finditer(text))[-2 * BOXES :][::-1]:
        depth = 1
        for brace in BRACE.finditer(text, opening.end(), opening.end() + BOX_CHARACTERS):
            depth += 1 if brace[0] == "{" else -1
            if not depth:
                if text[opening.end() : brace.start()].strip():
                    boxes.insert(0, (opening.start(), opening.end(), brace.start()))
                break
        if len(boxes) == BOXES:
            break
    return boxes


def _in_box(text: str, start: int, inside: int, end: int, options: Options) -> Statement | None:
    content = text[inside:end].strip()
    # A lone letter in the box is a letter, even where it is another option's text too.
    letters = options.equal_to(content)
    if letters and not options.has(content):
        return Statement(letters, start, end + 1, "boxed")
    head = SAY["answer_phrase"].search(content)
    statement = _named_at(content, head.end() if head else 0, options, "boxed")
    if statement is None or statement.negated:
        return None
    return replace(statement, start=start, end=end + 1, stage="boxed" if statement.letters else statement.stage)


def _phrases(text: str, options: Options) -> Iterator[Statement]:
    """Yield what follows "the answer is" and its kin, and what stands before "is the answer"."""
    for head in SAY["answer_phrase"].finditer(text):
        before = text[max(0, head.start() - BEFORE) : head.start()]
        if SAY["void_before"].search(before) and not SAY["to_choose"].search(before):
            continue
        statement = _named_at(text, head.end(), options, "phrase")
        # "The answer would be B if ..." supposes.
        if statement and "would be" in head[0].lower() and SAY["conditional"].match(text, statement.end):
            continue
        # The denial may be part of the phrase: "the answer cannot be B".
        if statement and re.search(r"(?:n't|not)(?: be)?$", head[0]):
            statement = None if statement.negated else replace(statement, negated=True)
        if statement:
            yield statement
    yield from _judged(text, options, "noun", "phrase")


def _judged(text: str, options: Options, group: str, stage: str) -> Iterator[Statement]:
    """Yield the letters that are called the answer (group noun) or, without that word, correct (group true)."""
    for verdict in SAY["verdict"].finditer(text):
        if not verdict[group] or (group == "true" and verdict["noun"]):
            continue
        begin = max(0, verdict.start() - 2 * BEFORE)
        subjects = list(SAY["subject"].finditer(text, begin, verdict.start() + 1))
        if not subjects or SAY["condition"].search(text[max(0, subjects[-1].end() - BEFORE) : subjects[-1].end()]):
            continue
        statement = _letter_at(text, subjects[-1].end(), options, stage)
        if statement and not re.search(r"\w", text[statement.end : verdict.start()]):
            yield replace(statement, end=verdict.end(), negated=bool(verdict["not"]))


def _verdicts(text: str, options: Options) -> list[Statement]:
    """Return what is called correct, if it is one option and the question asks for what is right."""
    # Where the question asks for what is false, "C is correct" is no answer.
    found = [] if options.asks_exception else [s for s in _judged(text, options, "true", "verdict") if not s.negated]
    return found if len({statement.letters for statement in found}) == 1 else []


def _lines(text: str, options: Options) -> list[Statement]:
    """Return the lines with letter and text of one option; a list of options is none."""
    runs: list[list[Statement]] = [[]]
    last_end = 0
    for line in re.finditer(r"[^\n]+", text):
        heading = SAY["heading"].match(text, line.start())
        letter = heading["letter"].upper() if heading else ""
        own, end = options.starting_at(text, _end(SAY["delimiter"], text, heading.end())) if heading else ("", 0)
        if not letter or letter not in own:
            runs.append([])
        elif not SAY["denied_after"].match(text, end):
            runs[-1].append(Statement(letter, line.start(), end, "line"))
            last_end = line.end()
    # Lines in a row are a list: of all options it chooses none, of some it contradicts itself.
    distinct = [{statement.letters for statement in run} for run in runs]
    if runs[-1] and 1 < len(distinct[-1]) < len(options.letters):
        return [Statement("".join(sorted(distinct[-1])), runs[-1][0].start, last_end, "line")]
    alone = [run[-1] for run, letters in zip(runs, distinct, strict=True) if len(letters) == 1]
    agreed = len({statement.letters for statement in alone}) == 1
    corrected = len(alone) > 1 and SAY["corrects"].search(text[alone[-2].end : alone[-1].start])
    return alone if agreed or corrected else []


def _texts(text: str, options: Options) -> list[Statement]:
    """Return the option whose text is all there is, or the first or last line, or the last sentence."""
    lines = [line for line in text.split("\n") if line]
    named = {line: letters for line in set(lines) if (letters := _only_text(line, options))}
    letters = _only_text(text, options) or named.get(lines[-1], "") or named.get(lines[0], "")
    if not SAY["heading"].match(lines[-1]):
        letters = letters or _only_text(re.split(r"(?<=[.!?])\s+", lines[-1])[-1], options)
    if not letters or len(set(named.values())) > 1:
        return []
    return [Statement(letters, 0, len(text), "text")]


def _only_text(text: str, options: Options) -> str:
    bare = text.strip(" .")
    if (both := SAY["text_then_letter"].fullmatch(bare)) and both[2] in options.equal_to(both[1]):
        return both[2]
    for rest in (bare, bare.strip("\"' ."), bare[_end(SAY["leads_in"], bare, 0) :]):
        for said in (rest, rest[_end(SAY["article"], rest, 0) :]):
            if not options.has(said) and (letters := options.equal_to(said)):
                return letters
    return ""


def _letters(text: str, options: Options) -> list[Statement]:
    """Return lone capitals that stand for an option, or the one option that is spoken of at all."""
    found = [*SAY["line_is_letter"].finditer(text), *SAY["points_to"].finditer(text)]
    headings = {heading["letter"].upper() for heading in SAY["heading"].finditer(text)}
    if len(headings) < 2 and (opening := SAY["opens_with"].match(text)):
        found.append(opening)
    read = [
        _letter_at(text, match.end(), options, "letter") for match in found
        if not _denied_before(text, match.start())
    ]  # fmt: skip
    if statements := [statement for statement in read if statement and statement.letters]:
        return statements
    # Last resort: one option alone is spoken of, and nothing bad is said of it.
    mentions = list(SAY["mention"].finditer(text))
    letters = {mention[1] for mention in mentions}
    denied = any(
        SAY["denied_after"].match(text, mention.end())
        or SAY["asks"].match(text, mention.end())
        or _denied_before(text, mention.start())
        for mention in mentions
    )
    if len(letters) != 1 or denied or not letters <= set(options.letters):
        return []
    return [Statement(letters.pop(), mentions[-1].start(), mentions[-1].end(), "letter")]


def _denied_before(text: str, position: int) -> bool:
    line = text[max(0, position - BEFORE) : position].rpartition("\n")[2]
    return SAY["denied_before"].search(line) is not None
