"""The options of training: names, types, units, ranges, and rules that relate them. `configs/` holds the values."""

import math
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib.util import find_spec
from typing import Any

from omegaconf import MISSING

from reasonir.core.errors import UserError, require
from reasonir.core.fields import Precision, TemplateChoice, at_least, positive, random_seed, within
from reasonir.core.processes import launched_for, rank, world_size

# Of a query and of a document, where neither the options nor the model say less.
PAPER_TOKENS = 2048


class EngineName(StrEnum):
    """What runs the ranks: one process, replicas, the ZeRO stages of DeepSpeed, torch's fully sharded data parallel."""

    single = "single"
    ddp = "ddp"
    zero1 = "zero1"
    zero2 = "zero2"
    zero3 = "zero3"
    fsdp2 = "fsdp2"


class AttentionChoice(StrEnum):
    """Which tokens of its text a token sees; auto is what the preset says."""

    auto = "auto"
    bidirectional = "bidirectional"
    causal = "causal"


class PoolingChoice(StrEnum):
    """Which states become the embedding; auto is what the preset says."""

    auto = "auto"
    mean = "mean"
    last = "last"
    cls = "cls"


class WeightFormat(StrEnum):
    """Number format in which weights that do not train are held."""

    fp32 = "fp32"
    bf16 = "bf16"
    nf4 = "nf4"


class PlannedGpu(StrEnum):
    """GPUs whose memory and speed a plan knows."""

    h100 = "h100"
    a100_80 = "a100_80"
    a100_40 = "a100_40"
    rtx4090 = "rtx4090"
    t4 = "t4"


class GatherPrecision(StrEnum):
    """Number format in which embeddings and their gradients travel between ranks."""

    fp32 = "fp32"
    bf16 = "bf16"


class DropBy(StrEnum):
    """How the limit of a negative's score is reckoned from the score of the query's positive."""

    share = "share"
    margin = "margin"


class ExportDtype(StrEnum):
    """Number format of the finished model's weights; auto is that of the checkpoint that training began from."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class ScheduleName(StrEnum):
    """What the learning rate does after the warm-up: nothing, fall all along, or fall at the end (wsd)."""

    constant = "constant"
    linear = "linear"
    cosine = "cosine"
    wsd = "wsd"


class OptimizerName(StrEnum):
    """How AdamW holds its two moments: float32, or 8 bits where that is safe."""

    adamw = "adamw"
    adamw_8bit = "adamw_8bit"


class DevKeep(StrEnum):
    """Which step's model is exported: the one that measured best, or the last one."""

    best = "best"
    last = "last"


class Tracking(StrEnum):
    """Where metrics go beside metrics.jsonl."""

    none = "none"
    wandb = "wandb"
    tensorboard = "tensorboard"


