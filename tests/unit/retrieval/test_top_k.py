"""Blockwise top-k against a full sort."""

from pathlib import Path

import numpy as np
import pytest

from reasonir.retrieval.top_k import exact_top_k


def sort_everything(
    queries: np.ndarray, documents: np.ndarray, top: int, excluded: list[np.ndarray], ids: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Brute force: every score, one Python sort a query."""
    indices = np.full((len(queries), top), -1, dtype=np.int64)
    scores = np.full((len(queries), top), -np.inf, dtype=np.float32)
    for q, query in enumerate(queries):
        values = [float(np.dot(query.astype(np.float64), document)) + 0.0 for document in documents]
        kept = [i for i in range(len(documents)) if i not in set(excluded[q].tolist())]
        kept.sort(key=lambda i: (values[i], ids[i].encode()), reverse=True)
        for place, i in enumerate(kept[:top]):
            indices[q, place], scores[q, place] = i, values[i]
    return indices, scores


def draw(
    seed: int, count_queries: int, count_documents: int
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], list[str]]:
    """Small whole numbers, so that products are exact and ties abound; -0.0 among them."""
    random = np.random.default_rng(seed)
    queries = random.integers(-1, 2, (count_queries, 3)).astype(np.float32)
    documents = random.integers(-1, 2, (count_documents, 3)).astype(np.float32)
    excluded = [
        random.choice(count_documents, random.integers(0, count_documents + 1), replace=False)
        for _ in range(count_queries)
    ]
    ids = [f"{'éaZ'[i % 3]}{i}" for i in random.permutation(count_documents)]
    return queries, documents, excluded, ids


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))])
@pytest.mark.parametrize(("block_queries", "block_documents"), [(1, 1), (3, 7), (256, 16_384), (2, 40)])
@pytest.mark.parametrize("top", [1, 5, 40, 100])
def test_equals_a_full_sort(seed: int, block_queries: int, block_documents: int, top: int) -> None:
    queries, documents, excluded, ids = draw(seed, 6, 40)
    expected = sort_everything(queries, documents, top, excluded, ids)
    found = exact_top_k(
        queries,
        documents,
        top,
        excluded,
        ids=ids,
        block_queries=block_queries,
        block_documents=block_documents,
    )
    assert len(np.unique(queries @ documents.T)) < 10, "ties abound"
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert found[0].dtype == np.int64 and found[1].dtype == np.float32


def test_real_scores_across_blocks() -> None:
    random = np.random.default_rng(0)
    queries, documents = random.normal(size=(9, 64)), random.normal(size=(501, 64))
    whole = exact_top_k(queries, documents, 20)
    for block_queries, block_documents in ((4, 100), (9, 64), (2, 501)):
        found = exact_top_k(queries, documents, 20, block_queries=block_queries, block_documents=block_documents)
        np.testing.assert_array_equal(found[0], whole[0])
        np.testing.assert_allclose(found[1], whole[1], rtol=1e-5)
    order = np.argsort(-(queries.astype(np.float32) @ documents.astype(np.float32).T), axis=1)[:, :20]
    np.testing.assert_array_equal(whole[0], order)


def test_without_ids_the_row_stands_for_the_id() -> None:
    ones = np.ones((3, 2), dtype=np.float32)
    assert exact_top_k(ones[:1], ones, 2)[0].tolist() == [[2, 1]]


def test_all_excluded_none_there_and_none_asked() -> None:
    ones = np.ones((3, 2), dtype=np.float32)
    indices, scores = exact_top_k(ones[:2], ones, 2, [[0, 1, 2], {1}])
    assert indices.tolist() == [[-1, -1], [2, 0]] and np.isneginf(scores[0]).all()
    assert exact_top_k(ones, ones[:0], 2)[0].tolist() == [[-1, -1]] * 3
    assert exact_top_k(ones[:0], ones, 2)[0].shape == (0, 2)


def test_memory_mapped_half_precision(tmp_path: Path) -> None:
    documents = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float16)
    np.save(tmp_path / "embeddings.npy", documents)
    mapped = np.load(tmp_path / "embeddings.npy", mmap_mode="r")
    queries = documents[:4].astype(np.float32)
    found = exact_top_k(queries, mapped, 5, block_documents=7)
    np.testing.assert_array_equal(found[0], exact_top_k(queries, documents.astype(np.float32), 5)[0])


def test_refusals() -> None:
    ones = np.ones((3, 2), dtype=np.float32)
    broken = ones.copy()
    broken[2, 1] = np.nan
    with pytest.raises(ValueError, match="document 2: its embedding holds NaN"):
        exact_top_k(ones, broken, 1, block_documents=2)
    with pytest.raises(ValueError, match="query 2: its embedding holds NaN"):
        exact_top_k(broken, ones, 1, block_queries=2)
    with pytest.raises(ValueError, match="top: 0"):
        exact_top_k(ones, ones, 0)
    with pytest.raises(ValueError, match="no common dimension"):
        exact_top_k(ones, ones[:, :1], 1)
    with pytest.raises(ValueError, match="excluded: 1 entries for 3 queries"):
        exact_top_k(ones, ones, 1, [[]])
    with pytest.raises(ValueError, match="ids: 1 for 3 documents"):
        exact_top_k(ones, ones, 1, ids=["a"])
