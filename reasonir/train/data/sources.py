"""The data sets of a run: what they are called, where they lie, what they should hold, how they are opened.

Invariant: a corpus is read once, however many sources look their ids up in it, and rows that are left out or that
differ in number from what was published are said. Leaves reading rows to `schema.py`, tokens to `token_cache.py` and
mixing to `data.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from reasonir.core.errors import UserError
from reasonir.core.progress import Progress
from reasonir.data.collections import merge_lookups, read_lookup
from reasonir.data.rows import Lookup
from reasonir.data.training_rows import read_training_examples
from reasonir.train.config import DataConfig
from reasonir.train.data.token_store import TextTemplate, TokenStore, open_token_store

Documents = dict[tuple[str, ...], Lookup | None]
"""What ids mean, by the corpora they are looked up in; () means that rows hold texts."""


@dataclass(frozen=True, slots=True)
class Source:
    """A training data set; a global batch holds rows of one of them.

    name: its key in data.sources, or the path of a plain file. documents: corpora its ids are looked up in, () for
    none. published_rows: None where nothing was published. weight: its share of batches, None in proportion to rows.
    licence: as given, for the model's card.
    """

    name: str
    path: str
    instruction: str
    documents: tuple[str, ...]
    published_rows: int | None
    min_positive_words: int
    weight: float | None
    licence: str | None = None


def list_sources(data: DataConfig) -> list[Source]:
    """Return the sources in the order of data.weights: plain files, then named ones."""
    shared = tuple(data.documents or ())
    sources = [Source(path, path, "", shared, None, 0, None) for path in data.files]
    for name, source in data.sources.items():
        documents = shared if source.documents is None else tuple(source.documents)
        words = source.min_positive_words
        sources.append(
            Source(name, source.path, source.instruction, documents, source.rows, words, source.weight, source.licence)
        )
    if data.weights is None:
        return sources
    return [replace(source, weight=weight) for source, weight in zip(sources, data.weights, strict=True)]


def mixing_weights(data: DataConfig) -> list[float] | None:
    """Return each source's share of batches; None in proportion to rows."""
    weights = [source.weight for source in list_sources(data) if source.weight is not None]
    return weights or None


def read_all_documents(data: DataConfig) -> Documents:
    """Read the corpora in which the sources look up document ids, each once.

    Raises:
        UserError: a source's file is missing (said before anything is read), or a corpus cannot be read.
    """
    sources = list_sources(data)
    require_files(sources)
    corpora: dict[str, Lookup] = {}
    documents: Documents = {(): None}
    for source in sources:
        corpora |= {path: read_lookup(path) for path in source.documents if path not in corpora}
        if source.documents not in documents:
            documents[source.documents] = merge_lookups([(path, corpora[path]) for path in source.documents])
    return documents


def require_files(sources: list[Source]) -> None:
    """Refuse local files that are not there, all by name, before a large model or corpus is read for nothing."""
    missing = [source for source in sources if not _is_hub(source.path) and not Path(source.path).is_file()]
    if not missing:
        return
    first = missing[0]
    more = f" (nor are those of {', '.join(source.name for source in missing[1:])})" if missing[1:] else ""
    named = first.name != first.path
    remedy = f"; give data.sources.{first.name}.path=FILE, or ~data.sources.{first.name} to go without" if named else ""
    raise UserError(f"{first.path}: no such file{more}{remedy}")


def training_texts(data: DataConfig, documents: Documents) -> Iterator[str]:
    """Yield the distinct texts of the sources, in order, for learning a tokenizer."""
    seen: set[int] = set()
    for source in list_sources(data):
        words = source.min_positive_words  # rows left out are counted where they are tokenised
        for example in read_training_examples(source.path, documents[source.documents], source.instruction, words):
            for piece in (example.query, *example.positives, *example.negatives):
                if hash(piece.text) not in seen:
                    seen.add(hash(piece.text))
                    yield f"{piece.instruction}\n<|embed|>\n{piece.text}"


