"""Corpora and their queries, in the formats of BRIGHT and BEIR; corpora also as folders of texts.

A task in BRIGHT's format may name aspects of its queries (`aspects.py`), as Bright-Pro does. Invariant: within a corpus
an id stands for exactly one text. Strict: what cannot be read is a `UserError` with file and line. Leaves training rows
to `schema.py`, qrels and runs to `trec.py`, BEIR's sets on the hub to `hub.py`, metrics to `reasonir.eval.metrics`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonir.aspects import Aspect, group_aspects, parse_aspects
from reasonir.rewritten import Rewritten, read_rewritten
from reasonir.schema import Ambiguous, Lookup, UserError, find_hub, load_hub, read_jsonl
from reasonir.text_files import find_text_files, is_text_file, read_text_files
from reasonir.trec import read_qrels

LAYOUTS = "documents.jsonl or corpus.jsonl, also .gz, folders of them, or .txt and .md files"
"""What a folder that is a corpus holds."""
PLACEHOLDER = "N/A"
"""Stands in BRIGHT's id lists for "none"."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document of a corpus; its text may be empty."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Query:
    """A query, its relevant documents with grades, documents that must not be ranked for it, aspects where known."""

    id: str
    text: str
    gold: Mapping[str, int]
    excluded_ids: tuple[str, ...] = ()
    aspects: tuple[Aspect, ...] = ()


@dataclass(slots=True)
class Collection:
    """A corpus and its queries. instruction: what the folder asks to put before queries ("" where it says nothing).
    index: what a search keeps of the documents for its next queries."""

    name: str
    documents: list[Document]
    queries: list[Query]
    instruction: str = ""
    index: Any = None


def read_documents(path: str) -> dict[str, str]:
    """Read a corpus as {id: text}, in file order.

    Args:
        path: a BRIGHT task folder or root (its tasks merged), a BEIR folder or corpus file, JSONL of id and content,
            .txt and .md files in a folder, or one, or hub:xlangai/BRIGHT.
    Raises:
        UserError: missing, empty, malformed, or one id with two texts.
    """
    documents: dict[str, str] = {}
    for place, rows in corpus_parts(path):
        add_documents(documents, rows, place)
    if not documents:
        raise UserError(f"{path}: the corpus is empty")
    return documents


def stream_documents(path: str) -> Iterator[Document]:
    """Yield the documents of a corpus as they stand in its files, in constant memory; an id may come twice.

    Raises:
        UserError: as `read_documents`, when the line is reached.
    """
    for place, rows in corpus_parts(path):
        for line, row in rows:
            yield _parse_document(row, f"{place}:{line}")


def read_lookup(path: str) -> Lookup:
    """Read a corpus for looking up ids, as `read_documents` does, but let its tasks disagree.

    BRIGHT numbers each task's documents on its own, so that an id may name two texts: such an id is `Ambiguous`, and
    refused only where it is used. Twice with different text within one file is a mistake all the same.
    """
    parts = []
    for place, rows in corpus_parts(path):
        documents: dict[str, str] = {}
        add_documents(documents, rows, place)
        parts.append((place, documents))
    if not any(documents for _, documents in parts):
        raise UserError(f"{path}: the corpus is empty")
    return merge_lookups(parts)


def merge_lookups(parts: Sequence[tuple[str, Lookup]]) -> Lookup:
    """Return one lookup of several, each with the name of its place; ids that they disagree on become `Ambiguous`."""
    if len(parts) == 1:
        return parts[0][1]
    merged: dict[str, str | Ambiguous] = {}
    disputed: set[str] = set()
    for _, documents in parts:
        for identifier, text in documents.items():
            if isinstance(text, Ambiguous) or merged.setdefault(identifier, text) != text:
                disputed.add(identifier)
    for identifier in disputed:
        merged[identifier] = Ambiguous(_places_of(identifier, parts))
    return merged


