"""The data sets of a run: what they are called, where they lie, what they should hold, how they are opened.

Invariants: a corpus is read once, however many sources look their ids up in it. Rows that are left out, and counts
that differ from what was published, are reported.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

from reasonir.core.errors import UserError
from reasonir.core.progress import Progress
from reasonir.data.collections import merge_lookups, read_lookup
from reasonir.data.rows import Lookup
from reasonir.data.training_rows import InstructedText, read_training_examples
from reasonir.model.templates import Template
from reasonir.train.config import DataConfig
from reasonir.train.data.batches import average_queries, batch_shares
from reasonir.train.data.token_store import TokenStore, open_token_store

# Texts by document id, for each combination of corpora; None under (), for rows that hold texts.
Documents = dict[tuple[str, ...], Lookup | None]


@dataclass(frozen=True, slots=True)
class Source:
    """A training data set; a global batch holds rows of one source.

    name: its key in data.sources, or the path of a plain file. documents: corpora in which its ids are looked up, ()
    for none. published_rows: None if nothing was published. weight: its share of batches, None in proportion to rows.
    licence: as given, for the model's card. batch_queries, negatives_per_query: None where they are the run's.
    """

    name: str
    path: str
    instructions: tuple[str, ...]
    documents: tuple[str, ...]
    published_rows: int | None
    min_positive_words: int
    weight: float | None
    licence: str | None = None
    batch_queries: int | None = None
    negatives_per_query: int | None = None

    @property
    def is_named(self) -> bool:
        """Whether it stands in data.sources; else it is a plain file."""
        return self.name != self.path


def list_sources(data: DataConfig) -> list[Source]:
    """Return the sources in the order of data.weights: plain files, then named ones."""
    shared = tuple(data.documents or ())
    sources = [Source(path, path, ("",), shared, None, 0, None) for path in data.files]
    for name, source in data.sources.items():
        documents = shared if source.documents is None else tuple(source.documents)
        sources.append(Source(
            name, source.path, tuple(source.instructions), documents, source.rows, source.min_positive_words,
            source.weight, source.licence, source.global_batch_queries, source.negatives_per_query,
        ))  # fmt: skip
    if data.weights is None:
        return sources
    return [replace(source, weight=weight) for source, weight in zip(sources, data.weights, strict=True)]


def mixing_weights(sources: list[Source]) -> list[float] | None:
    """Return each source's share of batches; None in proportion to rows."""
    weights = [source.weight for source in sources if source.weight is not None]
    return weights or None


def read_all_documents(sources: list[Source]) -> Documents:
    """Read the corpora in which the sources look up document ids, each once.

    Raises:
        UserError: A source's file is missing (found before anything is read), or a corpus cannot be read.
    """
    _require_files(sources)
    corpora: dict[str, Lookup] = {}
    documents: Documents = {(): None}
    for source in sources:
        corpora |= {path: read_lookup(path) for path in source.documents if path not in corpora}
        if source.documents not in documents:
            documents[source.documents] = merge_lookups([(path, corpora[path]) for path in source.documents])
    return documents


def _require_files(sources: list[Source]) -> None:
    """Refuse local files that are missing, all by name, before a large model or corpus is read for nothing."""
    # The hub answers for its own data sets later.
    missing = [source for source in sources if not _is_hub(source.path) and not Path(source.path).is_file()]
    if not missing:
        return
    first = missing[0]
    more = f" (nor are those of {', '.join(source.name for source in missing[1:])})" if missing[1:] else ""
    option = f"data.sources.{first.name}"
    remedy = f"; give {option}.path=FILE, or ~{option} to go without" if first.is_named else ""
    raise UserError(f"{first.path}: no such file{more}{remedy}")


def training_texts(sources: list[Source], documents: Documents) -> Iterator[str]:
    """Yield the distinct texts of the sources, in order, for learning a tokenizer."""
    seen: set[int] = set()
    for source in sources:
        words = source.min_positive_words  # rows left out are counted where they are tokenised
        examples = read_training_examples(source.path, documents[source.documents], "", words)
        for example, instruction in zip(examples, cycle(source.instructions), strict=False):
            query = InstructedText(example.query.instruction or instruction, example.query.text)
            for piece in (query, *example.positives, *example.negatives):
                # Hashes in place of texts: a corpus of many gigabytes would not fit twice.
                if hash(piece.text) not in seen:
                    seen.add(hash(piece.text))
                    yield f"{piece.instruction}\n<|embed|>\n{piece.text}"


def open_sources(
    sources: list[Source],
    documents: Documents,
    template: Template,
    *,
    query_max_tokens: int,
    document_max_tokens: int,
    cache_dir: str,
    processes: int = 1,
) -> list[TokenStore]:
    """Tokenise the sources, or reuse them from the cache, in their order.

    Args:
        sources: The sources of the run.
        documents: Their corpora, from `read_all_documents`.
        template: Turns an instruction and a text into tokens.
        query_max_tokens: Tokens of a query's input.
        document_max_tokens: Tokens of a document's input.
        cache_dir: Folder of tokenised sources.
        processes: That tokenise; 1 is this one.
    """
    stores = []
    for source in sources:
        # The number of rows is unknown before they are read: the bar counts up.
        progress = Progress(f"tokenise {source.name}", 0, "rows")
        stores.append(
            open_token_store(
                source.path,
                documents[source.documents],
                template,
                query_max_tokens,
                document_max_tokens,
                Path(cache_dir).expanduser(),
                progress.update,
                instructions=source.instructions,
                min_positive_words=source.min_positive_words,
                processes=processes,
            )
        )
        progress.close()
    return stores


