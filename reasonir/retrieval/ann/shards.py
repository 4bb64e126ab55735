"""An index on disk: the encoded folder that it belongs to, its shards, whether they are whole.

Invariant: a file under its final name with notes beside it (`shard-00000.json`) is complete, and the notes hold its
sha256 and a key of all that its bytes depend on. Imports no faiss. Leaves building and searching to `index.py`.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from reasonir.core.errors import UserError
from reasonir.core.files import CONFIG_FILE, MANIFEST_FILE, file_sha256, write_json
from reasonir.retrieval.ann.config import INDEX_FOLDER
from reasonir.retrieval.embeddings import EMBEDDINGS_FILE

TRAINED_FILE, RECALL_FILE = "trained.faiss", "recall.json"


@dataclass(frozen=True, slots=True)
class Encoded:
    """A finished folder of `reasonir-eval encode`. embeddings_ND: memory-mapped. model: fingerprint of its encoder.

    source: what was encoded. inputs: its files then, as the manifest describes them.
    """

    folder: Path
    embeddings_ND: np.ndarray
    sha256: str
    model: str | None
    source: str
    inputs: list[dict[str, Any]]

    @property
    def shape(self) -> list[int]:
        """N and D."""
        return list(self.embeddings_ND.shape)


def open_encoded(folder: Path, side: str) -> Encoded:
    """Open what `reasonir-eval encode` wrote.

    Args:
        side: document or query, which the folder must hold.
    Raises:
        UserError: not there, unfinished, damaged in its header, or of the other side.
    """
    file, manifest = folder / EMBEDDINGS_FILE, folder / MANIFEST_FILE
    if not file.is_file():
        raise UserError(f"{folder}: no {EMBEDDINGS_FILE} here; reasonir-eval encode side={side} writes it")
    if not manifest.is_file():
        raise UserError(f"{folder}: no {MANIFEST_FILE}: the encoding is unfinished; run its command again")
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))
        options = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        rows, checksum = np.load(file, mmap_mode="r"), str(found["sha256"])
        texts, held = int(found["counts"]["texts"]), options["side"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{folder}: not a folder of reasonir-eval encode, or damaged: {error}; encode again") from error
    if held != side:
        raise UserError(f"{folder} holds embeddings of side={held}; name a folder of side={side}")
    if rows.ndim != 2 or len(rows) != texts:
        raise UserError(f"{file}: shape {rows.shape} for {texts} texts; encode again")
    source, inputs = str(options.get("input", "")), found.get("inputs", [])
    return Encoded(folder, rows, checksum, found.get("model_fingerprint"), source, inputs)


def cut_shards(rows: int, shards: int) -> list[tuple[int, int]]:
    """Return the (first, stop) rows of every shard, as equal as can be."""
    edges = [rows * number // shards for number in range(shards + 1)]
    return list(pairwise(edges))


def key_of(*parts: Any) -> str:
    """Return a hash of all that a file depends on."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def whole(file: Path, key: str) -> dict[str, Any] | None:
    """Return the notes of a file that is there, as it was written, and has the key; else None."""
    try:
        notes: dict[str, Any] = json.loads(_notes_of(file).read_text(encoding="utf-8"))
        if notes["key"] == key and file.stat().st_size == notes["bytes"] and file_sha256(file) == notes["sha256"]:
            return notes
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def write_whole(file: Path, key: str, write: Callable[[Path], None]) -> dict[str, Any]:
    """Write a file through a scratch name, then its notes: key, sha256, bytes, seconds; return them."""
    started = time.monotonic()
    scratch = file.with_name(f".{file.name}.partial")
    _notes_of(file).unlink(missing_ok=True)
    write(scratch)
    with scratch.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(scratch, file)
    seconds = round(time.monotonic() - started, 3)
    notes = {"key": key, "sha256": file_sha256(file), "bytes": file.stat().st_size, "seconds": seconds}
    write_json(_notes_of(file), notes)
    return notes


def _notes_of(file: Path) -> Path:
    return file.with_suffix(".json")


def find_index(encoded: Path) -> Path | None:
    """Return the folder of the index beside a folder's embeddings; None where none was finished.

    Reading the shards for their checksums takes about a second a gigabyte.

    Raises:
        UserError: the index is damaged, or of other embeddings.
    """
    index = encoded / INDEX_FOLDER
    if not (index / MANIFEST_FILE).is_file():
        return None
    remedy = f"reasonir-eval index embeddings={encoded}, with the options of its {CONFIG_FILE}, builds it again"
    manifest = read_manifest(index)
    present = open_encoded(encoded, "document")
    if manifest["embeddings_sha256"] != present.sha256 or manifest["shape"] != present.shape:
        raise UserError(f"{index} is an index of other embeddings than {encoded / EMBEDDINGS_FILE}; {remedy}")
    for shard in manifest["files"]:
        file = index / shard["file"]
        if not file.is_file() or file.stat().st_size != shard["bytes"] or file_sha256(file) != shard["sha256"]:
            raise UserError(f"{file} is damaged or missing; {remedy}")
    return index


def read_manifest(index: Path) -> dict[str, Any]:
    """Return the manifest of an index.

    Raises:
        UserError: it lacks something.
    """
    file = index / MANIFEST_FILE
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        for name in ("embeddings_sha256", "shape", "files", "kind", "probes", "refine"):
            manifest[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read ({error}); build the index again with replace=true") from error
    return manifest