@dataclass(kw_only=True, slots=True)
class InitialModelConfig:
    """The encoder to start from."""

    path: str | None = MISSING
    """Hub id or folder of any family in docs/models.md. null builds a new Llama of the sizes below;
    its tokenizer is learned from the training files."""
    licence: str | None = MISSING
    """Licence of the trained model for its card, as the hub calls it (apache-2.0); null declares none."""
    template: TemplateChoice = MISSING
    """A preset of text form, attention and pooling. auto takes the preset of the folder or of a known hub id, else
    reasonir for decoders and plain for encoders."""
    attention: AttentionChoice = MISSING
    """Which tokens of its text a token sees: all, or no later one. auto is what the preset says."""
    pooling: PoolingChoice = MISSING
    """The state that becomes the embedding: the mean over the text, that of the last token (texts then end in the
    tokenizer's end token) or of the first. auto is what the preset says."""
    pool_instruction: bool | None = MISSING
    """Whether a mean includes the tokens before the text; null is what the preset says. GritLM and ReasonIR leave them
    out (arXiv 2402.09906)."""
    dtype: WeightFormat = MISSING
    """Format of the weights that do not train (lora). bf16 halves their memory and gives the same numbers as fp32 where
    the checkpoint is bfloat16; nf4 (four bits, bitsandbytes) gives others. QLoRA: arXiv 2305.14314."""
    dropout: float | None = within(0, 1, "[)")
    """Probability of every dropout in the model; null keeps the checkpoint's own."""
    vocabulary_size: int = at_least(260)
    """Entries of the new tokenizer (path=null only)."""
    hidden_size: int = positive()
    """Embedding dimension of the new model (path=null only)."""
    intermediate_size: int = positive()
    """Width of the new model's feed-forward layers (path=null only)."""
    layers: int = positive()
    """Transformer layers of the new model (path=null only)."""
    heads: int = positive()
    """Attention heads of the new model; must divide hidden_size (path=null only)."""
    key_value_heads: int = positive()
    """Key-value heads of the new model; must divide heads (path=null only)."""

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes of a new model, by option."""
        names = ("vocabulary_size", "hidden_size", "intermediate_size", "layers", "heads", "key_value_heads")
        return {name: getattr(self, name) for name in names}

    @property
    def embedding(self) -> dict[str, Any]:
        """How the model embeds: template, attention, pooling, pool_instruction."""
        chosen = {name: getattr(self, name).value for name in ("template", "attention", "pooling")}
        return {**chosen, "pool_instruction": self.pool_instruction}

    def validate(self) -> None:
        """Refuse sizes that do not fit together."""
        if self.path is None:
            even = self.hidden_size % (2 * self.heads) == 0
            require(even, "model.heads", self.heads, "must divide model.hidden_size into even parts")
            shared = self.heads % self.key_value_heads == 0
            require(shared, "model.key_value_heads", self.key_value_heads, "must divide model.heads")


@dataclass(kw_only=True, slots=True)
class SourceConfig:
    """One training data set. Its defaults are here, not in a YAML file: a source writes down only what it needs."""

    path: str = ""
    """File (.jsonl, .jsonl.gz, .parquet) or hub:owner/name:config:split; a downloaded hub folder is
    hub:FOLDER:config:split."""
    instruction: Any = ""
    """Instruction of queries that have none of their own; "" is none. Of a list each row takes one after the other, an
    epoch each, from a random one on."""
    documents: list[str] | None = None
    """Corpora in which this source's document ids are looked up; null is data.documents, [] takes its rows as texts."""
    rows: int | None = None
    """Published number of rows; a different count is reported."""
    min_positive_words: int = 0
    """Rows whose every positive has fewer words (separated by white space) are left out and counted; 0 keeps all."""
    weight: float | None = None
    """Share of the global batches, as in data.weights; every source has one, or none has."""
    licence: str | None = None
    """Licence of the data, for the model's card; null is not given."""
    global_batch_queries: int | None = None
    """Queries of this source's global batches; null is the run's."""
    negatives_per_query: int | None = None
    """Hard negatives drawn from each row of this source; null is the run's."""

    @property
    def instructions(self) -> list[str]:
        """The instructions that queries without one of their own take in turn."""
        return self.instruction if isinstance(self.instruction, list) else [self.instruction]

    def validate_as(self, name: str) -> None:
        """Refuse, under the source's name, a missing path and values outside their range."""
        field = f"data.sources.{name}"
        if not self.path.strip():
            raise UserError(f"{field}.path is missing: give {field}.path=FILE")
        require(self.rows is None or self.rows > 0, f"{field}.rows", self.rows, "must be positive, or null")
        words = self.min_positive_words
        require(words >= 0, f"{field}.min_positive_words", words, "must be 0 (keep all rows) or positive")
        texts = self.instructions and all(isinstance(text, str) for text in self.instructions)
        require(bool(texts), f"{field}.instruction", self.instruction, "must be a text or a list of texts")
        for name, least in (("global_batch_queries", 1), ("negatives_per_query", 0)):
            number = getattr(self, name)
            require(number is None or number >= least, f"{field}.{name}", number, f"must be {least} or more, or null")


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """Where training rows come from: plain files, named sources, or both (files first)."""

    files: list[str] = MISSING
    """Training files (.jsonl, .jsonl.gz, .parquet, hub:owner/name:config:split). Each is a source: a global batch
    holds rows of one source only."""
    sources: dict[str, SourceConfig] = MISSING
    """Named sources, each with its own instruction, documents and published size. A new one on the command line:
    '+data.sources={NAME: {path: FILE}}'; ~data.sources.NAME drops one."""
    published_rows: int | None = positive()
    """Published rows of all named sources together, if only their sum is known; a different sum is reported."""
    documents: list[str] | None = MISSING
    """Corpora in which document ids of the rows are looked up (BRIGHT or BEIR folders, JSONL of id and content,
    folders of .txt and .md files, hub:owner/name). An id with two texts is refused where a row uses it."""
    weights: list[float] | None = MISSING
    """Share of the global batches per source (files, then named sources), normalised; null is in proportion to rows."""
    cache_dir: str = MISSING
    """Folder of tokenised sources, named by content and settings. On a cluster: on storage that all nodes share."""
    processes: int | None = positive()
    """Processes that tokenise; changes no token. null: one in a run, one a core and at most 10 in `prepare`."""

    def validate(self) -> None:
        """Refuse an empty list of sources and weights that do not match it."""
        if not self.files and not self.sources:
            raise UserError("data.files is empty; name at least one training file: data.files=[rows.jsonl]")
        for name, source in self.sources.items():
            source.validate_as(name)
        self.validate_weights()

    def validate_weights(self) -> None:
        """Refuse weights that do not match the sources, or that stand in two places."""
        named = [name for name, source in self.sources.items() if source.weight is not None]
        if named and self.weights is not None:
            raise UserError(f"data.weights and data.sources.{named[0]}.weight exclude each other; give one of them")
        if named and (self.files or len(named) < len(self.sources)):
            raise UserError(f"data.sources.{named[0]}.weight: not all sources have one; use data.weights")
        weights = self.weights if not named else [source.weight or 0.0 for source in self.sources.values()]
        if weights is not None:
            if len(weights) != len(self.files) + len(self.sources):
                counts = f"{len(self.files)} data.files and {len(self.sources)} data.sources"
                raise UserError(f"data.weights has {len(weights)} entries for {counts}")
            if any(not 0 <= weight < float("inf") for weight in weights) or sum(weights) <= 0:
                field = "data.weights" if not named else "data.sources.*.weight"
                raise UserError(f"{field}={weights} must be finite, not negative, and not all zero")


