"""What is reranked: a run, and the texts of its queries and documents.

Invariant: every task, query and document that a run names is one of the data's, or the run is refused by name.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from reasonir.core.errors import UserError
from reasonir.core.files import under
from reasonir.core.stamp import digest_of
from reasonir.data.collections import Collection
from reasonir.data.open_source import DataSource, Form, RankedData, ranked_data
from reasonir.data.rewritings import ORIGINAL
from reasonir.data.trec import Run, read_run
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

    def folder(self, root: Path) -> Path:
        """Return where a task's results lie under a folder of results: BEIR's have no level of their own."""
        return under(root, self.task, "tasks") if self.nested else root

    def digest(self) -> str:
        """Return a hash of everything that the scores of this task depend on, but for the options."""
        return digest_of(self._parts())

    def _parts(self) -> Iterator[str]:
        for query, text in self.queries.items():
            # The run's order decides what is asked; the order of the judgements decides nothing.
            yield repr((query, text, list(self.run[query].items()), sorted(self.qrels[query].items())))
            for document in self.first(query):
                yield self.documents[document]


def read_candidates(
    run: str, known: RankedData, tasks: list[str] | None, top: int
) -> tuple[list[Candidates], RankedData]:
    """Read a run and its data.

    Args:
        run: Folder of results, or one file of a run.
        known: What the options say of the data; the run's own config.yaml answers the rest.
        tasks: Tasks to rerank; None is all.
        top: Documents of a query that are reranked.
    Returns:
        The tasks, and the data with every field that its form has.
    Raises:
        UserError: data that is not named, tasks, queries or documents that the data lacks.
    """
    if Path(run).is_dir():
        known = known.or_else(ranked_data({"run": run}))
        runs = {name: result.run() for name, result in read_results(Path(run)).items()}
    else:
        runs = {"": read_run(run)}
    if known.place is None:
        raise UserError(f"run={run} does not say what it ranks: give data.dir=FOLDER")
    source = known.source()
    if source.form is Form.beir:
        data = replace(known, queries=known.queries or ORIGINAL, split=source.split)
        chosen = _the_beir_task(run, runs, source, data, tasks)
    else:
        data = replace(known, queries=known.queries or ORIGINAL, long=bool(known.long))
        chosen = _bright_tasks(run, runs, source, tasks)
    if "" in runs:  # a file does not name its task
        runs = {chosen[0]: runs[""]}
    elif source.form is Form.beir:
        # The one task of a BEIR folder goes by the folder's name, whatever the results call it.
        runs = dict.fromkeys(chosen, *runs.values())
    collections = source.collections(chosen, queries=data.queries or ORIGINAL, long=bool(data.long))
    nested = source.form is not Form.beir
    found = [candidates_of(collection, runs[collection.name], top, run, nested) for collection in collections]
    return found, data


def _bright_tasks(run: str, runs: Mapping[str, Run], source: DataSource, tasks: list[str] | None) -> list[str]:
    names = list(runs)
    if names == [""]:
        names = tasks or ([] if source.place.startswith("hub:") else source.tasks())
        if len(names) != 1:
            raise UserError(f"run={run} is the run of one task: say which with tasks=[NAME]")
    chosen = tasks or names
    if unknown := [task for task in chosen if task not in names]:
        raise UserError(f"tasks: run={run} has no task {unknown[0]!r}; there are {', '.join(names)}")
    return chosen


def _the_beir_task(
    run: str, runs: Mapping[str, Run], source: DataSource, data: RankedData, tasks: list[str] | None
) -> list[str]:
    if data.queries != ORIGINAL:
        raise UserError(f"queries={data.queries}: a BEIR folder has its own queries only")
    if len(runs) != 1:
        raise UserError(f"run={run} has {len(runs)} tasks, but data.dir={data.dir} is one BEIR folder")
    (name,) = source.tasks()
    if unknown := [task for task in tasks or [] if task != name]:
        raise UserError(f"tasks: data.dir={data.dir} has no task {unknown[0]!r}, only {name!r}")
    return [name]


def run_files(run: str, tasks: Iterable[str]) -> list[Path]:
    """Return the files of a run and of its tasks."""
    path = Path(run)
    if path.is_file():
        return [path]
    nested = (path / task / RUN_FILE for task in tasks)
    return [path / RESULTS_FILE, *sorted(path.glob(RUN_FILE)), *(file for file in nested if file.is_file())]


def candidates_of(collection: Collection, run: Run, top: int, source: str, nested: bool) -> Candidates:
    """Match a run with its collection; keep the texts that are asked about, and drop the rest of the corpus.

    Args:
        collection: The task's queries and documents.
        run: Scores by query and document.
        top: Documents of a query that are reranked.
        source: Where the run was read, for messages.
        nested: Whether results lie in a folder of the task's name.
    Raises:
        UserError: the run names a query or document that the collection lacks, or no query with a gold document.
    """
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
        # Taken out before `top` counts: an excluded document must not take the place of one that can score.
        banned = set(judged[name].excluded_ids)
        # trec_eval's order: ties go to the larger id.
        ordered = sorted(run[name].items(), key=lambda hit: (hit[1], hit[0]), reverse=True)
        kept[name] = {document: score for document, score in ordered if document not in banned}
        excluded += len(ordered) - len(kept[name])
    # In the data's order: the loop above walks over a set, and the order is part of the digest.
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
            "corpus_documents": len(documents),
            "documents": sum(min(len(hits), top) for hits in kept.values()),
            "documents_below_top": sum(max(len(hits) - top, 0) for hits in kept.values()),
            "excluded_documents_removed": excluded,
            "queries_without_gold": len(run.keys() - judged.keys()),
            "queries_missing_in_run": len(judged.keys() - kept.keys()),
        },
    )
