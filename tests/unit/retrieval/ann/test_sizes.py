"""The plan's arithmetic, by hand."""

import pytest

from reasonir.retrieval.ann.sizes import default_lists, describe, plan, size


def test_ten_million_passages_of_an_8b_encoder() -> None:
    planned = plan(10_000_000, 11_776_000_000, dimension=4_096, pq_bytes=64, tokens_per_second=20_000)
    assert planned.tokens == 2_560_000_000
    assert planned.float32_bytes == planned.flat_bytes == 10_000_000 * 4_096 * 4
    assert planned.float16_bytes * 2 == planned.float32_bytes
    assert planned.lists == 16_384  # 4 * sqrt(10^7) = 12,649; the logarithm's nearest power of two
    assert planned.ivfpq_bytes == 10_000_000 * 72 + 4 * 4_096 * (16_384 + 256)
    assert planned.encoding_hours == pytest.approx(2_560_000_000 / 20_000 / 3_600)
    assert planned.exact_search_memory == 160_000_000 + 4 * 4_096 * 5_120 + 50 * 1_024 * 1_000
    said = describe(planned, 4_096, 64, given_rate=True)
    assert "164 GB" in said and "35.6 hours of encoding at 20,000 tokens/s" in said and "give tokens" not in said


def test_without_a_rate_it_says_where_one_is_printed() -> None:
    planned = plan(1_000, 1_000_000, dimension=8, pq_bytes=4, tokens_per_second=None)
    assert planned.tokens_per_second == 1_000
    assert "encode prints its own rate" in describe(planned, 8, 4, given_rate=False)


@pytest.mark.parametrize(
    ("vectors", "lists"), [(1, 1), (38, 1), (256, 4), (1_000, 16), (10_000, 256), (10**6, 4_096), (10**7, 16_384)]
)
def test_lists_by_default(vectors: int, lists: int) -> None:
    assert default_lists(vectors) == lists
    assert vectors >= 39 * lists or lists == 1


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1 kB"), (1_536_000, "1.54 MB"), (163_840_000_000, "164 GB"), (2e12, "2 TB")],
)
def test_sizes(count: float, said: str) -> None:
    assert size(count) == said
