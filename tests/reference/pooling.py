"""Instruction-masked mean pooling in plain loops."""

import math


def pool(states, lengths, prefixes):
    """states: list of token vectors, end to end. Returns one unit vector a text."""
    pooled, start = [], 0
    for length, prefix in zip(lengths, prefixes, strict=True):
        rows = states[start + min(prefix, length - 1) : start + length]
        mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        norm = math.sqrt(sum(x * x for x in mean))
        pooled.append([x / norm for x in mean])
        start += length
    return pooled
