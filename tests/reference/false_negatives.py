"""Which negatives score above their query's limit, in plain loops, float64."""


def above_the_limit(queries, documents, positives, ignored, share, margin):
    """True where a document that would count as a negative does not: lists of lists in and out."""
    marks = []
    for i, query in enumerate(queries):
        scores = [sum(a * b for a, b in zip(query, document, strict=True)) for document in documents]
        limit = share * scores[positives[i]] + margin
        marks.append([s > limit and j != positives[i] and not ignored[i][j] for j, s in enumerate(scores)])
    return marks
