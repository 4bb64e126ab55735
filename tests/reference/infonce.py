"""InfoNCE in plain loops, float64."""

import math


def info_nce(queries, documents, positives, ignored, temperature):
    """Per-query losses in nats: lists of lists in, list out."""
    losses = []
    for i, query in enumerate(queries):
        scores = [sum(a * b for a, b in zip(query, document, strict=True)) / temperature for document in documents]
        total = sum(math.exp(s - max(scores)) for j, s in enumerate(scores) if not ignored[i][j])
        losses.append(-(scores[positives[i]] - max(scores)) + math.log(total))
    return losses
