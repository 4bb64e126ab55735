"""An index against exact search: the same rows where it is flat, enough of them where it is not."""

import itertools
import json
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from reasonir.core.command import validate_tree
from reasonir.core.errors import UserError
from reasonir.core.files import file_sha256
from reasonir.retrieval.ann.build import build_index
from reasonir.retrieval.ann.config import IndexConfig, IndexKind
from reasonir.retrieval.ann.search import search_index
from reasonir.retrieval.ann.shards import find_index
from reasonir.retrieval.top_k import exact_top_k

COUNT, DIMENSION, TOP = 2_000, 32, 10


def clustered(count: int, seed: int) -> np.ndarray:
    """Return float32 unit vectors (count, D) around 60 centres that are the same for every seed."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((60, DIMENSION))
    rows = centres[draw.integers(0, 60, count)] + 0.8 * draw.standard_normal((count, DIMENSION))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def write_encoded(folder: Path, rows: np.ndarray, side: str = "document", model: str = "m") -> Path:
    """Write rows as `reasonir-eval encode` leaves them."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "embeddings.npy", rows)
    (folder / "ids.txt").write_text("".join(f"d{i}\n" for i in range(len(rows))))
    (folder / "config.yaml").write_text(f"side: {side}\n")
    manifest = {"sha256": file_sha256(folder / "embeddings.npy"), "counts": {"texts": len(rows)}}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"model_fingerprint": model}))
    return folder


def build(encoded: Path, **changes: Any) -> Path:
    options = {
        "kind": IndexKind.ivfpq, "lists": None, "pq_bytes": 8, "probes": None, "refine": True, "shards": 1,
        "train_vectors": None, "queries": None, "sample_queries": 50, "recall_at": TOP, "recall_target": 0.95,
        "replace": False, "seed": 0, "debug": False,
    }  # fmt: skip
    config = IndexConfig(embeddings=str(encoded), **options | changes)
    validate_tree(config)
    build_index(config)
    found = find_index(encoded)
    assert found == encoded / "index"
    return found


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    faiss.omp_set_num_threads(1)  # small searches gain nothing from several, and wait for them on a busy machine


@pytest.fixture(scope="module")
def documents() -> np.ndarray:
    return clustered(COUNT, 0)


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return clustered(40, 1)


def results_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.faiss"))}


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.mean([len({*a} & {*b}) / len(b) for a, b in zip(found, exact, strict=True)]))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_flat_index_finds_what_exact_search_finds(
    tmp_path: Path, documents: np.ndarray, queries: np.ndarray, shards: int, dtype: str
) -> None:
    rows = documents.astype(dtype)
    index = build(write_encoded(tmp_path / "e", rows), kind=IndexKind.flat, shards=shards)
    found, scores = search_index(index, queries, TOP)
    exact, exact_scores = exact_top_k(queries, rows, TOP)
    assert found.dtype == np.int64 and scores.dtype == np.float32
    np.testing.assert_array_equal(found, exact)
    np.testing.assert_allclose(scores, exact_scores, atol=1e-6)
    assert len(results_of(index)) == shards
    assert json.loads((index / "recall.json").read_text())["recall"] == 1.0


def test_equal_documents_come_in_the_order_of_exact_search(tmp_path: Path, documents: np.ndarray) -> None:
    rows = np.repeat(documents[:400], 2, axis=0)
    query = documents[:3]
    exact, _ = exact_top_k(query, rows, TOP)
    index = build(write_encoded(tmp_path / "e", rows), probes=2, shards=3)
    found, _ = search_index(index, query, TOP)
    np.testing.assert_array_equal(found[:, :2], exact[:, :2])
    assert (found[:, 0] == found[:, 1] + 1).all()


def test_lists_and_codes_find_most_and_rescoring_more(
    tmp_path: Path, documents: np.ndarray, queries: np.ndarray
) -> None:
    exact, exact_scores = exact_top_k(queries, documents, TOP)
    encoded = write_encoded(tmp_path / "e", documents)
    given = write_encoded(tmp_path / "q", queries, side="query")
    reached = {}
    for refine, probes in itertools.product([False, True], [1, 32]):
        index = build(encoded, refine=refine, probes=probes, queries=str(given))
        found, scores = search_index(index, queries, TOP)
        assert (np.diff(scores, axis=1) <= 0).all()
        reached[refine, probes] = recall(found, exact)
        # What it says of itself is what was measured here, on the same queries.
        assert json.loads((index / "recall.json").read_text())["recall"] == pytest.approx(reached[refine, probes])
        if refine:
            same = found[:, 0] == exact[:, 0]
            np.testing.assert_allclose(scores[same, 0], exact_scores[same, 0], atol=1e-6)
    assert reached[True, 32] > 0.99 and reached[True, 32] > reached[False, 32] > 0.5
    assert reached[True, 1] < reached[True, 32] and reached[False, 1] < reached[False, 32]


def test_shards_change_no_result_of_lists_and_codes(tmp_path: Path, documents: np.ndarray, queries: np.ndarray) -> None:
    folders = [(write_encoded(tmp_path / str(number), documents), number) for number in (1, 3)]
    for refine in (True, False):
        one, three = (
            search_index(build(folder, probes=4, shards=number, refine=refine), queries, TOP)
            for folder, number in folders
        )
        np.testing.assert_array_equal(one[0], three[0])
        np.testing.assert_array_equal(one[1], three[1])


