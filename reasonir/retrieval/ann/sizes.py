"""What a datastore will take: bytes on disk, memory, hours of encoding. Reads and writes nothing."""

import math
from dataclasses import dataclass

from reasonir.text.lengths import ENGLISH_BYTES

ASSUMED_RATE = 1_000.0
"""Tokens a second where the user gives no rate: a round number that nobody takes for a measurement."""
EXACT_QUERIES, EXACT_DOCUMENTS, EXACT_TOP = 1_024, 4_096, 1_000
"""Blocks and hits of exact search (`reasonir.retrieval.top_k`)."""
BYTES_PER_HELD_TEXT = 300
"""What Python adds to a text and its id in lists and dictionaries."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes in bytes; tokens are an estimate by the text's bytes."""

    passages: int
    passage_bytes: int
    tokens: int
    float32_bytes: int
    float16_bytes: int
    flat_bytes: int
    ivfpq_bytes: int
    lists: int
    exact_search_memory: int
    encode_memory: int
    tokens_per_second: float
    encoding_hours: float


def default_lists(vectors: int) -> int:
    """Return the power of two next to 4 * sqrt(vectors), but no more than one list for 39 vectors.

    faiss's guidelines ask for 4 to 16 times the root, and for 39 vectors or more to train a list.
    """
    wanted = round(math.log2(max(1.0, 4 * math.sqrt(vectors))))
    most = int(math.log2(max(1, vectors // 39)))
    return int(2 ** min(wanted, most))


def ivfpq_bytes(vectors: int, dimension: int, lists: int, pq_bytes: int) -> int:
    """Return the bytes of an ivfpq index: a code and an 8-byte row for each vector, the lists' centres, 256 centroids.

    Args:
        vectors: N.
        dimension: D.
        lists: Inverted lists.
        pq_bytes: Bytes of a code.
    """
    return vectors * (pq_bytes + 8) + 4 * dimension * (lists + 256)


def plan(passages: int, text_bytes: int, dimension: int, pq_bytes: int, tokens_per_second: float | None) -> Plan:
    """Return what encoding and searching so many passages takes.

    Args:
        passages: N.
        text_bytes: Of all passages, in UTF-8.
        dimension: Of the encoder.
        pq_bytes: Bytes of a code of the ivfpq index.
        tokens_per_second: Of the encoder; None is 1,000.
    """
    lists, tokens = default_lists(passages), round(text_bytes / ENGLISH_BYTES)
    float32, rate = 4 * passages * dimension, tokens_per_second or ASSUMED_RATE
    # The formula of `exact_top_k`, with its default blocks.
    blocks = 4 * EXACT_DOCUMENTS * (EXACT_QUERIES + dimension) + 50 * EXACT_QUERIES * EXACT_TOP
    return Plan(
        passages=passages,
        passage_bytes=text_bytes + 40 * passages,  # of JSON and the id
        tokens=tokens,
        float32_bytes=float32,
        float16_bytes=float32 // 2,
        flat_bytes=float32,
        ivfpq_bytes=ivfpq_bytes(passages, dimension, lists, pq_bytes),
        lists=lists,
        # Two int64 a document: its place in the order of ids, and the way back.
        exact_search_memory=16 * passages + blocks,
        encode_memory=text_bytes + BYTES_PER_HELD_TEXT * passages,
        tokens_per_second=rate,
        encoding_hours=tokens / rate / 3_600,
    )


def describe(plan: Plan, dimension: int, pq_bytes: int, given_rate: bool) -> str:
    """Return the plan as lines for a reader.

    Args:
        plan: Of `plan()`.
        dimension: As given to it.
        pq_bytes: As given to it.
        given_rate: Whether the user gave the encoder's rate.
    """
    rows = [
        ("passages.jsonl", size(plan.passage_bytes)),
        ("embeddings.npy, float32", size(plan.float32_bytes)),
        ("embeddings.npy, float16", size(plan.float16_bytes)),
        ("index, flat", size(plan.flat_bytes)),
        (f"index, ivfpq ({plan.lists:,} lists, {pq_bytes} bytes)", size(plan.ivfpq_bytes)),
        ("memory of exact search, block by block", size(plan.exact_search_memory)),
        ("memory of encode, which holds the texts", size(plan.encode_memory)),
    ]
    lines = [f"plan for {plan.passages:,} passages, about {plan.tokens:,} tokens, dimension {dimension:,}:"]
    lines += [f"  {label:44} {value:>10}" for label, value in rows]
    hours = f"{plan.encoding_hours:,.1f} hours of encoding at {plan.tokens_per_second:,.0f} tokens/s"
    if not given_rate:
        hours += " (reasonir-eval encode prints its own rate, in texts/s; give tokens_per_second=)"
    return "\n".join([*lines, f"  {hours}"])


def size(count: float) -> str:
    """Return bytes in the unit that fits, thousands to a step."""
    for unit in ("B", "kB", "MB", "GB"):
        # 999.5, because three digits of it are already 1e+03.
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1_000
    return f"{count:,.3g} TB" if count < 999.5 else f"{count:,.0f} TB"
