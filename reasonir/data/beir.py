"""BEIR's retrieval sets: folders of its own files, and the layouts in use on the hub.

    a folder        corpus.jsonl, queries.jsonl (both also .gz), qrels/<split>.tsv
    BeIR/<name>     configurations `corpus` and `queries`; the qrels in a data set of their own, BeIR/<name>-qrels
    mteb/<name>     `corpus`, `queries`, and the qrels in `default` (or `qrels`)
    R2MED/<name>    `corpus`, `query`, `qrels`, each with one split of its own name (arXiv 2505.14558)

Documents and queries are rows as `collections.py` reads them, qrels rows `query-id, corpus-id, score` or `q_id, p_id,
score`. Ids may be numbers (BeIR's qrels are read from a csv file) and are compared as texts. A local folder in one of
the hub's layouts is read by `read_beir_hub` in the same way.
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import read_jsonl
from reasonir.data.collections import Collection, Document, Query, add_documents, read_documents, read_query_texts
from reasonir.data.rows import find_hub, load_hub, require_jsonl
from reasonir.data.trec import add_grade, read_qrels

# The names of BEIR and mteb, and those of R2MED.
QREL_COLUMNS = (("query-id", "corpus-id"), ("q_id", "p_id"))


class IdenticalIds(StrEnum):
    """What becomes of the document that has the query's own id (ArguAna, Quora: the query is a document).

    exclude: taken out of the query's ranking, as BEIR's evaluation does. keep: ranked. auto: exclude, unless a query
    is judged relevant to the document of its own id, so that equal ids mean nothing in this set.
    """

    exclude = "exclude"
    keep = "keep"
    auto = "auto"


def read_beir(folder: str, split: str, identical_ids: IdenticalIds = IdenticalIds.auto) -> Collection:
    """Read a BEIR folder; queries without a judgement in the split are left out, as BEIR does.

    Args:
        folder: Holds corpus.jsonl, queries.jsonl and qrels/<split>.tsv.
        split: Of the qrels.
        identical_ids: Whether a query finds the document with its own id.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"data.dir={folder}: no such folder")
    documents = read_documents(str(require_jsonl(root, "corpus")))
    file = root / "qrels" / f"{split}.tsv"
    if not file.is_file():
        splits = ", ".join(sorted(path.stem for path in (root / "qrels").glob("*.tsv")))
        raise UserError(f"{file}: no such file; there are splits: {splits or 'none'}")
    source = require_jsonl(root, "queries")
    texts = read_query_texts(read_jsonl(source), str(source))
    sources = (str(source), str(file))
    # Resolved, because the path "." has no name.
    return _join(root.resolve().name, documents, texts, read_qrels(str(file)), identical_ids, sources)


def _join(
    name: str,
    documents: Mapping[str, str],
    texts: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
    identical_ids: IdenticalIds,
    sources: tuple[str, str],
) -> Collection:
    """Return the collection of a corpus, queries' texts and qrels; queries that the qrels lack are left out.

    Args:
        name: The collection's name.
        documents: Texts by id.
        texts: Queries by id.
        qrels: Grades by query and document; grade 0 means judged and not relevant.
        identical_ids: Whether a query finds the document with its own id.
        sources: Names of the queries' and of the qrels' file, for messages.

    Raises:
        UserError: qrels that name an unknown query, or no document of the corpus.
    """
    missing = [query for query in qrels if query not in texts]
    if missing:
        raise UserError(f"{sources[1]}: query id {missing[0]!r} is not in {sources[0]}")
    gold = {query: {i: g for i, g in grades.items() if g > 0} for query, grades in qrels.items()}
    # Some may be missing: ArguAna judges documents that its corpus lacks, and trec_eval counts them as relevant.
    unknown = [(query, i) for query, grades in gold.items() for i in grades if i not in documents]
    if unknown and len(unknown) == sum(map(len, gold.values())):
        raise UserError(
            f"{sources[1]}: query {unknown[0][0]!r} has document id {unknown[0][1]!r}, which is not in the corpus; nor "
            "is any other relevant document"
        )
    same = {query for query in gold if query in documents}
    judged = any(query in gold[query] for query in same)
    if identical_ids is IdenticalIds.keep or (identical_ids is IdenticalIds.auto and judged):
        same = set()
    queries = [Query(query, texts[query], gold[query], (query,) if query in same else ()) for query in gold]
    return Collection(name, [Document(*item) for item in documents.items()], queries, identical_ids=len(same))


def read_beir_hub(name: str, split: str, identical_ids: IdenticalIds = IdenticalIds.auto) -> Collection:
    """Read a retrieval set from the hub; queries without a judgement in the split are left out.

    Args:
        name: owner/name, or a local folder in the same layout.
        split: Of the qrels; a corpus or queries with several splits are taken from the same one.
        identical_ids: Whether a query finds the document with its own id.

    Raises:
        UserError: a configuration, split or column that is missing, or ids that do not meet.
    """
    documents: dict[str, str] = {}
    corpus, source = _load_texts(name, ("corpus",), split)
    add_documents(documents, enumerate(corpus, start=1), source)
    if not documents:
        raise UserError(f"{source}: the corpus is empty")
    rows, queries_source = _load_texts(name, ("queries", "query"), split)
    texts = read_query_texts(enumerate(rows, start=1), queries_source)
    qrels, qrels_source = _read_qrels(name, split)
    short = name.rstrip("/").rsplit("/", 1)[-1]
    return _join(short, documents, texts, qrels, identical_ids, (queries_source, qrels_source))


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
        add_grade(qrels, *_parse_qrel(row, f"{source}:{line}"), f"{source}:{line}")
    return qrels, source


def _parse_qrel(row: Mapping[str, Any], where: str) -> tuple[str, str, Any]:
    for query, document in QREL_COLUMNS:
        if query in row and document in row:
            return str(row[query]), str(row[document]), row.get("score")
    raise UserError(f"{where}: a judgement needs `query-id` and `corpus-id` (or `q_id` and `p_id`), and `score`")


def _no_split(place: str, split: str, splits: Mapping[str, Any]) -> UserError:
    return UserError(f"{place} has no split {split!r}; there are {', '.join(splits)}")
