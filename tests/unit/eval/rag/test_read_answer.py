"""Reading answers off completions: a table of them, and what must hold for any."""

import itertools
import random
import re
import time
from pathlib import Path

import pytest

from reasonir.core.files import read_jsonl
from reasonir.eval.rag import read_answer as read_answer_module
from reasonir.eval.rag.phrases import SAY
from reasonir.eval.rag.questions import read_choices
from reasonir.eval.rag.read_answer import read_answer
from reasonir.eval.rag.records import LETTERS, Question, Reading
from tests.kit.shared import SHARED_DATA, requires_shared_data
from tests.kit.texts import SENTENCES
from tests.unit.eval.rag.completions import CELL, COT, NUMBERS, TABLE, TEN, TREND, question

READ = ("boxed", "phrase", "phrase_text", "verdict", "line", "text", "letter")
UNREAD = ("empty", "contradictory", "refusal", "none_found")


@pytest.mark.parametrize(("completion", "asked", "letter", "stage"), TABLE)
def test_completion_is_read_as_a_reader_would(completion: str, asked: Question, letter: str, stage: str) -> None:
    assert read_answer(completion, asked) == Reading(letter, stage)


def test_table_reaches_every_stage() -> None:
    assert {stage for *_, letter, stage in TABLE if letter} == set(READ)
    assert {stage for *_, letter, stage in TABLE if not letter} == set(UNREAD)


def test_every_phrase_is_english_and_used() -> None:
    """Letters of other scripts stand only in the pattern that says what a part of a word is."""
    source = Path(read_answer_module.__file__).read_text(encoding="utf-8")
    file = Path(read_answer_module.__file__).with_name("phrases.yaml").read_text(encoding="utf-8")
    used = set(re.findall(r'SAY\["(\w+)"\]', source)) | set(re.findall(r"%(\w+)%", file.split("# --- parts")[1]))
    assert used == set(SAY)
    assert not re.findall(r"[^\W\d_a-zA-Z]", file)


# {0} {1}: letters of two options, {2} {3}: their texts. The first is chosen.
CHOOSES = (
    "{0}", "({0})", "{0}. {2}", "{2}", "**{0}**", "Answer: {0}", "The answer is ({0}).", "The answer is {2}.",
    r"\boxed{{{0}}}", r"\boxed{{\text{{{0}. {2}}}}}", r"\boxed{{{2}}}", "I choose {0}, not {1}.",
    "The answer is {1}. Wait, no: the answer is {0}", "The answer is not {1} but {0}.",
    "It could look like {3}, but the answer is {2}.", "Option {0} is correct.",
    "{0}) {2}\n\nThis is not {3}.", "It is hot, so {0}.",
)  # fmt: skip
CHOOSES_NONE = (
    "The answer is {0} or {1}.", "Both {0} and {1} are the correct answer.", "The answer is not {0}.",
    "The answer is either {0} or {1}.", r"\boxed{{{0}}} and \boxed{{{1}}}", "{0}. {2}\n{1}. {3}",
    "The answer is {0}. The answer is {1}.", "The answer is ({0}) {3}", "Is the answer {0}?",
    "If the answer is {0}, then why {1}?", "I don't think the answer is {0}.",
    "Options {0} and {1} need a closer look.",
)  # fmt: skip
PLACES = list(itertools.permutations(range(4), 2))


def said(template: str, asked: Question, first: int, second: int) -> str:
    return template.format(LETTERS[first], LETTERS[second], asked.options[first], asked.options[second])


@pytest.mark.parametrize("template", CHOOSES)
@pytest.mark.parametrize("asked", [CELL, TREND, NUMBERS])
def test_an_option_is_read_wherever_it_stands(template: str, asked: Question) -> None:
    for first, second in PLACES:
        assert read_answer(said(template, asked, first, second), asked).letter == LETTERS[first]


@pytest.mark.parametrize("template", CHOOSES_NONE)
@pytest.mark.parametrize("asked", [CELL, TREND, NUMBERS])
def test_no_option_is_preferred_where_none_is_chosen(template: str, asked: Question) -> None:
    for first, second in PLACES:
        reading = read_answer(said(template, asked, first, second), asked)
        assert reading.letter == "" and reading.stage in UNREAD


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_order_of_options_changes_nothing(order: tuple[int, ...]) -> None:
    for completion, asked, letter, stage in TABLE:
        if asked is not CELL or stage not in ("text", "phrase_text"):
            continue
        shown = question(*(asked.options[place] for place in order))
        reading = read_answer(completion, shown)
        assert reading.stage == stage and order[LETTERS.index(reading.letter)] == LETTERS.index(letter)


def test_letters_beyond_the_options_are_none() -> None:
    for letter in "EFGHIJ":
        for template in ("{0}", "({0})", "The answer is {0}.", r"\boxed{{{0}}}", "So {0}."):
            completion = template.format(letter)
            assert read_answer(completion, CELL) == Reading("", "none_found")
            assert read_answer(completion, TEN).letter == letter
    assert read_answer("The answer is B. Wait, the answer is E.", CELL) == Reading("", "none_found")


def test_equal_options_are_told_apart_by_letter_only() -> None:
    asked = question("12", "-4", "4", "12")
    assert read_answer("The answer is D) 12", asked).letter == "D"
    assert read_answer("The answer is 12", asked) == Reading("", "contradictory")


@pytest.mark.parametrize("text", SENTENCES)
def test_text_that_names_no_option_is_never_read(text: str) -> None:
    assert read_answer(text, CELL) == Reading("", "none_found")


@requires_shared_data
@pytest.mark.shared_data
def test_prose_is_never_read_and_every_real_option_is() -> None:
    folder = SHARED_DATA / "openstax_biology"
    asked = read_choices(str(folder / "multiple_choice.jsonl"), None, "module")
    passages = [row["content"] for _, row in read_jsonl(folder / "passages.jsonl")]
    draw = random.Random(0)
    read = [passage for passage in draw.sample(passages, 200) if read_answer(passage, draw.choice(asked)).letter]
    assert len(asked) == 346 and read == []
    for each in asked[::3]:
        for letter, option in zip(each.letters, each.options, strict=True):
            for template in ("{0}", "{1}", "The answer is {1}.", "{0}. {1}", r"Thus \boxed{{\text{{{0}) {1}}}}}."):
                completion = template.format(letter, option)
                assert read_answer(completion, each).letter == letter, completion


HUGE = [COT, "<think>", "the answer is ", "answer\n\n", r"\boxed{", r"\text{", "I cannot ", "“", "A. Nucleus\n\nno\n"]


@pytest.mark.parametrize("piece", HUGE)
def test_a_long_text_takes_no_longer_than_its_length(piece: str) -> None:
    """A quadratic pattern takes a minute; what is said thousands of times may take seconds."""
    begin = time.thread_time()
    read_answer(piece * (100_000 // len(piece)), CELL)
    assert time.thread_time() - begin < (0.5 if piece == COT else 5.0)