@dataclass(kw_only=True, slots=True)
class ParallelConfig:
    """How ranks share the work; all engines compute the same gradient."""

    engine: EngineName = MISSING
    """single is one process. ddp, zero1, zero2, zero3, fsdp2 take any number, launched by torchrun or accelerate."""
    gather_precision: GatherPrecision = MISSING
    """Format of embeddings and their gradients between ranks; bf16 halves the bytes and rounds them."""
    collective_timeout_seconds: float = positive()
    """A rank that waits longer than this in one phase of a step ends the run, naming rank, step and phase."""
    deepspeed: dict[str, Any] = MISSING
    """DeepSpeed's own JSON (zero1, zero2, zero3): zero_optimization with offload and bucket sizes, bf16, ..."""


@dataclass(kw_only=True, slots=True)
class NegativesConfig:
    """Which documents of a global batch do not count as negatives of a query, beside its known answers."""

    drop_above: float | None = within(-2, 2)
    """A negative that scores above the query's positive times this share, or plus this margin, counts for nothing: it
    is probably an answer that nobody marked. Scores are cosines of the step itself. null drops none. Sources: 0.95 by
    share (NV-Retriever, arXiv 2407.15831), 0.1 by margin (Qwen3-Embedding, arXiv 2506.05176)."""
    drop_by: DropBy = MISSING
    """share multiplies the positive's score by `drop_above`, margin adds it."""

    def validate(self) -> None:
        """Refuse a share that turns the order of scores around."""
        limit = self.drop_above
        fits = limit is None or limit > 0 or self.drop_by is DropBy.margin
        require(fits, "negatives.drop_above", limit, "must be positive with negatives.drop_by=share")


