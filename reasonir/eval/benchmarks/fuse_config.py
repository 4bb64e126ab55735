"""How several rankings become one: the options of `reasonir-eval fuse` and of `retriever=hybrid`. Imports no torch."""

import math
from dataclasses import dataclass

from omegaconf import MISSING

from reasonir.core.errors import require
from reasonir.retrieval.config import FusionMethod, check_weights


@dataclass(kw_only=True, slots=True)
class FuseDataConfig:
    """What the runs rank; null is what the first of the folders says that says it."""

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
    """One for each run, 0 or more; null shares 1 equally."""
    rrf_k: float = MISSING
    """The constant of rrf: weight / (rrf_k + place). 60: Cormack et al. 2009."""
    top: int = MISSING
    """Documents kept a query."""
    tasks: list[str] | None = MISSING
    """Of folders: tasks to fuse; null is all of the first."""
    data: FuseDataConfig = MISSING
    queries: str | None = MISSING
    """Queries of the data; null is what the folders say."""
    long: bool | None = MISSING
    """Whole pages instead of passages (BRIGHT); null is what the folders say."""
    split: str | None = MISSING
    """Name of the qrels file (BEIR); null is what the folders say."""
    output: str = MISSING
    """Run to write (config.yaml and manifest.json are put beside it); of folders: the folder to write."""
    debug: bool = MISSING
    """Show tracebacks for mistakes in options and input too."""

    @property
    def output_dir(self) -> str:
        """The folder that a fusion of folders claims."""
        return self.output

    def validate(self) -> None:
        """Refuse values outside their range."""
        require(len(self.runs) >= 2, "runs", self.runs, "must be two or more runs")
        if self.weights is not None:
            check_weights("weights", self.weights, len(self.runs))
        require(math.isfinite(self.rrf_k) and self.rrf_k >= 0, "rrf_k", self.rrf_k, "must be 0 or more")
        require(self.top > 0, "top", self.top, "must be positive")
        require(self.tasks is None or bool(self.tasks), "tasks", self.tasks, "is empty; name one, or give null for all")
