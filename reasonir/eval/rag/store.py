"""The passages that a reader may be given: searched, and looked up by id.

Invariant: of an encoded folder only ids, embeddings and the wanted texts are ever in memory. Leaves making such a
folder to `reasonir-eval encode` and `index`.
"""

import re
from collections.abc import Collection as Group
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reasonir.core.errors import UserError
from reasonir.core.files import MANIFEST_FILE
from reasonir.core.stamp import unchanged
from reasonir.data.collections import Document, read_documents, stream_documents
from reasonir.data.trec import Run
from reasonir.retrieval.ann.search import search_index
from reasonir.retrieval.ann.shards import find_index
from reasonir.retrieval.config import Side
from reasonir.retrieval.encoded_folder import EMBEDDINGS_FILE, IDS_FILE, EncodedFolder, open_encoded
from reasonir.retrieval.ranking import Searcher, SearchTask
from reasonir.retrieval.top_k import as_run, exact_top_k

CHUNK = re.compile(r"_\d+$")
"""What a chunk's id has behind the id of its document."""


@dataclass(slots=True)
class Store:
    """Passages under their ids.

    datastore: the option that names them. texts: all of them, or None where they are looked up in `source`. encoded:
    their embeddings; None where they are embedded here. counts: filled by `search`.
    """

    datastore: str
    ids: list[str]
    texts: dict[str, str] | None
    source: str
    encoded: EncodedFolder | None = None
    counts: dict[str, Any] = field(default_factory=dict)

    @property
    def named(self) -> Path:
        """The file or folder that a manifest names: of an encoded folder its own manifest.

        That manifest holds the checksums of embeddings and passages, which would take minutes to hash again.
        """
        return Path(self.datastore) if self.encoded is None else self.encoded.folder / MANIFEST_FILE

    def search(self, searcher: Searcher, queries: Mapping[str, str], instruction: str, depth: int) -> Run:
        """Rank the passages for every query.

        Args:
            searcher: the retriever; a dense one where the passages are encoded.
            queries: search texts by id.
            instruction: the text that an encoder puts before every query; "" for none.
            depth: passages to return for a query.

        Raises:
            UserError: the passages were encoded by another model.
        """
        if self.encoded is None:
            assert self.texts is not None, "in memory"
            documents = [Document(name, text) for name, text in self.texts.items()]
            ranked = searcher.rank(SearchTask("datastore", documents, queries, instruction), depth)
            self.counts |= ranked.counts
            return ranked.run
        # The queries alone are embedded here; the passages' embeddings are mapped from the file.
        dense = searcher.dense
        assert dense is not None, "an encoded folder is searched densely"
        if self.encoded.model != dense.encoder.fingerprint:
            raise UserError(
                f"datastore={self.encoded.folder} was encoded by another model than model.path names; name that one"
            )
        encoded = dense.embed(dense.query_job(list(queries.values()), instruction), "search queries")
        self.counts["queries_truncated"] = encoded.truncated_texts
        found = self._nearest(encoded.embeddings, depth, str(dense.encoder.device))
        return as_run(list(queries), self.ids, *found)

    def _nearest(self, query_QD: np.ndarray, depth: int, device: str) -> tuple[np.ndarray, np.ndarray]:
        """Search the index where there is one, else exactly."""
        assert self.encoded is not None
        index = find_index(self.encoded.folder)
        self.counts["search"] = "exact" if index is None else str(index)
        if index is not None:
            return search_index(index, query_QD, depth)
        return exact_top_k(query_QD, self.encoded.require_whole().embeddings_ND, depth, ids=self.ids, device=device)

    def look_up(self, wanted: Group[str]) -> dict[str, str]:
        """Return the texts of passages; one pass over the source where they are not in memory."""
        if self.texts is not None:
            return {name: self.texts[name] for name in wanted}
        # Ten million passages do not fit into memory; one pass finds those that are wanted.
        missing = set(wanted)
        found: dict[str, str] = {}
        for document in stream_documents(self.source):
            if document.id in missing:
                found[document.id] = document.text
                missing.discard(document.id)
                if not missing:
                    break
        if missing:
            lost = sorted(missing)[0]
            raise UserError(f"{self.source}: passage {lost!r} of the datastore is not there any more")
        return found

    def find_gold(self, golds: Group[str]) -> dict[str, list[str]]:
        """Return the passages of each gold id: the one of that id, and the chunks of a document or section of it."""
        wanted = set(golds)
        found: dict[str, list[str]] = {}
        # A data set may name a passage, or the section that passages SECTION_1, SECTION_2, ... were cut from.
        for name in self.ids if wanted else ():
            for key in {name, CHUNK.sub("", name)} & wanted:
                found.setdefault(key, []).append(name)
        return found


def open_store(datastore: str, *, dense: bool) -> Store:
    """Open the passages of a datastore.

    Args:
        datastore: a corpus, or a folder that reasonir-eval encode wrote.
        dense: search the embeddings of an encoded folder; else its texts are read into memory.

    Raises:
        UserError: no such passages, an encoded folder that is not finished or not of documents, or that is older than
            the file it was made from.
    """
    folder = Path(datastore)
    if not (folder / EMBEDDINGS_FILE).exists() and not (folder / IDS_FILE).exists():
        return _in_memory(datastore, datastore)
    encoded = open_encoded(folder, Side.document.value)
    _check_unchanged(encoded)
    if not dense:
        return _in_memory(datastore, encoded.source)
    ids = (folder / IDS_FILE).read_text(encoding="utf-8").split("\n")[:-1]
    return Store(datastore, ids, None, encoded.source, encoded)


def _in_memory(datastore: str, source: str) -> Store:
    texts = read_documents(source)
    return Store(datastore, list(texts), texts, source)


def _check_unchanged(encoded: EncodedFolder) -> None:
    """Compare checksums: reading takes about a second a gigabyte, a tenth of what looking the texts up takes."""
    for stored in encoded.inputs:
        file = Path(stored["path"])
        if not file.is_file():
            raise UserError(f"datastore={encoded.folder}: the passages {file} that it was encoded from are not there")
        if not unchanged(file.parent, {file.name: stored["sha256"]}):
            raise UserError(f"datastore={encoded.folder}: {file} has changed since; encode it again")
