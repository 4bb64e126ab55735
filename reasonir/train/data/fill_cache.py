"""Fills a run's token cache beforehand: reads and tokenises, loads no weight, needs no GPU."""

import os
from typing import Any

from reasonir.model.folders import build_template, read_template
from reasonir.model.presets import PresetOptions
from reasonir.model.templates import Template
from reasonir.model.tiny import build_tokenizer
from reasonir.train.data.sources import (
    Documents,
    Source,
    describe_stores,
    open_sources,
    read_all_documents,
    report_rows,
    training_texts,
)

# The process that reads and writes does a tenth of the work (docs/log.md, 2026-11-28): more would wait for it.
MOST_PROCESSES = 10


def fill_cache(
    sources: list[Source],
    model_path: str | None,
    embedding: dict[str, Any],
    *,
    vocabulary_size: int,
    query_max_tokens: int,
    document_max_tokens: int,
    cache_dir: str,
    processes: int | None,
    published_rows: int | None,
) -> None:
    """Tokenise the sources of a run and print what they hold. The run, given the same options, finds them.

    Args:
        sources: The sources of the run.
        model_path: Folder or hub id of the model that will train; None is a new model.
        embedding: Fields of `PresetOptions`.
        vocabulary_size: Of a new model's tokenizer.
        query_max_tokens: Tokens of a query's input.
        document_max_tokens: Tokens of a document's input.
        cache_dir: Folder of tokenised sources.
        processes: That tokenise; None is one a core, at most `MOST_PROCESSES`.
        published_rows: Published rows of all named sources together; None if unknown.
    """
    documents = read_all_documents(sources)
    stores = open_sources(
        sources,
        documents,
        _template_of(model_path, PresetOptions(**embedding), vocabulary_size, sources, documents),
        query_max_tokens=query_max_tokens,
        document_max_tokens=document_max_tokens,
        cache_dir=cache_dir,
        processes=processes or min(os.cpu_count() or 1, MOST_PROCESSES),
    )
    print("\n".join([*describe_stores(stores), *report_rows(sources, stores, published_rows)]))
    print(f"the token cache of this run is complete: {cache_dir}")


def _template_of(
    path: str | None, options: PresetOptions, vocabulary_size: int, sources: list[Source], documents: Documents
) -> Template:
    if path is not None:
        return read_template(path, options)
    # As `build_tiny` does: the same texts give the same tokenizer, so the run finds these tokens.
    tokenizer = build_tokenizer(training_texts(sources, documents), vocabulary_size)
    return build_template(tokenizer, options.of_new_model())
