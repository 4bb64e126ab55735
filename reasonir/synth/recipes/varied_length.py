"""Varied-length rows (the paper's VL): tasks are brainstormed, deduplicated and numbered, then written out in pairs.

A pair is a long query and a document that serves it, at lengths drawn for it. Invariant: the task and the lengths of
pair n depend on the seed and n alone (and on tasks.jsonl), for any number of workers.
"""

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reasonir.core.errors import RunStopped, UserError
from reasonir.core.files import read_jsonl, write_jsonl
from reasonir.data.collections import stream_documents
from reasonir.data.training_rows import InstructedText
from reasonir.llm.attempts import Rejection, Trail
from reasonir.llm.conversations import Conversation, hold_conversations
from reasonir.llm.prompts import draw_number, load_prompt
from reasonir.llm.records import Generator as LanguageModel
from reasonir.synth.config import VariedLengthConfig
from reasonir.synth.gates.checks import check_different, check_length, check_query, check_text
from reasonir.synth.gates.text import DuplicateQueries, word_count
from reasonir.synth.recipes.inputs import Item, cut_words
from reasonir.synth.recipes.judge import Candidate, Judge
from reasonir.synth.recipes.writing import Answer, Author, Outcome, Steps

TASKS_FILE = "tasks.jsonl"
EXAMPLE_WORDS = 150
TASK_TOKENS = 2_048
"""Twenty sentences of up to 60 words, with room."""


class VariedLengthRecipe:
    """Long queries and their positives, from tasks."""

    new_queries = True

    def __init__(self, config: VariedLengthConfig) -> None:
        self._config = config
        tasks = load_prompt("vl_tasks", config.prompts, ("field", "count", "example"), "tasks", lists=("fields",))
        pair = load_prompt("vl", config.prompts, ("task", "query_words", "positive_words"), "query positive")
        tokens = min(TASK_TOKENS, config.generator.max_new_tokens)
        self._brainstormer = Author("vl_tasks", tasks, config.generator, config.seed, max_new_tokens=tokens)
        self._author = Author(config.recipe, pair, config.generator, config.seed)
        self._judge = Judge(config, config.judge) if config.judge.enabled else None
        self.prompts = [tasks, pair, *([self._judge.prompt] if self._judge else [])]
        self.inputs = [path for path in (config.tasks, config.corpus) if path]
        self.total = config.pairs
        self._tasks: list[str] = [] if config.tasks is None else _read_tasks(config.tasks)
        self._examples: list[str] = []
        if config.corpus is not None and config.tasks is None:
            self._examples = _draw_examples(config.corpus, config.brainstorm_calls, config.seed)

    def items(self) -> Iterator[Item]:
        """Yield the numbers of the pairs."""
        for position in range(self._config.pairs):
            yield Item(f"vl-{position:07d}", position)

    def prepare(self, generator: LanguageModel, folder: Path) -> None:
        """Make tasks.jsonl, or read it back."""
        if self._config.tasks is None:
            path = folder / TASKS_FILE
            if not path.exists():
                self._brainstorm(generator, path)
            self._tasks = _read_tasks(str(path))

    def _brainstorm(self, generator: LanguageModel, path: Path) -> None:
        known, failed = DuplicateQueries(), 0
        rows: list[dict[str, Any]] = []

        def keep(call: int, found: list[str] | Rejection) -> None:
            nonlocal failed
            if isinstance(found, Rejection):
                failed += 1
                return
            for text in found:
                if not known.seen(text):
                    rows.append({"id": len(rows), "task": text, "call": call})

        calls = self._config.brainstorm_calls
        hold_conversations(generator, range(calls), self._ask_tasks, keep)
        if not rows:
            raise RunStopped(f"none of {calls} brainstorming requests gave a task; see the generator's answers")
        write_jsonl(path, rows)
        print(f"{len(rows)} distinct tasks of {calls} requests ({failed} without a usable answer): {path}")

    def _ask_tasks(self, call: int) -> Conversation[list[str] | Rejection]:
        config = self._config
        fields = self._brainstormer.prompt.lists["fields"]
        example = self._examples[call % len(self._examples)] if self._examples else ""
        values = {"field": fields[call % len(fields)], "count": config.tasks_per_call, "example": example}

        def check(answer: dict[str, Any]) -> Rejection | None:
            usable = [task for task in answer["tasks"] if check_text(task, "task", config.gates) is None]
            return None if usable else Rejection("no_tasks", "No task of the list is usable; write them in English.")

        answer = yield from self._brainstormer.ask(f"tasks-{call}", values, check, Trail())
        if not isinstance(answer, Answer):
            return answer
        tasks = (" ".join(task.split()) for task in answer.fields["tasks"])
        return [task for task in tasks if check_text(task, "task", config.gates) is None]

    def steps(self, item: Item) -> Steps:
        """Ask for one pair; have it judged."""
        config, trail = self._config, Trail()
        number = draw_number(config.seed, item.id, "task") % len(self._tasks)
        wanted = {
            name: low + draw_number(config.seed, item.id, name) % (high - low + 1)
            for name, (low, high) in (("query", config.query_words), ("positive", config.positive_words))
        }
        task = self._tasks[number]
        values = {"task": task, "query_words": wanted["query"], "positive_words": wanted["positive"]}
        answer = yield from self._author.ask(item.id, values, lambda fields: self._check(fields, wanted), trail)
        if not isinstance(answer, Answer):
            return Outcome(trail, refusal=answer)
        texts = {name: answer.fields[name].strip() for name in wanted}
        words = {f"{name}_words": [wanted[name], word_count(texts[name])] for name in wanted}
        positive = ["", texts["positive"]]
        row: dict[str, Any] = {
            "id": item.id,
            "query": [task, texts["query"]],
            "pos": [positive],
            "neg": [],
            "provenance": answer.provenance | {"document": None, "task": number} | words,
        }
        if self._judge is not None:
            query = InstructedText(task, texts["query"])
            pos = [Candidate(positive, texts["positive"])]
            refusal = yield from self._judge.review(item.id, query, row, pos, [], trail)
            if refusal is not None:
                return Outcome(trail, refusal=refusal)
        return Outcome(trail, row)

    def _check(self, fields: dict[str, Any], wanted: dict[str, int]) -> Rejection | None:
        gates = self._config.gates
        query, positive = fields["query"], fields["positive"]
        refusal = check_query(query, positive, gates) or check_text(positive, "positive", gates)
        for name, text in (("query", query), ("positive", positive)):
            least = max(gates.min_words, round(gates.length_ratio * wanted[name]))
            refusal = refusal or check_length(text, name, least, gates.max_words)
        return refusal or check_different(positive, "positive", query, "query", gates)


def _read_tasks(path: str) -> list[str]:
    tasks = []
    for line, row in read_jsonl(path):
        if not isinstance(row.get("task"), str) or not row["task"].strip():
            raise UserError(f"{path}:{line}: a task needs a text `task`")
        tasks.append(row["task"].strip())
    return tasks


def _draw_examples(corpus: str, count: int, seed: int) -> list[str]:
    """Return the openings of `count` documents, drawn by the hash of their ids, in one pass."""
    documents = (document for document in stream_documents(corpus) if document.text.strip())
    ranked = ((draw_number(seed, "example", d.id), d.id, cut_words(d.text, EXAMPLE_WORDS)[0]) for d in documents)
    return [text for _, _, text in heapq.nsmallest(count, ranked)]
