"""Reasoning rewrites of queries: what the problem is, what would help, a first answer.

The input's rows come out with their query replaced or extended; everything else of a row stays as it was.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reasonir.llm.attempts import Rejection, Trail
from reasonir.llm.prompts import REWRITE_VARIABLES, load_prompt, rewrite_values
from reasonir.llm.records import Generator as LanguageModel
from reasonir.synth.config import RewriteConfig
from reasonir.synth.gates.checks import check_length, check_text
from reasonir.synth.recipes.inputs import Item, count_lines, read_queries
from reasonir.synth.recipes.writing import Answer, Author, Outcome, Steps


class RewriteRecipe:
    """Rewrites one query a row."""

    new_queries = False

    def __init__(self, config: RewriteConfig) -> None:
        self._config = config
        prompt = load_prompt("rewrite", config.prompts, REWRITE_VARIABLES, "text")
        self._author = Author(config.recipe, prompt, config.generator, config.seed, max_new_tokens=config.length_tokens)
        self.prompts = [prompt]
        self.inputs = [config.rows]
        self.total = count_lines(config.rows)

    def items(self) -> Iterator[Item]:
        """Yield the rows."""
        return read_queries(self._config.rows)

    def prepare(self, generator: LanguageModel, folder: Path) -> None:
        """Nothing to do."""

    def steps(self, item: Item) -> Steps:
        """Ask for the rewrite of one query."""
        trail, given = Trail(), item.source
        values = rewrite_values(given.query.text, self._config.length_tokens, given.query.instruction)

        def check(fields: dict[str, Any]) -> Rejection | None:
            gates, text = self._config.gates, fields["text"]
            refusal = check_text(text, "rewrite", gates)
            refusal = refusal or check_length(text, "rewrite", gates.min_words, gates.max_words)
            same = text.split() == given.query.text.split()
            return refusal or (Rejection("unchanged", "The rewrite is the query itself.") if same else None)

        answer = yield from self._author.ask(item.id, values, check, trail)
        if not isinstance(answer, Answer):
            return Outcome(trail, refusal=answer)
        text = answer.fields["text"].strip()
        if self._config.append:
            text = f"{given.query.text}\n\n{text}"
        row = dict(given.fields)
        before = row.pop("provenance", None)
        row |= {"id": item.id, "query": text if isinstance(row["query"], str) else [given.query.instruction, text]}
        row["provenance"] = answer.provenance | ({"from": before} if before is not None else {})
        return Outcome(trail, row)
