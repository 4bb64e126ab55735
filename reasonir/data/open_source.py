"""Which data set is this? One answer for every command: BRIGHT, BEIR, or plain texts, in a folder or on the hub.

`open_source` looks at a place and says in which form texts lie there; the `DataSource` that it returns reads them.
`ranked_data` says which data a finished run ranked, from the config.yaml of its folder. Owns no format: `bright.py`,
`beir.py` and `collections.py` read the files.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from reasonir.core.errors import UserError
from reasonir.core.files import CONFIG_FILE, read_mapping
from reasonir.data.beir import IdenticalIds, read_beir, read_beir_hub
from reasonir.data.bright import list_bright_tasks, read_bright, read_bright_queries
from reasonir.data.collections import Collection, Document, Query, stream_documents
from reasonir.data.rewritings import ORIGINAL
from reasonir.data.rows import find_jsonl

HUB = "hub:"
# BEIR's published numbers are of this split of the qrels, but MS MARCO's, which are of dev.
DEFAULT_SPLIT = "test"
# From a run to the runs that it was made of; a fused run of reranked runs takes two.
MOST_STEPS = 8


class Form(StrEnum):
    """How the texts of a place are written down."""

    bright = "bright"
    beir = "beir"
    texts = "texts"


@dataclass(frozen=True, slots=True)
class DataSource:
    """A place of texts, and its form.

    place: folder, file, or hub:owner/name. split: of BEIR's qrels; the other forms have none. identical_ids: of BEIR's
    sets; BRIGHT's examples say themselves which documents they exclude.
    """

    place: str
    form: Form
    split: str = DEFAULT_SPLIT
    identical_ids: IdenticalIds = IdenticalIds.auto

    def tasks(self, long: bool = False) -> list[str]:
        """Return the names of the tasks; with `long`, of a hub set, only those that have whole pages."""
        if self.form is not Form.beir:
            return list_bright_tasks(self.place, long)
        return [self.place.rstrip("/").rsplit("/", 1)[-1] if self._on_hub else Path(self.place).resolve().name]

    def collections(
        self, tasks: Sequence[str] | None = None, *, queries: str = ORIGINAL, long: bool = False
    ) -> Iterator[Collection]:
        """Yield one collection a task, read when it is asked for; one task is in memory at a time.

        Args:
            tasks: Names in the order wanted; None takes all. A BEIR set is one collection whatever is asked for: its
                name is `tasks()[0]`.
            queries: `original`, or rewritten queries of BRIGHT (see `rewritten_file`).
            long: Take BRIGHT's whole pages in place of passages.

        Raises:
            UserError: what cannot be read or does not fit together, by file and line.
        """
        if self.form is not Form.beir:
            yield from read_bright(self.place, self.tasks(long) if tasks is None else tasks, queries, long)
            return
        if queries != ORIGINAL:
            raise UserError(f"queries={queries}: a BEIR folder has its own queries only")
        if self._on_hub:
            yield read_beir_hub(self.place.removeprefix(HUB), self.split, self.identical_ids)
        else:
            yield read_beir(self.place, self.split, self.identical_ids)

    @property
    def _on_hub(self) -> bool:
        return self.place.startswith(HUB)

    def queries(self, task: str) -> list[Query]:
        """Return a task's queries. BRIGHT's documents are not read, so that gold ids which they lack go unnoticed."""
        if self.form is Form.beir:
            return next(self.collections()).queries
        return read_bright_queries(self.place, task)

    def documents(self) -> Iterator[Document]:
        """Yield the documents of all tasks as they stand in the files, in constant memory; an id may come twice."""
        # Read whole: only `read_beir_hub` knows where each layout of the hub has its corpus.
        if self.form is Form.beir and self._on_hub:
            return iter(next(self.collections()).documents)
        return stream_documents(self.place)


def open_source(place: str, split: str | None = None, identical_ids: IdenticalIds = IdenticalIds.auto) -> DataSource:
    """Say which form the texts of a place have; reads directory listings only, never a file.

    A folder with corpus.jsonl is BEIR's. A folder with examples.jsonl, in itself or in its sub-folders, is BRIGHT's.
    On the hub, a named split means BEIR's layout, because BRIGHT's splits are its tasks. Everything else holds texts
    without queries: JSON lines, .txt and .md files. Such a source yields documents; its `tasks` and `collections` are
    refused with what is missing.

    Args:
        place: Folder, file, or hub:owner/name.
        split: Of the qrels of a BEIR set; None where the user named none.
        identical_ids: Whether a query of a BEIR set finds the document with its own id.
    """
    chosen = split or DEFAULT_SPLIT
    if place.startswith(HUB):
        return DataSource(place, Form.bright if split is None else Form.beir, chosen, identical_ids)
    folder = Path(place)
    if find_jsonl(folder, "corpus") is not None:
        return DataSource(place, Form.beir, chosen, identical_ids)
    if folder.is_dir() and any(find_jsonl(inside, "examples") for inside in (folder, *folder.glob("*/"))):
        return DataSource(place, Form.bright)
    # With a split the user means BEIR: the refusal must name the missing corpus.jsonl.
    return DataSource(place, Form.texts if split is None else Form.beir, chosen, identical_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedData:
    """What a run ranked, as far as options say it; None where they do not.

    dir, hub: at most one of them. queries: `original` or a rewriting. long: whole pages. split and identical_ids: of
    a BEIR set.
    """

    dir: str | None = None
    hub: str | None = None
    queries: str | None = None
    long: bool | None = None
    split: str | None = None
    identical_ids: str | None = None

    @property
    def place(self) -> str | None:
        """Return the folder or hub:owner/name; None where the data is not known."""
        return self.dir or (f"{HUB}{self.hub}" if self.hub else None)

    def or_else(self, other: "RankedData") -> "RankedData":
        """Return these answers, completed by the other's; `dir` and `hub` are one answer."""
        data = self if self.place else other
        return RankedData(
            dir=data.dir,
            hub=data.hub,
            queries=self.queries or other.queries,
            # Not `or`: false is an answer.
            long=other.long if self.long is None else self.long,
            split=self.split or other.split,
            identical_ids=self.identical_ids or other.identical_ids,
        )

    def source(self) -> DataSource:
        """Open what was ranked; its place must be known."""
        assert self.place is not None, "a place"
        return open_source(self.place, self.split, IdenticalIds(self.identical_ids or IdenticalIds.auto))

    def collections(self, tasks: Sequence[str] | None) -> Iterator[Collection]:
        """Yield the collections that were ranked.

        Raises:
            UserError: the data is not known, or cannot be read.
        """
        if self.place is None:
            raise UserError("no config.yaml names the data; give data.dir=FOLDER")
        return self.source().collections(tasks, queries=self.queries or ORIGINAL, long=bool(self.long))


def ranked_data(options: Mapping[str, Any], steps: int = 0) -> RankedData:
    """Return which data a run ranked, from the options of its config.yaml.

    A reranked or fused run may leave the answer to the runs that it was made of (options `run` and `runs`): the first
    one that knows its data answers what is still open. `ranked_data({"runs": folders})` asks folders alone.

    Args:
        options: Content of a config.yaml.
        steps: How many runs led here.
    """
    data = options.get("data")
    data = data if isinstance(data, Mapping) else {}
    fields = {name: options.get(name) for name in ("queries", "long", "split", "identical_ids")}
    known = RankedData(dir=data.get("dir"), hub=data.get("hub"), **fields)
    for made_of in [*(options.get("runs") or []), options.get("run")]:
        # The bound ends a circle of runs that name each other.
        if known.place or steps > MOST_STEPS:
            break
        if isinstance(made_of, str):
            known = known.or_else(ranked_data(read_mapping(Path(made_of) / CONFIG_FILE), steps + 1))
    return known
