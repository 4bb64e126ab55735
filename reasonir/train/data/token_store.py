"""A training file tokenised once: flat arrays on disk, mapped into memory, found again by content and settings.

Invariants: a store under its final name is complete, and is never replaced: other processes have it mapped. One process
of a machine builds it and the others wait. Its name depends on the file's bytes, the documents looked up, the
instruction of bare queries, the filter of short positives, the template and the token limits. A store holds each
distinct text (instruction, text, side) once.
"""

import hashlib
import json
import os
import signal
import sys
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, islice, tee
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from reasonir.core.errors import UserError
from reasonir.core.files import file_sha256, only_one, remove_all_leftovers, remove_leftovers, whole_folder
from reasonir.core.prefetch import prefetch
from reasonir.core.processes import local_rank
from reasonir.core.stamp import checksums_inside, digest_of, read_stamp, unchanged, write_stamp
from reasonir.data.rows import Lookup, read_rows
from reasonir.data.training_rows import InstructedText, RowsReport, TrainingExample, read_training_examples
from reasonir.model.templates import Template, TokenizedText
from reasonir.text.digests import text_digest

# Rows tokenised in one call: enough for the tokenizer's threads, little enough memory.
ROWS_PER_BATCH = 1_000
META_FILE = "meta.json"
# Part of every store's key; a change of the arrays below, or of how rows are read, raises it.
FORMAT = 5
ARRAYS = (
    "offsets", "prefix_tokens", "text_hashes", "row_query", "positive_offsets", "positives", "negative_offsets",
    "negatives", "weights", "lines",
)  # fmt: skip
# Those with one entry a row.
PER_ROW = ("row_query", "weights", "lines")


@dataclass(frozen=True, slots=True)
class TokenStore:
    """A tokenised source.

    Text i has token ids tokens_flat[offsets[i]:offsets[i+1]]; the first prefix_tokens[i] of them are not pooled.
    text_hashes[i] identifies its text without the instruction. Row r asks query text row_query[r], or row_query[r, k]
    where there are several instructions. It lists texts positives[positive_offsets[r]:positive_offsets[r+1]], negatives
    likewise. It is line lines[r] of the file.
    """

    path: str
    key: str
    tokens_flat: np.ndarray
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]

    @property
    def rows(self) -> int:
        """Number of training rows."""
        return len(self.arrays["row_query"])

    @property
    def queries(self) -> np.ndarray:
        """Text index of each row's query, with the first of its instructions, (rows,)."""
        return self.arrays["row_query"].reshape(self.rows, -1)[:, 0]

    @property
    def tokens(self) -> int:
        """Tokens of all distinct texts."""
        return len(self.tokens_flat)

    @property
    def truncated_queries(self) -> int:
        """Distinct queries that were cut."""
        return int(self.meta["truncated"]["query"])

    @property
    def truncated_documents(self) -> int:
        """Distinct documents that were cut."""
        return int(self.meta["truncated"]["document"])

    @property
    def left_out(self) -> int:
        """Rows of the file that the filter of short positives left out."""
        return int(self.meta["left_out"])

    @property
    def unusable(self) -> int:
        """Rows of the file that hold no positive; some formats of other tools have such rows."""
        return int(self.meta["unusable"])

    @property
    def joined(self) -> int:
        """Rows of the file whose texts are negatives of the row before, because a label says so."""
        return int(self.meta["joined"])

    @property
    def format(self) -> str:
        """Format of the file's rows, "" for this project's own."""
        return str(self.meta["format"])

    def text_ids(self, text: int) -> np.ndarray:
        """Return a text's token ids, int32 (L,)."""
        offsets = self.arrays["offsets"]
        return self.tokens_flat[offsets[text] : offsets[text + 1]]

    def listed(self, kind: str, row: int) -> np.ndarray:
        """Return the text indices of a row's "positive" or "negative" list."""
        offsets = self.arrays[f"{kind}_offsets"]
        return self.arrays[f"{kind}s"][offsets[row] : offsets[row + 1]]

    def listed_by(self, kind: str, chosen: np.ndarray) -> np.ndarray:
        """Return which entries of the "positive" or "negative" lists, laid end to end, belong to the chosen rows.

        Args:
            kind: "positive" or "negative".
            chosen: bool, one a row.
        """
        return np.repeat(chosen, np.diff(self.arrays[f"{kind}_offsets"]))

    def only_rows(self, chosen: np.ndarray) -> "TokenStore":
        """Return a view that has the chosen rows alone (bool, one a row), over the same texts and with its own key."""
        arrays = self.arrays | {name: self.arrays[name][chosen] for name in PER_ROW}
        for kind in ("positive", "negative"):
            counts = np.diff(self.arrays[f"{kind}_offsets"])[chosen]
            arrays[f"{kind}_offsets"] = np.concatenate([[0], np.cumsum(counts)])
            arrays[f"{kind}s"] = self.arrays[f"{kind}s"][self.listed_by(kind, chosen)]
        return replace(self, key=digest_of([self.key, np.packbits(chosen).tobytes().hex()])[:40], arrays=arrays)


