"""The options of `rewrite` and `scaling`: names, types, units. Values stand in `configs/eval/`. Imports no torch."""

from dataclasses import dataclass, fields
from pathlib import PurePath

from omegaconf import MISSING

from reasonir.core.errors import UserError
from reasonir.core.fields import Precision, TemplateChoice, positive, random_seed
from reasonir.data.rewritings import ORIGINAL
from reasonir.eval.benchmarks.config import BrightConfig, BrightDataConfig
from reasonir.llm import config as generator_config
from reasonir.llm.config import GeneratorConfig
from reasonir.retrieval.config import ModelConfig, Retriever

BM25 = ("bm25", "bm25_query_weighted")
# More tasks, lengths and samples come beside those that a folder holds; what was paid for serves again.
REWRITE_MAY_DIFFER = ("output_dir", "debug", "tasks", "length_tokens", "samples", "tokenizer",
                      *generator_config.MAY_DIFFER)  # fmt: skip
SCALING_MAY_DIFFER = ("output_dir", "debug", "cache_dir", "chunk_tokens", "retrievers", "length_tokens", "tokenizer")


@dataclass(kw_only=True, slots=True)
class RewritingConfig:
    """Rewrite queries with reasoning by any language model, at one or several lengths, for `queries=DIR/NAME`."""

    data: BrightDataConfig = MISSING
    tasks: list[str] | None = MISSING
    """Tasks to rewrite; null is all that the folder or the hub's data set holds."""
    name: str = MISSING
    """Of the rewriting: its files are <task>/<name>.jsonl, <name>_<length>.jsonl, <name>_<length>_s<sample>.jsonl."""
    length_tokens: list[int] | None = positive()
    """Lengths to ask for, each also the limit of its requests (thoughts included, unless generator.thinking_tokens
    gives them tokens of their own); null sets none but generator.max_new_tokens. The paper's curve:
    [64,128,256,512,1024,2048]."""
    samples: int = positive()
    """Rewritings of each query and length, drawn independently."""
    append: bool = MISSING
    """Put the rewriting after the query instead of in its place."""
    prompts: str | None = MISSING
    """Folder with an edited rewrite.yaml; null takes the package's own."""
    generator: GeneratorConfig = MISSING
    seed: int = random_seed()
    """Of the sampling (where the server takes seeds)."""
    tokenizer: str | None = MISSING
    """Folder, tokenizer.json or hub id of the tokenizer that measures lengths; null estimates GPT-2's tokens."""
    output_dir: str | None = MISSING
    """Folder of the rewritten queries and of all paid answers; null names one under outputs/ by data and name."""
    debug: bool = MISSING
    """Show tracebacks for mistakes in options and input too."""

    def validate(self) -> None:
        """Refuse values outside their range, by name."""
        _check_source(self.data)
        _check_name(self.name)
        _check_lengths(self.length_tokens)
        if self.tasks == []:
            raise UserError("tasks=[] names none; null is all of them")


