"""What every recipe is to the pipeline, and the one that writes a query per document (hq, eq)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from reasonir.data.training_rows import InstructedText
from reasonir.llm.attempts import Rejection, Trail
from reasonir.llm.prompts import Prompt, load_prompt
from reasonir.llm.records import Generator as LanguageModel
from reasonir.synth.config import PositiveForm, QueryConfig
from reasonir.synth.gates.checks import check_query
from reasonir.synth.recipes.inputs import Item, count_lines, cut_words, read_corpus
from reasonir.synth.recipes.judge import Candidate, Judge
from reasonir.synth.recipes.writing import Answer, Author, Outcome, Steps


class Recipe(Protocol):
    """Items in, one coroutine each."""

    prompts: list[Prompt]
    """All that it asks with."""
    inputs: list[str]
    """Files and folders that it reads."""
    new_queries: bool
    """Whether it writes queries, which must then differ from each other."""
    total: int
    """Items, for the progress line; 0 is unknown."""

    def items(self) -> Iterator[Item]:
        """Yield the work, in the order of the input."""
        ...

    def prepare(self, generator: LanguageModel, folder: Path) -> None:
        """Do what must be done before the first item."""
        ...

    def steps(self, item: Item) -> Steps:
        """Return the coroutine of one item."""
        ...


class QueryRecipe:
    """One query per document, in the style of the prompt file of the recipe's name."""

    new_queries = True

    def __init__(self, config: QueryConfig) -> None:
        self._config = config
        prompt = load_prompt(config.recipe, config.prompts, ("document",), "query")
        self._author = Author(config.recipe, prompt, config.generator, config.seed)
        self._judge = Judge(config, config.judge) if config.judge.enabled else None
        self.prompts = [prompt, *([self._judge.prompt] if self._judge else [])]
        self.inputs = [config.corpus]
        self.total = count_lines(config.corpus)

    def items(self) -> Iterator[Item]:
        """Yield the documents."""
        return read_corpus(self._config.corpus)

    def prepare(self, generator: LanguageModel, folder: Path) -> None:
        """Nothing to do."""

    def steps(self, item: Item) -> Steps:
        """Ask for the query of one document; have it judged."""
        trail = Trail()
        if item.source is None:
            return Outcome(trail, refusal=Rejection("duplicate_id", "An earlier document has the same id."))
        document = item.source.text
        if not document.strip():
            return Outcome(trail, refusal=Rejection("empty_document", "The document has no text."))
        shown, cut = cut_words(document, self._config.document_max_words)

        def check(fields: dict[str, Any]) -> Rejection | None:
            return check_query(fields["query"], document, self._config.gates)

        answer = yield from self._author.ask(item.id, {"document": shown}, check, trail)
        if not isinstance(answer, Answer):
            return Outcome(trail, refusal=answer)
        query = InstructedText(self._author.prompt.instruction, answer.fields["query"].strip())
        positive = ["", item.id if self._config.positive is PositiveForm.id else document]
        tallies = {"tallies": {"documents_cut": 1}} if cut else {}
        row: dict[str, Any] = {
            "id": item.id,
            "query": [query.instruction, query.text],
            "pos": [positive],
            "neg": [],
            "provenance": answer.provenance | {"document": item.id} | tallies,
        }
        if self._judge is not None:
            pos = [Candidate(positive, document)]
            refusal = yield from self._judge.review(item.id, query, row, pos, [], trail)
            if refusal is not None:
                return Outcome(trail, refusal=refusal)
        return Outcome(trail, row)
