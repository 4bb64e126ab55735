"""The options of `reasonir-eval rerank`: names, types, units. Values stand in `configs/eval/rerank.yaml`."""

from dataclasses import dataclass, fields
from enum import StrEnum

from omegaconf import MISSING

from reasonir.core.errors import UserError, require
from reasonir.core.fields import positive, random_seed
from reasonir.llm import config as generator_config
from reasonir.llm.config import GeneratorConfig

# Options that change no score: an output folder may be continued with other values.
MAY_DIFFER = ("output_dir", "debug", "model_parameters", *generator_config.MAY_DIFFER)


class Method(StrEnum):
    """What one question asks: the grade of one document, the order of a window, the grades of a group."""

    pointwise = "pointwise"
    listwise = "listwise"
    groupwise = "groupwise"


class Scoring(StrEnum):
    """raw: the integer that the answer names. expected: its mean under the model's probabilities of the six digits."""

    raw = "raw"
    expected = "expected"


# Tokens that an answer needs for each document it lists: a number, brackets, a grade, separators.
TOKENS_PER_LISTED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankSettings:
    """The options that shape questions and scores; each field is the option of its name."""

    method: Method
    scoring: Scoring
    samples: int
    window: int
    step: int
    group_size: int
    rounds: int
    seed: int
    temperature: float
    top_p: float
    answer_tokens: int
    """Tokens of an answer at most."""


@dataclass(kw_only=True, slots=True)
class RerankDataConfig:
    """Where the texts of queries and documents are read."""

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
    top: int = positive()
    """Documents of a query that are reranked; the others keep their order, below these. Paper: 100."""
    method: Method = MISSING
    """pointwise (one document a question, 0 to 5), listwise (windows are put in order), groupwise (groups, 0 to 10)."""
    scoring: Scoring = MISSING
    """raw reads an integer from the answer, as the paper; expected (pointwise only) is the mean over the probabilities
    of the digits 0 to 5 as first token: deterministic and almost without ties."""
    samples: int = positive()
    """Answers a document, with a seed each; the score is their mean (pointwise, scoring=raw)."""
    window: int = positive()
    """Documents that are put in order at once (listwise)."""
    step: int = positive()
    """Places that a window lies above the one before it; the first is at the bottom of the ranking (listwise)."""
    group_size: int = positive()
    """Documents that are graded together, at most (groupwise)."""
    rounds: int = positive()
    """Times that all documents are graded, in other groups each time; the score is the mean (groupwise)."""
    weights: list[float] | None = MISSING
    """[of the reranker, of the retriever]: score = first * rerank score (0 to 1) + second * retriever's own score. null
    is the paper's: [0.5,0.5] for a dense run, [100,1] for BM25; where the run does not say, dense is a run whose scores
    all lie in [-1,1]."""
    prompts: str | None = MISSING
    """Folder of edited prompt files, which replace the package's own one by one; rerank_METHOD_TASK.yaml may be one of
    any task."""
    context_tokens: int = positive()
    """Tokens of prompt and answer together (never more than the model takes); documents are cut to fit."""
    tokenizer: str | None = MISSING
    """Folder or hub id of the tokenizer that counts; null is the model's own for generator=vllm, else an estimate of 3
    UTF-8 bytes a token."""
    model_parameters: float | None = positive()
    """Parameters of the model, for the FLOPs; null is counted for generator=vllm and unknown elsewhere."""
    seed: int = random_seed()
    """Of the sampling, and of the groups."""
    debug: bool = MISSING
    """Show tracebacks for mistakes in options and input too."""
    generator: GeneratorConfig = MISSING

    def validate(self) -> None:
        """Refuse values outside their range, and options that do not go together."""
        require(self.window > 1, "window", self.window, "must hold at least two documents")
        require(self.step <= self.window, "step", self.step, f"must not pass window={self.window}")
        if self.weights is not None and len(self.weights) != 2:
            raise UserError(f"weights={self.weights} must be two numbers: [of the reranker, of the retriever]")
        if self.data.dir is not None and self.data.hub is not None:
            raise UserError("give one of data.dir and data.hub")
        if self.scoring is Scoring.expected and self.method is not Method.pointwise:
            raise UserError(f"scoring=expected belongs to method=pointwise, not {self.method}")
        if self.samples > 1 and (self.method is not Method.pointwise or self.scoring is Scoring.expected):
            raise UserError(f"samples={self.samples} belongs to method=pointwise scoring=raw")

    def _answer_tokens(self) -> int:
        """Return the tokens of an answer: generator.max_new_tokens, more where a list of documents needs more."""
        if self.scoring is Scoring.expected:
            # The distribution of the first token is all that is read.
            return 1
        listed = {Method.pointwise: 0, Method.listwise: self.window, Method.groupwise: self.group_size}[self.method]
        return max(self.generator.max_new_tokens, TOKENS_PER_LISTED * listed)

    def settings(self) -> RerankSettings:
        """Return the options that shape the questions and the scores."""
        mine = {field.name for field in fields(self)}
        own = {field.name: getattr(self, field.name) for field in fields(RerankSettings) if field.name in mine}
        sampling = {"temperature": self.generator.temperature, "top_p": self.generator.top_p}
        return RerankSettings(**own | sampling | {"answer_tokens": self._answer_tokens()})
