"""`reasonir-eval index`: encoded documents to an index in shards beside them, with its measured recall.

Invariant: the index holds row i of embeddings.npy as its row i. A killed build goes on after its last whole file.
Leaves the files and faiss to `shards.py`, searching to `search.py`, measuring and the number of probes to `recall.py`.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reasonir.core.command import changed_fields
from reasonir.core.errors import UserError
from reasonir.core.files import CONFIG_FILE, lock_folder, read_text, write_json
from reasonir.core.progress import Progress
from reasonir.core.run_folder import RunFolder
from reasonir.core.stamp import key_of
from reasonir.retrieval.ann import recall as index_recall
from reasonir.retrieval.ann.config import INDEX_FOLDER, INDEX_MAY_DIFFER, SMALLEST_IVFPQ, IndexConfig, IndexKind
from reasonir.retrieval.ann.shards import (
    RECALL_FILE,
    TRAINED_FILE,
    cut_shards,
    fill_shard,
    find_index,
    find_whole,
    train_ivfpq,
    write_whole,
)
from reasonir.retrieval.ann.sizes import default_lists, size
from reasonir.retrieval.encoded_folder import EncodedFolder, open_encoded
from reasonir.retrieval.top_k import release

TRAIN_PER_LIST, FEWEST_TRAIN = 40, 10_240
"""faiss warns below 39 vectors for each list; the 256 centroids of a code's byte want as many."""
ROWS_AT_ONCE = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How an index is made.

    lists: inverted lists; None for a flat index, which has none of the following. pq_bytes: bytes of a code.
    train_vectors: drawn to train lists and codes. shards: files. seed: of the draw and of k-means.
    """

    lists: int | None
    pq_bytes: int
    train_vectors: int
    shards: int
    seed: int


def build_index(config: IndexConfig) -> None:
    """Build the shards that are missing, measure recall, write and print it."""
    # Read whole before the build: an index of damaged rows would look sound for as long as it stands.
    encoded = open_encoded(Path(config.embeddings), "document").require_whole()
    layout = _choose_layout(
        encoded.shape, config.kind, shards=config.shards, lists=config.lists, pq_bytes=config.pq_bytes,
        train_vectors=config.train_vectors, probes=config.probes, seed=config.seed,
    )  # fmt: skip
    # Drawn first, because queries of another model are a mistake that hours of building must not precede.
    query_QD, origin = index_recall.draw_queries(encoded, config.queries, config.sample_queries, config.seed)

    # 1 What the folder holds already
    folder = encoded.folder / INDEX_FOLDER
    stored = folder / CONFIG_FILE
    changed = None
    if stored.is_file():
        # The folder of the embeddings may have moved, and replace asks for a change.
        changed = changed_fields(read_text(stored), config, ["embeddings", "debug", "replace"])
        # Before RunFolder, which would refuse the same change without a way out.
        _make_way(folder, changed, config.replace)
    run = RunFolder(str(folder), config, resume=True, ignored=INDEX_MAY_DIFFER)
    # Other options of measuring leave the shards and ask for new figures.
    done = _finished_recall(encoded, origin) if changed == [] else None
    if done is not None:
        print(f"{index_recall.describe(done)}\n{run.path} is complete already")
        return

    # 2 The shards
    run.start()
    files, build_seconds = _build_shards(encoded, layout, run.path)
    facts = _facts(encoded.shape, config.kind, layout, files, build_seconds)

    # 3 Its recall, measured on the files as they lie there
    measured = index_recall.measure(
        encoded.embeddings_ND, run.path, files, query_QD, lists=layout.lists, probes=config.probes,
        refine=config.refine, recall_at=config.recall_at, recall_target=config.recall_target,
    )  # fmt: skip
    recall = facts | origin | measured
    write_json(run.path / RECALL_FILE, recall)
    counts = {"vectors": encoded.shape[0], "shards": len(files), "bytes": _bytes_of(files)}
    used = {name: recall[name] for name in ("kind", "probes", "refine")}
    # No inputs: the checksum of the embeddings names them, and hashing them again would read them again.
    run.finish(inputs=[], counts=counts, embeddings_sha256=encoded.sha256, shape=encoded.shape, files=files, **used)
    print(f"{index_recall.describe(recall)}\nindex: {run.path}")


def _bytes_of(files: Sequence[Mapping[str, Any]]) -> int:
    return sum(file["bytes"] for file in files)


def _facts(
    shape: Sequence[int],
    kind: IndexKind,
    layout: Layout,
    files: Sequence[Mapping[str, Any]],
    build_seconds: float,
) -> dict[str, Any]:
    """Return what recall.json says of an index of (N, D) vectors, besides its recall."""
    count, dimension = shape
    return {
        "kind": kind.value,
        "vectors": count,
        "dimension": dimension,
        "lists": layout.lists,
        "pq_bytes": layout.pq_bytes if layout.lists else None,
        "build_seconds": build_seconds,
        "bytes_per_vector": _bytes_of(files) / count,
    }


def _choose_layout(
    shape: Sequence[int],
    kind: IndexKind,
    *,
    shards: int,
    lists: int | None,
    pq_bytes: int,
    train_vectors: int | None,
    probes: int | None,
    seed: int,
) -> Layout:
    """Return what decides the bytes of an index of (N, D) vectors; refuse numbers that do not fit them."""
    count, dimension = shape
    # A shard without a row has nothing to search.
    if shards > count:
        raise UserError(f"shards={shards} must not exceed the {count} vectors")
    drawn = 0
    if kind is IndexKind.ivfpq:
        _check_code(dimension, pq_bytes)
        lists, drawn = _choose_lists(count, lists, train_vectors, probes)
    else:
        # A flat index is exact whatever lists were asked for.
        lists = None
    return Layout(lists=lists, pq_bytes=pq_bytes, train_vectors=drawn, shards=shards, seed=seed)


def _choose_lists(count: int, lists: int | None, train_vectors: int | None, probes: int | None) -> tuple[int, int]:
    """Return the number of lists of an ivfpq index of `count` vectors, and the vectors to train them on."""
    if count < SMALLEST_IVFPQ:
        raise UserError(f"kind=ivfpq needs {SMALLEST_IVFPQ} vectors or more, here are {count}; take kind=flat")
    lists = lists or default_lists(count)
    # Checked here with a remedy: faiss would fail in the middle of training, with an error of its C++ code.
    most = count if train_vectors is None else min(train_vectors, count)
    if most < max(lists, SMALLEST_IVFPQ):
        raise UserError(
            f"lists={lists} and codes are trained on train_vectors={most} of {count} vectors; "
            f"take fewer lists, or {max(lists, SMALLEST_IVFPQ)} vectors or more"
        )
    if probes is not None and probes > lists:
        raise UserError(f"probes={probes} must not exceed the {lists} lists")
    return lists, min(train_vectors or max(TRAIN_PER_LIST * lists, FEWEST_TRAIN), count)


def _check_code(dimension: int, pq_bytes: int) -> None:
    """Refuse a code that cannot be cut evenly from the vectors."""
    if dimension % pq_bytes:
        near = [number for number in range(1, dimension + 1) if dimension % number == 0]
        # The three divisors next to what was asked for, in order of size.
        near = sorted(sorted(near, key=lambda number: abs(number - pq_bytes))[:3])
        raise UserError(f"pq_bytes={pq_bytes} must divide the dimension {dimension}; {near} do")


def _make_way(folder: Path, changed: list[str], replace: bool) -> None:
    """Remove an index whose shards other options made, where `replace` says so; refuse otherwise."""
    built_otherwise = [field for field in changed if field.split(":")[0] not in INDEX_MAY_DIFFER]
    if built_otherwise and not replace:
        raise UserError(
            f"{folder} holds an index of other options ({'; '.join(built_otherwise[:3])}); replace=true "
            "removes it, or give the same options"
        )
    # The whole folder: shards of two layouts must never lie side by side.
    if built_otherwise:
        lock = lock_folder(folder)  # a build that goes on there loses nothing
        shutil.rmtree(folder)
        lock.release()


def _finished_recall(encoded: EncodedFolder, origin: dict[str, Any]) -> dict[str, Any] | None:
    """Return recall.json of a finished index that is whole and was measured with the same queries; else None."""
    try:
        index = find_index(encoded.folder)
        if index is None:
            return None
        recall: dict[str, Any] = json.loads((index / RECALL_FILE).read_text(encoding="utf-8"))
        return recall if {name: recall[name] for name in origin} == origin else None
    except UserError as error:
        # A damaged index is no mistake here, because the command is about to build it anew.
        print(str(error).split(";")[0])
    except (OSError, ValueError, KeyError):
        pass
    return None


def _build_shards(encoded: EncodedFolder, layout: Layout, folder: Path) -> tuple[list[dict[str, Any]], float]:
    """Build the files that are not whole.

    Returns:
        The shards as the manifest lists them, and the seconds that building them took, in this run or an earlier one.
    """
    seconds, trained, trained_key = 0.0, None, None
    if layout.lists is not None:
        trained, stamp = _train(encoded, layout, layout.lists, folder)
        # The trained file's checksum is part of every shard's key: all shards share one set of lists and codes.
        seconds, trained_key = stamp["seconds"], stamp["sha256"]
    files = []
    progress = Progress("index", len(encoded.embeddings_ND), "vectors")
    for number, (first, stop) in enumerate(cut_shards(len(encoded.embeddings_ND), layout.shards)):
        file = folder / f"shard-{number:05}.faiss"
        # Position and embeddings too, so that another number of shards takes no file for its own.
        key = key_of(encoded.sha256, trained_key, first, stop)
        found = find_whole(file, key)
        if found is None:
            fill = partial(fill_shard, trained, encoded.embeddings_ND, first, stop, progress=progress.update)
            found = write_whole(file, key, fill)
            print(f"{file.name}: {stop - first:,} vectors, {size(found['bytes'])}, {found['seconds']:.1f} s")
        else:
            print(f"{file.name} is there already")
            progress.update(stop - first)
        # From the stamp, so that a build that was killed tells the time of all its parts.
        seconds += found["seconds"]
        place = {"file": file.name, "first_row": first, "rows": stop - first}
        files.append(place | {name: found[name] for name in ("sha256", "bytes")})
    progress.close()
    return files, round(seconds, 3)


def _train(encoded: EncodedFolder, layout: Layout, lists: int, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Train the lists and codes on drawn vectors, unless that is done; return the file and its stamp."""
    documents, file, count = encoded.embeddings_ND, folder / TRAINED_FILE, layout.train_vectors
    # All that training depends on; the number of shards is not among it.
    key = key_of(encoded.sha256, lists, layout.pq_bytes, count, layout.seed)
    found = find_whole(file, key)
    if found is None:
        held = size(4 * count * documents.shape[1])
        # flush, because faiss says nothing for minutes.
        print(f"training {lists:,} lists on {count:,} of {len(documents):,} vectors ({held} in memory)", flush=True)
        sample = _draw_rows(documents, count, layout.seed)
        found = write_whole(file, key, partial(train_ivfpq, sample, lists, layout.pq_bytes, layout.seed))
        print(f"trained in {found['seconds']:.1f} s", flush=True)
    return file, found


def _draw_rows(document_ND: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return so many rows (count, D) in float32, drawn without replacement, read in the order of the disk."""
    # Sorted: rows are read in the order of the disk.
    chosen = np.sort(np.random.default_rng(seed).choice(len(document_ND), count, replace=False))
    sample = np.empty((count, document_ND.shape[1]), dtype=np.float32)
    for start in range(0, count, ROWS_AT_ONCE):
        sample[start : start + ROWS_AT_ONCE] = document_ND[chosen[start : start + ROWS_AT_ONCE]]
        release(document_ND)
    return sample
