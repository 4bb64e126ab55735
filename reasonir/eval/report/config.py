"""The options of `reasonir-eval report`. Imports no torch."""

from dataclasses import dataclass

from omegaconf import MISSING

from reasonir.core.errors import UserError, require
from reasonir.core.fields import positive


@dataclass(kw_only=True, slots=True)
class ReportDataConfig:
    """Where texts are read from."""

    dir: str | None = MISSING
    """BRIGHT or BEIR folder of the texts, for all runs; null is where each run's own config.yaml says.
    Folders of answers hold theirs."""


@dataclass(kw_only=True, slots=True)
class ReportConfig:
    """Make one self-contained HTML page: of a results folder, of two side by side, or of the answers to questions."""

    results: list[str] = MISSING
    """One folder of results, or two to compare: [DIR] or [DIR_A,DIR_B]; or one that mmlu, gpqa or multiple_choice
    wrote."""
    output: str = MISSING
    """The page to write. Its tables and manifest are put beside it."""
    names: list[str] | None = MISSING
    """What the page calls the runs, one name a folder; null takes model or retriever, of answers
    the title."""
    data: ReportDataConfig = MISSING
    snippet_characters: int = positive()
    """Characters kept of a document's or passage's text."""
    query_characters: int = positive()
    """Characters kept of a query's or question's text."""
    answer_characters: int = positive()
    """Characters kept of each answer: its beginning and its end. Cut further, and said so, where a page of answers
    would pass 40 MB."""
    tables: bool = MISSING
    """Write results.md and results.tex beside the page."""
    debug: bool = MISSING
    """Show tracebacks for mistakes in options and input too."""

    def validate(self) -> None:
        """Refuse another number of folders or names, and a page that is no .html."""
        if len(self.results) not in (1, 2):
            raise UserError(f"results names {len(self.results)} folders; give one, or two to compare")
        if self.names is not None and len(self.names) != len(self.results):
            raise UserError(f"names has {len(self.names)} entries for {len(self.results)} folders of results")
        require(self.output.endswith((".html", ".htm")), "output", self.output, "must end in .html")
