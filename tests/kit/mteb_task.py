"""A task of mteb with exclusions, for tests. Importing mteb takes 10 s: test files import this module in functions."""

from pathlib import Path
from typing import Any

from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

from reasonir.core.files import read_jsonl
from reasonir.eval.benchmarks.mteb_adapter import MtebEncoder, bright_task_of

__all__ = ["INSTRUCTION", "KitchenRetrieval", "MtebEncoder", "bright_task_of", "describe"]

INSTRUCTION = "Given a kitchen post, retrieve relevant passages that help answer the post"


def describe(name: str, prompt: str) -> TaskMetadata:
    return TaskMetadata(
        name=name, dataset={"path": "none/none", "revision": "1"}, description="made in a test", type="Retrieval",
        prompt={"query": prompt}, category="t2t", modalities=["text"], eval_splits=["standard"],
        eval_langs=["eng-Latn"], main_score="ndcg_at_10", reference=None, date=None, domains=None, task_subtypes=None,
        license=None, annotations_creators=None, dialect=None, sample_creation=None, bibtex_citation="",
    )  # fmt: skip


class KitchenRetrieval(AbsTaskRetrieval):
    """A task from the rows of a BRIGHT folder, laid out as mteb's own BRIGHT(v1.1) tasks lay theirs out."""

    metadata = describe("KitchenRetrieval", INSTRUCTION)

    def __init__(self, folder: Path, exclusions: bool = True) -> None:
        super().__init__()
        self.folder, self.exclusions = folder, exclusions

    def load_data(self, **_: Any) -> None:
        documents = [row for _, row in read_jsonl(self.folder / "documents.jsonl")]
        examples = [row for _, row in read_jsonl(self.folder / "examples.jsonl")]
        self.corpus = {"standard": {row["id"]: {"text": row["content"]} for row in documents}}
        self.queries = {"standard": {row["id"]: row["query"] for row in examples}}
        gold = {row["id"]: dict.fromkeys((i for i in row["gold_ids"] if i != "N/A"), 1) for row in examples}
        self.relevant_docs = {"standard": gold}
        if self.exclusions:
            ids = [row["id"] for row in documents]
            permitted = {row["id"]: [i for i in ids if i not in row["excluded_ids"]] for row in examples}
            self.top_ranked = {"standard": permitted}
        self.data_loaded = True
