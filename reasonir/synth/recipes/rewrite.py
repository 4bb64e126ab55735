"""Rewrites of queries by reasoning: what the problem is, what would help, a first answer.

Rows keep everything but their query, which the rewrite replaces or extends.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from reasonir.llm.attempts import Rejection, Trail
from reasonir.llm.conversations import Conversation
from reasonir.llm.echoes import only_repeats
from reasonir.llm.prompts import REWRITE_VARIABLES, load_prompt, rewrite_values
from reasonir.synth.recipes.inputs import Item, count_lines, read_queries
from reasonir.synth.recipes.query import Recipe
from reasonir.synth.recipes.writing import Answer, Author, Outcome, WritingSettings


@dataclass
class RewriteRecipe(Recipe):
    """Rewrites the query of each row of a file.

    append: Write the rewrite after the query; False writes it in the query's place. length_tokens: Tokens that the
    prompt asks for; None names no length.
    """

    settings: WritingSettings
    rows: str
    append: bool
    length_tokens: int | None
    # Rows that ask the same may well be rewritten the same.
    new_queries = False

    def __post_init__(self) -> None:
        prompt = load_prompt("rewrite", self.settings.prompts, REWRITE_VARIABLES, "text")
        self._author = Author(self.settings, prompt)
        self.prompts = [prompt]
        self.inputs = [self.rows]
        self.total = count_lines(self.rows)

    def items(self) -> Iterator[Item]:
        """Yield the rows."""
        return read_queries(self.rows)

    def converse(self, item: Item) -> Conversation[Outcome]:
        """Ask for the rewrite of one query."""
        trail, given = Trail(), item.source
        values = rewrite_values(given.query.text, self.length_tokens, given.query.instruction)

        def check(fields: dict[str, Any]) -> Rejection | None:
            gates, text = self.settings.gates, fields["text"]
            shown = (given.query.text, given.query.instruction)
            rejection = gates.check_text(text, "rewrite", self._author.prompt_texts, shown)
            rejection = rejection or gates.check_length(text, "rewrite")
            same = only_repeats(text, given.query.text)
            return rejection or (Rejection("unchanged", "The rewrite is the query itself.") if same else None)

        answer = yield from self._author.ask(item.id, values, check, trail)
        if not isinstance(answer, Answer):
            return Outcome(trail, rejection=answer)
        text = answer.fields["text"].strip()
        if self.append:
            text = f"{given.query.text}\n\n{text}"
        row = dict(given.fields)
        before = row.pop("provenance", None)
        # In the form that the row had, a text or an [instruction, text] pair.
        row |= {"id": item.id, "query": text if isinstance(row["query"], str) else [given.query.instruction, text]}
        row["provenance"] = answer.provenance | ({"from": before} if before is not None else {})
        return Outcome(trail, row)
