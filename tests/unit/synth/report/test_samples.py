"""Samples by seed, openings, near duplicates and signs of risk."""

from collections import Counter
from statistics import fmean

import numpy as np
import pytest

from reasonir.synth.report.likeness import (
    count_openings,
    find_clusters,
    likeness_to_average,
    likeness_to_nearest,
    word_vectors,
)
from reasonir.synth.report.ranks import Pool, gather_pool, rank_buckets
from reasonir.synth.report.risks import Case, distinct, find_risks
from reasonir.synth.report.survey import Drawn

QUERY = "Why does a loaf that rests near the stove grow before it is baked?"


def draw(size: int, seed: int, names: list[str]) -> list[str]:
    drawn: Drawn[str] = Drawn(size, seed, "row")
    for name in names:
        drawn.add(name, name)
    return drawn.values()


def test_a_sample_depends_on_seed_and_names_not_on_the_order() -> None:
    names = [f"n{number}" for number in range(1000)]
    assert draw(20, 0, names) == draw(20, 0, names[::-1]) != draw(20, 1, names)
    assert len(set(draw(20, 0, names))) == 20 and draw(2000, 0, names[:3]) != []
    # Uniform: the mean place of 200 of 1,000 lies within four standard errors of the middle.
    assert abs(fmean(names.index(name) for name in draw(200, 0, names)) - 499.5) < 4 * 289 / 200**0.5


def test_openings_ignore_case_and_clusters_hold_near_duplicates() -> None:
    openings = count_openings(["What is the heat?", "what is the cold like?", "Why?", "What is a loaf?"])
    assert openings == Counter({"What is the": 2, "Why?": 1, "What is a": 1})
    base = "Which of the two metals bends more when both are warmed by the same flame for an hour"
    queries = [f"{base} in a closed room?", f"{base} on a summer day?", QUERY, f"{base}?"]
    (cluster,) = find_clusters(queries)
    assert (cluster.size, cluster.first, cluster.last) == (3, queries[0], queries[3])


def test_vectors_tell_like_from_unlike() -> None:
    vectors = word_vectors(["red apple pie", "red apple tart", "quantum field", "???"])
    nearest = likeness_to_nearest(vectors)
    assert nearest[0] == nearest[1] > 0.3 > nearest[2] == nearest[3] == 0
    average = likeness_to_average(vectors)
    assert average[0] > average[2] > average[3] == 0
    assert len(likeness_to_nearest(np.zeros((0, 3)))) == len(likeness_to_average(np.zeros((0, 3)))) == 0


def test_the_pool_holds_each_text_once_and_every_source() -> None:
    pool = gather_pool(["one", "two", None, "one"], ["rival"], None, ["two", "four", "five", "six"], 5, 0)
    assert pool.texts == ["one", "two", "rival", "four", "five"] and pool.sources == [0, 1, None, 0]
    assert [Pool(["x"] * size, []).found_rank for size in (1, 39, 40, 1000)] == [1, 1, 2, 10]


def test_ranks_fall_into_buckets() -> None:
    ranks = [1, 2, 10, 11, 100, 101, 1000, 1001, None]
    assert rank_buckets(ranks) == {"1": 1, "2-10": 2, "11-100": 2, "101-1,000": 2, "not found": 2}


@pytest.mark.parametrize(
    ("case", "sign"),
    [
        (Case({}, QUERY, "a source", 10, None, 50), "source found neither by BM25 nor by the encoder"),
        (Case({}, QUERY, "a source", 90, 1, 1), "90 % of its content words stand in the source"),
        (Case({}, "Explain.", "a source", None, 1, 1), "very short: length 1, median 14 words"),
        (Case({}, QUERY * 5, "a source", 10, 1, 1), "very long: 66 words, median 14"),
        (Case({}, "What is the reason " * 4, "s", 10, 1, 1), "begins as 40 % of the queries: 'What is the'"),
        (Case({}, QUERY, "a source", 10, 1, 1, nearest=0.95), "another query is nearly the same (cosine 0.95)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_sign_of_risk(case: Case, sign: str) -> None:
    plain = [Case({}, QUERY, "a source", 10, None, 1) for _ in range(3)]
    openings = Counter({"What is the": 4, "Why does a": 2, "other": 4})
    risky = find_risks([*plain, case], 2, 0.9, openings, dense=True)
    assert sign in [words for _, words in case.risks] and risky[-1:] == [case]
    assert not any(one.risks for one in plain)


def test_the_riskiest_row_comes_first_and_a_repeated_query_once() -> None:
    cases = [Case({"id": n}, QUERY, "a source", 10, None, 1) for n in range(5)]
    cases[3].lexical, cases[3].dense = None, 30
    cases[4].lexical, cases[4].dense, cases[4].nearest = None, 30, 0.97
    risky = find_risks(cases, 2, 0.9, Counter({"other": 20}), dense=True)
    assert [case.row["id"] for case in risky] == [4, 3]
    assert [(case.row["id"], count) for case, count in distinct(risky)] == [(4, 2)]
    # BM25 alone is a weak judge of hard queries: it outweighs no other sign.
    weak = find_risks(cases, 2, 0.9, Counter({"other": 20}), dense=False)
    assert weak[0] is cases[4] and {case.risk for case in weak[1:]} == {0.5}
