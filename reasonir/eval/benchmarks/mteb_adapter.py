"""Our encoder as a model of `mteb`: with the embeddings, search, exclusions and instructions of `reasonir-eval bright`.

    import mteb
    from reasonir.eval.benchmarks.mteb_adapter import MtebEncoder
    mteb.evaluate(MtebEncoder.from_pretrained("outputs/run/model"), mteb.get_tasks(["BrightBiologyRetrieval"]))

Only this file imports mteb (extra `[mteb]`, read at version 2.26). Retrieval and reranking go through mteb's
SearchProtocol: the whole corpus, exact search, ties as trec_eval breaks them; other tasks through `encode`.
Invariant: an instruction reaches queries (and the texts of tasks without documents), never documents.

Exclusions. mteb's BRIGHT(v1.1) tasks (`Bright<Task>Retrieval`, `Bright<Task>LongRetrieval`) hand every query's
permitted documents to the search as `top_ranked`; they are obeyed here. The older `BrightRetrieval` and
`BrightLongRetrieval` know no exclusions, and a search is not told of any: their aops, leetcode and
theoremqa_questions are not comparable with published values, and a warning says so.

Why mteb's first run of ReasonIR-8B gave 20.5 and not 24.4: it ran `BrightRetrieval`. Nine of its tasks lie within 2.3
points of the paper's, the three with exclusions do not (leetcode 18.1 for 35.0, aops 4.8 for 14.7, theoremqa_questions
18.2 for 31.9), and those three make 3.4 of the 3.9 points. The rest: one generic instruction for all tasks, and a
missing line break before the tag <|embed|>. Source: embeddings-benchmark/mteb, issues 2696, 3221 and 3268.
"""

import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from mteb._create_dataloaders import create_dataloader
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from mteb.types import PromptType

from reasonir.core.errors import UserError
from reasonir.data.bright import BRIGHT_TASKS, bright_instruction
from reasonir.model.encoder import Encoder
from reasonir.retrieval.arithmetic import encoding_precision
from reasonir.retrieval.embeddings import embed_cached
from reasonir.retrieval.sharding import EncodingSettings
from reasonir.retrieval.top_k import exact_top_k

# mteb's names: BrightBiologyRetrieval, BrightBiologyLongRetrieval, BrightRetrieval, BrightProBiologyRetrieval.
TASK_NAME = re.compile(r"Bright(Pro)?(?P<task>\w*?)(?P<long>Long)?Retrieval")
WITHOUT_EXCLUSIONS = ("BrightRetrieval", "BrightLongRetrieval")
# The lists of documents that `top_ranked` leaves out are made for so many queries at a time: one list can name almost
# the whole corpus, 8 bytes a document.
QUERIES_PER_SEARCH = 256