def _places_of(identifier: str, parts: Sequence[tuple[str, Lookup]]) -> tuple[str, ...]:
    """Return where an id has a text that it has nowhere before."""
    found: dict[str, str] = {}
    for place, documents in parts:
        entry = documents.get(identifier)
        if isinstance(entry, Ambiguous):
            found |= {other: other for other in entry.places}
        elif entry is not None:
            found.setdefault(entry, place)
    return tuple(found.values())


def corpus_parts(path: str) -> Iterator[tuple[str, Iterable[tuple[int, Mapping[str, Any]]]]]:
    """Yield the files of a corpus, or the splits of a hub data set (of its `documents`, unless the path says)."""
    if path.startswith("hub:"):
        name, configuration = [*path.removeprefix("hub:").split(":"), "documents"][:2]
        splits = load_hub(name, configuration, None)
        for split in splits:
            yield f"{path}/{split}", enumerate(splits[split], start=1)
        return
    files = _corpus_files(Path(path))
    if not files:
        folder, texts = find_text_files(Path(path))
        if not texts:
            raise UserError(f"{path}: no corpus here ({LAYOUTS})")
        yield path, read_text_files(folder, texts)
    for file in files:
        yield str(file), read_jsonl(file)


def _corpus_files(path: Path) -> list[Path]:
    """Return the files of rows at a path; none where it may hold texts."""
    if path.is_file():
        return [] if is_text_file(path.name) else [path]
    for name in ("documents", "corpus"):
        found = _find(path, name)
        if found is not None:
            return [found]
    return [found for folder in sorted(path.glob("*/")) if (found := _find(folder, "documents")) is not None]


def _find(folder: Path, name: str) -> Path | None:
    for suffix in (".jsonl", ".jsonl.gz"):
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    return None


def _require_file(folder: Path, name: str) -> Path:
    found = _find(folder, name)
    if found is None:
        raise UserError(f"{folder}: {name}.jsonl (or .jsonl.gz) is missing")
    return found


def add_documents(documents: dict[str, str], rows: Iterable[tuple[int, Mapping[str, Any]]], source: str) -> None:
    """Parse the rows of a corpus into `documents`; refuse an id with two texts."""
    for line, row in rows:
        document = _parse_document(row, f"{source}:{line}")
        if documents.setdefault(document.id, document.text) != document.text:
            raise UserError(f"{source}:{line}: document id {document.id!r} stands twice with different text")


def _parse_document(row: Mapping[str, Any], where: str) -> Document:
    identifier = row.get("id", row.get("_id"))
    text = row.get("content", row.get("text"))
    if not isinstance(identifier, str) or not isinstance(text, str):
        raise UserError(f"{where}: a document needs strings `id` and `content` (BEIR: `_id` and `text`)")
    title = row.get("title")
    return Document(identifier, with_title(title if isinstance(title, str) else "", text))


def with_title(title: str, text: str) -> str:
    """Return what an encoder, a search or a reader sees of a document: its title, where it has one, and its text."""
    return f"{title} {text}".strip() if title else text


def list_bright_tasks(root: str, long: bool = False) -> list[str]:
    """Return the names of the task folders under `root` (`root` itself, where it is one task).

    Args:
        root: folder, one task's folder, or hub:owner/name (then the splits).
        long: of a hub data set, only the tasks with whole pages.
    """
    if root.startswith("hub:"):
        return list(load_hub(root.removeprefix("hub:"), "long_documents" if long else "examples", None))
    folder = Path(root)
    if not folder.is_dir():
        raise UserError(f"data.dir={root}: no such folder")
    if _find(folder, "examples") is not None:
        return [folder.resolve().name]
    tasks = sorted(path.name for path in folder.iterdir() if path.is_dir() and _find(path, "examples") is not None)
    if not tasks:
        raise UserError(f"data.dir={root}: no task here (folders with examples.jsonl and documents.jsonl)")
    return tasks


