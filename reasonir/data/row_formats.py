"""Training rows as other training tools write them, turned into this project's rows one at a time.

    Tevatron               query_id, query, positive_passages and negative_passages: [{docid, title, text}]
    FlagEmbedding          query, pos, neg as here, with prompt (the query's instruction), type, pos_scores, neg_scores
    sentence-transformers  anchor, positive, negative or negative_1, negative_2, ...; query in place of anchor; or
                           sentence1, sentence2 and a label or score of 0 to 1

Invariant: what these rows say is kept or refused, never guessed. The keys of the first row tell the format, and every
further row must have it. Scores for distillation are not used. `training_rows.py` reads the files and turns a
ValueError of this module into a refusal with file and line.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
# A pair whose label is lower has no positive; the middle of the scale from 0 to 1.
LABEL_OF_A_POSITIVE = 0.5
MARKS_OF_FLAGEMBEDDING = ("prompt", "type", "pos_scores", "neg_scores")
NUMBERED_NEGATIVE = re.compile(r"negative_(\d+)")


@dataclass(frozen=True, slots=True)
class RowFormat:
    """How rows are written.

    name: for messages, "" for this project's own format. translate: turns a row into a row of this project, or into
    None where it has no positive; a ValueError says what is wrong with it.
    """

    name: str
    translate: Callable[[Row], Row | None]


def detect_format(row: Row) -> RowFormat:
    """Return the format that the first row of a source is written in; this project's own where no other fits."""
    if "positive_passages" in row:
        return RowFormat("Tevatron", _from_tevatron)
    if "sentence1" in row and "sentence2" in row:
        return RowFormat("sentence-transformers pairs", _from_pairs)
    if "anchor" in row and "positive" in row:
        return RowFormat("sentence-transformers", _from_columns)
    # A query with one text as `positive` is a row of our own too: only a numbered negative tells the two apart.
    if isinstance(row.get("positive"), str) and any(NUMBERED_NEGATIVE.fullmatch(name) for name in row):
        return RowFormat("sentence-transformers", _from_columns)
    # Without one of its further fields such a row is written as ours and means the same.
    if isinstance(row.get("query"), str) and "pos" in row and any(name in row for name in MARKS_OF_FLAGEMBEDDING):
        return RowFormat("FlagEmbedding", _from_flagembedding)
    return RowFormat("", lambda own: own)


def _from_tevatron(row: Row) -> Row:
    translated: Row = {"query": row.get("query")}
    for field, passages in (("pos", "positive_passages"), ("neg", "negative_passages")):
        entries = row.get(passages)
        if entries is None and field == "neg":
            continue
        if not isinstance(entries, list) or not all(isinstance(passage, Mapping) for passage in entries):
            raise ValueError(f"`{passages}` must be a list of passages with docid, title and text")
        translated[field] = [_passage(passage, f"`{passages}`[{i}]") for i, passage in enumerate(entries)]
    return translated if row.get("query_id") is None else {"id": row["query_id"], **translated}


def _passage(passage: Row, where: str) -> str:
    """Return title and text as one, as the corpora of this project are read."""
    title, text = passage.get("title") or "", passage.get("text")
    if not isinstance(text, str) or not isinstance(title, str):
        raise ValueError(f"{where} needs a string `text`; its `title` may be left out")
    return f"{title} {text}".strip()


def _from_flagembedding(row: Row) -> Row:
    prompt = row.get("prompt")
    if prompt is not None and not isinstance(prompt, str):
        raise ValueError(f"`prompt` must be a text, not {type(prompt).__name__}")
    # An empty prompt leaves the source's own instruction in force.
    return {**row, "query": [prompt, row.get("query")]} if prompt else row


def _from_columns(row: Row) -> Row:
    query = "anchor" if "anchor" in row else "query"
    # By number: as a text negative_10 comes before negative_2.
    numbered = sorted((int(found[1]), name) for name in row if (found := NUMBERED_NEGATIVE.fullmatch(name)))
    negatives = ["negative", *(name for _, name in numbered)]
    for name in (query, "positive", *negatives):
        may_lack = name in negatives and row.get(name) is None
        if not may_lack and not isinstance(row.get(name), str):
            kind = "missing" if row.get(name) is None else f"a {type(row[name]).__name__}"
            raise ValueError(f"column `{name}` must be a text, but is {kind}")
    translated = {"query": row[query], "pos": [row["positive"]]}
    # A table has every column in each row: an empty one says that the row has fewer negatives.
    given = [row[name] for name in negatives if row.get(name)]
    return {**translated, **({"neg": given} if given else {}), **({"id": row["id"]} if "id" in row else {})}


def _from_pairs(row: Row) -> Row | None:
    for name in ("sentence1", "sentence2"):
        if not isinstance(row.get(name), str):
            raise ValueError(f"column `{name}` must be a text")
    label = row.get("label", row.get("score"))
    try:
        # Pairs without labels are all positive.
        number = 1.0 if label is None else float(label)
    except (TypeError, ValueError):
        # No number, and so refused below.
        number = -1.0
    if not 0 <= number <= 1:
        raise ValueError(f"the label is {label!r}; it must be a number from 0 to 1 (divide scores by their largest)")
    if number < LABEL_OF_A_POSITIVE:
        return None
    return {"query": row["sentence1"], "pos": [row["sentence2"]], **({"id": row["id"]} if "id" in row else {})}