class MtebEncoder(AbsEncoder):
    """An `Encoder` with mteb's interfaces of an encoder and of a search."""

    def __init__(
        self,
        encoder: Encoder,
        name: str,
        *,
        instruction: str = "bright",
        query_max_tokens: int | None = None,
        document_max_tokens: int | None = None,
        precision: str = "auto",
        chunk_tokens: int | None = None,
        cache_dir: str | None = None,
    ) -> None:
        """Wrap an encoder.

        Args:
            encoder: the model.
            name: what mteb calls the model, owner/name. mteb keeps results under it, apart by weights and options.
            instruction: "bright" (the paper's for BRIGHT's tasks, mteb's own prompt for all others), "mteb" (mteb's
                own for all), "none", or a text in which {task} stands for the task's name.
            query_max_tokens: tokens of a query's input; None is what the model declares.
            document_max_tokens: tokens of a document's input; None is what the model declares.
            precision: "auto" (bf16 where it is fast, as `reasonir-eval` chooses), "fp32" or "bf16".
            chunk_tokens: tokens of one forward pass; changes no result. mteb's batch size has no effect.
            cache_dir: where embeddings of retrieval tasks are kept, as `reasonir-eval` keeps them; None is its own
                (REASONIR_CACHE, else ~/.cache/reasonir).
        """
        self.encoder = encoder
        self._instruction = instruction
        self._query_max_tokens = query_max_tokens or encoder.default_max_tokens
        self._document_max_tokens = document_max_tokens or encoder.default_max_tokens
        self._chunk_tokens = chunk_tokens
        self._cache_dir = Path(cache_dir or os.environ.get("REASONIR_CACHE") or "~/.cache/reasonir").expanduser()
        self._precision, notice = encoding_precision(precision, encoder, self._cache_dir)
        notice.say()
        # mteb calls `index` before `search` and hands the corpus to `index` alone.
        self._ids: list[str] = []
        self._documents = np.empty((0, encoder.dimension), dtype=np.float32)
        self.mteb_model_meta = self._describe(name)

    @classmethod
    def from_pretrained(
        cls, path: str, *, name: str | None = None, device: str | None = None, template: str = "auto", **options: Any
    ) -> "MtebEncoder":
        """Load a model folder or hub id, as `Encoder.from_pretrained` does.

        Args:
            path: the folder, or owner/name on the hub.
            name: what mteb calls the model; None is the hub id, or reasonir/<folder's name>.
            device: a torch device; None is the first GPU, else the CPU.
            template: a preset of `model/presets.py`, or auto.
            options: the constructor's.
        """
        folder = Path(path)
        own = f"reasonir/{folder.resolve().name}" if folder.is_dir() else path.removeprefix("hub:")
        return cls(Encoder.from_pretrained(path, device=device, template=template), name or own, **options)

    def _describe(self, name: str) -> ModelMeta:
        """Return mteb's description. What changes results is part of it, because mteb caches results by it."""
        options = {
            "instruction": self._instruction,
            "query_max_tokens": self._query_max_tokens,
            "document_max_tokens": self._document_max_tokens,
            # The precision in use, not "auto": two machines may choose differently and mteb must not mix their results.
            "precision": self._precision,
            "template": str(self.encoder.template.style),
        }
        return ModelMeta.create_empty(
            overwrites={
                "name": name,
                # mteb keeps results by name and revision: other weights at the same path need a revision of their own.
                "revision": self.encoder.fingerprint or "unsaved",
                "n_parameters": sum(weights.numel() for weights in self.encoder.parameters()),
                "max_tokens": self.encoder.default_max_tokens,
                "embed_dim": self.encoder.dimension,
                "similarity_fn_name": ScoringFunction.COSINE,
                "framework": ["PyTorch", "Transformers"],
                "use_instructions": self._instruction != "none",
                "experiment_kwargs": options,
            }
        )

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Embed the texts of mteb's batches: float32 (N, D).

        Args:
            inputs: mteb's batches, dictionaries with a list under `text`.
            task_metadata: mteb's task; its name chooses the instruction.
            hf_split: not used.
            hf_subset: the task within mteb's older BRIGHT.
            prompt_type: documents get no instruction, everything else does.
            kwargs: mteb's further options, of which `precision` is refused.
        """
        if kwargs.get("precision", "float32") != "float32":
            raise UserError(f"encode_kwargs precision={kwargs['precision']} is not supported; leave it out")
        texts = [text for batch in inputs for text in batch["text"]]
        is_document = prompt_type is PromptType.document
        instruction = "" if is_document else self.instruction_of(task_metadata, hf_subset)
        limit = self._document_max_tokens if is_document else self._query_max_tokens
        return self.encoder.encode(texts, instruction, limit, self._chunk_tokens, self._precision)

    def index(self, corpus: Any, *, task_metadata: TaskMetadata, **kwargs: Any) -> None:
        """Embed a corpus; a document is its title and its text, as everywhere in this package."""
        if task_metadata.name in WITHOUT_EXCLUSIONS:
            warnings.warn(
                f"mteb's {task_metadata.name} applies no exclusions, so that aops, leetcode and theoremqa_questions "
                "come out far too low; take its BRIGHT(v1.1) tasks",
                stacklevel=2,
            )
        texts = {
            row["id"]: f"{row['title']} {row['text']}".strip() if row.get("title") else row["text"] for row in corpus
        }
        self._ids = list(texts)
        self._documents = self._embed(
            list(texts.values()), "", self._document_max_tokens, f"{task_metadata.name} documents"
        )

    def search(
        self,
        queries: Any,
        *,
        task_metadata: TaskMetadata,
        hf_subset: str,
        top_k: int,
        top_ranked: dict[str, list[str]] | None = None,
        num_proc: int | None = None,
        **kwargs: Any,
    ) -> dict[str, dict[str, float]]:
        """Return {query id: {document id: cosine}} of the first documents.

        Args:
            queries: mteb's table of queries.
            task_metadata: mteb's task; its name chooses the instruction.
            hf_subset: the task within mteb's older BRIGHT.
            top_k: documents a query.
            top_ranked: by query id, the documents that may be ranked; a query that it lacks gets none, as with mteb's
                own search. None permits all.
            num_proc: processes of mteb's loader.
            kwargs: not used.
        """
        loader = create_dataloader(
            queries, task_metadata=task_metadata, prompt_type=PromptType.query, num_proc=num_proc
        )
        texts = [text for batch in loader for text in batch["text"]]
        instruction = self.instruction_of(task_metadata, hf_subset)
        embeddings = self._embed(texts, instruction, self._query_max_tokens, f"{task_metadata.name} queries")
        found = {}
        query_ids = list(queries["id"])
        for first in range(0, len(query_ids), QUERIES_PER_SEARCH):
            block = slice(first, first + QUERIES_PER_SEARCH)
            excluded = None if top_ranked is None else self._left_out(query_ids[block], top_ranked, task_metadata.name)
            # The ids break ties as trec_eval does, so that mteb's figure is that of our run.
            rows, scores = exact_top_k(embeddings[block], self._documents, top_k, excluded, ids=self._ids)
            for query, hits, values in zip(query_ids[block], rows, scores, strict=True):
                # A row of -1 fills up a query with fewer permitted documents than top_k.
                found[query] = {self._ids[i]: float(s) for i, s in zip(hits, values, strict=True) if i >= 0}
        return found

    def instruction_of(self, task_metadata: TaskMetadata, hf_subset: str) -> str:
        """Return what stands before the queries of a task."""
        if self._instruction == "none":
            return ""
        task, long = bright_task_of(task_metadata.name, hf_subset)
        # replace, not format: an instruction may hold other braces.
        if self._instruction not in ("bright", "mteb"):
            return self._instruction.replace("{task}", task or task_metadata.name)
        if self._instruction == "bright" and task is not None:
            return bright_instruction("bright", task, "", long)
        return self.get_instruction(task_metadata, PromptType.query).strip()

    def _embed(self, texts: list[str], instruction: str, max_tokens: int, label: str) -> np.ndarray:
        options = EncodingSettings(instruction, max_tokens, self._precision)
        encoded = embed_cached(self.encoder, texts, options, self._cache_dir, label, self._chunk_tokens)
        return encoded.embeddings

    def _left_out(self, query_ids: list[str], top_ranked: dict[str, list[str]], task: str) -> list[np.ndarray]:
        """Return per query the rows of the documents that `top_ranked` does not permit."""
        row_of = {identifier: row for row, identifier in enumerate(self._ids)}
        left_out = []
        for query in query_ids:
            permitted = np.zeros(len(self._ids), dtype=bool)
            unknown = next((i for i in top_ranked.get(query, ()) if i not in row_of), None)
            if unknown is not None:
                raise UserError(f"{task}: query {query!r} ranks document {unknown!r}, which is not in the corpus")
            permitted[[row_of[identifier] for identifier in top_ranked.get(query, ())]] = True
            left_out.append(np.flatnonzero(~permitted))
        return left_out


def bright_task_of(name: str, hf_subset: str) -> tuple[str | None, bool]:
    """Return BRIGHT's own id of a task of mteb's (None for other tasks), and whether it ranks whole pages."""
    match = TASK_NAME.fullmatch(name)
    if match is None:
        return None, False
    asked = match["task"] or hf_subset
    # mteb writes TheoremQAQuestions where BRIGHT writes theoremqa_questions.
    plain = asked.replace("_", "").lower()
    return next((task for task in BRIGHT_TASKS if task.replace("_", "") == plain), None), bool(match["long"])
