"""BEIR's retrieval sets: folders of its own files, and the layouts in use on the hub.

    a folder        corpus.jsonl, queries.jsonl (both also .gz), qrels/<split>.tsv
    BeIR/<name>     configurations `corpus` and `queries`; the qrels in a data set of their own, BeIR/<name>-qrels
    mteb/<name>     `corpus`, `queries`, and the qrels in `default` (or `qrels`)
    R2MED/<name>    `corpus`, `query`, `qrels`, each with one split of its own name (arXiv 2505.14558)

Rows: documents `_id` or `id`, `title`, `text`; queries `_id` or `id`, `text`; qrels `query-id, corpus-id, score` or
`q_id, p_id, score`. Ids of qrels may be numbers (BeIR's are read from a csv file) and are compared as texts. A local
folder in one of the hub's layouts is read by `read_beir_hub` in the same way.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import read_jsonl
from reasonir.data.collections import Collection, Document, Query, add_documents, read_documents
from reasonir.data.rows import find_hub, load_hub, require_jsonl
from reasonir.data.trec import read_qrels

# The names of BEIR and mteb, and those of R2MED.
QREL_COLUMNS = (("query-id", "corpus-id"), ("q_id", "p_id"))


def read_beir(folder: str, split: str) -> Collection:
    """Read a BEIR folder; queries without a judgement in the split are left out, as BEIR does."""
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"data.dir={folder}: no such folder")
    documents = read_documents(str(require_jsonl(root, "corpus")))
    file = root / "qrels" / f"{split}.tsv"
    if not file.is_file():
        splits = ", ".join(sorted(path.stem for path in (root / "qrels").glob("*.tsv")))
        raise UserError(f"{file}: no such file; there are splits: {splits or 'none'}")
    texts: dict[str, str] = {}
    source = require_jsonl(root, "queries")
    for line, row in read_jsonl(source):
        if not isinstance(row.get("_id"), str) or not isinstance(row.get("text"), str):
            raise UserError(f"{source}:{line}: a query needs strings `_id` and `text`")
        texts[row["_id"]] = row["text"]
    # Resolved, because the path "." has no name.
    return _join(root.resolve().name, documents, texts, read_qrels(str(file)), (str(source), str(file)))


def _join(
    name: str,
    documents: Mapping[str, str],
    texts: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
    sources: tuple[str, str],
) -> Collection:
    """Return the collection of a corpus, queries' texts and qrels; queries that the qrels lack are left out.

    Args:
        name: The collection's name.
        documents: Texts by id.
        texts: Queries by id.
        qrels: Grades by query and document; grade 0 means judged and not relevant.
        sources: Names of the queries' and of the qrels' file, for messages.

    Raises:
        UserError: qrels that name an unknown document or query.
    """
    for query, grades in qrels.items():
        # Refused: no search could find such a document, and every score would be too low without a word.
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


def read_beir_hub(name: str, split: str) -> Collection:
    """Read a retrieval set from the hub; queries without a judgement in the split are left out.

    Args:
        name: owner/name, or a local folder in the same layout.
        split: Of the qrels; a corpus or queries with several splits are taken from the same one.

    Raises:
        UserError: a configuration, split or column that is missing, or ids that do not meet.
    """
    documents: dict[str, str] = {}
    corpus, source = _load_texts(name, ("corpus",), split)
    add_documents(documents, ((line, _with_id(row)) for line, row in enumerate(corpus, start=1)), source)
    if not documents:
        raise UserError(f"{source}: the corpus is empty")
    texts: dict[str, str] = {}
    rows, queries_source = _load_texts(name, ("queries", "query"), split)
    for line, row in enumerate(map(_with_id, rows), start=1):
        if row["id"] is None or not isinstance(row.get("text"), str):
            raise UserError(f"{queries_source}:{line}: a query needs `_id` (or `id`) and a string `text`")
        texts[row["id"]] = row["text"]
    qrels, qrels_source = _read_qrels(name, split)
    return _join(name.rstrip("/").rsplit("/", 1)[-1], documents, texts, qrels, (queries_source, qrels_source))


def _with_id(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with its id as a text under `id`; None where it has none."""
    identifier = row.get("_id", row.get("id"))
    return {**row, "id": None if identifier is None else str(identifier)}


def _load_texts(name: str, configurations: tuple[str, ...], split: str) -> tuple[Any, str]:
    """Return the rows of the first configuration that there is, and where they come from."""
    for configuration in configurations:
        splits = find_hub(name, configuration, None)
        if splits is None:
            continue
        # BeIR and R2MED name the one split of a corpus after the configuration, and not after the split of the qrels.
        chosen = split if split in splits else next(iter(splits))
        if split not in splits and len(splits) > 1:
            raise _no_split(f"hub:{name}:{configuration}", split, splits)
        return splits[chosen], f"hub:{name}:{configuration}:{chosen}"
    raise UserError(f"hub:{name} has no configuration `{'` or `'.join(configurations)}`, so it is no BEIR set")


def _read_qrels(name: str, split: str) -> tuple[dict[str, dict[str, int]], str]:
    for configuration in ("default", "qrels"):
        splits, place = find_hub(name, configuration, None), f"{name}:{configuration}"
        if splits is not None:
            break
    else:
        # BeIR keeps the qrels in a data set of their own.
        place = f"{name.rstrip('/')}-qrels"
        splits = load_hub(place, None, None)
    # R2MED has one split of the configuration's own name, whatever split was asked for.
    chosen = "qrels" if list(splits) == ["qrels"] else split
    if chosen not in splits:
        raise _no_split(f"hub:{place}", split, splits)
    source = f"hub:{place}:{chosen}"
    qrels: dict[str, dict[str, int]] = {}
    for line, row in enumerate(splits[chosen], start=1):
        query, document, grade = _parse_qrel(row, f"{source}:{line}")
        # The same grade twice does no harm. Of two grades the one that is read last would count.
        known = qrels.setdefault(query, {}).setdefault(document, grade)
        if known != grade:
            where = f"{source}:{line}"
            raise UserError(f"{where}: query {query!r} grades document {document!r} twice, {known} and {grade}")
    return qrels, source


def _parse_qrel(row: Mapping[str, Any], where: str) -> tuple[str, str, int]:
    for query, document in QREL_COLUMNS:
        if query in row and document in row:
            break
    else:
        raise UserError(f"{where}: a judgement needs `query-id` and `corpus-id` (or `q_id` and `p_id`), and `score`")
    score = row.get("score")
    try:
        # A csv file may give a grade as a text or a float; trec_eval knows whole grades only.
        whole = int(score) == float(score)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise UserError(f"{where}: grade {score!r} is not a whole number")
    return str(row[query]), str(row[document]), int(score)  # type: ignore[arg-type]


def _no_split(place: str, split: str, splits: Mapping[str, Any]) -> UserError:
    return UserError(f"{place} has no split {split!r}; there are {', '.join(splits)}")