def open_sources(
    data: DataConfig, documents: Documents, template: TextTemplate, query_max_tokens: int, document_max_tokens: int
) -> list[TokenStore]:
    """Tokenise the sources, or reuse them from the cache, in the order of `list_sources`."""
    stores = []
    for source in list_sources(data):
        progress = Progress(f"tokenise {source.name}", 0, "rows")
        stores.append(
            open_token_store(
                source.path,
                documents[source.documents],
                template,
                query_max_tokens,
                document_max_tokens,
                Path(data.cache_dir).expanduser(),
                progress.update,
                instruction=source.instruction,
                min_positive_words=source.min_positive_words,
            )
        )
        progress.close()
    return stores


def compare_rows(source: Source, found: int, left_out: int) -> str | None:
    """Say how the rows of a source differ from what was published, and how many were left out; None where neither.

    Args:
        found: rows that are trained on.
        left_out: rows besides them that the filter of short positives holds back.
    """
    total, published = found + left_out, source.published_rows
    parts = []
    if published is not None and total != published:
        parts.append(f"{total:,} rows, {published:,} published ({total - published:+,})")
    if left_out:
        words = source.min_positive_words
        parts.append(f"{left_out:,} of {total:,} rows left out (every positive has fewer than {words} words)")
    return f"{source.name}: {'; '.join(parts)}" if parts else None


def report_rows(data: DataConfig, stores: list[TokenStore]) -> list[str]:
    """Return a line for every difference between the opened sources and what was published of them."""
    pairs = list(zip(list_sources(data), stores, strict=True))
    lines = [compare_rows(source, store.rows, store.left_out) for source, store in pairs]
    named = pairs[len(data.files) :]
    if data.published_rows is not None and named:
        together = Source("all named sources", "", "", (), data.published_rows, 0, None)
        lines.append(compare_rows(together, sum(store.rows + store.left_out for _, store in named), 0))
    return [line for line in lines if line is not None]


def describe_format(store: TokenStore) -> str:
    """Say in which tool's format a source is written, and what of it cannot be trained on; "" for our own."""
    unusable = f", {store.unusable:,} pairs with a label under 0.5 left out" if store.unusable else ""
    return f"; read as rows of {store.format}{unusable}" if store.format else ""


def published_total(data: DataConfig) -> int | None:
    """Return the published rows of all sources together; None where that of one is unknown."""
    if data.published_rows is not None and not data.files:
        return data.published_rows
    counts = [source.published_rows for source in list_sources(data)]
    return None if None in counts else sum(count or 0 for count in counts)


def describe_sources(data: DataConfig) -> list[str]:
    """Return lines that say of each source where it would be read and what is expected of it; reads nothing."""
    lines = []
    for source in list_sources(data):
        parts = [_describe_place(source.path)]
        if source.published_rows is not None:
            parts.append(f"{source.published_rows:,} rows published")
        parts.append(f"instruction {source.instruction!r}" if source.instruction else "instructions of its own or none")
        if source.min_positive_words:
            parts.append(f"rows left out whose every positive has fewer than {source.min_positive_words} words")
        if source.documents:
            parts.append(f"ids looked up in {' and '.join(_describe_place(path) for path in source.documents)}")
        if source.weight is not None:
            parts.append(f"weight {source.weight:g}")
        label = "" if source.name == source.path else f" {source.name}"
        lines.append(f"source{label}: {'; '.join(parts)}")
    if data.published_rows is not None:
        lines.append(f"named sources together: {data.published_rows:,} rows published")
    return lines


def input_paths(data: DataConfig) -> list[str]:
    """Return what the sources read of the local disk, files and corpora, each once."""
    named = [path for source in list_sources(data) for path in (source.path, *source.documents)]
    places = [_hub_name(path) if _is_hub(path) else path for path in named]
    return [path for path in dict.fromkeys(places) if Path(path).exists()]


def _is_hub(path: str) -> bool:
    return path.startswith("hub:")


def _hub_name(path: str) -> str:
    return path.removeprefix("hub:").split(":")[0]


def _describe_place(path: str) -> str:
    """Return a path and what stands there: a file's size, a folder, a hub name, nothing."""
    if _is_hub(path):
        return f"{path} ({'local folder' if Path(_hub_name(path)).is_dir() else 'from the hub'})"
    place = Path(path)
    if place.is_dir():
        return f"{path} (folder)"
    return f"{path} ({place.stat().st_size / 1e6:,.1f} MB)" if place.is_file() else f"{path} (MISSING)"
