"""`reasonir-eval datastore`: sources to passages.jsonl, each text once.

Invariant: no two passages have the same text (title and content) or the same id; every document and context read is
in a passage or counted as left out. Memory: hashes of texts and ids, 21 to 32 bytes each; texts pass through. Leaves
reading to `sources.py`, cutting to `chunks.py`, the arithmetic of the plan to `retrieval/ann/sizes.py`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from reasonir.core.errors import UserError
from reasonir.core.files import file_sha256, write_jsonl
from reasonir.core.progress import Progress
from reasonir.core.run_folder import RunFolder
from reasonir.core.stamp import digest_of
from reasonir.data.collections import with_title
from reasonir.eval.rag.datastore.chunks import Span, token_cutter, word_cutter
from reasonir.eval.rag.datastore.config import DATASTORE_MAY_DIFFER, Chunking, DatastoreConfig
from reasonir.eval.rag.datastore.sources import SourceText, context_id, read_source
from reasonir.eval.rag.records import PASSAGES_FILE
from reasonir.retrieval.ann import sizes
from reasonir.text.digests import DigestTable, text_digest
from reasonir.text.lengths import ENGLISH_BYTES, open_tokenizer

TEXTS_BETWEEN_UPDATES = 1_000


@dataclass(slots=True)
class Counts:
    """What happened to the texts of the sources. empty, duplicate: passages left out. renamed: documents."""

    documents: int = 0
    contexts: int = 0
    passages: int = 0
    empty: int = 0
    duplicate: int = 0
    renamed: int = 0
    text_bytes: int = 0


def build_datastore(config: DatastoreConfig) -> None:
    """Print the plan, pool the sources, write passages.jsonl; with plan_only=true the plan alone."""
    dimension, pq_bytes, rate = config.dimension, config.pq_bytes, config.tokens_per_second
    plan_of = partial(sizes.plan, dimension=dimension, pq_bytes=pq_bytes, tokens_per_second=rate)
    describe = partial(sizes.describe, dimension=dimension, pq_bytes=pq_bytes, given_rate=rate is not None)
    # 1 the plan that needs no source
    if config.passages is not None:
        text_bytes = round(config.passages * config.passage_tokens * ENGLISH_BYTES)
        print(describe(plan_of(config.passages, text_bytes)))
        if config.plan_only:
            return
    # 2 the passages. A source that is named twice would give nothing but duplicates.
    sources = list(dict.fromkeys(config.source or []))
    pool = Pool(_cutter(config.chunk, config.chunk_size, config.overlap, config.tokenizer))
    if config.plan_only:
        # Counted by the whole pool: duplicates and empty passages are known only once all texts went by.
        for _ in pool.passages(sources):
            pass
    else:
        folder = config.output_dir or _default_folder(sources)
        run = RunFolder(folder, replace(config, output_dir=folder), resume=True, ignored=DATASTORE_MAY_DIFFER)
        run.start()
        file = run.path / PASSAGES_FILE
        write_jsonl(file, pool.passages(sources))
    # 3 the plan by what was counted; it goes into the manifest even where one was printed before
    planned = plan_of(pool.counts.passages, pool.counts.text_bytes)
    _print_counts(pool.counts)
    if config.passages is None:
        print(describe(planned))
    if config.plan_only:
        return
    counts = asdict(pool.counts) | {"passages_of_source": pool.passages_of_source}
    inputs = [source for source in sources if not source.startswith("hub:")]
    run.finish(inputs=inputs, counts=counts, plan=asdict(planned), sha256=file_sha256(file))
    print(f"{pool.counts.passages:,} passages: {file}")


class Pool:
    """Takes the texts of sources into a datastore."""

    def __init__(self, cut: Callable[[str], list[Span]] | None) -> None:
        """cut: returns the slices of a text that become passages; None leaves it whole."""
        self.counts = Counts()
        self.passages_of_source: dict[str, int] = {}
        self._cut = cut
        self._texts, self._ids = DigestTable(), DigestTable()
        self._places: dict[str, int] = {}

    def passages(self, sources: Iterable[str]) -> Iterator[dict[str, str]]:
        """Yield the rows of passages.jsonl.

        Raises:
            UserError: a row that cannot be read, an id with two texts in one file, or nothing at all.
        """
        progress, read = Progress("datastore", 0, "texts"), 0
        for source in sources:
            before = self.counts.passages
            for text in read_source(source):
                yield from self._take(text)
                read += 1
                if read % TEXTS_BETWEEN_UPDATES == 0:
                    progress.update(TEXTS_BETWEEN_UPDATES, f"{self.counts.passages:,} passages")
            self.passages_of_source[source] = self.counts.passages - before
        progress.close()
        if self.counts.passages == 0:
            raise UserError(f"source={list(sources)}: no passage, all {read} texts are empty")

    def _take(self, text: SourceText) -> Iterator[dict[str, str]]:
        if text.id is None:
            self.counts.contexts += 1
            name = context_id(text.content)
        else:
            self.counts.documents += 1
            name = self._own_id(text, text.id)
        spans = self._cut(text.content) if self._cut else [None]
        for number, span in enumerate(spans):
            # White space at a chunk's end belongs to the cut; with it equal passages would count as different.
            content = text.content[slice(*span)].strip() if span else text.content
            # Judged as an encoder sees them: the same content under another title is another passage.
            whole = with_title(text.title, content)
            if not whole.strip():
                self.counts.empty += 1
            elif self._texts.seen(whole):
                self.counts.duplicate += 1
            else:
                self.counts.passages += 1
                self.counts.text_bytes += len(whole.encode())
                row = {"id": name if self._cut is None else f"{name}_{number}"}
                yield row | ({"title": text.title} if text.title else {}) | {"content": content}

    def _own_id(self, text: SourceText, name: str) -> str:
        """Return a document's id, with the text's hash behind it where another file has it with another text."""
        # 16 bits name the file and 48 the text, because a value of the table has 64.
        place = self._places.setdefault(text.place, len(self._places)) % 2**16
        digest = digest_of([text.text])
        value = int(digest[:12], 16) << 16 | place
        found = self._ids.setdefault(text_digest(name), value)
        # The same id with the same text: the name stays, and the text is left out as a duplicate later.
        if found is None or found >> 16 == value >> 16:
            return name
        # Within one file an id with two texts is a mistake; two files may well number their documents alike.
        if found & (2**16 - 1) == place:
            raise UserError(f"{text.where}: document id {name!r} stands twice with different text")
        self.counts.renamed += 1
        # Once more, because the new name may be taken too.
        return self._own_id(text, f"{name}~{digest[:8]}")


def _cutter(chunk: Chunking, size: int, overlap: int, tokenizer: str | None) -> Callable[[str], list[Span]] | None:
    if chunk is Chunking.none:
        return None
    if chunk is Chunking.words:
        return word_cutter(size, overlap)
    assert tokenizer is not None, "validate() asks for one"
    return token_cutter(open_tokenizer(tokenizer), size, overlap)


def _default_folder(sources: list[str]) -> str:
    return str(Path("outputs") / f"datastore-{'-'.join(source.rstrip('/').rsplit('/', 1)[-1] for source in sources)}")


def _print_counts(counts: Counts) -> None:
    print(f"{counts.documents:,} documents and {counts.contexts:,} search results read")
    print(f"left out: {counts.empty:,} passages that are empty, {counts.duplicate:,} whose text came before")
    if counts.renamed:
        print(f"{counts.renamed:,} documents renamed ID~HASH: another file has their id with another text")
