"""`reasonir-eval index`: encoded documents to an index in shards beside them, with its measured recall.

Invariant: the index holds row i of embeddings.npy as its row i. A killed build goes on after its last whole file.
Leaves faiss to `faiss_index.py`, files and their checks to `index_files.py`, searching to `index_search.py`, choosing
the number of probes to `index_recall.py`.
"""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reasonir.core.command import changed_fields
from reasonir.core.errors import UserError
from reasonir.core.files import CONFIG_FILE, file_sha256, write_json
from reasonir.core.progress import Progress
from reasonir.core.run_folder import RunFolder
from reasonir.retrieval.ann import recall as index_recall
from reasonir.retrieval.ann.config import INDEX_MAY_DIFFER, SMALLEST_IVFPQ, IndexConfig, IndexKind
from reasonir.retrieval.ann.search import search_index
from reasonir.retrieval.ann.shards import (
    RECALL_FILE,
    TRAINED_FILE,
    Encoded,
    cut_shards,
    find_index,
    key_of,
    open_encoded,
    whole,
    write_whole,
)
from reasonir.retrieval.ann.sizes import default_lists, size
from reasonir.retrieval.embeddings import EMBEDDINGS_FILE
from reasonir.retrieval.top_k import release

__all__ = ["build_index", "find_index", "search_index"]

TRAIN_PER_LIST, FEWEST_TRAIN = 40, 10_240
"""faiss warns below 39 vectors for each list; the 256 centroids of a code's byte want as many."""
ROWS_AT_ONCE = 4_096


def build_index(config: IndexConfig) -> None:
    """Build the shards that are missing, measure recall, write and print it."""
    encoded = open_encoded(Path(config.embeddings), "document")
    lists = choose_lists(config, encoded)
    if file_sha256(encoded.folder / EMBEDDINGS_FILE) != encoded.sha256:
        raise UserError(f"{encoded.folder / EMBEDDINGS_FILE} is damaged: it is not what was encoded; encode again")
    query_QD, origin = index_recall.draw_queries(config, encoded)
    same = _claim(config)
    run = RunFolder(config.output_dir, config, resume=True, ignored=INDEX_MAY_DIFFER)
    done = _finished_recall(encoded, origin) if same else None
    if done is not None:
        print(f"{index_recall.describe(done)}\n{run.path} is complete already")
        return
    run.start()
    files, build_seconds = build_shards(config, encoded, lists, run.path)
    (count, dimension), held = encoded.shape, sum(file["bytes"] for file in files)
    facts = {
        "kind": config.kind.value,
        "vectors": count,
        "dimension": dimension,
        "lists": lists,
        "pq_bytes": config.pq_bytes if lists else None,
        "build_seconds": build_seconds,
        "bytes_per_vector": held / count,
    }
    recall = facts | origin | index_recall.measure(config, encoded, run.path, files, query_QD, lists)
    write_json(run.path / RECALL_FILE, recall)
    counts = {"vectors": count, "shards": len(files), "bytes": held}
    used = {name: recall[name] for name in ("kind", "probes", "refine")}
    run.finish(
        inputs=[], counts=counts, embeddings_sha256=encoded.sha256, shape=encoded.shape, files=files, **used
    )  # fmt: skip
    print(f"{index_recall.describe(recall)}\nindex: {run.path}")


def choose_lists(config: IndexConfig, encoded: Encoded) -> int | None:
    """Return the number of lists; None for a flat index.

    Raises:
        UserError: options that do not fit the embeddings.
    """
    count, dimension = encoded.shape
    if config.shards > count:
        raise UserError(f"shards={config.shards} must not exceed the {count} vectors")
    if config.kind is IndexKind.flat:
        return None
    if count < SMALLEST_IVFPQ:
        raise UserError(f"kind=ivfpq needs {SMALLEST_IVFPQ} vectors or more, here are {count}; take kind=flat")
    if dimension % config.pq_bytes:
        near = [number for number in range(1, dimension + 1) if dimension % number == 0]
        near = sorted(sorted(near, key=lambda number: abs(number - config.pq_bytes))[:3])
        raise UserError(f"pq_bytes={config.pq_bytes} must divide the dimension {dimension}; {near} do")
    lists = config.lists or default_lists(count)
    trained = count if config.train_vectors is None else min(config.train_vectors, count)
    if trained < max(lists, SMALLEST_IVFPQ):
        raise UserError(
            f"lists={lists} and codes are trained on train_vectors={trained} of {count} vectors; "
            f"take fewer lists, or {max(lists, SMALLEST_IVFPQ)} vectors or more"
        )
    if config.probes is not None and config.probes > lists:
        raise UserError(f"probes={config.probes} must not exceed the {lists} lists")
    return lists


