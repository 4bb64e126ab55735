"""Hard negatives, each written in a conversation of its own that shows a finished query and positive.

Negatives that are asked for together with the query come out short and easy (arXiv 2504.20595).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from reasonir.data.training_rows import InstructedText
from reasonir.llm.attempts import Rejection, Trail
from reasonir.llm.conversations import Conversation
from reasonir.llm.prompts import load_prompt
from reasonir.synth.recipes.inputs import Item, Row, count_lines, cut_words, read_query_rows
from reasonir.synth.recipes.judge import Candidate, Judge, finish_row
from reasonir.synth.recipes.query import Recipe
from reasonir.synth.recipes.writing import Answer, Author, Outcome, WritingSettings

VARIABLES = ("instruction", "query", "positive", "negatives", "min_words")


@dataclass
class NegativesRecipe(Recipe):
    """Adds `negatives_per_row` written negatives to the rows of a file.

    corpus: Where document ids of the rows are looked up; None where positives are texts. document_max_words: Words of
    query and positive that the prompt shows; None is all. judge: None accepts rows without a second reading.
    """

    settings: WritingSettings
    judge: Judge | None
    rows: str
    corpus: str | None
    negatives_per_row: int
    document_max_words: int | None
    # The queries are the input's: two rows may ask the same of different positives.
    new_queries = False

    def __post_init__(self) -> None:
        prompt = load_prompt(
            "negatives", self.settings.prompts, VARIABLES, "negative", example=self.settings.worked_example
        )
        self._author = Author(self.settings, prompt)
        self.prompts = [prompt, *([self.judge.prompt] if self.judge else [])]
        self.inputs = [self.rows, *([self.corpus] if self.corpus else [])]
        self.total = count_lines(self.rows)

    def items(self) -> Iterator[Item]:
        """Yield the rows."""
        return read_query_rows(self.rows, self.corpus)

    def converse(self, item: Item) -> Conversation[Outcome]:
        """Ask for the negatives of one row; have the row judged."""
        trail, given = Trail(), item.source
        answers = yield from self._ask_all(item.id, given, trail)
        if isinstance(answers, Rejection):
            return Outcome(trail, rejection=answers)
        written = [answer.fields["negative"].strip() for answer in answers]
        # A row may use the long names and a single text for a list; the written row has the short names and lists.
        pos, neg = (given.fields.get(name) or given.fields.get(other) or []
                    for name, other in (("pos", "positive"), ("neg", "negative")))  # fmt: skip
        pos, neg = ([side] if isinstance(side, str) else list(side) for side in (pos, neg))
        row = {key: value for key, value in given.fields.items() if key not in ("positive", "negative", "provenance")}
        # Negatives that the row came with, mined ones for instance, stay in front.
        row |= {"id": item.id, "pos": pos, "neg": neg + [["", text] for text in written]}
        row["provenance"] = answers[0].provenance | {"attempts": [a.provenance["attempt"] for a in answers]}
        # A row made in several steps (hq, then negatives) says how each was made.
        if given.fields.get("provenance") is not None:
            row["provenance"]["from"] = given.fields["provenance"]
        texts = [*given.negatives, *(InstructedText("", text) for text in written)]
        positives = [Candidate(entry, text.text) for entry, text in zip(pos, given.positives, strict=True)]
        negatives = [Candidate(entry, text.text) for entry, text in zip(row["neg"], texts, strict=True)]
        return (yield from finish_row(self.judge, given.query, row, positives, negatives, trail))

    def _ask_all(self, name: str, given: Row, trail: Trail) -> Conversation[list[Answer] | Rejection]:
        """Return the answers that passed, one or more, or the last rejection."""
        answers: list[Answer] = []
        rejection = Rejection("empty", "")
        for number in range(1, self.negatives_per_row + 1):
            written = [answer.fields["negative"] for answer in answers]
            values = {
                "instruction": given.query.instruction,
                "query": cut_words(given.query.text, self.document_max_words)[0],
                # The first positive stands for all in the prompt; `_check` compares with each of them.
                "positive": cut_words(given.positives[0].text, self.document_max_words)[0],
                "negatives": written,
                "min_words": self.settings.gates.min_words,
            }

            # `written` is bound here: a closure would see the list of a later round.
            def check(fields: dict[str, Any], written: list[str] = written) -> Rejection | None:
                return self._check(fields["negative"], given, written)

            # A name for each negative, which draws seeds of its own.
            answer = yield from self._author.ask(f"{name}:{number}", values, check, trail)
            if isinstance(answer, Answer):
                answers.append(answer)
            else:
                rejection = answer
        return answers or rejection

    def _check(self, negative: str, given: Row, written: list[str]) -> Rejection | None:
        gates = self.settings.gates
        shown = (given.query.instruction, given.query.text, *(positive.text for positive in given.positives))
        rejection = gates.check_document(negative, "negative", self._author.prompt_texts, shown)
        rejection = rejection or gates.check_length(negative, "negative")
        others = [("query", given.query.text), *(("positive", positive.text) for positive in given.positives)]
        # Negatives of the same row as well, else one text could come twice.
        others += [("negative", text) for text in (*(entry.text for entry in given.negatives), *written)]
        for name, other in others:
            rejection = rejection or gates.check_different(negative, "negative", other, name)
        return rejection
