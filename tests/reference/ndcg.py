"""Slow nDCG in trec_eval's order: plain loops."""

import math
import struct
from collections.abc import Mapping


def as_float32(score: float) -> float:
    """Round a score as trec_eval stores it."""
    return struct.unpack("f", struct.pack("f", score))[0]


def trec_order(scores: Mapping[str, float]) -> list[str]:
    """Order documents by score, then by the bytes of the id, both descending."""
    return sorted(scores, key=lambda document: (as_float32(scores[document]), document.encode()), reverse=True)


def ndcg(scores: Mapping[str, float], grades: Mapping[str, int], cut: int) -> float:
    """Return nDCG@cut: gain is the grade, discount log2(rank + 1); 0 without a relevant document."""
    gained = 0.0
    for place, document in enumerate(trec_order(scores)[:cut]):
        gained += max(grades.get(document, 0), 0) / math.log2(place + 2)
    best = 0.0
    for place, grade in enumerate(sorted((g for g in grades.values() if g > 0), reverse=True)[:cut]):
        best += grade / math.log2(place + 2)
    return gained / best if best > 0 else 0.0
