"""The options of `reasonir-eval rerank`: names, types, units. Values stand in `configs/eval/rerank.yaml`."""

from dataclasses import dataclass
from enum import StrEnum

from omegaconf import MISSING

from reasonir.core.errors import UserError, require
from reasonir.llm import config as generator_config
from reasonir.llm.config import GeneratorConfig

MAY_DIFFER = ("output_dir", "debug", "model_parameters", *generator_config.MAY_DIFFER)
"""Options that change no score: an output folder may be continued with others."""


class Method(StrEnum):
    """What one question is about: one document, a window of the ranking to be ordered, a group to be graded."""

    pointwise = "pointwise"
    listwise = "listwise"
    groupwise = "groupwise"


class Scoring(StrEnum):
    """raw: the integer that the answer names. expected: its mean under the model's probabilities of the six digits."""

    raw = "raw"
    expected = "expected"


@dataclass(kw_only=True, slots=True)
class RerankDataConfig:
    """Where queries and documents are read again."""

    dir: str | None = MISSING
    """BRIGHT or BEIR folder; null is what the run's config.yaml says."""
    hub: str | None = MISSING
    """Hub data set in BRIGHT's form; null is what the run's config.yaml says."""


@dataclass(kw_only=True, slots=True)
class RerankConfig:
    """Rerank a run with a language model: its scores alone, and interpolated with the retriever's."""

    output_dir: str = MISSING
    """Folder of the interpolated results; rerank_only/ inside it holds those of the language model alone."""
    run: str = MISSING
    """Folder of results (bright, beir, rerank), or one TREC run or score.json (then data.dir and one task too)."""
    data: RerankDataConfig = MISSING
    tasks: list[str] | None = MISSING
    """Tasks of the run to rerank; null is all."""
    queries: str | None = MISSING
    """original, or the name of rewritten queries; null is what the run was retrieved with."""
    long: bool | None = MISSING
    """Whole pages instead of passages (BRIGHT); null is as the run, false for a TREC file."""
    split: str | None = MISSING
    """Name of the qrels file (BEIR); null is as the run, test for a TREC file."""
    top: int = MISSING
    """Documents of a query that are reranked; those below keep their order below them. Paper: 100."""
    method: Method = MISSING
    """pointwise (one document a question, 0 to 5), listwise (windows are put in order), groupwise (groups, 0 to 10)."""
    scoring: Scoring = MISSING
    """raw reads an integer from the answer, as the paper; expected (pointwise only) is the mean over the probabilities
    of the digits 0 to 5 as first token: deterministic and almost without ties."""
    samples: int = MISSING
    """Answers a document, with a seed each; the score is their mean (pointwise, scoring=raw)."""
    window: int = MISSING
    """Documents that are put in order at once (listwise)."""
    step: int = MISSING
    """Places between one window and the next, from the bottom of the ranking up (listwise)."""
    group_size: int = MISSING
    """Documents that are graded together, at most (groupwise)."""
    rounds: int = MISSING
    """Times that all documents are graded, in other groups each time; the score is the mean (groupwise)."""
    weights: list[float] | None = MISSING
    """[of the reranker, of the retriever]: score = first * rerank score (0 to 1) + second * retriever's own score. null
    is the paper's: [0.5,0.5] for a dense run, [100,1] for BM25; where the run does not say, dense is a run whose scores
    all lie in [-1,1]."""
    prompts: str | None = MISSING
    """Folder of edited prompt files, which replace the package's own one by one; rerank_METHOD_TASK.yaml may be one of
    any task."""
    context_tokens: int = MISSING
    """Tokens of prompt and answer together (never more than the model takes); documents are cut to fit."""
    tokenizer: str | None = MISSING
    """Folder or hub id of the tokenizer that counts; null is the model's own for generator=vllm, else an estimate of 3
    UTF-8 bytes a token."""
    model_parameters: float | None = MISSING
    """Parameters of the model, for the FLOPs; null is counted for generator=vllm and unknown elsewhere."""
    seed: int = MISSING
    """Of the sampling, and of the groups."""
    debug: bool = MISSING
    """Show tracebacks for mistakes in options and input too."""
    generator: GeneratorConfig = MISSING

    def validate(self) -> None:
        """Refuse values outside their range, and options that do not go together."""
        for name in ("top", "samples", "window", "step", "group_size", "rounds", "context_tokens"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be positive")
        require(self.window > 1, "window", self.window, "must hold at least two documents")
        require(self.step <= self.window, "step", self.step, f"must not pass window={self.window}")
        parameters = self.model_parameters
        require(parameters is None or parameters > 0, "model_parameters", parameters, "must be positive, or null")
        if self.weights is not None and len(self.weights) != 2:
            raise UserError(f"weights={self.weights} must be two numbers: [of the reranker, of the retriever]")
        if self.data.dir is not None and self.data.hub is not None:
            raise UserError("give one of data.dir and data.hub")
        if self.scoring is Scoring.expected and self.method is not Method.pointwise:
            raise UserError(f"scoring=expected belongs to method=pointwise, not {self.method}")
        if self.samples > 1 and (self.method is not Method.pointwise or self.scoring is Scoring.expected):
            raise UserError(f"samples={self.samples} belongs to method=pointwise scoring=raw")

    def answer_tokens(self) -> int:
        """Return the tokens of an answer: generator.max_new_tokens, more where a list of documents needs more."""
        if self.scoring is Scoring.expected:
            return 1
        listed = {Method.pointwise: 0, Method.listwise: self.window, Method.groupwise: self.group_size}[self.method]
        return max(self.generator.max_new_tokens, TOKENS_PER_LISTED * listed)


TOKENS_PER_LISTED = 10
"""Of an answer that lists documents: a number, brackets, a grade, separators."""