@dataclass(kw_only=True, slots=True)
class LoraConfig:
    """Low-rank adapters through PEFT. arXiv 2106.09685; DoRA: arXiv 2402.09353."""

    rank: int = at_least(0)
    """Rank of the adapters; 0 trains all weights."""
    alpha: float = positive()
    """Adapters are scaled by alpha / rank."""
    dropout: float = within(0, 1, "[)")
    """Dropout before the adapters, 0 to 1."""
    targets: list[str] = MISSING
    """Names of the linear layers to adapt; [all-linear] takes every linear layer of the trunk."""
    dora: bool = MISSING
    """Learn the magnitude of each weight column beside its low-rank direction."""
    merge: bool = MISSING
    """Add the adapters into the weights of the exported model. The adapters alone are always written beside it."""

    def validate(self) -> None:
        """Refuse adapters of no layer."""
        if self.rank and not self.targets:
            raise UserError("lora.targets is empty; name layers, or take all: lora.targets=[all-linear]")


DEV_DATA = ("dir", "share", "split", "instruction", "max_queries", "max_documents")


@dataclass(kw_only=True, slots=True)
class DevConfig:
    """Measuring while it trains: loss and nDCG@10 on queries that are not trained on. Off without dir and share."""

    dir: str | None = MISSING
    """What is measured on: a BRIGHT or BEIR folder, hub:owner/name, or training rows (a file, or
    hub:owner/name:config:split). The mean over its tasks counts."""
    share: float = within(0, 1, "[)")
    """In place of dir: this share of the distinct training queries is held out, all their rows. Rows that share a
    positive with a held-out row leave training too. The documents are those of the whole source."""
    split: str | None = MISSING
    """Of a BEIR set's qrels; null is dev, validation or test, the first that the folder has."""
    instruction: str = MISSING
    """Before the queries of dir: auto (bright for BRIGHT's tasks, else the one instruction of all training queries),
    bright, none, or a text in which {task} stands for the task. Training rows have their own."""
    max_queries: int = positive()
    """Queries of all tasks together, at most; a larger set is sampled by seed."""
    max_documents: int = positive()
    """Documents of all tasks together, at most: all relevant ones of the queries, the rest sampled by seed. They take
    nearly all the time of a measurement."""
    every_steps: int = positive()
    """Steps between two measurements; the last step is always measured."""
    keep: DevKeep = MISSING
    """best keeps the checkpoint of the best nDCG@10 beside the newest ones and exports it; last exports the last
    step."""
    patience: int = at_least(0)
    """Measurements in a row without a better nDCG@10 after which the run ends, finished; 0 never ends it."""

    def validate(self) -> None:
        """Refuse two sets in place of one."""
        if self.dir is not None and self.share:
            raise UserError("dev.dir and dev.share exclude each other; give one of them")

    @property
    def data(self) -> dict[str, Any]:
        """What is measured on: fields of `train.dev.sets.DevData`."""
        return {name: getattr(self, name) for name in DEV_DATA}

    @property
    def plan(self) -> list[str]:
        """A line for `dry_run` that says what will be measured; nothing where nothing is."""
        place = self.dir or (f"{self.share:.1%} of the training queries" if self.share else None)
        most = f"at most {self.max_queries:,} queries and {self.max_documents:,} documents"
        return [f"dev: every {self.every_steps} steps on {place}, {most}"] if place else []

    @property
    def pace(self) -> dict[str, Any]:
        """When is measured, and what follows: arguments of `train.dev.measure.DevMeasurements`."""
        best = self.keep is DevKeep.best
        return {"every_steps": self.every_steps, "patience": self.patience, "keep_best": best}


