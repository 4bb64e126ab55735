"""Varied-length rows (the paper's VL): tasks are brainstormed and deduplicated, then each pair is written for a task.

A pair is a long query and its positive, of drawn lengths.
Invariant: the task and the lengths of pair n depend on the seed, n and tasks.jsonl alone.
"""

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reasonir.core.errors import RunStopped, UserError
from reasonir.core.files import read_jsonl, write_jsonl
from reasonir.core.stamp import checksums, read_stamp, unchanged, write_stamp
from reasonir.data.collections import stream_documents
from reasonir.data.training_rows import InstructedText
from reasonir.llm.attempts import Rejection, Trail
from reasonir.llm.conversations import Conversation, hold_conversations
from reasonir.llm.prompts import draw_number, load_prompt
from reasonir.llm.records import Generator as LanguageModel
from reasonir.synth.gates.text import word_count
from reasonir.synth.recipes.inputs import Item, cut_words
from reasonir.synth.recipes.judge import Candidate, Judge, finish_row
from reasonir.synth.recipes.query import Recipe
from reasonir.synth.recipes.writing import Answer, Author, Outcome, WritingSettings
from reasonir.text.near_duplicates import DuplicateTexts

TASKS_FILE, TASKS_REFUSED_FILE, TASKS_COUNTS_FILE = "tasks.jsonl", "tasks_refused.jsonl", "tasks_counts.json"
# Words of a document that a brainstorming prompt shows as an example.
EXAMPLE_WORDS = 150
# Twenty sentences of up to 60 words, with room.
TASK_TOKENS = 2_048


