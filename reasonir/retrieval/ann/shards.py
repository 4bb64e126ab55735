"""The files of an index: trained, filled, written whole, opened and searched with faiss, and found again.

Legend: N documents, S of them in a training sample, Q queries, C hits kept, D dimension. Inner products throughout.
Invariant: rows in a file count from 0. A file under its final name with a stamp beside it (`shard-00000.json`) is
complete, and the stamp holds its sha256 and a key of all that its bytes depend on. faiss is imported where it is
called, so that finding an index needs none. Leaves the order of the work to `build.py`, merging hits to `search.py`.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from reasonir.core.errors import UserError
from reasonir.core.files import CONFIG_FILE, MANIFEST_FILE, file_sha256, whole_path
from reasonir.core.stamp import read_stamp, remove_stamp, unchanged, write_stamp
from reasonir.retrieval.ann.config import INDEX_FOLDER
from reasonir.retrieval.encoded_folder import EMBEDDINGS_FILE, open_encoded
from reasonir.retrieval.top_k import release

TRAINED_FILE, RECALL_FILE = "trained.faiss", "recall.json"
CODE_BITS = 8
"""Bits of each part of a code: 256 centroids in a byte, faiss's fastest and best tested size."""
BLOCK_BYTES = 1 << 26
"""Bytes of rows in float32 on their way into an index: 64 MiB, little beside the index itself."""


def cut_shards(rows: int, shards: int) -> list[tuple[int, int]]:
    """Return the (first, stop) rows of every shard, as equal as can be."""
    # Whole numbers throughout: the edges meet, and the last one is the number of rows.
    edges = [rows * number // shards for number in range(shards + 1)]
    return list(pairwise(edges))


# --- faiss ------------------------------------------------------------------------------------------------------------


def train_ivfpq(sample_SD: np.ndarray, lists: int, pq_bytes: int, seed: int, file: Path) -> None:
    """Write an empty index with `lists` centres and a product quantizer, both found by k-means.

    Args:
        sample_SD: float32; all of it is used.
        lists: Inverted lists.
        pq_bytes: Bytes of a vector's code; divides D.
        seed: Of both k-means.
        file: Where to write.
    """
    import faiss

    dimension = sample_SD.shape[1]
    metric = faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(dimension), dimension, lists, pq_bytes, CODE_BITS, metric)
    # As faiss's own index factory does for inner products: a long centre would draw all vectors to itself.
    index.cp.spherical = True
    index.cp.max_points_per_centroid = len(sample_SD)  # faiss would draw a sample of its own from a large one
    for parameters in (index.cp, index.pq.cp):
        parameters.seed = seed + 1
        parameters.min_points_per_centroid = 1  # faiss would print a warning; `build.py` checks
    index.train(sample_SD)
    faiss.write_index(index, str(file))


def fill_shard(
    trained: Path | None, document_ND: np.ndarray, first: int, stop: int, file: Path, *, progress: Callable[[int], None]
) -> None:
    """Write an index of rows `first` to `stop`, converted to float32 block by block.

    Args:
        trained: An empty index; None for a flat one.
        document_ND: Any float type; memory-mapped, what was read is let go.
        first: First row of the shard.
        stop: The row after its last.
        file: Where to write.
        progress: Called with the number of rows added.
    """
    import faiss

    dimension = document_ND.shape[1]
    # A copy of the trained file for each shard: their codes and lists mean the same.
    index = faiss.IndexFlatIP(dimension) if trained is None else faiss.read_index(str(trained))
    step = max(1, BLOCK_BYTES // (4 * dimension))
    for start in range(first, stop, step):
        rows = document_ND[start : min(start + step, stop)]
        # faiss takes float32 in C order only; float16 files are converted block by block.
        index.add(np.ascontiguousarray(rows, dtype=np.float32))
        release(document_ND)
        progress(len(rows))
    faiss.write_index(index, str(file))


def open_shard(file: Path) -> Any:
    """Return the index of a file, memory-mapped.

    Raises:
        UserError: the file is not an index.
    """
    import faiss

    try:
        # Mapped: searching a few lists reads a few parts of the file.
        return faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise UserError(f"{file}: faiss cannot read it; build the index again with replace=true") from error


def search_shard(shard: Any, query_QD: np.ndarray, top: int, probes: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (Q, C) int64 of a shard's best hits, -1 where there is none, and their scores, -inf there.

    Args:
        shard: Of `open_shard`.
        query_QD: float32.
        top: Hits wanted; C is this or the shard's rows.
        probes: Lists to search; None for a flat index.
    """
    if probes is not None:
        shard.nprobe = probes
    # faiss pads where fewer are found: it is not asked for more than the shard has.
    scores, rows = shard.search(np.ascontiguousarray(query_QD), min(top, shard.ntotal))
    # Whatever faiss put there, -inf is what exact search pads with.
    scores[rows < 0] = -np.inf
    return rows, scores


# --- whole files ------------------------------------------------------------------------------------------------------


def find_whole(file: Path, key: str) -> dict[str, Any] | None:
    """Return the stamp of a file that is there, as it was written, and has the key; else None."""
    stamp = read_stamp(_stamp_of(file), key=key)
    return stamp if stamp is not None and unchanged(file.parent, {file.name: stamp.get("sha256", "")}) else None


def write_whole(file: Path, key: str, write: Callable[[Path], None]) -> dict[str, Any]:
    """Write a file beside its name, rename it, then stamp it; return the stamp.

    Args:
        file: The final name.
        key: Of all that its bytes depend on.
        write: Called with the name to write to.

    Returns:
        key, sha256, bytes, seconds.
    """
    started = time.monotonic()
    # The stamp goes first and comes last: a kill in between leaves a file without one, which is made anew.
    remove_stamp(_stamp_of(file))
    with whole_path(file, durable=True) as scratch:
        write(scratch)
    seconds = round(time.monotonic() - started, 3)
    # Hashed from the disk, so that the stamp tells of what lies there.
    stamp = {"key": key, "sha256": file_sha256(file), "bytes": file.stat().st_size, "seconds": seconds}
    write_stamp(_stamp_of(file), **stamp)
    return stamp


def _stamp_of(file: Path) -> Path:
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
        # The size first: it finds a file that was cut off without reading it.
        if not all(unchanged(index, {shard["file"]: shard[told]}) for told in ("bytes", "sha256")):
            raise UserError(f"{index / shard['file']} is damaged or missing; {remedy}")
    return index


def read_manifest(index: Path) -> dict[str, Any]:
    """Return the manifest of an index.

    Raises:
        UserError: it lacks something.
    """
    file = index / MANIFEST_FILE
    manifest = read_stamp(file)
    # Asked for here, so that an older or foreign manifest is refused in one line and not where a field is used.
    needed = {"embeddings_sha256", "shape", "files", "kind", "probes", "refine"}
    if manifest is None or not needed <= manifest.keys():
        raise UserError(f"{file} is damaged or of another version; build the index again with replace=true")
    return manifest
