"""The options of `reasonir-synth`'s recipes: names, types, units, ranges. `configs/synth/` has the values.

Each recipe has a dataclass of its own: its --help shows the options that the recipe reads, and others are refused.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from omegaconf import MISSING

from reasonir.core.errors import UserError, require
from reasonir.core.fields import at_least, positive, random_seed, within
from reasonir.llm import config as generator_config
from reasonir.llm.config import GeneratorConfig
from reasonir.retrieval.config import ModelConfig

# Options that do not change the rows: a run may be continued with other values.
MAY_DIFFER = (
    "output_dir", "debug", "report", "report_model", "window", "give_up_after", *generator_config.MAY_DIFFER,
)  # fmt: skip
# What all recipes call their rows and what they refused; later commands read both.
DATA_FILE, REJECTIONS_FILE = "data.jsonl", "rejections.jsonl"


@dataclass(kw_only=True, slots=True)
class SynthConfig:
    """Options of all recipes."""

    recipe: str = MISSING
    """Name of the recipe; chosen by recipe=NAME."""
    output_dir: str = MISSING
    """Folder of data.jsonl, rejections.jsonl, report.md and manifest.json."""
    seed: int = random_seed()
    """Seed of lengths, tasks and the generator's sampling. Each draw depends on it and on the item's id alone."""
    debug: bool = MISSING
    """Show tracebacks for mistakes in options and input too."""


class PositiveForm(StrEnum):
    """How a row gives a document: by its text, or by its id, which training looks up in data.documents."""

    text = "text"
    id = "id"


@dataclass(kw_only=True, slots=True)
class FilterConfig(SynthConfig):
    """Keep the documents worth writing queries for: no duplicates, a fair length, a good quality score."""

    corpus: str = MISSING
    """BRIGHT or BEIR folder, JSONL with id and content, or a folder of .txt and .md files."""
    min_words: int = at_least(0)
    """Least words of a document."""
    max_words: int | None = MISSING
    """Most words of a document; null is no bound."""
    english: bool = MISSING
    """Drop documents that do not look English."""
    near_duplicate: float = within(0, 1)
    """Share of common word triples (Jaccard) from which a document repeats an earlier one; 0 drops equal ones only."""
    classifier: str | None = MISSING
    """Sequence classifier (folder or hub id) that scores quality: HuggingFaceFW/fineweb-edu-classifier in the paper,
    0 to 5. null keeps documents without a score."""
    label: str | None = MISSING
    """Score by this label's probability; null takes a single output as it is, several as the expected label number."""
    min_score: float | None = MISSING
    """Least score of a document; null is no bound. The paper drops below 2, its code by default below 1."""
    top: int | None = positive()
    """Best documents kept, by score, then id; null keeps all."""
    max_tokens: int = positive()
    """Tokens of a document that the classifier reads."""
    chunk_tokens: int = positive()
    """Tokens of one forward pass."""

    def validate(self) -> None:
        """Refuse bounds that contradict each other, and thresholds on scores that nothing gives."""
        most = self.max_words
        require(most is None or most >= max(self.min_words, 1), "max_words", most, "must be null or >= min_words")
        # Not min_score: its default of 2 stands here where no classifier is named too.
        if self.classifier is None and (self.top is not None or self.label is not None):
            raise UserError("top and label need scores: give classifier=HuggingFaceFW/fineweb-edu-classifier or such")


class Miner(StrEnum):
    """What ranks the documents of which negatives are taken."""

    bm25 = "bm25"
    dense = "dense"


