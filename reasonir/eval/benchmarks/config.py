"""The options of the tasks that measure rankings: names, types, units. Values: `configs/eval/`. Imports no torch."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import MISSING

from reasonir.core.command import to_yaml
from reasonir.core.errors import UserError, require
from reasonir.core.fields import at_least, positive
from reasonir.core.stamp import digest_of
from reasonir.data.beir import IdenticalIds
from reasonir.retrieval.config import FusionMethod, RetrievalConfig, check_weights

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
        require_one(self.data.dir, self.data.hub, "data.dir=FOLDER and data.hub=xlangai/BRIGHT")


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
    identical_ids: IdenticalIds = MISSING
    """What becomes of the document that has a query's own id (ArguAna, Quora): exclude (it is not ranked for the query,
    as in BEIR's published figures), keep, or auto (exclude, unless a query is judged relevant to it)."""
    instruction: str = MISSING
    """none, or the text put before every query."""

    def validate(self) -> None:
        """Refuse both or neither source of data."""
        RetrievalConfig.validate(self)
        require_one(self.data.dir, self.data.hub, "data.dir=FOLDER and data.hub=BeIR/NAME")


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


@dataclass(kw_only=True, slots=True)
class FuseDataConfig:
    """The data set that the runs rank. Where both are null, the first run folder that records a data set names it."""

    dir: str | None = MISSING
    """BRIGHT or BEIR folder to score the fused runs of folders with."""
    hub: str | None = MISSING
    """Hub data set, such as xlangai/BRIGHT."""


@dataclass(kw_only=True, slots=True)
class FuseConfig:
    """Fuse runs, or whole folders of results task by task, into one."""

    runs: list[str] = MISSING
    """Two or more: runs (TREC, or BRIGHT's score.json), or folders of results."""
    method: FusionMethod = MISSING
    """linear (weighted scores as they are), minmax (scores from 0 to 1 per query), zscore, rrf (places only)."""
    weights: list[float] | None = MISSING
    """One for each run, 0 or more; null gives each run 1 / (number of runs)."""
    rrf_k: float = at_least(0)
    """The constant of rrf: weight / (rrf_k + place). 60: Cormack et al. 2009."""
    top: int = positive()
    """Documents kept a query."""
    tasks: list[str] | None = MISSING
    """Tasks of the folders to fuse; null is all tasks of the first folder."""
    data: FuseDataConfig = MISSING
    queries: str | None = MISSING
    """Queries of the data; null takes what the run folders record."""
    long: bool | None = MISSING
    """Whole pages instead of passages (BRIGHT); null takes what the run folders record."""
    split: str | None = MISSING
    """Name of the qrels file (BEIR); null takes what the run folders record."""
    output: str = MISSING
    """The run file to write (config.yaml and manifest.json are put beside it); where `runs` are folders, the folder."""
    debug: bool = MISSING
    """Show tracebacks for mistakes in options and input too."""

    def validate(self) -> None:
        """Refuse fewer than two runs, weights that do not fit them, and an empty list of tasks."""
        require(len(self.runs) >= 2, "runs", self.runs, "must be two or more runs")
        if self.weights is not None:
            check_weights("weights", self.weights, len(self.runs))
        require(self.tasks is None or bool(self.tasks), "tasks", self.tasks, "is empty; name one, or give null for all")


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


def require_one(first: str | None, second: str | None, options: str) -> None:
    """Refuse both or neither of two options.

    Args:
        first: The value of the one; None where it is not given.
        second: The value of the other.
        options: Both as they are typed.
    """
    if (first is None) == (second is None):
        raise UserError(f"give one of {options}")


Options = TypeVar("Options", BrightConfig, BeirConfig)
AnyOptions = TypeVar("AnyOptions", bound=Any)


def resolve(config: Options) -> Options:
    """Return an evaluation's options with the output folder filled in."""
    place = (config.data.dir or config.data.hub or "").rstrip("/").rsplit("/", 1)[-1]
    if isinstance(config, BrightConfig):
        label = f"bright-{place}-{config.queries.rstrip('/').rsplit('/', 1)[-1]}"
    else:
        label = f"beir-{place}-{config.split}"
    return with_output_dir(config, f"{label}-{config.retriever.value}")


def with_output_dir(config: AnyOptions, label: str) -> AnyOptions:
    """Return the options of a command with the output folder filled in.

    Args:
        config: Options with a field `output_dir`. Where it is null, the folder is outputs/eval/<label>-<hash>, and the
            hash is of all options, so that other options name another folder.
        label: What the default folder is called.
    """
    if config.output_dir is not None:
        return config
    # Eight digits: a clash is no danger, because `RunFolder` refuses a folder of other options.
    digest = digest_of([to_yaml(config)])[:8]
    return dataclasses.replace(config, output_dir=str(Path("outputs") / "eval" / f"{label}-{digest}"))