def open_token_store(
    path: str,
    documents: Lookup | None,
    template: Template,
    query_max_tokens: int,
    document_max_tokens: int,
    cache_dir: Path,
    on_progress: Callable[[int], None] | None = None,
    *,
    instructions: Sequence[str] = ("",),
    min_positive_words: int = 0,
    processes: int = 1,
) -> TokenStore:
    """Return the tokenised form of a training file, from the cache or made now.

    Args:
        path: Training file, or a data set of the hub.
        documents: Texts by id for rows that hold ids; None if rows hold texts.
        template: Turns an instruction and a text into tokens.
        query_max_tokens: Tokens of a query's input.
        document_max_tokens: Tokens of a document's input.
        cache_dir: Folder of tokenised sources.
        on_progress: Called with the number of rows done.
        instructions: Of queries that have none; each query is tokenised with each.
        min_positive_words: Rows whose every positive has fewer words are left out and counted.
        processes: That tokenise; 1 is this one.
    Raises:
        UserError: Rows cannot be read, an instruction is longer than the token limit, or no row is left.
    """
    # The cache key: whatever changes a token changes it.
    named = instructions[0] if len(instructions) == 1 else list(instructions)
    settings = [FORMAT, template.fingerprint, query_max_tokens, document_max_tokens, named, min_positive_words]
    identity = [_content_hash(path), _documents_hash(documents), *settings]
    key = digest_of([json.dumps(identity)])[:40]
    folder = cache_dir / "tokens" / key
    remove_all_leftovers(folder.parent)
    meta = _facts(folder)
    if meta is None:
        # One of the first two ranks of a node waits for certain; the others need not say it too.
        said = f"{path}: another process tokenises it; waiting" if local_rank() < 2 else ""
        with only_one(folder, said) as locked:
            if locked:
                remove_leftovers(folder)
            meta = _facts(folder)
            if folder.exists() and meta is None:
                print(f"{path}: its tokens in {folder} are damaged; tokenising again", file=sys.stderr)
            if meta is None:
                growing = _Growing(tuple(instructions))
                examples = read_training_examples(
                    path, documents, "", min_positive_words, growing.leave_out, growing.report
                )
                limits = {"query": query_max_tokens, "document": document_max_tokens}
                meta = _build(path, growing, examples, template, limits, folder, on_progress, processes)
    # Mapped, not read: many ranks share the pages, and a corpus may be larger than memory. An empty file has no map.
    flat = folder / "tokens.bin"
    tokens = np.memmap(flat, dtype=np.int32, mode="r") if flat.stat().st_size else np.empty(0, np.int32)
    return TokenStore(path, key, tokens, {name: np.load(folder / f"{name}.npy") for name in ARRAYS}, meta)


def _facts(folder: Path) -> dict[str, Any] | None:
    """Return the facts of a complete store; None where there is none, or a damaged one.

    Reading the files takes about a second a gigabyte.
    """
    meta = read_stamp(folder / META_FILE)
    return meta if meta is not None and unchanged(folder, meta["files"]) else None


def _content_hash(path: str) -> str:
    if path.startswith("hub:"):  # the name says nothing about the revision, so the rows are hashed
        return digest_of(json.dumps(row, sort_keys=True, default=str) for _, row in read_rows(path))
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    return file_sha256(path)