@dataclass(kw_only=True, slots=True)
class TrainConfig:
    """Train a bi-encoder with the contrastive loss over global batches (GradCache, packed input).

    `reasonir-train prepare` with the same options fills the run's token cache beforehand, without a GPU.
    """

    output_dir: str = MISSING
    """Folder of the run: config.yaml, metrics.jsonl, checkpoints/, model/, manifest.json."""
    resume: bool = MISSING
    """Continue from the newest complete checkpoint of output_dir; without one, start afresh."""
    seed: int = random_seed()
    """Seed of a new model's weights, the data order and dropout."""
    debug: bool = MISSING
    """Show tracebacks for mistakes in options and input too."""
    dry_run: bool = MISSING
    """Print what the run would do (data, steps, memory, bytes between ranks) and stop before any weight is loaded."""
    planned_ranks: int | None = positive()
    """Ranks that dry_run plans for; null is the number launched."""
    planned_gpu: PlannedGpu | None = MISSING
    """Device that dry_run plans for; null is this machine's: a GPU, or the memory that its ranks share."""
    planned_memory_gib: float | None = positive()
    """Memory of a device that planned_gpu does not know, GiB; null is planned_gpu's."""
    planned_mfu: float = within(0, 1, "(]")
    """Share of the GPU's peak at which dry_run's hours are computed. An H100 gave 0.3 to 0.5 (docs/log.md)."""
    model: InitialModelConfig = MISSING
    lora: LoraConfig = MISSING
    data: DataConfig = MISSING
    parallel: ParallelConfig = MISSING
    dev: DevConfig = MISSING
    query_max_tokens: int | None = positive()
    """Tokens of a query's input, instruction and tags included; its end is cut. null: the paper's 2,048, or the model's
    learned positions where they are fewer (512 in BERT)."""
    document_max_tokens: int | None = positive()
    """Tokens of a document's input; null as above."""
    global_batch_queries: int = positive()
    """Queries of an optimizer step over all ranks; each is scored against the documents of all. Paper: 2,048."""
    negatives_per_query: int = at_least(0)
    """Hard negatives drawn from each row's list (fewer where the row has fewer). Paper: 1."""
    negatives: NegativesConfig = MISSING
    chunk_tokens: int = positive()
    """Tokens of one forward pass; bounds activation memory, changes no result."""
    graph_memory_gib: float | None = at_least(0)
    """Memory for kept graphs, GiB; a chunk whose graph is kept is not computed twice. null: 80 % (GPU) or half (CPU) of
    the memory that is free after a step on the largest texts. 0 keeps none; zero3 and fsdp2 never keep any."""
    gradient_checkpointing: bool = MISSING
    """Keep only the layers' inputs of a chunk and compute each layer again in the backward pass: less memory a token,
    one more forward pass. Useless as long as a chunk's activations fit."""
    compile: bool = MISSING
    """Compile the model's layers with torch.compile: the same numbers up to rounding, minutes at the start. Not with
    zero3 and fsdp2. On a CPU, in float32, a Llama gained a sixth and a BERT lost a tenth (docs/log.md)."""
    max_steps: int | None = positive()
    """Optimizer steps; null runs `epochs`. Paper: 1,000."""
    epochs: float = positive()
    """Passes over all rows when max_steps is null."""
    optimizer: OptimizerName = MISSING
    """adamw_8bit (bitsandbytes) holds the moments of matrices in 8 bits, 2 bytes a weight in place of 8: other numbers.
    Those of embeddings, norms and biases stay float32. Not with parallel=fsdp2. Source: arXiv 2110.02861."""
    learning_rate: float = positive()
    """Peak of AdamW's rate. Paper: 2e-5."""
    embedding_learning_rate: float | None = positive()
    """Peak rate of the token embeddings; null is learning_rate. A new model learns far faster with a higher one."""
    schedule: ScheduleName = MISSING
    """The rate after the warm-up. linear and cosine fall until the end, wsd stays and falls linearly at the end. Paper:
    constant."""
    warmup_steps: int = at_least(0)
    """Steps of linear warm-up. Paper: 60."""
    warmup_ratio: float | None = within(0, 1)
    """The warm-up as a share of the run's steps, rounded up, in place of warmup_steps; null is warmup_steps."""
    decay_ratio: float = within(0, 1, "(]")
    """Share of the run's steps, at its end, over which wsd falls. 0.1 to 0.2 is usual: arXiv 2405.18392."""
    final_rate_ratio: float = within(0, 1)
    """Share of the peak that linear, cosine and wsd fall towards; one step after the last would have it."""
    weight_decay: float = at_least(0)
    """AdamW's decoupled decay of matrices. Paper: 0."""
    adam_betas: list[float] = within(0, 1, "[)")
    """AdamW's decay of the averages of gradients and of their squares. torch's own: [0.9,0.999]."""
    adam_eps: float = positive()
    """Added to AdamW's denominator. torch's own: 1e-8."""
    max_gradient_norm: float = at_least(0)
    """Gradients of a larger global 2-norm are scaled down to it; 0 never clips."""
    skip_nonfinite_steps: int = at_least(0)
    """Batches of the run whose loss or gradient may come out infinite or NaN: they change no weight, are named and
    counted. One more stops the run, as the first does with 0."""
    temperature: float = positive()
    """Divides cosines before the softmax. Paper: 0.02."""
    precision: Precision = MISSING
    """auto: bf16 autocast on CUDA and on CPUs where a probe finds it fast, else fp32."""
    deterministic: bool = MISSING
    """Kernels that give the same bytes in every run. On CUDA they are slower than torch's others; on a CPU all do."""
    save_every_steps: int = at_least(0)
    """Steps between checkpoints; 0 leaves it to `save_every_minutes`."""
    save_every_minutes: float = at_least(0)
    """Minutes after a checkpoint at which the next one is due, whatever the steps; 0 never. A stop and the end of the
    run always save."""
    keep_checkpoints: int = positive()
    """Number of newest checkpoints to keep."""
    profile_steps: list[int] | None = MISSING
    """[a,b]: rank 0 writes a trace of steps a to b by torch's profiler, trace_A_B.json.gz in output_dir. null: none."""
    export_dtype: ExportDtype = MISSING
    """Format of the weights in `model/`. auto: the base model's own (bf16 for Llama 3.1, half the bytes of fp32; fp32
    for a new model). Checkpoints always hold fp32, so another format costs only a rerun with resume=true."""
    tracking: Tracking = MISSING
    """wandb gets metrics too (WANDB_MODE=offline needs no account); tensorboard writes output_dir/tensorboard."""
    tracking_group: str | None = MISSING
    """wandb's group of the run; null is the name of the folder that output_dir lies in."""
    push_to_hub: str | None = MISSING
    """owner/name: upload the finished model there, private where it is new; token from HF_TOKEN or `hf auth login`."""

    def validate(self) -> None:
        """Refuse a name that is none on the hub, packages that are missing, and a launch that cannot be split."""
        if self.push_to_hub is not None:
            # The hub's own rule: a name begins and ends with a letter or digit, and has no ".." or "--" inside.
            name = r"(?!.*(?:\.\.|--))[^\W_](?:[\w.-]{0,94}\w)?"
            named = re.fullmatch(f"{name}/{name}", self.push_to_hub, re.ASCII) is not None
            require(named, "push_to_hub", self.push_to_hub, "must be owner/name")
        steps = self.profile_steps
        ordered = steps is None or (len(steps) == 2 and 1 <= steps[0] <= steps[1])
        require(ordered, "profile_steps", steps, "must be two steps, the first and the last, counted from 1")
        require(len(self.adam_betas) == 2, "adam_betas", self.adam_betas, "must be two numbers")
        if self.planned_gpu is not None and self.planned_memory_gib is not None:
            raise UserError("planned_memory_gib and planned_gpu exclude each other; give one of them")
        eight_bit, engine = self.optimizer is OptimizerName.adamw_8bit, self.parallel.engine
        lockstep = engine in (EngineName.zero3, EngineName.fsdp2)
        require(not (self.compile and lockstep), "parallel", engine, "cannot run compiled; give compile=false")
        sharded = eight_bit and engine is EngineName.fsdp2
        require(not sharded, "parallel", engine, "cannot shard optimizer=adamw_8bit; choose single, ddp, zero1, 2 or 3")
        self.validate_frozen_weights()
        self.validate_packages()
        self.validate_ranks()

    @property
    def adapters(self) -> dict[str, Any] | None:
        """Arguments of `model.adapters.add_adapters`; None where all weights train."""
        lora = self.lora
        names = ("rank", "alpha", "dropout", "targets", "dora")
        return {name: getattr(lora, name) for name in names} | {"seed": self.seed} if lora.rank else None

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens of a query's and of a document's input."""
        return self.query_max_tokens or PAPER_TOKENS, self.document_max_tokens or PAPER_TOKENS

    @property
    def limits(self) -> dict[str, Any]:
        """The two lengths by their options' names."""
        return dict(zip(("query_max_tokens", "document_max_tokens"), self.lengths, strict=True))

    def with_lengths(self, positions: int | None) -> "TrainConfig":
        """Return a copy in which no length is null. Rank 0 says in a line if the model's learned positions lower one.

        Raises:
            UserError: A length that was given is beyond the positions.
        """
        given = {"query_max_tokens": self.query_max_tokens, "document_max_tokens": self.document_max_tokens}
        most = min(positions or PAPER_TOKENS, PAPER_TOKENS)
        long = {name: length for name, length in given.items() if positions and (length or 0) > positions}
        if long:
            asked = " and ".join(f"{name}={length}" for name, length in long.items())
            remedy = " ".join(f"{name}={positions}" for name in long)
            raise UserError(f"{asked}: the model has only {positions} positions; give {remedy}")
        lowered = [f"{name}={most}" for name, length in given.items() if length is None and most < PAPER_TOKENS]
        if lowered and rank() == 0:
            print(*lowered, f"(the model has {most} positions)")
        query, document = (most if length is None else length for length in given.values())
        return replace(self, query_max_tokens=query, document_max_tokens=document)

    @property
    def batch_sizes(self) -> list[tuple[int, int]]:
        """Queries and negatives per query of each source's batches: files, then named sources."""
        usual = self.global_batch_queries, self.negatives_per_query
        sizes = [usual] * len(self.data.files)
        for source in self.data.sources.values():
            negatives = source.negatives_per_query
            sizes.append((source.global_batch_queries or usual[0], usual[1] if negatives is None else negatives))
        return sizes

    @property
    def asked_precision(self) -> str:
        """What `precision` asks for; weights that are not kept in float32 compute in bfloat16."""
        return self.precision.value if self.model.dtype is WeightFormat.fp32 else "bf16"

    @property
    def rates_depend_on_length(self) -> bool:
        """Whether the rate of a step depends on how many there are in all."""
        return self.schedule is not ScheduleName.constant or self.warmup_ratio is not None

    def total_steps(self, steps_per_epoch: float) -> int:
        """Steps of the run."""
        return self.max_steps or max(1, math.ceil(self.epochs * steps_per_epoch))

    def rates(self, total_steps: int) -> dict[str, Any]:
        """Arguments of `train.optim.Schedule` for a run of so many steps."""
        return {
            "name": self.schedule, "warmup_steps": self.warmup_over(total_steps), "total_steps": total_steps,
            "decay_ratio": self.decay_ratio, "final_ratio": self.final_rate_ratio,
        }  # fmt: skip

    def warmup_over(self, total_steps: int) -> int:
        """Return the steps of the warm-up of a run of so many steps."""
        # Rounded first: 0.07 x 100 is a little more than 7 in floating point.
        share = self.warmup_ratio
        return self.warmup_steps if share is None else math.ceil(round(share * total_steps, 6))

    def describe_schedule(self, total_steps: int | None) -> list[str]:
        """Say in a line what the learning rate does, and in a second one if the run ends within the warm-up."""
        fall = f"to {self.final_rate_ratio:.0%} of the peak"
        after = {
            ScheduleName.constant: "constant",
            ScheduleName.wsd: f"constant, over the last {self.decay_ratio:.0%} of the steps linear {fall}",
        }.get(self.schedule, f"{self.schedule} {fall}")
        if total_steps is None:
            share = "" if self.warmup_ratio is None else f"{self.warmup_ratio:.0%} of the"
            return [f"warm-up {share or self.warmup_steps} steps, then {after}"]
        warmup = self.warmup_over(total_steps)
        lines = [f"warm-up {warmup:,} steps, then {after}"]
        if warmup > total_steps:
            lines.append(
                f"WARNING: warmup_steps={warmup} is longer than the run of {total_steps} steps, whose rate ends at "
                f"{total_steps / warmup:.0%} of its peak; warmup_ratio=0.1 is a tenth of any run"
            )
        return lines

    def validate_frozen_weights(self) -> None:
        """Refuse a format of frozen weights where nothing is frozen, or where nothing can multiply it."""
        dtype, engine = self.model.dtype, self.parallel.engine
        if dtype is WeightFormat.fp32:
            return
        require(self.lora.rank > 0, "model.dtype", dtype, "is for weights that do not train; add lora=lora")
        require(self.precision is not Precision.fp32, "precision", self.precision,
                f"must be bf16 or auto with model.dtype={dtype}")  # fmt: skip
        sharded = dtype is WeightFormat.nf4 and engine in (EngineName.zero3, EngineName.fsdp2)
        require(not sharded, "parallel", engine, "cannot shard model.dtype=nf4; choose single, ddp, zero1 or zero2")

    def validate_packages(self) -> None:
        """Refuse a choice whose package is not installed."""
        needed = [
            ("tracking=wandb", self.tracking is Tracking.wandb, "wandb", "tracking"),
            ("tracking=tensorboard", self.tracking is Tracking.tensorboard, "tensorboard", "tensorboard"),
            (f"parallel={self.parallel.engine}", self.parallel.engine.startswith("zero"), "deepspeed", "deepspeed"),
            ("lora", self.lora.rank > 0, "peft", "lora"),
            ("model.dtype=nf4", self.model.dtype is WeightFormat.nf4, "bitsandbytes", "qlora"),
            ("optimizer=adamw_8bit", self.optimizer is OptimizerName.adamw_8bit, "bitsandbytes", "adamw-8bit"),
        ]
        for option, chosen, package, extra in needed:
            # A plan may be made on another machine than the one that trains.
            if chosen and not self.dry_run and find_spec(package) is None:
                raise UserError(f"{option} needs the {package} package: pip install 'reasonir[{extra}]'")

    def validate_ranks(self) -> None:
        """Refuse a launch that this engine, or this batch, cannot be split over."""
        ranks = (self.planned_ranks or world_size()) if self.dry_run else world_size()
        batches = {f"data.sources.{name}.": source for name, source in self.data.sources.items()} | {"": self}
        for prefix, holder in batches.items():
            if (holder.global_batch_queries or 0) % ranks:
                size = f"{prefix}global_batch_queries={holder.global_batch_queries}"
                raise UserError(f"{size} does not divide by {ranks} ranks")
        if ranks > 1 and self.parallel.engine is EngineName.single:
            raise UserError(f"parallel=single cannot use {ranks} ranks; launch one process, or choose parallel=ddp")
        launched = launched_for()
        if launched not in (None, self.parallel.engine.value):
            raise UserError(
                f"parallel={self.parallel.engine} contradicts accelerate's configuration, which is for {launched}; "
                f"give parallel={launched}, or --config_file configs/accelerate/{self.parallel.engine}.yaml"
            )
