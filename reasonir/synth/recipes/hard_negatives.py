"""Hard negatives, each in a turn of its own after query and positive.

Asked for together with the query, negatives come out short and easy (arXiv 2504.20595); here the conversation shows a
finished query and positive, and only then asks for the document that misleads.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reasonir.data.training_rows import InstructedText
from reasonir.llm.attempts import Rejection, Trail
from reasonir.llm.conversations import Conversation
from reasonir.llm.prompts import load_prompt
from reasonir.llm.records import Generator as LanguageModel
from reasonir.synth.config import NegativesConfig
from reasonir.synth.gates.checks import check_different, check_length, check_text
from reasonir.synth.recipes.inputs import Item, Row, count_lines, cut_words, read_query_rows
from reasonir.synth.recipes.judge import Candidate, Judge
from reasonir.synth.recipes.writing import Answer, Author, Outcome, Steps

VARIABLES = ("instruction", "query", "positive", "negatives", "min_words")


class NegativesRecipe:
    """Adds written negatives to rows."""

    new_queries = False

    def __init__(self, config: NegativesConfig) -> None:
        self._config = config
        prompt = load_prompt("negatives", config.prompts, VARIABLES, "negative")
        self._author = Author(config.recipe, prompt, config.generator, config.seed)
        self._judge = Judge(config, config.judge) if config.judge.enabled else None
        self.prompts = [prompt, *([self._judge.prompt] if self._judge else [])]
        self.inputs = [config.rows, *([config.corpus] if config.corpus else [])]
        self.total = count_lines(config.rows)

    def items(self) -> Iterator[Item]:
        """Yield the rows."""
        return read_query_rows(self._config.rows, self._config.corpus)

    def prepare(self, generator: LanguageModel, folder: Path) -> None:
        """Nothing to do."""

    def steps(self, item: Item) -> Steps:
        """Ask for the negatives of one row; have all of it judged."""
        trail, given = Trail(), item.source
        answers = yield from self._ask_all(item.id, given, trail)
        if isinstance(answers, Rejection):
            return Outcome(trail, refusal=answers)
        written = [answer.fields["negative"].strip() for answer in answers]
        pos, neg = (given.fields.get(name) or given.fields.get(other) or []
                    for name, other in (("pos", "positive"), ("neg", "negative")))  # fmt: skip
        pos, neg = ([side] if isinstance(side, str) else list(side) for side in (pos, neg))
        row = {key: value for key, value in given.fields.items() if key not in ("positive", "negative", "provenance")}
        row |= {"id": item.id, "pos": pos, "neg": neg + [["", text] for text in written]}
        row["provenance"] = answers[0].provenance | {"attempts": [a.provenance["attempt"] for a in answers]}
        if given.fields.get("provenance") is not None:
            row["provenance"]["from"] = given.fields["provenance"]
        if self._judge is not None:
            texts = [*given.negatives, *(InstructedText("", text) for text in written)]
            refusal = yield from self._judge.review(
                item.id, given.query, row,
                [Candidate(entry, text.text) for entry, text in zip(pos, given.positives, strict=True)],
                [Candidate(entry, text.text) for entry, text in zip(row["neg"], texts, strict=True)], trail,
            )  # fmt: skip
            if refusal is not None:
                return Outcome(trail, refusal=refusal)
        return Outcome(trail, row)

    def _ask_all(self, name: str, given: Row, trail: Trail) -> Conversation[list[Answer] | Rejection]:
        """Return the answers that passed, one or more, or why there is none."""
        config = self._config
        answers: list[Answer] = []
        refusal = Rejection("empty", "")
        for number in range(1, config.negatives_per_row + 1):
            written = [answer.fields["negative"] for answer in answers]
            values = {
                "instruction": given.query.instruction,
                "query": cut_words(given.query.text, config.document_max_words)[0],
                "positive": cut_words(given.positives[0].text, config.document_max_words)[0],
                "negatives": written,
                "min_words": config.gates.min_words,
            }

            def check(fields: dict[str, Any], written: list[str] = written) -> Rejection | None:
                return self._check(fields["negative"], given, written)

            answer = yield from self._author.ask(f"{name}:{number}", values, check, trail)
            if isinstance(answer, Answer):
                answers.append(answer)
            else:
                refusal = answer
        return answers or refusal

    def _check(self, negative: str, given: Row, written: list[str]) -> Rejection | None:
        gates = self._config.gates
        refusal = check_text(negative, "negative", gates)
        refusal = refusal or check_length(negative, "negative", gates.min_words, gates.max_words)
        refusal = refusal or check_different(negative, "negative", given.query.text, "query", gates)
        for positive in given.positives:
            refusal = refusal or check_different(negative, "negative", positive.text, "positive", gates)
        for other in (*(entry.text for entry in given.negatives), *written):
            refusal = refusal or check_different(negative, "negative", other, "negative", gates)
        return refusal
