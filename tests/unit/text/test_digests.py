"""The table of hashes against a dictionary, and its size."""

import random

from reasonir.text.digests import DigestTable, text_digest


def test_it_is_a_dictionary() -> None:
    draw, table, plain = random.Random(0), DigestTable(), {}
    for _ in range(20_000):
        # Few keys, so that most come again; some fall on one slot.
        key, value = draw.choice([draw.randrange(6_000) * 1_024, draw.getrandbits(64)]) or 1, draw.getrandbits(64)
        assert table.setdefault(key, value) == plain.get(key)
        plain.setdefault(key, value)
    assert len(table) == len(plain) > 10_000


def test_hashes_that_share_their_first_half_are_two() -> None:
    table = DigestTable()
    digests = [first * 8 + second * 8 for first in (b"\0", b"a", b"q") for second in (b"\0", b"b", b"c")]
    assert [table.add(digest) for digest in digests] == [True] * 9
    assert [table.add(digest) for digest in digests] == [False] * 9


def test_an_entry_takes_21_to_32_bytes() -> None:
    draw, table, sizes = random.Random(0), DigestTable(), []
    for count in range(1, 30_001):
        table.setdefault(draw.getrandbits(64), 0)
        if count > 1_000:
            sizes.append(16 * table._slots / count)
    assert min(sizes) < 22 and max(sizes) <= 32.1


def test_a_text_is_seen_once_whatever_it_holds() -> None:
    table = DigestTable()
    texts = ["", "a", "b", "\ud800", "a" * 100_000]
    assert [table.seen(text) for text in [*texts, *texts]] == [False] * 5 + [True] * 5


def test_the_digest_of_a_text_is_the_same_everywhere() -> None:
    assert text_digest("reason") == int.from_bytes(bytes.fromhex("22786ccf1a087aca"), "little")
    assert text_digest("a") != text_digest("b")
