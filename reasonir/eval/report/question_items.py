"""What a report shows of each question: options, answers, what was retrieved; cut so that the page stays small.

Texts stand apart from the list of questions, in chunks, so that the page unpacks only those that are looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reasonir.eval.rag.records import RETRIEVED, with_options
from reasonir.eval.rag.table import NAMES
from reasonir.eval.report.answered import Answered, Record
from reasonir.eval.report.page import Filter, Passages, Side, cut, pack_list, short_score

# Of a question: a gold passage was read; was among the hits but not read; was not; no gold passage is known.
GOLD_READ, GOLD_FOUND, GOLD_MISSED, NO_GOLD = range(4)
# Of a hit: too low; read by the reader; left out, as the prompt would not have fitted.
NOT_READ, READ, DROPPED = range(3)
# Questions whose texts are packed together.
CHUNK = 200
# Some mail servers and viewers refuse files beyond this.
LARGEST_PAGE_BYTES = 40_000_000
# Room for the page without its data: style, script, tables.
SHELL_BYTES = 300_000
WORDS = {"items": "questions", "nothing": "No question fits.", "passage": "Passage", "hits": "Retrieved", "unknown": ""}


@dataclass(frozen=True, slots=True)
class Limits:
    """Characters kept of a passage, of a question or search query, and of an answer."""

    passage: int
    question: int
    answer: int


# Texts are cut no further, whatever the size.
SHORTEST = Limits(60, 60, 200)


def filters_of(found: Answered) -> list[Filter]:
    """Return the properties by which the list of questions is narrowed: group and subject."""
    return [
        Filter(kind, kind.capitalize(), f"all {kind}s", sorted({row[kind] for row in found.questions} - {""}))
        for kind in ("group", "subject")
    ]


def pack_questions(found: Answered, asked: Limits) -> tuple[dict[str, str], Limits, list[str]]:
    """Pack the questions and their texts so that the page stays below LARGEST_PAGE_BYTES.

    Args:
        found: the folder of answers.
        asked: the limits that the options ask for.

    Returns:
        The data by the id of its element ("data", and "texts-n" for chunk n); the limits that texts were cut to; a note
        where the size made them smaller.
    """
    limits = asked
    listed = _pack_listed(found, limits.question)
    room = LARGEST_PAGE_BYTES - SHELL_BYTES - len(listed)
    # Compressed size does not follow from the number of characters: cut, pack, look, and cut again.
    while True:
        chunks = _pack_opened(found, limits)
        size = sum(map(len, chunks))
        if size <= room or limits == (smaller := _smaller(limits, 0.9 * room / size)):
            break
        limits = smaller
    notes = []
    if limits != asked:
        notes.append(
            f"To keep the page below {LARGEST_PAGE_BYTES / 1e6:.0f} MB, answers are cut to {limits.answer:,} "
            f"characters, passages to {limits.passage:,} and search queries to {limits.question:,} (asked for: "
            f"{asked.answer:,}, {asked.passage:,}, {asked.question:,}). The whole texts are in {found.folder}."
        )
    return {"data": listed, **{f"texts-{number}": chunk for number, chunk in enumerate(chunks)}}, limits, notes


def _smaller(limits: Limits, factor: float) -> Limits:
    """Return limits shrunk by a factor, but no further than SHORTEST; a limit below that stays."""
    # At least a tenth is kept in one step, so that an odd estimate does not empty the page.
    shrunk = {
        name: min(value, max(int(value * max(factor, 0.1)), getattr(SHORTEST, name)))
        for name in Limits.__slots__
        for value in [getattr(limits, name)]
    }
    return replace(limits, **shrunk)


def _pack_listed(found: Answered, characters: int) -> str:
    """Pack what the list shows and is filtered by: questions, options, letters chosen, whether gold was found."""
    filters = filters_of(found)
    pairs = [[found.conditions.index(move[side]) for side in "ab"] for move in found.report["differences"]]
    items = [
        {
            "id": row["id"],
            "texts": [cut(row["text"], characters)],
            "parts": [each.names.index(row[each.id]) if row[each.id] else -1 for each in filters],
            "options": [cut(str(option), characters) for option in row["options"]],
            "answer": row["answer"],
            "letters": [_letters(found.answers[row["id"]].get(name)) for name in found.conditions],
            "gold": _gold_state(row["id"], found),
        }
        for row in found.questions
    ]
    # Spaces are for the eye only: `parts` above were found by the names as the folder has them.
    spaced = [replace(each, names=[name.replace("_", " ") for name in each.names]) for each in filters]
    return pack_list([Side(NAMES[name]) for name in found.conditions], pairs, spaced, WORDS, CHUNK, items)


def _letters(samples: Sequence[Record] | None) -> list[str] | None:
    return None if samples is None else [row["letter"] for row in samples]


def _gold_state(name: str, found: Answered) -> int:
    """Say whether a gold passage of a question was read, only found, or missed; or that none is known."""
    row = found.retrieved.get(name)
    if row is None or not row["gold"]:
        return NO_GOLD
    gold = set(row["gold"])
    # "Read" is decided by the answers: a passage may be found high enough and still not fit into the prompt.
    if any(gold & set(answer["passages"]) for answer in found.answers[name].get(RETRIEVED, [])):
        return GOLD_READ
    return GOLD_FOUND if gold & {hit["id"] for hit in row["hits"]} else GOLD_MISSED


def _pack_opened(found: Answered, limits: Limits) -> list[str]:
    """Pack what a question shows when it is opened, chunk by chunk, each with the passages that it names."""
    chunks = []
    for first in range(0, len(found.questions), CHUNK):
        passages = Passages(limits.passage)
        opened = [_open_question(row, found, limits, passages) for row in found.questions[first : first + CHUNK]]
        chunks.append(passages.chunk(opened))
    return chunks


def _open_question(question: Record, found: Answered, limits: Limits, passages: Passages) -> dict[str, Any]:
    """Return one question's search query, gold passages, hits and answers; passages by their place."""
    name = question["id"]
    answers = found.answers[name]
    row = found.retrieved.get(name, {"query": "", "gold": [], "hits": []})
    gold, hits = set(row["gold"]), [hit["id"] for hit in row["hits"]]
    state = _hit_states(hits, answers.get(RETRIEVED, []))
    place = {i: passages.place(i, found.passages.get(i)) for i in (*row["gold"], *hits)}
    table = [
        [place[i], short_score(hit["score"]), int(i in gold), state.get(i, NOT_READ)]
        for i, hit in zip(hits, row["hits"], strict=True)
    ]
    return {
        "query": _search_query(question, row["query"], limits.question),
        "gold": [[place[i], [hits.index(i) + 1 if i in hits else 0]] for i in row["gold"]],
        "hits": [table] if table else [],
        "answers": [
            [_open_answer(answer, limits) for answer in answers.get(condition, [])] for condition in found.conditions
        ],
    }