def _documents_hash(documents: Lookup | None) -> str | None:
    if documents is None:
        return None
    # No row may use an ambiguous id, so its texts change no token.
    texts = ((i, entry if isinstance(entry, str) else "\0ambiguous") for i, entry in documents.items())
    return digest_of(f"{len(i)}:{len(text)}:{i}{text}" for i, text in texts)


@dataclass(slots=True)
class _Growing:
    """The arrays of a store while it is built, 8 bytes an entry. `known` takes some 150 bytes a distinct text."""

    instructions: tuple[str, ...]
    offsets: array = field(default_factory=lambda: array("q", [0]))
    prefix_tokens: array = field(default_factory=lambda: array("q"))
    text_hashes: array = field(default_factory=lambda: array("Q"))
    row_query: array = field(default_factory=lambda: array("q"))
    positive_offsets: array = field(default_factory=lambda: array("q", [0]))
    positives: array = field(default_factory=lambda: array("q"))
    negative_offsets: array = field(default_factory=lambda: array("q", [0]))
    negatives: array = field(default_factory=lambda: array("q"))
    weights: array = field(default_factory=lambda: array("d"))
    lines: array = field(default_factory=lambda: array("q"))
    known: dict[bytes, int] = field(default_factory=dict)
    truncated: dict[str, int] = field(default_factory=lambda: {"query": 0, "document": 0})
    query_instructions: set[str] = field(default_factory=set)
    left_out: int = 0
    report: RowsReport = field(default_factory=RowsReport)

    def leave_out(self, example: TrainingExample) -> None:
        """Count a row that the filter holds back."""
        self.left_out += 1

    def queries_of(self, example: TrainingExample) -> list[InstructedText]:
        """Return a row's query with each instruction; its own instruction outranks those of the source."""
        own, text = example.query.instruction, example.query.text
        return [InstructedText(own or instruction, text) for instruction in self.instructions]


def _build(
    path: str,
    growing: _Growing,
    examples: Iterator[TrainingExample],
    template: Template,
    limits: dict[str, int],
    folder: Path,
    on_progress: Callable[[int], None] | None,
    processes: int,
) -> dict[str, Any]:
    """Write the files of a store and return its facts."""
    # Where the file system knows no locks, two runs may tokenise the same file at once; both folders hold the same.
    with whole_folder(folder, stays=lambda there: _facts(there) is not None) as scratch:
        with (scratch / "tokens.bin").open("wb") as stream:
            rows = iter(lambda: list(islice(examples, ROWS_PER_BATCH)), [])
            batches, ahead = tee(_note_rows(growing, some) for some in rows)
            with closing(_encode_in_order(ahead, _Tokeniser(template, limits), processes)) as encoded:
                for batch in batches:
                    with _naming_the_line(growing, batch.rows, template, limits, path):
                        texts = next(encoded)
                    for ids in _append(growing, batch, texts):
                        stream.write(np.ascontiguousarray(ids, dtype=np.int32).tobytes())
                    if on_progress is not None:
                        on_progress(len(batch.rows))
        if not growing.row_query:
            if growing.report.unusable and not growing.left_out:
                raise UserError(f"{path}: none of the {growing.report.unusable} pairs has a label of 0.5 or more")
            raise UserError(f"{path}: min_positive_words leaves out all {growing.left_out} rows; lower it")
        return _write_arrays(growing, scratch)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows and their texts that no earlier row had. new: by side. order: (side, place in `new`) by text index."""

    rows: list[TrainingExample]
    new: dict[str, list[tuple[str, str]]]
    order: list[tuple[str, int]]


def _note_rows(growing: _Growing, rows: list[TrainingExample]) -> _Batch:
    """Give the texts of some rows their indices; leave their tokens open."""
    batch = _Batch(rows, {"query": [], "document": []}, [])

    def index_of(piece: InstructedText, side: str) -> int:
        # 16 bytes in place of the text; two of 2^32 texts collide with a probability of 2^-65.
        # The side counts, because queries and documents have limits of their own.
        identity = f"{side}\0{piece.instruction}\0{piece.text}".encode("utf-8", "surrogatepass")
        key = hashlib.blake2b(identity, digest_size=16).digest()
        if key not in growing.known:
            growing.known[key] = len(growing.known)
            batch.order.append((side, len(batch.new[side])))
            batch.new[side].append((piece.instruction, piece.text))
            growing.text_hashes.append(text_digest(piece.text))
        return growing.known[key]

    for example in rows:
        queries = growing.queries_of(example)
        growing.row_query.extend(index_of(piece, "query") for piece in queries)
        growing.query_instructions.update(piece.instruction for piece in queries)
        growing.positives.extend(index_of(piece, "document") for piece in example.positives)
        growing.negatives.extend(index_of(piece, "document") for piece in example.negatives)
        growing.positive_offsets.append(len(growing.positives))
        growing.negative_offsets.append(len(growing.negatives))
        growing.weights.append(example.weight)
        growing.lines.append(example.line)
    return batch


Encoded = dict[str, list[TokenizedText]]


class _Tokeniser:
    """Encodes the new texts of batches, all texts of a side in one call."""

    def __init__(self, template: Template, limits: dict[str, int]) -> None:
        self.template, self.limits = template, limits

    def __call__(self, new: dict[str, list[tuple[str, str]]]) -> Encoded:
        return {side: self.template.encode(pairs, self.limits[side]) for side, pairs in new.items()}


_in_this_worker: list[_Tokeniser] = []


def _become_worker(tokeniser: _Tokeniser) -> None:
    """Receive the tokenizer once, not with every batch: it takes megabytes."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the threads
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    _in_this_worker.append(tokeniser)