def read_bright(root: str, tasks: Iterable[str], queries: str = "original", long: bool = False) -> Iterator[Collection]:
    """Yield one collection a task.

    Args:
        root: folder, one task's folder, or hub:owner/name.
        queries: "original", or rewritten queries, matched by id: a name, or a path (see `rewritten_file`).
        long: use long_documents and gold_ids_long; aspects, whose documents are passages, are left out.
    """
    read = _bright_hub if root.startswith("hub:") else _bright_folder
    return (read(root, task, queries, long) for task in tasks)


def read_bright_queries(root: str, task: str) -> list[Query]:
    """Return a task's queries without reading its documents; gold ids that these lack are not noticed."""
    return list(_bright_queries(*_examples(root, task), None, False, None, "", None))


def _examples(root: str, task: str) -> tuple[Iterable[tuple[int, Mapping[str, Any]]], str]:
    if root.startswith("hub:"):
        rows = enumerate(load_hub(root.removeprefix("hub:"), "examples", task), start=1)
        # Bright-Pro numbers its queries with integers.
        named = ((line, row | {"id": str(row["id"])} if isinstance(row.get("id"), int) else row) for line, row in rows)
        return named, f"{root}/examples/{task}"
    file = examples_file(root, task)
    return read_jsonl(file), str(file)


def examples_file(root: str, task: str) -> Path:
    """Return the file of a task's queries."""
    return _require_file(_task_folder(root, task), "examples")


def _task_folder(root: str, task: str) -> Path:
    folder = Path(root)
    if _find(folder, "examples") is None or folder.resolve().name != task:
        folder = folder / task
    if not folder.is_dir():
        raise UserError(f"{root}: no task {task!r}; there are {', '.join(list_bright_tasks(root))}")
    return folder


def _bright_folder(root: str, task: str, queries: str, long: bool) -> Collection:
    folder = _task_folder(root, task)
    # A folder of pages only (no passages) keeps them in documents.jsonl.
    pages = _find(folder, "long_documents") if long else None
    documents = read_documents(str(pages or _require_file(folder, "documents")))
    rows, source = _examples(root, task)
    examples = list(rows)
    file = None if long else _find(folder, "aspects")
    aspects = None if file is None else group_aspects(read_jsonl(file), str(file), _query_ids(examples), documents)
    rewritten = read_rewritten(queries, task, folder)
    parsed = _bright_queries(examples, source, documents, long, rewritten, queries, aspects)
    instruction = folder / "instruction.txt"
    text = instruction.read_text(encoding="utf-8").strip() if instruction.is_file() else ""
    return Collection(task, [Document(*item) for item in documents.items()], list(parsed), text)


def _bright_hub(root: str, task: str, queries: str, long: bool) -> Collection:
    name = root.removeprefix("hub:")
    documents: dict[str, str] = {}
    configuration = "long_documents" if long else "documents"
    add_documents(documents, enumerate(load_hub(name, configuration, task), start=1), f"{root}/{configuration}/{task}")
    rows, source = _examples(root, task)
    examples = list(rows)
    found = None if long else find_hub(name, "aspects", task)
    aspects = None
    if found is not None:
        where = f"{root}/aspects/{task}"
        aspects = group_aspects(enumerate(found, start=1), where, _query_ids(examples), documents)
    rewritten = read_rewritten(queries, task, name)
    parsed = _bright_queries(examples, source, documents, long, rewritten, queries, aspects)
    return Collection(task, [Document(*item) for item in documents.items()], list(parsed))