def _hit_states(hits: Sequence[str], answers: Sequence[Record]) -> Mapping[str, int]:
    """Return which hits were read and which were left out to fit."""
    state: dict[str, int] = {}
    for answer in answers:  # the samples of a question read the same
        count = len(answer["passages"])
        state = dict.fromkeys(answer["passages"], READ)
        # The reader gets the hits from the first on, so those left out follow those that were read.
        state |= dict.fromkeys(hits[count : count + answer["dropped"]], DROPPED)
    return state


def _open_answer(answer: Record, limits: Limits) -> dict[str, Any]:
    return {
        "stage": answer["stage"].replace("_", " "),
        "text": cut_middle(answer["text"], limits.answer),
        "guess": "" if answer["letter"] else answer["guess"],
        "finish": answer["finish"],
        "error": cut(answer["error"], limits.passage),
        "read": len(answer["passages"]),
        "dropped": answer["dropped"],
        "tokens": [answer["input_tokens"], answer["output_tokens"]],
    }


def _search_query(question: Record, query: str, characters: int) -> str | int:
    """Return 0 for the question itself, 1 for the question with its options, else the text searched with."""
    if query.strip() in ("", question["text"].strip()):
        return 0
    if query == with_options(question["text"], question["options"]):
        return 1
    return cut(query, characters)


def cut_middle(text: str, characters: int) -> str:
    """Return a text without its middle, where it is longer: reasoning names its answer at its end."""
    text = text.strip()
    left_out = len(text) - characters
    if left_out <= 0:
        return text
    end = characters // 2
    return f"{text[: characters - end]} [… {left_out:,} characters left out …] {text[len(text) - end :]}"
