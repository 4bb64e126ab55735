"""The options of `card`. Values stand in `configs/eval/card.yaml`."""

from dataclasses import dataclass

from omegaconf import MISSING

from reasonir.schema import UserError


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
