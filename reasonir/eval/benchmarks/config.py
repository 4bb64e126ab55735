"""The options of `reasonir-eval`'s tasks: names, types, units. Values stand in `configs/eval/`. Imports no torch."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from reasonir.core.errors import UserError
from reasonir.retrieval.config import RetrievalConfig

WITHOUT_PAGES = ("leetcode", "aops", "theoremqa_questions", "theoremqa_theorems")
"""Tasks that have no long documents."""
MAY_DIFFER = ("output_dir", "debug", "cache_dir", "chunk_tokens")
"""Options that change no result: an output folder may be continued with others."""


@dataclass(kw_only=True, slots=True)
class BrightDataConfig:
    """A BRIGHT folder or the hub's data set."""

    dir: str | None = MISSING
    """Folder with <task>/documents.jsonl and <task>/examples.jsonl; or one task's own folder."""
    hub: str | None = MISSING
    """Hub data set, such as xlangai/BRIGHT, or yale-nlp/Bright-Pro with its aspects."""


@dataclass(kw_only=True, slots=True)
class BrightConfig(RetrievalConfig):
    """Measure a retriever on BRIGHT (nDCG@10 per task and average), or on any folder in its format."""

    data: BrightDataConfig = MISSING
    tasks: list[str] | None = MISSING
    """Tasks to run; null is all that the folder or the hub's data set holds; with long=true, those of them that have
    pages (BRIGHT: 8)."""
    queries: str = MISSING
    """original, or rewritten queries: a name (<task>/<name>.jsonl in data.dir; the hub's <name>_reason), or a path
    DIR/NAME: DIR/<task>/NAME.jsonl, where reasonir-eval rewrite writes them, or DIR/NAME/<task>.jsonl."""
    long: bool = MISSING
    """Rank whole pages (long_documents, gold_ids_long) instead of passages."""
    instruction: str = MISSING
    """bright (per task, as the paper's evaluation; a folder's own instruction.txt comes first), none, or a text in
    which {task} stands for the task's name."""

    def validate(self) -> None:
        """Refuse both or neither source of data."""
        RetrievalConfig.validate(self)
        if (self.data.dir is None) == (self.data.hub is None):
            raise UserError("give one of data.dir=FOLDER and data.hub=xlangai/BRIGHT")


@dataclass(kw_only=True, slots=True)
class BeirDataConfig:
    """A BEIR folder or a set on the hub."""

    dir: str | None = MISSING
    """Folder with corpus.jsonl, queries.jsonl and qrels/<split>.tsv."""
    hub: str | None = MISSING
    """Hub data set in BEIR's layout, such as BeIR/scifact (its qrels in BeIR/scifact-qrels), mteb/scifact or
    R2MED/Biology; or a downloaded copy's folder."""


@dataclass(kw_only=True, slots=True)
class BeirConfig(RetrievalConfig):
    """Measure a retriever on a set in BEIR's format: a folder, or the hub's BeIR, mteb and R2MED sets."""

    data: BeirDataConfig = MISSING
    split: str = MISSING
    """Name of the qrels file, or split of the hub's qrels."""
    instruction: str = MISSING
    """none, or the text put before every query."""

    def validate(self) -> None:
        """Refuse both or neither source of data."""
        RetrievalConfig.validate(self)
        if (self.data.dir is None) == (self.data.hub is None):
            raise UserError("give one of data.dir=FOLDER and data.hub=BeIR/NAME")


@dataclass(kw_only=True, slots=True)
class ScoreConfig:
    """Score any run against any qrels with pytrec_eval."""

    run: str = MISSING
    """TREC run (6 columns) or BRIGHT's score.json."""
    qrels: str = MISSING
    """TREC qrels or BEIR tsv."""
    excluded: str | None = MISSING
    """JSONL rows with id and excluded_ids (BRIGHT's examples.jsonl): removed from the run before scoring."""
    output: str = MISSING
    """metrics.json to write; per_query.jsonl and manifest.json are put beside it."""
    debug: bool = MISSING
    """Show tracebacks for mistakes in options and input too."""


def describe(config: Any) -> str:
    """Return a short name for the data of a task, for a default output folder."""
    if isinstance(config, BrightConfig):
        queries = config.queries.rstrip("/").rsplit("/", 1)[-1]
        return f"bright-{(config.data.dir or config.data.hub or '').rstrip('/').rsplit('/', 1)[-1]}-{queries}"
    if isinstance(config, BeirConfig):
        return f"beir-{(config.data.dir or config.data.hub or '').rstrip('/').rsplit('/', 1)[-1]}-{config.split}"
    return f"encode-{config.input.rstrip('/').rsplit('/', 1)[-1]}-{config.side.value}"


@dataclass(kw_only=True, slots=True)
class CardModelConfig:
    """The model whose card it is."""

    path: str = MISSING
    """Folder of a model that reasonir trained; its README.md is rewritten."""


@dataclass(kw_only=True, slots=True)
class CardConfig:
    """Write what was measured of a trained model into its card: scores, overlap with the training data."""

    model: CardModelConfig = MISSING
    results: list[str] = MISSING
    """Folders of results of this very model (bright, beir), one a row of the card's table."""
    metric: str = MISSING
    """A metric of the results, such as ndcg_at_10, or recall_at_1 of whole pages."""
    contamination: str | None = MISSING
    """Folder of a contamination report on the training rows."""
    debug: bool = MISSING
    """Show tracebacks for mistakes in options and input too."""

    def validate(self) -> None:
        """Refuse a call with nothing to write."""
        if not self.results and self.contamination is None:
            raise UserError("nothing to write: give results=[FOLDER] or contamination=FOLDER")