def describe_stores(stores: list[TokenStore]) -> list[str]:
    """Return a line for each tokenised source: what it holds, and what was cut."""
    return [
        f"source {store.path}: {store.rows:,} rows, {store.tokens / 1e6:.2f} M tokens, "
        f"{store.truncated_queries} queries and {store.truncated_documents} documents cut{describe_format(store)}"
        for store in stores
    ]


def compare_rows(source: Source, found: int, left_out: int) -> str | None:
    """Say how the rows of a source differ from what was published, and how many were left out; None if neither holds.

    Args:
        source: The source.
        found: Rows that are trained on.
        left_out: Further rows, which the filter of short positives holds back.
    """
    total, published = found + left_out, source.published_rows
    parts = []
    if published is not None and total != published:
        parts.append(f"{total:,} rows, {published:,} published ({total - published:+,})")
    if left_out:
        words = source.min_positive_words
        parts.append(f"{left_out:,} of {total:,} rows left out (every positive has fewer than {words} words)")
    return f"{source.name}: {'; '.join(parts)}" if parts else None


def report_rows(sources: list[Source], stores: list[TokenStore], published_rows: int | None) -> list[str]:
    """Return a line for every difference between the opened sources and what was published of them.

    Args:
        sources: The sources of the run.
        stores: Their tokens, in the same order.
        published_rows: Published rows of all named sources together; None if unknown.
    """
    pairs = list(zip(sources, stores, strict=True))
    lines = [compare_rows(source, store.rows, store.left_out) for source, store in pairs]
    named = [store for source, store in pairs if source.is_named]
    # A plain file is none of the published data sets, and its rows are not in their sum.
    if published_rows is not None and named:
        together = Source("all named sources", "", ("",), (), published_rows, 0, None)
        lines.append(compare_rows(together, sum(store.rows + store.left_out for store in named), 0))
    return [line for line in lines if line is not None]


def describe_format(store: TokenStore) -> str:
    """Say in which tool's format a source is written, and which of its rows are unusable; "" for our own format."""
    joined = f", {store.joined:,} pairs with a label under 0.5 are negatives of the row before" if store.joined else ""
    unusable = f", {store.unusable:,} pairs with a label under 0.5 left out" if store.unusable else ""
    return (f"; read as rows of {store.format}" if store.format else "") + joined + unusable


def published_total(sources: list[Source], published_rows: int | None) -> int | None:
    """Return the published rows of all sources together; None if the rows of one are unknown.

    Args:
        sources: The sources of the run.
        published_rows: Published rows of all named sources together; None if unknown.
    """
    if published_rows is not None and all(source.is_named for source in sources):
        return published_rows
    counts = [source.published_rows for source in sources]
    return None if None in counts else sum(count or 0 for count in counts)


def published_average(sources: list[Source], sizes: list[int], usual: int) -> float | None:
    """Return the queries of a batch, on average over many; None if published rows are needed for it and unknown.

    Args:
        sources: Of the run.
        sizes: Queries of each source's batches.
        usual: Queries of a batch of the run.
    """
    rows = [source.published_rows for source in sources]
    weights = mixing_weights(sources)
    if set(sizes) == {usual}:
        return usual
    if weights is None and None in rows:
        return None
    return average_queries(batch_shares([count or 0 for count in rows], weights, sizes, usual), sizes, usual)


def describe_sources(sources: list[Source], published_rows: int | None) -> list[str]:
    """Return a line for each source: where it would be read, and what is expected of it. Reads nothing.

    Args:
        sources: The sources of the run.
        published_rows: Published rows of all named sources together; None if unknown.
    """
    lines = []
    for source in sources:
        parts = [_describe_place(source.path)]
        if source.published_rows is not None:
            parts.append(f"{source.published_rows:,} rows published")
        parts.append(_describe_instructions(source.instructions))
        if source.min_positive_words:
            parts.append(f"rows left out whose every positive has fewer than {source.min_positive_words} words")
        if source.documents:
            parts.append(f"ids looked up in {' and '.join(_describe_place(path) for path in source.documents)}")
        if source.weight is not None:
            parts.append(f"weight {source.weight:g}")
        if source.batch_queries is not None:
            parts.append(f"{source.batch_queries:,} queries a batch")
        if source.negatives_per_query is not None:
            parts.append(f"{source.negatives_per_query} negatives a query")
        label = f" {source.name}" if source.is_named else ""
        lines.append(f"source{label}: {'; '.join(parts)}")
    if published_rows is not None:
        lines.append(f"named sources together: {published_rows:,} rows published")
    return lines


def _describe_instructions(instructions: tuple[str, ...]) -> str:
    if len(instructions) > 1:
        return f"one of {len(instructions)} instructions in each epoch"
    return f"instruction {instructions[0]!r}" if instructions[0] else "instructions of its own or none"


def input_paths(sources: list[Source]) -> list[str]:
    """Return the files and corpora that the sources read from the local disk, each once."""
    return local_places([path for source in sources for path in (source.path, *source.documents)])


def local_places(named: list[str]) -> list[str]:
    """Return those of some paths and hub names that lie on the local disk, each once."""
    places = [_hub_name(path) if _is_hub(path) else path for path in named]
    return [path for path in dict.fromkeys(places) if Path(path).exists()]


def _is_hub(path: str) -> bool:
    return path.startswith("hub:")


def _hub_name(path: str) -> str:
    return path.removeprefix("hub:").split(":")[0]


def _describe_place(path: str) -> str:
    """Return a path and what it is: a file with its size, a folder, a hub name, missing."""
    if _is_hub(path):
        return f"{path} ({'local folder' if Path(_hub_name(path)).is_dir() else 'from the hub'})"
    place = Path(path)
    if place.is_dir():
        return f"{path} (folder)"
    return f"{path} ({place.stat().st_size / 1e6:,.1f} MB)" if place.is_file() else f"{path} (MISSING)"
