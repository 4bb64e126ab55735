"""What is to be reranked: a run, and the texts that its ids stand for.

Invariant: every task, query and document that a run names is one of the data's, or the run is refused by name.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from reasonir.core.errors import UserError
from reasonir.core.files import CONFIG_FILE
from reasonir.data.beir import read_beir
from reasonir.data.bright import list_bright_tasks, read_bright
from reasonir.data.collections import Collection
from reasonir.data.trec import Run, read_run
from reasonir.eval.rerank.config import RerankConfig
from reasonir.eval.scores.results import RESULTS_FILE, RUN_FILE, Aspects, aspects_of, qrels_of, read_results


@dataclass(frozen=True, slots=True)
class Candidates:
    """One task's run and its texts.

    run: of the judged queries, exclusions applied, best first. queries: their texts. documents: texts of the first
    `top` of each. nested: whether results lie in a folder of the task's name.
    """

    task: str
    nested: bool
    run: Run
    top: int
    queries: Mapping[str, str]
    documents: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]
    aspects: Aspects
    counts: Mapping[str, int]

    def first(self, query: str) -> list[str]:
        """Return the documents of a query that are reranked, best first."""
        return list(self.run[query])[: self.top]

    def digest(self) -> str:
        """Return a name for everything that the scores of this task depend on, but for the options."""
        name = hashlib.sha256()
        for query, text in self.queries.items():
            name.update(repr((query, text, list(self.run[query].items()), sorted(self.qrels[query].items()))).encode())
            for document in self.first(query):
                name.update(self.documents[document].encode())
        return name.hexdigest()


def read_candidates(config: RerankConfig) -> list[Candidates]:
    """Read the run and its data; fill the options that the run's own config.yaml answers into `config`.

    Raises:
        UserError: data that is not named, tasks, queries or documents that the data lacks.
    """
    path = Path(config.run)
    if path.is_dir():
        _take_over(config)
        runs = {name: result.run() for name, result in read_results(path).items()}
    else:
        runs = {"": read_run(config.run)}
    if config.data.dir is None and config.data.hub is None:
        raise UserError(f"run={config.run} does not say what it ranks: give data.dir=FOLDER")
    config.queries = config.queries or "original"
    found = list(_bright(config, runs) if not _is_beir(config.data.dir) else _beir(config, runs))
    config.tasks = [candidates.task for candidates in found]
    return found


def run_files(config: RerankConfig) -> list[Path]:
    """Return the files of the run."""
    path = Path(config.run)
    return [path] if path.is_file() else [path / RESULTS_FILE, *sorted(path.glob(RUN_FILE)), *_nested_files(config)]


def _nested_files(config: RerankConfig) -> list[Path]:
    files = (Path(config.run) / task / RUN_FILE for task in config.tasks or [])
    return [file for file in files if file.is_file()]


def stored_options(run: str) -> dict[str, Any]:
    """Return the options that a folder of results was made with; nothing for a file."""
    file = Path(run) / CONFIG_FILE
    return dict(yaml.safe_load(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _take_over(config: RerankConfig) -> None:
    stored = stored_options(config.run)
    data = stored.get("data") or {}
    if config.data.dir is None and config.data.hub is None:
        config.data.dir, config.data.hub = data.get("dir"), data.get("hub")
    config.queries = config.queries or stored.get("queries")
    config.long = stored.get("long") if config.long is None else config.long
    config.split = config.split or stored.get("split")


def _is_beir(folder: str | None) -> bool:
    return folder is not None and any((Path(folder) / f"corpus.jsonl{suffix}").is_file() for suffix in ("", ".gz"))


def _bright(config: RerankConfig, runs: Mapping[str, Run]) -> Iterator[Candidates]:
    root = config.data.dir or f"hub:{config.data.hub}"
    names = list(runs)
    if names == [""]:
        names = config.tasks or (list_bright_tasks(root) if config.data.dir else [])
        if len(names) != 1:
            raise UserError(f"run={config.run} is the run of one task: say which with tasks=[NAME]")
        runs = {names[0]: runs[""]}
    chosen = config.tasks or names
    if unknown := [task for task in chosen if task not in runs]:
        raise UserError(f"tasks: run={config.run} has no task {unknown[0]!r}; there are {', '.join(names)}")
    config.long = bool(config.long)
    for collection in read_bright(root, chosen, config.queries or "original", config.long):
        yield candidates_of(collection, runs[collection.name], config.top, config.run, nested=True)


def _beir(config: RerankConfig, runs: Mapping[str, Run]) -> Iterator[Candidates]:
    if config.queries != "original":
        raise UserError(f"queries={config.queries}: a BEIR folder has its own queries only")
    if len(runs) != 1:
        raise UserError(f"run={config.run} has {len(runs)} tasks, but data.dir={config.data.dir} is one BEIR folder")
    config.split = config.split or "test"
    collection = read_beir(str(config.data.dir), config.split)
    if unknown := [task for task in config.tasks or [] if task != collection.name]:
        raise UserError(f"tasks: data.dir={config.data.dir} has no task {unknown[0]!r}, only {collection.name!r}")
    (run,) = runs.values()
    yield candidates_of(collection, run, config.top, config.run, nested=False)


def candidates_of(collection: Collection, run: Run, top: int, source: str, nested: bool) -> Candidates:
    """Match a run with its collection; keep the texts that are asked about, let the rest of the corpus go."""
    documents = {document.id: document.text for document in collection.documents}
    queries = {query.id: query for query in collection.queries}
    where = f"run={source}: task {collection.name}"
    remedy = "give the data that it ranked (data.dir, long, split)"
    for query, hits in run.items():
        if query not in queries:
            raise UserError(f"{where}: query {query!r} is not in the data; {remedy}")
        if (unknown := next((document for document in hits if document not in documents), None)) is not None:
            raise UserError(f"{where}: document {unknown!r} of query {query!r} is not in the corpus; {remedy}")
    judged = {name: query for name, query in queries.items() if query.gold}
    kept: dict[str, dict[str, float]] = {}
    excluded = 0
    for name in judged.keys() & run.keys():
        banned = set(judged[name].excluded_ids)
        ordered = sorted(run[name].items(), key=lambda hit: (hit[1], hit[0]), reverse=True)  # as trec_eval orders
        kept[name] = {document: score for document, score in ordered if document not in banned}
        excluded += len(ordered) - len(kept[name])
    kept = {name: kept[name] for name in judged if kept.get(name)}
    if not kept:
        raise UserError(f"{where}: no query of the run has a gold document in the data")
    needed = {document for hits in kept.values() for document in list(hits)[:top]}
    return Candidates(
        task=collection.name,
        nested=nested,
        run=kept,
        top=top,
        queries={name: judged[name].text for name in kept},
        documents={document: documents[document] for document in needed},
        qrels=qrels_of(collection),
        aspects=aspects_of(collection),
        counts={
            "queries": len(kept),
            "documents": sum(min(len(hits), top) for hits in kept.values()),
            "documents_below_top": sum(max(len(hits) - top, 0) for hits in kept.values()),
            "excluded_documents_removed": excluded,
            "queries_without_gold": len(run.keys() - judged.keys()),
            "queries_missing_in_run": len(judged.keys() - kept.keys()),
        },
    )