def _claim(config: IndexConfig) -> bool:
    """Return whether the folder holds an index of exactly these options; make way for one of others where asked to."""
    stored = Path(config.output_dir) / CONFIG_FILE
    if not stored.is_file():
        return False
    changed = changed_fields(stored.read_text(encoding="utf-8"), config, ["embeddings", "debug", "replace"])
    built_otherwise = [field for field in changed if field.split(":")[0] not in INDEX_MAY_DIFFER]
    if built_otherwise and not config.replace:
        raise UserError(
            f"{config.output_dir} holds an index of other options ({'; '.join(built_otherwise[:3])}); replace=true "
            "removes it, or give the same options"
        )
    if built_otherwise:
        shutil.rmtree(config.output_dir)
    return not changed


def _finished_recall(encoded: Encoded, origin: dict[str, Any]) -> dict[str, Any] | None:
    """Return recall.json of a finished index that is whole and was measured with the same queries; else None."""
    try:
        index = find_index(encoded.folder)
        if index is None:
            return None
        recall: dict[str, Any] = json.loads((index / RECALL_FILE).read_text(encoding="utf-8"))
        return recall if {name: recall[name] for name in origin} == origin else None
    except UserError as error:
        print(str(error).split(";")[0])
    except (OSError, ValueError, KeyError):
        pass
    return None


def build_shards(
    config: IndexConfig, encoded: Encoded, lists: int | None, folder: Path
) -> tuple[list[dict[str, Any]], float]:
    """Build what is not whole; return the shards as the manifest lists them, and the seconds that building took."""
    from reasonir.retrieval.ann.faiss_index import fill_shard

    seconds, trained, trained_key = 0.0, None, None
    if lists is not None:
        trained, notes = train(config, encoded, lists, folder)
        seconds, trained_key = notes["seconds"], notes["sha256"]
    files = []
    progress = Progress("index", len(encoded.embeddings_ND), "vectors")
    for number, (first, stop) in enumerate(cut_shards(len(encoded.embeddings_ND), config.shards)):
        file = folder / f"shard-{number:05}.faiss"
        key = key_of(encoded.sha256, trained_key, first, stop)
        found = whole(file, key)
        if found is None:
            fill = partial(fill_shard, trained, encoded.embeddings_ND, first, stop, progress=progress.update)
            found = write_whole(file, key, fill)
            print(f"{file.name}: {stop - first:,} vectors, {size(found['bytes'])}, {found['seconds']:.1f} s")
        else:
            print(f"{file.name} is there already")
            progress.update(stop - first)
        seconds += found["seconds"]
        place = {"file": file.name, "first_row": first, "rows": stop - first}
        files.append(place | {name: found[name] for name in ("sha256", "bytes")})
    progress.close()
    return files, round(seconds, 3)


def train(config: IndexConfig, encoded: Encoded, lists: int, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Train the lists and codes on drawn vectors, unless that is done; return the file and its notes."""
    from reasonir.retrieval.ann.faiss_index import train_ivfpq

    documents, file = encoded.embeddings_ND, folder / TRAINED_FILE
    wanted = config.train_vectors or max(TRAIN_PER_LIST * lists, FEWEST_TRAIN)
    count = min(wanted, len(documents))
    key = key_of(encoded.sha256, lists, config.pq_bytes, count, config.seed)
    found = whole(file, key)
    if found is None:
        held = size(4 * count * documents.shape[1])
        print(f"training {lists:,} lists on {count:,} of {len(documents):,} vectors ({held} in memory)", flush=True)
        sample = draw_rows(documents, count, config.seed)
        found = write_whole(file, key, partial(train_ivfpq, sample, lists, config.pq_bytes, config.seed))
        print(f"trained in {found['seconds']:.1f} s", flush=True)
    return file, found


def draw_rows(document_ND: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return so many rows (count, D) in float32, drawn without replacement, read in their order."""
    chosen = np.sort(np.random.default_rng(seed).choice(len(document_ND), count, replace=False))
    sample = np.empty((count, document_ND.shape[1]), dtype=np.float32)
    for start in range(0, count, ROWS_AT_ONCE):
        sample[start : start + ROWS_AT_ONCE] = document_ND[chosen[start : start + ROWS_AT_ONCE]]
        release(document_ND)
    return sample
