"""The options of `mmlu`, `gpqa` and `multiple_choice`: names, types, units. Values stand in `configs/eval/`."""

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import PurePath

from omegaconf import MISSING

from reasonir.core.errors import UserError
from reasonir.core.fields import positive, random_seed, within
from reasonir.eval.benchmarks.config import require_one
from reasonir.llm import config as generator_config
from reasonir.llm.config import GeneratorConfig, Provider
from reasonir.retrieval.config import RetrievalConfig, Retriever

MAY_DIFFER = ("output_dir", "debug", "cache_dir", "chunk_tokens", "confidence", *generator_config.MAY_DIFFER)
"""Options that change no answer: an output folder may be continued with others."""
QUESTION, WITH_OPTIONS, REASONING = "question", "question_with_options", "reasoning"
QUERIES = (QUESTION, WITH_OPTIONS, REASONING)


class PromptForm(StrEnum):
    """How the reader is to answer: reasoning that ends in "The answer is (X)." or in \\boxed{X}, or a letter alone."""

    phrase = "phrase"
    boxed = "boxed"
    letter = "letter"


@dataclass(kw_only=True, slots=True)
class RagConfig(RetrievalConfig):
    """What all multiple-choice tasks share: a reader, and what it is given to read."""

    datastore: str | None = MISSING
    """Passages: JSONL of id and content, a BRIGHT or BEIR folder, a folder of .txt and .md files, hub:NAME, a folder
    that reasonir-eval encode wrote (searched through its index where it has one), or null: closed book only."""
    top: int = positive()
    """Passages put before the reader."""
    queries: str = MISSING
    """What is searched with: question, question_with_options, reasoning (the reader's own closed-book answer without
    the lines that name an option), or a JSONL file of id and query (a rewriter's)."""
    instruction: str = MISSING
    """none, or the text put before every search query of an encoder."""
    gold: bool = MISSING
    """Also let the reader answer with the gold passages, where the data names them."""
    prompt_form: PromptForm = MISSING
    """phrase or boxed (reasoning first, then the letter is read off), or letter: the likeliest letter as first token,
    by the model's probabilities: no reasoning, no chance, nothing unreadable. Wording: prompts/rag_<form>.yaml."""
    prompts: str | None = MISSING
    """Folder with edited rag_phrase.yaml or rag_boxed.yaml; null takes the package's own."""
    samples: int = positive()
    """Answers to each question under each condition, with a seed each."""
    stop: list[str] = MISSING
    """Texts at which the reader is stopped."""
    context_tokens: int = positive()
    """Tokens of prompt and answer together (never more than the model takes); the last passages are dropped to fit."""
    tokenizer: str | None = MISSING
    """Folder or hub id of the tokenizer that counts; null is the model's own for generator=vllm, else an estimate of 3
    UTF-8 bytes a token."""
    generator: GeneratorConfig = MISSING
    seed: int = random_seed()
    """Of the sampling, and of the guesses for answers that cannot be read."""
    confidence: float = within(0, 1, "()")
    """Level of the intervals."""

    def answer_tokens(self) -> int:
        """Return the tokens of an answer."""
        return 1 if self.prompt_form is PromptForm.letter else self.generator.max_new_tokens

    def input_files(self) -> list[str]:
        """Return the questions' file or folder and the file of search texts, where they are local."""
        data = self.data  # type: ignore[attr-defined]
        named = [getattr(data, "dir", None), getattr(data, "file", None), self.queries_file]
        return [path for path in named if path is not None]

    @property
    def queries_file(self) -> str | None:
        """The file of search texts; None where they come from the questions or from the reader."""
        return self.queries if self.queries.endswith((".jsonl", ".jsonl.gz")) else None

    def validate(self) -> None:
        """Refuse options that do not go together."""
        if self.datastore is None:
            if self.queries == REASONING or self.queries_file:
                raise UserError(f"queries={self.queries} is for a search: give datastore=PASSAGES")
        else:
            RetrievalConfig.validate(self)
        if self.samples > 1 and (self.generator.temperature == 0 or self.prompt_form is PromptForm.letter):
            remedy = "give generator.temperature above 0, and prompt_form=phrase or boxed"
            raise UserError(f"samples={self.samples} would all be equal: {remedy}")
        if self.generator.engine is Provider.vllm and self.generator.base_url is not None:
            raise UserError("generator.base_url is of a server: give generator=openai too")
        if self.queries not in QUERIES and not self.queries_file:
            raise UserError(f"queries={self.queries} must be one of {', '.join(QUERIES)}, or a .jsonl file")


