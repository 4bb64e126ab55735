"""The interface of recipes, and the recipe that writes one query for each document (hq, eq)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from reasonir.data.training_rows import InstructedText
from reasonir.llm.attempts import Rejection, Trail
from reasonir.llm.conversations import Conversation
from reasonir.llm.prompts import Prompt, load_prompt
from reasonir.llm.records import Generator as LanguageModel
from reasonir.synth.recipes.inputs import Item, count_lines, cut_words, read_corpus
from reasonir.synth.recipes.judge import Candidate, Judge, finish_row
from reasonir.synth.recipes.writing import Answer, Author, Outcome, WritingSettings


class Recipe(Protocol):
    """Reads items, and holds one conversation for each."""

    prompts: list[Prompt]
    """All prompts that it asks with."""
    inputs: list[str]
    """Files and folders that it reads."""
    new_queries: bool
    """Whether it writes queries, which must then differ from each other."""
    total: int
    """Number of items, for the progress bar; 0 is unknown."""
    is_known: Callable[[str], bool] | None = None
    """Says whether the query of an earlier row is like a text; set before the first item, None lets queries repeat."""

    def items(self) -> Iterator[Item]:
        """Yield the items in the order of the input."""
        ...

    def prepare(self, generator: LanguageModel, folder: Path) -> None:
        """Do what the first item depends on; most recipes need nothing."""
        return None

    def counts(self, folder: Path) -> dict[str, Any]:
        """Return what was counted beside the items, for the manifest."""
        return {}

    def converse(self, item: Item) -> Conversation[Outcome]:
        """Return the conversation of one item."""
        ...


@dataclass
class QueryRecipe(Recipe):
    """Writes one query for each document of `corpus`, with the prompt of the recipe's name (hq or eq).

    positive_is_id: A row's positive is the document's id; False writes its text. document_max_words: Words of a
    document that the prompt shows; None is all. judge: None accepts rows without a second reading.
    """

    settings: WritingSettings
    judge: Judge | None
    corpus: str
    positive_is_id: bool
    document_max_words: int | None
    new_queries = True

    def __post_init__(self) -> None:
        prompt = load_prompt(
            self.settings.recipe, self.settings.prompts, ("document",), "query", example=self.settings.worked_example
        )
        self._author = Author(self.settings, prompt)
        self.prompts = [prompt, *([self.judge.prompt] if self.judge else [])]
        self.inputs = [self.corpus]
        self.total = count_lines(self.corpus)

    def items(self) -> Iterator[Item]:
        """Yield the documents."""
        return read_corpus(self.corpus)

    def converse(self, item: Item) -> Conversation[Outcome]:
        """Ask for the query of one document; have the row judged."""
        trail = Trail()
        # Rejected and not skipped: every item of the input ends in one of the two files.
        if item.source is None:
            return Outcome(trail, rejection=Rejection("duplicate_id", "An earlier document has the same id."))
        document = item.source.text
        if not document.strip():
            return Outcome(trail, rejection=Rejection("empty_document", "The document has no text."))
        shown, cut = cut_words(document, self.document_max_words)

        def check(fields: dict[str, Any]) -> Rejection | None:
            # Compared with the whole document, of which the prompt may show a part: the whole is the positive.
            gates, query = self.settings.gates, fields["query"]
            rejection = gates.check_query(query, document, self._author.prompt_texts) or gates.check_asks(query)
            return rejection or gates.check_idea(query, fields.get("idea", ""))

        answer = yield from self._author.ask(item.id, {"document": shown}, check, trail, self.is_known)
        if not isinstance(answer, Answer):
            return Outcome(trail, rejection=answer)
        query = InstructedText(self._author.prompt.instruction, answer.fields["query"].strip())
        # Documents carry no instruction, as at test time (docs/deviations.md).
        positive = ["", item.id if self.positive_is_id else document]
        noted = {"document": item.id} | {name: answer.fields[name] for name in ("idea",) if name in answer.fields}
        if cut:
            noted["tallies"] = {"documents_cut": 1}
        row: dict[str, Any] = {
            "id": item.id,
            "query": [query.instruction, query.text],
            "pos": [positive],
            "neg": [],
            "provenance": answer.provenance | noted,
        }
        return (yield from finish_row(self.judge, query, row, [Candidate(positive, document)], [], trail))