def test_the_fewest_probes_that_reach_the_target_are_taken(
    tmp_path: Path, documents: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    encoded = write_encoded(tmp_path / "e", documents)
    notes = json.loads((build(encoded, recall_target=0.97) / "recall.json").read_text())
    tried = {row["probes"]: row["recall_refined"] for row in notes["tried"]}
    assert list(tried) == [1, 2, 4, 8, 16, 32] and tried[notes["probes"]] == notes["recall"] >= 0.97
    assert notes["probes"] > 1 and all(value < 0.97 for probes, value in tried.items() if probes < notes["probes"])
    assert "below recall_target" not in capsys.readouterr().out
    # Other questions to the same index: its shards stay, it is measured again.
    before = results_of(encoded / "index")
    notes = json.loads((build(encoded, refine=False, recall_target=1.0) / "recall.json").read_text())
    said = capsys.readouterr().out
    assert results_of(encoded / "index") == before and "trained in" not in said
    assert notes["probes"] == 32 and "below recall_target=1.0" in said


def test_fewer_documents_than_wanted_leave_padding(tmp_path: Path, documents: np.ndarray, queries: np.ndarray) -> None:
    index = build(write_encoded(tmp_path / "f", documents[:7]), kind=IndexKind.flat, shards=2)
    found, scores = search_index(index, queries, TOP)
    assert (found[:, 7:] == -1).all() and (scores[:, 7:] == -np.inf).all()
    np.testing.assert_array_equal(found, exact_top_k(queries, documents[:7], TOP)[0])
    index = build(write_encoded(tmp_path / "i", documents[:400]), probes=1, refine=False)
    found, scores = search_index(index, queries, 300)
    assert found.shape == (40, 300) and ((found == -1) == (scores == -np.inf)).all()
    assert (found[:, -1] == -1).all() and (found[:, 0] >= 0).all()


def test_only_a_whole_index_of_these_embeddings_is_found(
    tmp_path: Path, documents: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    encoded = write_encoded(tmp_path / "e", documents)
    assert find_index(encoded) is None
    index = build(encoded, kind=IndexKind.flat, shards=3)
    before = results_of(index)
    manifest = (index / "manifest.json").read_bytes()
    (index / "manifest.json").unlink()
    assert find_index(encoded) is None
    (index / "manifest.json").write_bytes(manifest)

    broken = bytearray(before["shard-00001.faiss"])
    broken[-100] ^= 1
    (index / "shard-00001.faiss").write_bytes(broken)
    with pytest.raises(UserError, match=r"shard-00001\.faiss is damaged or missing; reasonir-eval index embeddings="):
        find_index(encoded)
    capsys.readouterr()
    build(encoded, kind=IndexKind.flat, shards=3)
    said = capsys.readouterr().out
    assert "shard-00001.faiss is damaged" in said and "shard-00000.faiss is there already" in said
    assert results_of(index) == before

    write_encoded(encoded, documents[::-1])
    with pytest.raises(UserError, match="is an index of other embeddings"):
        find_index(encoded)
    build(encoded, kind=IndexKind.flat, shards=3)
    assert results_of(index) != before
    build(encoded, kind=IndexKind.flat, shards=3)
    assert "is complete already" in capsys.readouterr().out


def test_what_does_not_fit_is_refused(tmp_path: Path, documents: np.ndarray) -> None:
    encoded = write_encoded(tmp_path / "e", documents)
    few = write_encoded(tmp_path / "few", documents[:200])
    other = write_encoded(tmp_path / "q", documents[:20], side="query", model="another")
    narrow = write_encoded(tmp_path / "n", documents[:20, :8].copy(), side="query")
    for folder, options, message in [
        (encoded, {"pq_bytes": 7}, r"pq_bytes=7 must divide the dimension 32; \[2, 4, 8\] do"),
        (encoded, {"lists": 4_000}, "lists=4000 and codes are trained on train_vectors=2000 of 2000"),
        (encoded, {"train_vectors": 100}, "train_vectors=100 of 2000"),
        (encoded, {"lists": 8, "probes": 9}, "probes=9 must not exceed the 8 lists"),
        (encoded, {"queries": str(other)}, "are of another model"),
        (encoded, {"queries": str(narrow)}, "dimension 8, the documents have 32"),
        (encoded, {"queries": str(encoded)}, "holds embeddings of side=document; name a folder of side=query"),
        (few, {}, "kind=ivfpq needs 256 vectors or more, here are 200; take kind=flat"),
        (few, {"shards": 201, "kind": IndexKind.flat}, "shards=201 must not exceed the 200 vectors"),
        (other, {}, "holds embeddings of side=query"),
        (tmp_path, {}, r"no embeddings\.npy here; reasonir-eval encode side=document writes it"),
    ]:
        with pytest.raises(UserError, match=message):
            build(folder, **options)
        assert not (folder / "index").exists()
    build(few, kind=IndexKind.flat)
    with pytest.raises(UserError, match=r"holds an index of other options \(shards: 1 -> 2\); replace=true"):
        build(few, kind=IndexKind.flat, shards=2)
    assert len(results_of(build(few, kind=IndexKind.flat, shards=2, replace=True))) == 2
    with pytest.raises(UserError, match="is of dimension 32, the queries are of 8"):
        search_index(few / "index", documents[:2, :8], 3)
    rows = np.load(few / "embeddings.npy")
    rows[5, 5] += 1
    np.save(few / "embeddings.npy", rows)
    with pytest.raises(UserError, match="is damaged: it is not what was encoded"):
        build(few, kind=IndexKind.flat, shards=2)
