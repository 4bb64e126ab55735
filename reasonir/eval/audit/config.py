"""The options of `compare` and `contamination`: names, types, units. Values: `configs/eval/`. Imports no torch."""

from dataclasses import dataclass
from enum import StrEnum

from omegaconf import MISSING

from reasonir.core.errors import UserError, require
from reasonir.core.fields import at_least, random_seed, within

MAY_DIFFER = ("output_dir", "debug")
"""Options that change no result."""


class Pairs(StrEnum):
    """Which of more than two systems are compared."""

    baseline = "baseline"
    all = "all"


class Interval(StrEnum):
    """How an interval is read off the bootstrap's distribution."""

    bca = "bca"
    percentile = "percentile"


@dataclass(kw_only=True, slots=True)
class CompareConfig:
    """Compare results query by query: differences, intervals, paired tests; repeats of a run with their spread."""

    results: list[str] = MISSING
    """Folders of results, one a system, the first is the baseline. A pattern ('runs/seed_*') is one system whose
    folders are repeats; on its own it reports their mean and spread."""
    names: list[str] | None = MISSING
    """Names of the systems, in the order of `results`; null takes the ends of their folders' paths."""
    metric: str = MISSING
    """A metric of per_query.jsonl, such as ndcg_at_10, recall_at_100 or mrr."""
    pairs: Pairs = MISSING
    """baseline (every system against the first) or all."""
    common_only: bool = MISSING
    """Compare the tasks and queries that all systems share, counting the rest; false refuses a difference."""
    confidence: float = within(0, 1, "()")
    """Coverage of all intervals, between 0 and 1."""
    interval: Interval = MISSING
    """bca (bias-corrected and accelerated) or percentile."""
    # A drawn test's p is at least 1 / (permutations + 1): with fewer than 100 it could not fall below 0.01.
    permutations: int = at_least(100)
    """Sign flips drawn for a test; where there are no more than that in all, each is taken once (exact)."""
    bootstrap: int = at_least(100)
    """Resamples of the queries for an interval."""
    largest: int = at_least(0)
    """Queries listed with the largest moves, for each pair."""
    seed: int = random_seed()
    """Seed of the drawn sign flips and resamples."""
    output_dir: str | None = MISSING
    """Folder of the comparison; null names one under outputs/ by the options."""
    debug: bool = MISSING
    """Show tracebacks for mistakes in options and input too."""

    def validate(self) -> None:
        """Refuse no results, and names that are not one a result or stand twice."""
        require(bool(self.results), "results", self.results, "must name at least one folder")
        if self.names is not None and (len(self.names) != len(self.results) or len({*self.names}) != len(self.names)):
            raise UserError(
                f"names={self.names} must hold one name of its own for each of the {len(self.results)} results"
            )


@dataclass(kw_only=True, slots=True)
class JudgedDataConfig:
    """The evaluation: one of `dir`, `hub` and `beir`."""

    dir: str | None = MISSING
    """BRIGHT folder: <task>/documents.jsonl and <task>/examples.jsonl; or one task's own folder."""
    hub: str | None = MISSING
    """Hub data set in BRIGHT's form, such as xlangai/BRIGHT."""
    beir: str | None = MISSING
    """BEIR folder: corpus.jsonl, queries.jsonl and qrels/<split>.tsv."""
    split: str = MISSING
    """Name of the qrels file of data.beir."""


@dataclass(kw_only=True, slots=True)
class ContaminationConfig:
    """Count what training rows share with an evaluation: equal texts, long n-grams, seed documents by id."""

    rows: list[str] = MISSING
    """Training files (JSONL, .gz, parquet) or hub:owner/name[:config[:split]]."""
    documents: list[str] | None = MISSING
    """Corpora in which the rows' document ids are looked up, as data.documents of training."""
    data: JudgedDataConfig = MISSING
    tasks: list[str] | None = MISSING
    """Tasks of BRIGHT; null is all that the folder holds, or all 12 of the hub."""
    long: bool = MISSING
    """Whole pages (long_documents, gold_ids_long) instead of passages."""
    ngram: int = at_least(1)
    """Words of an n-gram."""
    # Zero is out: a text that shares nothing has the share 0 and would be flagged.
    threshold: float = within(0, 1, "(]")
    """Share of an evaluation text's n-grams in training texts from which the text is flagged, above 0 and up to 1."""
    matches_per_text: int = at_least(1)
    """Most matches written for a text of the evaluation and a side of the rows; further ones are counted."""
    output_dir: str | None = MISSING
    """Folder of the report; null names one under outputs/ by the options."""
    debug: bool = MISSING
    """Show tracebacks for mistakes in options and input too."""

    def validate(self) -> None:
        """Refuse no rows, none or several evaluations, and options of the other kind of evaluation."""
        require(bool(self.rows), "rows", self.rows, "must name at least one file")
        if sum(place is not None for place in (self.data.dir, self.data.hub, self.data.beir)) != 1:
            raise UserError("give one of data.dir=FOLDER, data.hub=xlangai/BRIGHT and data.beir=FOLDER")
        if self.data.beir is not None and (self.tasks is not None or self.long):
            raise UserError("tasks and long belong to BRIGHT's form (data.dir, data.hub), not to data.beir")