def _encode_in_worker(new: dict[str, list[tuple[str, str]]]) -> Encoded:
    return _in_this_worker[0](new)


def _encode_in_order(
    batches: Iterable[_Batch], tokeniser: _Tokeniser, processes: int
) -> Generator[Encoded, None, None]:
    """Tokenise batches while later ones are read: in a thread, or in processes of their own."""
    texts = (batch.new for batch in batches)
    first = list(islice(texts, 2))
    # A new interpreter takes seconds, more than a single batch does.
    if processes == 1 or len(first) < 2:
        return prefetch(tokeniser, chain(first, texts))
    # Not forked: the tokenizer's threads would be missing in the child, and locks that they held would stay closed.
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _become_worker, (tokeniser,))
    return prefetch(_encode_in_worker, chain(first, texts), 2 * processes, pool)


def _append(growing: _Growing, batch: _Batch, encoded: Encoded) -> Iterator[np.ndarray]:
    """Note the tokens of a batch's texts; yield them in the order in which the texts got their indices."""
    for side, position in batch.order:
        text = encoded[side][position]
        growing.offsets.append(growing.offsets[-1] + len(text.ids))
        growing.prefix_tokens.append(text.prefix_tokens)
        growing.truncated[side] += text.truncated
        yield text.ids


@contextmanager
def _naming_the_line(
    growing: _Growing, rows: list[TrainingExample], template: Template, limits: dict[str, int], path: str
) -> Iterator[None]:
    """Give the template's refusal the line of the first row that causes it."""
    try:
        yield
    except UserError:
        for example in rows:
            texts = {"query": growing.queries_of(example), "document": [*example.positives, *example.negatives]}
            try:
                for side, pieces in texts.items():
                    template.encode([(piece.instruction, piece.text) for piece in pieces], limits[side])
            except UserError as error:
                raise UserError(f"{path}:{example.line}: {error}") from error
        raise


def _write_arrays(growing: _Growing, folder: Path) -> dict[str, Any]:
    # meta.json is written last: it holds the checksums of all other files.
    kinds = {"prefix_tokens": np.int32, "text_hashes": np.uint64, "weights": np.float32}
    each = len(growing.instructions)
    for name in ARRAYS:
        numbers = np.array(getattr(growing, name), dtype=kinds.get(name, np.int64))
        if name == "row_query" and each > 1:
            numbers = numbers.reshape(-1, each)
        np.save(folder / f"{name}.npy", numbers)
    instructions = sorted(growing.query_instructions)
    meta = {
        "rows": len(growing.lines),
        "left_out": growing.left_out,
        "unusable": growing.report.unusable,
        "joined": growing.report.joined,
        "format": growing.report.format,
        "distinct_texts": len(growing.known),
        "tokens": growing.offsets[-1],
        "truncated": growing.truncated,
        "query_instruction": instructions[0] if len(instructions) == 1 else None,
        "files": checksums_inside(folder),
    }
    write_stamp(folder / META_FILE, **meta)
    return meta