@dataclass
class VariedLengthRecipe(Recipe):
    """Writes `pairs` long queries and their positives, from tasks.

    corpus: Documents that the brainstorming prompts show; None shows none. tasks: tasks.jsonl of an earlier run; None
    brainstorms. query_words, positive_words: Smallest and largest length, in words.
    """

    settings: WritingSettings
    judge: Judge | None
    corpus: str | None
    tasks: str | None
    brainstorm_calls: int
    tasks_per_call: int
    pairs: int
    query_words: Sequence[int]
    positive_words: Sequence[int]
    new_queries = True

    def __post_init__(self) -> None:
        settings = self.settings
        variables, shown = ("field", "count", "example"), settings.worked_example
        tasks = load_prompt("vl_tasks", settings.prompts, variables, "tasks", lists=("fields",), example=shown)
        variables = ("task", "query_words", "positive_words")
        pair = load_prompt("vl", settings.prompts, variables, "query positive", example=shown)
        short = replace(settings, recipe="vl_tasks", max_new_tokens=min(TASK_TOKENS, settings.max_new_tokens))
        self._brainstormer, self._author = Author(short, tasks), Author(settings, pair)
        self.prompts = [tasks, pair, *([self.judge.prompt] if self.judge else [])]
        self.inputs = [path for path in (self.tasks, self.corpus) if path]
        self.total = self.pairs
        self._tasks: list[str] = [] if self.tasks is None else _read_tasks(self.tasks)
        self._examples: list[str] = []
        # Examples serve the brainstorming only; a corpus is not read for nothing.
        if self.corpus is not None and self.tasks is None:
            self._examples = _draw_examples(self.corpus, self.brainstorm_calls, settings.seed)

    def items(self) -> Iterator[Item]:
        """Yield the numbers of the pairs."""
        for position in range(self.pairs):
            yield Item(f"vl-{position:07d}", position)

    def prepare(self, generator: LanguageModel, folder: Path) -> None:
        """Make tasks.jsonl, or read it back."""
        if self.tasks is None:
            path = folder / TASKS_FILE
            stamp = read_stamp(folder / TASKS_COUNTS_FILE)
            # A run that was killed before the end asks again, and finds its paid answers in the log.
            if stamp is None or not path.exists() or not unchanged(folder, stamp.pop("files", {})):
                self._brainstorm(generator, path)
            self._tasks = _read_tasks(str(path))

    def counts(self, folder: Path) -> dict[str, Any]:
        """Return what the brainstorming cost and how many of its answers were refused; nothing for given tasks."""
        stamp = read_stamp(folder / TASKS_COUNTS_FILE)
        return {"brainstorming": {name: stamp[name] for name in stamp if name != "files"}} if stamp else {}

    def _brainstorm(self, generator: LanguageModel, path: Path) -> None:
        known, failed = DuplicateTexts(), 0
        rows: list[dict[str, Any]] = []
        refused: list[dict[str, Any]] = []
        cost: Counter[str] = Counter()

        def keep(call: int, outcome: tuple[list[str] | Rejection, Trail]) -> None:
            nonlocal failed
            found, trail = outcome
            # A model may spell half a surrogate pair, which no file holds.
            texts = ("detail", "text")
            clean = [
                line | {name: line[name].encode("utf-8", "replace").decode("utf-8") for name in texts}
                for line in trail.rejected
            ]
            refused.extend({"call": call} | line for line in clean)
            cost.update(input_tokens=trail.input_tokens, output_tokens=trail.output_tokens)
            if isinstance(found, Rejection):
                failed += 1
                return
            # Calls arrive in their order, so that the same one of two like tasks stays in every run.
            for text in found:
                if not known.seen(text):
                    rows.append({"id": len(rows), "task": text, "call": call})

        hold_conversations(generator, range(self.brainstorm_calls), self._ask_tasks, keep)
        if not rows:
            raise RunStopped(
                f"none of {self.brainstorm_calls} brainstorming requests gave a task; see the generator's answers"
            )
        write_jsonl(path.with_name(TASKS_REFUSED_FILE), refused)
        reasons = Counter(line["reason"] for line in refused)
        counts = {"requests": self.brainstorm_calls, "without_task": failed, "refused_answers": dict(reasons), **cost}
        write_jsonl(path, rows)
        # The counts come last and hold the checksum: where they are there, the tasks are whole.
        write_stamp(path.with_name(TASKS_COUNTS_FILE), **counts, files=checksums(path.parent, [path.name]))
        print(
            f"{len(rows)} distinct tasks of {self.brainstorm_calls} requests ({failed} without a usable answer): {path}"
        )

    def _ask_tasks(self, call: int) -> Conversation[tuple[list[str] | Rejection, Trail]]:
        """Return the usable tasks of one request, and what it cost."""
        fields = self._brainstormer.prompt.lists["fields"]
        example = self._examples[call % len(self._examples)] if self._examples else ""
        field = fields[call % len(fields)]
        values = {"field": field, "count": self.tasks_per_call, "example": example}

        def fault(task: str) -> Rejection | None:
            return self.settings.gates.check_task(task, self._brainstormer.prompt_texts, (field, example))

        def check(answer: dict[str, Any]) -> Rejection | None:
            # One usable task accepts the list: a second request would cost more than the few that are dropped.
            faults = [fault(task) for task in answer["tasks"]]
            first = faults[0] if faults and all(faults) else None
            return first and Rejection("no_tasks", f"No task of the list is usable. The first: {first.detail}")

        trail = Trail()
        answer = yield from self._brainstormer.ask(f"tasks-{call}", values, check, trail)
        if not isinstance(answer, Answer):
            return answer, trail
        tasks = (" ".join(task.split()) for task in answer.fields["tasks"])
        return [task for task in tasks if fault(task) is None], trail

    def converse(self, item: Item) -> Conversation[Outcome]:
        """Ask for one pair; have the row judged."""
        trail, seed = Trail(), self.settings.seed
        # Drawn by the item's own id, so that another number of pairs leaves the pairs before as they were.
        number = draw_number(seed, item.id, "task") % len(self._tasks)
        wanted = {
            name: low + draw_number(seed, item.id, name) % (high - low + 1)
            for name, (low, high) in (("query", self.query_words), ("positive", self.positive_words))
        }
        task = self._tasks[number]
        values = {"task": task, "query_words": wanted["query"], "positive_words": wanted["positive"]}
        answer = yield from self._author.ask(
            item.id, values, lambda fields: self._check(fields, wanted, task), trail, self.is_known
        )
        if not isinstance(answer, Answer):
            return Outcome(trail, rejection=answer)
        texts = {name: answer.fields[name].strip() for name in wanted}
        words = {f"{name}_words": [wanted[name], word_count(texts[name])] for name in wanted}
        query, positive = InstructedText(task, texts["query"]), Candidate(["", texts["positive"]], texts["positive"])
        row: dict[str, Any] = {
            "id": item.id,
            "query": [task, query.text],
            "pos": [positive.entry],
            "neg": [],
            "provenance": answer.provenance | {"document": None, "task": number} | words,
        }
        return (yield from finish_row(self.judge, query, row, [positive], [], trail))

    def _check(self, fields: dict[str, Any], wanted: dict[str, int], task: str) -> Rejection | None:
        gates, query, positive = self.settings.gates, fields["query"], fields["positive"]
        prompt = self._author.prompt_texts
        rejection = gates.check_query(query, positive, prompt)
        rejection = rejection or gates.check_document(positive, "positive", prompt, (task,))
        for name in ("query", "positive"):
            # Models write fewer words than they are asked for; `length_ratio` says how many fewer pass.
            least = max(gates.min_words, round(gates.length_ratio * wanted[name]))
            rejection = rejection or gates.check_length(fields[name], name, least)
        return rejection or gates.check_different(positive, "positive", query, "query")


def _read_tasks(path: str) -> list[str]:
    tasks = []
    for line, row in read_jsonl(path):
        if not isinstance(row.get("task"), str) or not row["task"].strip():
            raise UserError(f"{path}:{line}: a task needs a text `task`")
        tasks.append(row["task"].strip())
    return tasks


def _draw_examples(corpus: str, count: int, seed: int) -> list[str]:
    """Return the openings of `count` documents, drawn by the hash of their ids."""
    # The documents with the smallest draws are a uniform sample, found in one pass over a corpus of any size.
    documents = (document for document in stream_documents(corpus) if document.text.strip())
    ranked = ((draw_number(seed, "example", d.id), d.id, cut_words(d.text, EXAMPLE_WORDS)[0]) for d in documents)
    return [text for _, _, text in heapq.nsmallest(count, ranked)]