@dataclass(kw_only=True, slots=True)
class ScalingConfig:
    """Measure retrievers on rewritten queries of several lengths, and draw the curve."""

    data: BrightDataConfig = MISSING
    tasks: list[str] | None = MISSING
    """Tasks to measure; null is all that the folder or the hub's data set holds, as for `bright`."""
    rewrites: str = MISSING
    """Folder that `reasonir-eval rewrite` wrote: <task>/<name>_<length>.jsonl."""
    name: str = MISSING
    """Name that the rewritings were given."""
    length_tokens: list[int] | None = positive()
    """Lengths to measure; null is all that the folder holds, with the one without a length."""
    retrievers: list[str] = MISSING
    """bm25, bm25_query_weighted, and folders or hub ids of encoders."""
    long: bool = MISSING
    """Rank whole pages (long_documents, gold_ids_long) instead of passages."""
    instruction: str = MISSING
    """bright, none, or a text in which {task} stands for the task's name; as for `bright`."""
    template: TemplateChoice = MISSING
    """A preset of the encoders: text form, attention and pooling; auto takes what a folder says."""
    query_max_tokens: int | None = positive()
    """Tokens of a query's input; null is what a model declares."""
    document_max_tokens: int | None = positive()
    """Tokens of a document's input; null is what a model declares."""
    top: int = positive()
    """Documents kept a query, after its exclusions."""
    tokenizer: str | None = MISSING
    """Folder, tokenizer.json or hub id of the tokenizer that measures lengths; null estimates GPT-2's tokens."""
    output_dir: str | None = MISSING
    """Folder of the curve and of every point's results; null names one under outputs/ by data and name."""
    debug: bool = MISSING
    """Show tracebacks for mistakes in options and input too."""
    chunk_tokens: int | None = positive()
    """Tokens of one forward pass; null is 4,096 on a CPU, 65,536 on a GPU. Changes no result."""
    precision: Precision = MISSING
    """auto: bf16 on CUDA, and on a CPU that multiplies bf16 at least 3 times as fast as fp32 (measured once for a
    cache_dir); else fp32."""
    cache_dir: str = MISSING
    """Folder of cached embeddings, named by content, model and settings."""

    def validate(self) -> None:
        """Refuse values outside their range, by name."""
        _check_source(self.data)
        _check_name(self.name)
        _check_lengths(self.length_tokens)
        if not self.retrievers:
            raise UserError("retrievers=[] names none; give retrievers=[bm25,MODEL_FOLDER]")
        _refuse_twice("retrievers", self.retrievers)
        if self.tasks == []:
            raise UserError("tasks=[] names none; null is all of them")

    def point_options(self, retriever: str, queries: str, output_dir: str) -> BrightConfig:
        """Return the options of `reasonir-eval bright` for one point of the curve.

        Args:
            retriever: One of `retrievers`.
            queries: original, or the path DIR/NAME of a rewriting.
            output_dir: Folder of the point's results.
        """
        dense = retriever not in BM25
        # Options of one name mean the same in both tasks, so that a new one needs no line here.
        shared = {option.name for option in fields(self)} & {option.name for option in fields(BrightConfig)}
        own = {name: getattr(self, name) for name in shared}
        own |= {"queries": queries, "output_dir": output_dir}
        model = ModelConfig(path=retriever if dense else None, template=self.template)
        return BrightConfig(**own, model=model, retriever=Retriever.dense if dense else Retriever(retriever))


def retriever_labels(retrievers: list[str]) -> dict[str, str]:
    """Return a short name for each retriever, fit for a folder: the last part of its path, more of it where needed.

    Raises:
        UserError: two paths of one folder.
    """
    labels: dict[str, str] = {}
    for retriever in retrievers:
        # The label names a folder, which these parts cannot.
        parts = [part for part in PurePath(retriever).parts if part not in ("/", ".", "..")] or [retriever]
        others = [PurePath(other).parts for other in retrievers if other != retriever]
        taken = next((n for n in range(1, len(parts) + 1) if all(o[-n:] != tuple(parts[-n:]) for o in others)), 0)
        # `taken` is 0 where no ending of the path is its own: all parts are then taken.
        labels[retriever] = "-".join(parts[-taken:])
    if len(set(labels.values())) < len(labels):
        raise UserError(f"retrievers={retrievers}: two of them go by one name; give other paths")
    return labels


def short_source(data: BrightDataConfig) -> str:
    """Return the last part of the data's path, for the name of a folder."""
    return PurePath(data.dir or data.hub or "").name


def _check_source(data: BrightDataConfig) -> None:
    if (data.dir is None) == (data.hub is None):
        raise UserError("give one of data.dir=FOLDER and data.hub=xlangai/BRIGHT")


def _check_name(name: str) -> None:
    # A rewriting of such a name would stand for the task's own file.
    reserved = (ORIGINAL, "examples", "documents", "long_documents")
    if not name.strip() or "/" in name or name.startswith(".") or name in reserved:
        raise UserError(f"name={name} must be a plain name, without a slash, and none of {', '.join(reserved)}")


def _check_lengths(lengths: list[int] | None) -> None:
    if lengths is None:
        return
    if not lengths:
        raise UserError("length_tokens=[] names none; null sets no length")
    _refuse_twice("length_tokens", lengths)


def _refuse_twice(field: str, values: list[int] | list[str]) -> None:
    twice = next((value for value in values if values.count(value) > 1), None)  # type: ignore[arg-type]
    if twice is not None:
        raise UserError(f"{field}={values} names {twice} twice; name each once")