@dataclass(kw_only=True, slots=True)
class MineConfig(SynthConfig):
    """Add mined negatives to rows: documents that BM25 or an encoder ranks high and that are no positive."""

    rows: str | None = MISSING
    """Training rows (.jsonl, .jsonl.gz, .parquet); their positives are texts, or all are ids of corpus."""
    corpus: str | None = MISSING
    """Documents to mine from, with rows: BRIGHT or BEIR folder, JSONL with id and content, or a folder of .txt and .md
    files."""
    queries: str | None = MISSING
    """In place of rows and corpus: a BEIR folder, a BRIGHT task or root, or hub:xlangai/BRIGHT."""
    split: str = MISSING
    """Name of the qrels file (BEIR)."""
    tasks: list[str] | None = MISSING
    """Tasks of a BRIGHT root; null is all."""
    retriever: Miner = MISSING
    """bm25 (Lucene's, k1 0.9, b 0.4) or dense (model.path)."""
    model: ModelConfig = MISSING
    instruction: str = MISSING
    """Put before queries that bring none (dense); none is none."""
    query_max_tokens: int | None = positive()
    """Tokens of a query's input; null is what the model declares."""
    document_max_tokens: int | None = positive()
    """Tokens of a document's input; null is what the model declares."""
    chunk_tokens: int | None = positive()
    """Tokens of one forward pass; null is 4,096 on a CPU, 65,536 on a GPU."""
    first_rank: int = positive()
    """Best rank of a negative, from 1, excluded documents taken out, positives counted. The release: 20."""
    last_rank: int = MISSING
    """Worst rank of a negative."""
    negatives_per_row: int = positive()
    """Negatives to add to a row; rows with fewer are counted."""
    replace_negatives: bool = MISSING
    """The mined negatives take the place of the row's own; a row for which none is found keeps its own."""
    draw: bool = MISSING
    """Draw from the window by the seed; false takes the best ranks."""
    margin: float | None = at_least(0)
    """A negative must score less than the row's lowest positive by this much; null is no rule."""
    relative_margin: bool = MISSING
    """The margin is a share of the positive's score (0.05: below 95 % of it)."""
    near_duplicate: float = within(0, 1)
    """A document this similar to a positive is no negative (common word triples, or how far one lies within the
    other), 0 to 1; 0 is off. Equal texts never are."""
    form: PositiveForm = MISSING
    """How negatives are written (and positives, with queries=): text, or id for rows whose positives are ids."""

    def validate(self) -> None:
        """Refuse both or neither source of queries, dense without a model."""
        if (self.rows is None) == (self.queries is None):
            raise UserError("give one of rows=FILE (with corpus=) and queries=FOLDER")
        if (self.corpus is None) == (self.queries is None):
            raise UserError("corpus: rows need one to mine from; queries=FOLDER brings its own")
        if self.retriever is Miner.dense and self.model.path is None:
            raise UserError("model.path is missing: name the encoder, or retriever=bm25")
        require(self.last_rank >= self.first_rank, "last_rank", self.last_rank, "must not be below first_rank")
        # A share of 1 or more would admit scores of 0 and below only.
        most = 1 if self.relative_margin else float("inf")
        require((self.margin or 0) < most, "margin", self.margin, "must lie below 1 where it is relative")


class RelevantNegative(StrEnum):
    """What happens to a negative that the judge finds relevant."""

    drop = "drop"
    relabel = "relabel"


@dataclass(kw_only=True, slots=True)
class GatesConfig:
    """Checks of written texts. Each can be switched off; rejections are counted under its name."""

    language: bool = MISSING
    """Texts must look English."""
    refusals: bool = MISSING
    """No refusals, no talk about being a language model."""
    self_contained: bool = MISSING
    """A query must not refer to 'the document', 'the passage' and the like."""
    no_content: bool = MISSING
    """A query must name a subject ('What is the main idea?' names none)."""
    headings: bool = MISSING
    """A query must not be a heading, a title or a phrase without a verb."""
    questions: bool = MISSING
    """A query must ask for something, and must not answer itself (hq, eq)."""
    names_idea: bool = MISSING
    """A query must not name the idea that its author gave with it (hq)."""
    task_talk: bool = MISSING
    """Queries, positives and negatives must not speak of their task ('the searcher', 'a decoy document')."""
    task_lines: bool = MISSING
    """Brainstormed tasks (vl) must be whole sentences, without numbers in front."""
    echo_words: int = at_least(0)
    """A text that shares this many consecutive words with its prompt's own words is rejected, and so is a placeholder
    ('the problem'); words of the document or query do not count; 0 is off."""
    mixed_scripts: bool = MISSING
    """No word in two alphabets, and none in an alphabet that the document or query does not have."""
    max_gibberish: float = within(0, 1)
    """Largest share of words that cannot be English by their letters; 1 is off."""
    duplicates: bool = MISSING
    """A query equal to an earlier accepted one is rejected; letter case, punctuation and spacing are ignored."""
    copied_words: int = at_least(0)
    """A query that shares this many consecutive words with its document is rejected; 0 is off."""
    near_duplicate: float = within(0, 1)
    """Two texts of a row (negative and positive; query and positive) with this share of common word triples are
    rejected; 0 is off."""
    min_words: int = at_least(1)
    """Fewest words of a written text: the query (hq, eq), the negative (negatives), the rewrite (rewrite)."""
    max_words: int | None = MISSING
    """Most words of a written text; null is no limit."""
    max_repetition: float = within(0, 1)
    """Largest share of a text that repeats itself (loops of words or characters); 1 is off."""
    boilerplate: bool = MISSING
    """No unfilled placeholders, no talk around the text such as 'Sure, here is'."""
    length_ratio: float = within(0, 1)
    """Fewest words of query and positive, as a share of the drawn length (vl, which draws lengths); 0 is off."""

    def validate(self) -> None:
        """Refuse limits in the wrong order."""
        most = self.max_words
        require(most is None or most >= self.min_words, "gates.max_words", most, "must be null or >= gates.min_words")


