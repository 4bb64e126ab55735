"""A language model that answers questions, with passages in front of it or without.

Invariant: every question is answered under every condition as often as asked, and each answer says which passages it
had read; those that did not fit were the last ones, and are counted. Leaves reading the letter to `read_answer.py`.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reasonir.core.progress import Progress
from reasonir.eval.rag.read_answer import read_answer
from reasonir.eval.rag.records import Question, Reading
from reasonir.llm import Completion, Message, Request, open_generator
from reasonir.llm.config import GeneratorConfig
from reasonir.llm.context import Context
from reasonir.llm.conversations import Conversation, hold_conversations
from reasonir.llm.prompts import Prompt, draw_number

VARIABLES = ("passages", "subject", "question", "options", "letters")
FAILED = "failed"
"""Stage of an answer that the server refused to give; the same command asks again."""
Conditions = Mapping[str, Mapping[str, Sequence[str]]]
"""Condition to {question id: ids of the passages to read, best first}."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. letter: "" where none could be read; guess: then a drawn one. passages: ids of those it had read."""

    id: str
    condition: str
    sample: int
    letter: str
    stage: str
    guess: str
    correct: bool
    passages: tuple[str, ...]
    dropped: int
    finish: str
    error: str
    input_tokens: int
    output_tokens: int
    text: str

    def row(self) -> dict[str, Any]:
        """Return it as a row of answers.jsonl."""
        values = {name: getattr(self, name) for name in Answer.__slots__}
        return values | {"text": self.text.encode("utf-8", "replace").decode("utf-8")}  # half a surrogate pair


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to be: of a question under a condition, with what fits in front of it."""

    question: Question
    condition: str
    sample: int
    messages: tuple[Message, ...]
    passages: tuple[str, ...]
    dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """The language model and how it is asked.

    prompt: the wording. context: the room for a prompt. folder: of the paid answers. generator: the engine; it starts
    with the first question. by_letter: take the likeliest letter; else the letter is read off the text. answer_tokens:
    tokens of an answer, at most. samples: answers to each question. stop: texts at which the model is stopped. seed: of
    the sampling and of the guesses.
    """

    prompt: Prompt
    context: Context
    folder: Path
    generator: GeneratorConfig
    by_letter: bool
    answer_tokens: int
    samples: int
    stop: tuple[str, ...]
    seed: int

    def ask(self, questions: Sequence[Question], conditions: Conditions, texts: Mapping[str, str]) -> list[Answer]:
        """Return the answers to all questions under all conditions, in that order; paid ones come from the log.

        Args:
            questions: what is asked.
            conditions: the passages to read for each question; a question that a condition lacks is not asked under it.
            texts: the passages by id.
        """
        asked, answers = list(self._plan(questions, conditions, texts)), list[Answer]()
        thoughts = self.generator.thinking_tokens or 0
        config = replace(self.generator, max_model_len=self.context.tokens + self.answer_tokens + thoughts)
        generator = open_generator(config, self.folder / "completions.jsonl")
        with closing(generator), closing(Progress("answers", len(asked), "answers")) as progress:
            hold_conversations(
                generator,
                asked,
                self._converse,
                lambda _, answer: answers.append(answer),
                on_answer=lambda: progress.update(1),
            )
        return answers

    def _plan(self, questions: Sequence[Question], conditions: Conditions, texts: Mapping[str, str]) -> Iterator[Asked]:
        for condition, passages in conditions.items():
            for question in questions:
                if question.id not in passages:
                    continue
                ids = tuple(passages[question.id])
                messages, kept = self._fit(question, [texts[name] for name in ids])
                for sample in range(1, self.samples + 1):
                    yield Asked(question, condition, sample, messages, ids[:kept], len(ids) - kept)

    def _fit(self, question: Question, passages: list[str]) -> tuple[tuple[Message, ...], int]:
        """Return the conversation with as many of the first passages as fit, and how many those are."""
        # The last passages are dropped whole: a cut passage could lose the very sentence that it was found for.
        for kept in range(len(passages), -1, -1):
            messages = self.prompt.messages(_prompt_values(question, passages[:kept]))
            if self.context.holds(messages):
                break
        return messages, kept

    def _converse(self, asked: Asked) -> Conversation[Answer]:
        (completion,) = yield [self._request(asked)]
        return self._read(asked, completion)

    def _request(self, asked: Asked) -> Request:
        question = asked.question
        return Request(
            id="",
            messages=asked.messages,
            temperature=self.generator.temperature,
            top_p=self.generator.top_p,
            max_new_tokens=self.answer_tokens,
            choices=tuple(question.letters) if self.by_letter else (),
            seed=draw_number(self.seed, "read", question.id, asked.sample),
            stop=self.stop,
        )

    def _read(self, asked: Asked, completion: Completion) -> Answer:
        question, failed = asked.question, not completion.answered
        reading = _likeliest_letter(completion, question) if self.by_letter else read_answer(completion.text, question)
        letter = "" if failed else reading.letter
        # The guess follows from the seed and the question, so that a second run draws the same letter.
        guess = ""
        if not letter:
            drawn = draw_number(self.seed, "guess", question.id, asked.sample)
            guess = question.letters[drawn % len(question.letters)]
        # A letter is a whole answer: the limit of one token that ends it is our own.
        whole = self.by_letter and completion.finish == "length"
        return Answer(
            id=question.id,
            condition=asked.condition,
            sample=asked.sample,
            letter=letter,
            stage=FAILED if failed else reading.stage,
            guess=guess,
            correct=letter == question.answer,
            passages=asked.passages,
            dropped=asked.dropped,
            finish="stop" if whole else completion.finish,
            error=completion.error,
            input_tokens=completion.input_tokens,
            output_tokens=completion.output_tokens,
            text=completion.text,
        )


def _likeliest_letter(completion: Completion, question: Question) -> Reading:
    """Return the letter that is likeliest as first token of the answer, with or without a space before it."""
    # Tokenizers know "A" and " A" as two tokens; both are the letter.
    mass: dict[str, float] = {}
    for token, logprob in completion.logprobs[0] if completion.logprobs else ():
        letter = token.strip()
        if letter and letter in question.letters:
            mass[letter] = mass.get(letter, 0.0) + math.exp(logprob)
    if not mass:
        return Reading("", "none_found" if completion.logprobs else "no_logprobs")
    return Reading(max(mass, key=mass.__getitem__), "likeliest")


def _prompt_values(question: Question, passages: Sequence[str]) -> dict[str, Any]:
    """Return what a prompt shows of a question."""
    letters = list(question.letters)
    return {
        "passages": list(passages),
        "subject": question.subject.replace("_", " "),
        "question": question.text,
        "options": list(zip(letters, question.options, strict=True)),
        "letters": f"{', '.join(letters[:-1])} or {letters[-1]}",
    }


def count_answers(answers: Sequence[Answer]) -> dict[str, Any]:
    """Return by condition what was counted over its answers, and what they cost."""
    counts: dict[str, Counter[str]] = {}
    for answer in answers:
        of_condition = counts.setdefault(answer.condition, Counter())
        of_condition["answers"] += 1
        of_condition[f"read_by_{answer.stage}" if answer.letter else f"unreadable_{answer.stage}"] += 1
        of_condition["answers_with_passages_dropped"] += answer.dropped > 0
        of_condition["passages_dropped"] += answer.dropped
        of_condition["cut_at_limit"] += answer.finish == "length"
        of_condition["input_tokens"] += answer.input_tokens
        of_condition["output_tokens"] += answer.output_tokens
    return {condition: {name: n for name, n in sorted(found.items()) if n} for condition, found in counts.items()}