def _bright_queries(
    rows: Iterable[tuple[int, Mapping[str, Any]]],
    source: str,
    documents: Mapping[str, str] | None,
    long: bool,
    rewritten: Rewritten | None,
    rewriting: str,
    aspects: Mapping[str, tuple[Aspect, ...]] | None,
) -> Iterator[Query]:
    seen: set[str] = set()
    have_aspects: bool | None = None
    for line, row in rows:
        identifier, text = row.get("id"), row.get("query")
        if not isinstance(identifier, str) or not isinstance(text, str):
            raise UserError(f"{source}:{line}: an example needs strings `id` and `query`")
        if identifier in seen:
            raise UserError(f"{source}:{line}: query id {identifier!r} stands twice")
        seen.add(identifier)
        if rewritten is not None:
            other_line, text = rewritten.get(identifier, (0, None))
            if not isinstance(text, str) or not text.strip():
                state = "is missing" if other_line == 0 else "is empty"
                raise UserError(f"queries={rewriting}: the rewritten query of id {identifier!r} {state}")
        gold = _ids(row, "gold_ids_long" if long else "gold_ids", source, line)
        unknown = [i for i in gold if documents is not None and i not in documents]
        if unknown:
            raise UserError(f"{source}:{line}: gold document id {unknown[0]!r} is not in the corpus")
        inline = None if long or documents is None else row.get("aspects")
        own = () if documents is None else parse_aspects(inline, f"{source}:{line}", documents)
        own = own or (aspects or {}).get(identifier, ())
        if gold and have_aspects not in (None, bool(own)):
            state = "no aspects" if have_aspects else "aspects"
            raise UserError(
                f"{source}:{line}: query id {identifier!r} has {state}, unlike those before it; give all or none"
            )
        have_aspects = bool(own) if gold else have_aspects
        yield Query(identifier, text, dict.fromkeys(gold, 1), tuple(_ids(row, "excluded_ids", source, line)), own)


def _query_ids(examples: Sequence[tuple[int, Mapping[str, Any]]]) -> set[str]:
    return {str(row.get("id")) for _, row in examples}


def _ids(row: Mapping[str, Any], name: str, source: str, line: int) -> list[str]:
    ids = row.get(name)
    if ids is None:
        ids = []
    if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
        raise UserError(f"{source}:{line}: `{name}` must be a list of strings")
    return [i for i in dict.fromkeys(ids) if i != PLACEHOLDER]


def read_beir(folder: str, split: str) -> Collection:
    """Read a BEIR folder; queries without a relevant document in the split are left out, as BEIR does."""
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"data.dir={folder}: no such folder")
    documents = read_documents(str(_require_file(root, "corpus")))
    file = root / "qrels" / f"{split}.tsv"
    if not file.is_file():
        splits = ", ".join(sorted(path.stem for path in (root / "qrels").glob("*.tsv")))
        raise UserError(f"{file}: no such file; there are splits: {splits or 'none'}")
    texts: dict[str, str] = {}
    source = _require_file(root, "queries")
    for line, row in read_jsonl(source):
        if not isinstance(row.get("_id"), str) or not isinstance(row.get("text"), str):
            raise UserError(f"{source}:{line}: a query needs strings `_id` and `text`")
        texts[row["_id"]] = row["text"]
    return join_beir(root.resolve().name, documents, texts, read_qrels(str(file)), (str(source), str(file)))


def join_beir(
    name: str,
    documents: Mapping[str, str],
    texts: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
    sources: tuple[str, str],
) -> Collection:
    """Return the collection of a corpus, queries' texts and qrels; queries that the qrels lack are left out.

    Args:
        sources: where the queries and the qrels come from, for messages.
    Raises:
        UserError: qrels that name an unknown document or query.
    """
    for query, grades in qrels.items():
        unknown = [i for i in grades if i not in documents]
        if unknown:
            raise UserError(f"{sources[1]}: query {query!r} has document id {unknown[0]!r}, which is not in the corpus")
    missing = [query for query in qrels if query not in texts]
    if missing:
        raise UserError(f"{sources[1]}: query id {missing[0]!r} is not in {sources[0]}")
    queries = [
        Query(query, texts[query], {i: g for i, g in grades.items() if g > 0}) for query, grades in qrels.items()
    ]
    return Collection(name, [Document(*item) for item in documents.items()], queries)