@dataclass(kw_only=True, slots=True)
class WritingConfig(SynthConfig):
    """Options of the recipes that ask a language model."""

    generator: GeneratorConfig = MISSING
    gates: GatesConfig = MISSING
    prompts: str | None = MISSING
    """Folder of edited prompt files (<name>.yaml); a file that it lacks is taken from the package."""
    worked_example: bool = MISSING
    """Show the model one answered item of another subject before the question (prompts that have one). Without it
    a model of 135 million parameters talks about the task (docs/log/synthesis.md)."""
    window: int | None = positive()
    """Most items that are begun and not yet written, which bounds the memory; null is 32 per
    generator.max_concurrency."""
    shard: str = MISSING
    """i/n: this run takes the items whose id's hash is i modulo n, i from 0. recipe=merge joins the shards."""
    limit: int | None = positive()
    """Number of items to take, from the input's beginning; null is all."""
    give_up_after: int | None = positive()
    """The run stops where so many first items are all rejected for one reason; null never does."""
    report: bool = MISSING
    """Write report.md and its plots at the end."""
    report_model: str | None = MISSING
    """Small encoder (folder or hub id) that the report searches with: hard queries are found by it and not by BM25,
    worthless ones by neither. null leaves BM25 alone."""

    def validate(self) -> None:
        """Refuse a shard that is not i/n, and an encoder that the report would miss in the end."""
        parse_shard(self.shard)
        check_report_model(self.report_model)


@dataclass(kw_only=True, slots=True)
class JudgeConfig:
    """A second reading: the same generator scores how well a document serves a query, 0 to 5."""

    enabled: bool = MISSING
    """Score every accepted row; judge=true is short for it."""
    positive_min: int = within(0, 5)
    """A row whose positive scores less is rejected."""
    negative_max: int = within(0, 5)
    """A negative that scores more counts as relevant."""
    relevant_negative: RelevantNegative = MISSING
    """drop such a negative, or relabel it as a further positive."""


@dataclass(kw_only=True, slots=True)
class QueryConfig(WritingConfig):
    """Write one query per document: hq (reasoning-intensive) or eq (easy), by the prompt."""

    corpus: str = MISSING
    """BRIGHT or BEIR folder, JSONL with id and content (the documents.jsonl of recipe=filter is one), or a folder of
    .txt and .md files, each a document named by its path within it."""
    positive: PositiveForm = MISSING
    """text: rows contain the document; id: its id, to be resolved with data.documents=[CORPUS]."""
    document_max_words: int | None = at_least(1)  # `positive` is a field here
    """Words of a document that the prompt shows, to fit the generator's context; cut documents are counted."""
    judge: JudgeConfig = MISSING