@dataclass(kw_only=True, slots=True)
class MmluDataConfig:
    """Where MMLU's questions are."""

    dir: str | None = MISSING
    """Folder of MMLU's csv files: <subject>_<split>.csv, there or in its folder <split>."""
    hub: str | None = MISSING
    """Hub data set, such as cais/mmlu."""


@dataclass(kw_only=True, slots=True)
class MmluConfig(RagConfig):
    """Ask a reader MMLU's questions, closed book and with retrieved passages side by side."""

    data: MmluDataConfig = MISSING
    split: str = MISSING
    """test (14,042 questions), val or dev; of the hub: test, validation or dev."""
    subjects: list[str] | None = MISSING
    """Subjects to ask, such as [anatomy,virology]; null is all of them."""

    def validate(self) -> None:
        """Refuse both or neither source of data."""
        RagConfig.validate(self)
        require_one(self.data.dir, self.data.hub, "data.dir=FOLDER and data.hub=cais/mmlu")


@dataclass(kw_only=True, slots=True)
class GpqaDataConfig:
    """Where GPQA's questions are."""

    file: str | None = MISSING
    """A csv of GPQA's, such as gpqa_diamond.csv."""
    hub: str | None = MISSING
    """Hub data set and configuration, such as Idavidrein/gpqa:gpqa_diamond (its terms must be accepted there)."""


@dataclass(kw_only=True, slots=True)
class GpqaConfig(RagConfig):
    """Ask a reader GPQA's questions, closed book and with retrieved passages side by side."""

    data: GpqaDataConfig = MISSING
    option_seed: int = random_seed()
    """Of the order of the options, which is drawn question by question and recorded."""

    def validate(self) -> None:
        """Refuse both or neither source of data."""
        RagConfig.validate(self)
        require_one(self.data.file, self.data.hub, "data.file=FILE.csv and data.hub=Idavidrein/gpqa:gpqa_diamond")


@dataclass(kw_only=True, slots=True)
class ChoicesDataConfig:
    """Where the questions are."""

    file: str = MISSING
    """JSONL of question, options, answer, and where known id, category, group and gold."""


@dataclass(kw_only=True, slots=True)
class ChoicesConfig(RagConfig):
    """Ask a reader any multiple-choice questions, closed book and with retrieved passages side by side."""

    data: ChoicesDataConfig = MISSING
    gold_field: str = MISSING
    """Field with the ids of the passages that hold the answer, or of the sections SECTION that passages SECTION_1,
    SECTION_2 ... were cut from."""
    option_seed: int | None = random_seed()
    """Of the order of the options, as for gpqa; null keeps the file's."""


def name_of(config: RagConfig) -> str:
    """Return a short name for the questions."""
    if isinstance(config, MmluConfig):
        return f"mmlu-{config.split}"
    source = config.data.file or config.data.hub  # type: ignore[attr-defined]
    return PurePath(str(source).replace(":", "-")).name.split(".")[0]


def title_of(config: RagConfig) -> str:
    """Return what a table calls this run: the questions, the reader, and what it was given to read."""
    name, reader = name_of(config), PurePath(config.generator.model).name
    if config.datastore is None:
        return f"{name}: {reader}, closed book"
    dense = config.retriever in (Retriever.dense, Retriever.hybrid)
    retriever = PurePath(str(config.model.path)).name if dense else config.retriever.value
    return f"{name}: {reader}, top {config.top} of {retriever}"


def resolve(config: RagConfig) -> RagConfig:
    """Return the options with the default output folder filled in."""
    # A hub id and a folder both end in the model's name.
    name = f"{name_of(config)}-{PurePath(config.generator.model).name}"
    return replace(config, output_dir=config.output_dir or str(PurePath("outputs", "eval", name)))
