"""One task ranked by BM25, by an encoder and by both; what a searcher keeps between tasks."""

from dataclasses import replace

import numpy as np
import pytest

from reasonir.data.collections import Document
from reasonir.model.tiny import build_tiny
from reasonir.retrieval import ranking
from reasonir.retrieval.bm25 import BM25Index
from reasonir.retrieval.config import FusionMethod, Lexical
from reasonir.retrieval.fusion import fuse_runs
from reasonir.retrieval.ranking import DenseSearch, Fusion, LexicalSearch, Searcher, SearchTask
from tests.kit.texts import SENTENCES

DOCUMENTS = [Document(f"d{i}", text) for i, text in enumerate(("a red cat", "a red dog", "the blue cat", ""))]
QUERIES = {"q": "red cat", "r": "blue"}
TASK = SearchTask("pets", DOCUMENTS, QUERIES, "Find: ", {"q": ("d0", "not here")})


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> DenseSearch:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "layers": 1, "heads": 2, "key_value_heads": 1}
    encoder = build_tiny(SENTENCES, vocabulary_size=400, **sizes)
    cache = tmp_path_factory.mktemp("cache")
    return DenseSearch(
        encoder=encoder, document_max_tokens=32, query_max_tokens=48, precision="fp32", cache_dir=cache
    )  # fmt: skip


def test_a_dense_run_is_the_order_of_inner_products_without_the_excluded(dense: DenseSearch) -> None:
    ranked = Searcher(dense).rank(TASK, 10)
    documents = dense.encoder.encode([document.text for document in DOCUMENTS], "", 32)
    queries = dense.encoder.encode(list(QUERIES.values()), "Find: ", 48)
    for number, name in enumerate(QUERIES):
        products = {document.id: queries[number] @ row for document, row in zip(DOCUMENTS, documents, strict=True)}
        allowed = [i for i in products if i not in TASK.excluded.get(name, ())]
        assert list(ranked.run[name]) == sorted(allowed, key=products.__getitem__, reverse=True)
    assert ranked.parts == {} and ranked.counts["documents_truncated"] == 0
    again = Searcher(dense).rank(TASK, 10)
    assert again.run == ranked.run and again.counts["documents_reused"] and again.counts["queries_reused"]


@pytest.mark.parametrize("variant", list(Lexical))
def test_a_lexical_run_is_the_index_own(variant: Lexical) -> None:
    run = Searcher(lexical=LexicalSearch(variant)).rank(TASK, 2).run
    index = BM25Index(TASK.ids, TASK.texts)
    rows, scores = index.search(["red cat", "blue"], 2, [np.array([0]), np.array([], np.int64)], variant)
    assert run == TASK.run(rows, scores) and "d0" not in run["q"] and list(run["r"]) == ["d2"]


def test_a_hybrid_fuses_its_parts(dense: DenseSearch) -> None:
    fusion = Fusion(FusionMethod.rrf, [0.25, 0.75], 10.0)
    task = replace(TASK, queries={**QUERIES, "s": "unheard"})
    ranked = Searcher(dense, LexicalSearch(Lexical.bm25), fusion).rank(task, 3)
    parts = [Searcher(dense).rank(task, 3).run, Searcher(lexical=LexicalSearch(Lexical.bm25)).rank(task, 3).run]
    assert list(ranked.parts) == ["dense", "bm25"] and list(ranked.parts.values()) == parts
    assert ranked.run == fuse_runs(parts, FusionMethod.rrf, [0.25, 0.75], 3, 10.0).run
    assert ranked.counts["queries_without_bm25_hits"] == 1 and "queries_truncated" in ranked.counts


def test_documents_are_indexed_once_for_all_their_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    monkeypatch.setattr(ranking, "BM25Index", lambda *given: built.append(given) or BM25Index(*given))
    search = LexicalSearch(Lexical.bm25)
    search.rank(TASK, 2)
    other = search.rank(replace(TASK, queries={"q": "dog"}), 2)
    assert len(built) == 1 and list(other.run["q"]) == ["d1"]
    assert list(search.rank(replace(TASK, documents=DOCUMENTS[2:]), 2).run["q"]) == ["d2"] and len(built) == 2