@dataclass(kw_only=True, slots=True)
class VariedLengthConfig(WritingConfig):
    """Varied-length rows: brainstorm tasks, then a long query and its positive at drawn lengths for each."""

    corpus: str | None = MISSING
    """Documents that give the brainstorming its subjects; null leaves the subjects to the prompt's fields."""
    tasks: str | None = MISSING
    """tasks.jsonl of an earlier run; null brainstorms. Needed for more than one shard."""
    brainstorm_calls: int = positive()
    """Requests for tasks, about 20 tasks each (tasks=null)."""
    tasks_per_call: int = positive()
    """Tasks that one request asks for."""
    pairs: int = at_least(0)
    """Rows to write; 0 stops after the tasks."""
    query_words: list[int] = positive()
    """Smallest and largest length of a query, in words; the length is drawn between them."""
    positive_words: list[int] = positive()
    """Smallest and largest length of a positive, in words; the length is drawn between them."""
    judge: JudgeConfig = MISSING

    def validate(self) -> None:
        """Refuse bounds in the wrong order, and shards that would each brainstorm their own tasks."""
        # Not super(): a dataclass with slots is a new class, which super() without arguments does not know.
        WritingConfig.validate(self)
        for name in ("query_words", "positive_words"):
            bounds = getattr(self, name)
            ordered = len(bounds) == 2 and bounds[0] <= bounds[1]
            require(ordered, name, bounds, "must be two numbers of words, the smaller first")
        if self.tasks is None and self.shard != "0/1":
            raise UserError(
                "shard: every shard would brainstorm for itself; make the tasks once (pairs=0), then give "
                "tasks=DIR/tasks.jsonl to each shard"
            )


@dataclass(kw_only=True, slots=True)
class NegativesConfig(WritingConfig):
    """Add hard negatives to rows, each written in a turn of its own that sees query and positive."""

    rows: str = MISSING
    """Training rows (.jsonl, .jsonl.gz, .parquet), such as the data.jsonl of hq, eq or vl."""
    corpus: str | None = MISSING
    """Corpus in which document ids of the rows are looked up; null takes positives as texts."""
    negatives_per_row: int = positive()
    """Negatives to write for a row; a row is rejected if none is accepted."""
    document_max_words: int | None = positive()
    """Words of a query and of a positive that the prompt shows; cut texts are counted."""
    judge: JudgeConfig = MISSING


@dataclass(kw_only=True, slots=True)
class RewriteConfig(WritingConfig):
    """Rewrite the queries of rows with reasoning, for longer and richer queries."""

    rows: str = MISSING
    """Training rows, or JSONL of id and query."""
    append: bool = MISSING
    """Write the rewrite after the query; false writes it in the query's place."""
    length_tokens: int | None = positive()
    """Tokens to ask for and to stop at; null leaves the length to the generator."""


@dataclass(kw_only=True, slots=True)
class MergeConfig(SynthConfig):
    """Join the folders of all shards into one, in the order of the input, as one run would have written it."""

    inputs: list[str] = MISSING
    """Folders of finished shards, all n of them."""
    report: bool = MISSING
    """Write report.md and its plots at the end."""
    report_model: str | None = MISSING
    """Small encoder (folder or hub id) that the report searches with: hard queries are found by it and not by BM25,
    worthless ones by neither. null leaves BM25 alone."""

    def validate(self) -> None:
        """Refuse an encoder that the report would miss."""
        check_report_model(self.report_model)


@dataclass(kw_only=True, slots=True)
class SplitConfig(SynthConfig):
    """Hold documents out with their rows: train.jsonl to train on, heldout/ to evaluate on (reasonir-eval bright)."""

    rows: str = MISSING
    """Training rows (.jsonl, .jsonl.gz, .parquet); their positives are texts, or all are ids of corpus."""
    corpus: str = MISSING
    """What held-out queries are searched in: the corpus that the rows were made from."""
    test_share: float = within(0, 1, "()")
    """Share of the corpus' documents, at least one, whose rows are held out. Which, follows from texts and seed."""


def check_report_model(model: str | None) -> None:
    """Refuse a path without a folder; another name may be one of the hub, which is asked in the end only."""
    if model is not None and model.startswith((".", "/", "~")) and not Path(model).expanduser().is_dir():
        raise UserError(f"report_model={model}: no such folder; give the folder or hub id of an encoder, or null")


def parse_shard(text: str) -> tuple[int, int]:
    """Return (i, n) of a shard written i/n.

    Raises:
        UserError: Another form, or i outside 0 .. n - 1.
    """
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and int(first) < int(second)):
        raise UserError(f"shard={text} must be i/n with i from 0 to n - 1, such as 0/4")
    return int(first), int(second)
