"""Training rows as other training tools write them, turned into this project's rows one at a time.

    Tevatron               query_id, query, positive_passages and negative_passages: [{docid, title, text}]
    FlagEmbedding          query, pos, neg as here, with prompt (the query's instruction), type, pos_scores, neg_scores
    sentence-transformers  anchor, positive, negative or negative_1, negative_2, ...; query in place of anchor; or
                           sentence1, sentence2

Labels are obeyed in every format: `label` of 0 to 1 beside a query and its texts, `labels` with one for each text of
`pos`, and `score` in place of `label` beside two texts. A text whose label is under 0.5 is a negative.

Invariant: what these rows say is kept or refused, never guessed. The keys of each row tell its own format. Scores for
distillation are not used. `training_rows.py` reads the files and turns a ValueError of this module into a refusal with
file and line.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from reasonir.data.rows import first_given

Row = dict[str, Any]
# A text whose label is lower is no positive; the middle of the scale from 0 to 1.
LABEL_OF_A_POSITIVE = 0.5
MARKS_OF_FLAGEMBEDDING = ("prompt", "type", "pos_scores", "neg_scores")
BESIDE_LISTS = ("positive", "negative", "label", "labels", "score", "pos_scores", "neg_scores")
NUMBERED_NEGATIVE = re.compile(r"negative_(\d+)")


@dataclass(frozen=True, slots=True)
class RowFormat:
    """How rows are written.

    name: for messages, "" for this project's own format. translate: turns a row into a row of this project; a
    ValueError says what is wrong with it.
    """

    name: str
    translate: Callable[[Row], Row]


def detect_format(row: Row) -> RowFormat:
    """Return the format that a row is written in; this project's own where no other fits."""
    if "positive_passages" in row:
        return RowFormat("Tevatron", _from_tevatron)
    if "sentence1" in row and "sentence2" in row:
        return RowFormat("sentence-transformers pairs", _from_pairs)
    if "anchor" in row:
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
    # A labelled list has all its documents in the column `positive`.
    listed = isinstance(row.get("positive"), list) and isinstance(row.get("labels"), list)
    for name in (query, *([] if listed else ["positive"]), *negatives):
        may_lack = name in negatives and row.get(name) is None
        if not may_lack and not isinstance(row.get(name), str):
            kind = "missing" if row.get(name) is None else f"a {type(row[name]).__name__}"
            raise ValueError(f"column `{name}` must be a text, but is {kind}")
    translated = {"query": row[query], "pos": row["positive"] if listed else [row["positive"]]}
    # A table has every column in each row: an empty one says that the row has fewer negatives.
    given = [row[name] for name in negatives if row.get(name)]
    return {**translated, **({"neg": given} if given else {}), **({"id": row["id"]} if "id" in row else {})}


def _from_pairs(row: Row) -> Row:
    for name in ("sentence1", "sentence2"):
        if not isinstance(row.get(name), str):
            raise ValueError(f"column `{name}` must be a text")
    return {"query": row["sentence1"], "pos": [row["sentence2"]], **({"id": row["id"]} if "id" in row else {})}


# --- labels -----------------------------------------------------------------------------------------------------------


def obey_labels(row: Row, own: Row) -> Row:
    """Return a row of this project in which the texts that a label calls no positive are negatives.

    Args:
        row: As the file has it.
        own: The same row in this project's form. What is wrong with its lists is refused where they are read.

    Raises:
        ValueError: labels that are no labels, or contradict the row.
    """
    texts, others = (_listed(own, *names) for names in (("pos", "positive"), ("neg", "negative")))
    if not texts or others is None:
        return own
    is_positive = _verdicts(row, len(texts), len(others))
    if all(is_positive):
        return own
    kept = [text for text, verdict in zip(texts, is_positive, strict=True) if verdict]
    moved = [text for text, verdict in zip(texts, is_positive, strict=True) if not verdict]
    # Without what stood beside the old lists: the row may be written again.
    return {**{k: v for k, v in own.items() if k not in BESIDE_LISTS}, "pos": kept, "neg": [*others, *moved]}


def _listed(own: Row, *names: str) -> list[Any] | None:
    """Return a list of texts under any of its names, [] where there is none; None for what is no list."""
    value = first_given(own, names)
    if value is None or isinstance(value, str):
        return [] if value is None else [value]
    return value if isinstance(value, list) else None


def _verdicts(row: Row, texts: int, negatives: int) -> list[bool]:
    """Say of each text of `pos` whether it is a positive.

    Args:
        row: As the file has it.
        texts: How many there are.
        negatives: How many texts the row calls negatives itself.
    """
    name = next((name for name in ("labels", "label") if row.get(name) is not None), "score")
    label = row.get(name)
    if isinstance(label, list) and len(label) in (texts, texts + negatives) and (name == "labels" or not negatives):
        # One for each text, of 0 to 1; or grades of any scale of all texts of the row, negatives last.
        largest = 1.0 if len(label) == texts else float("inf")
        verdicts = [_is_positive(one, largest) for one in label[:texts]]
        if negatives and len(label) == texts + negatives and not all(verdicts):
            raise ValueError("`labels` calls a text of `pos` no positive; move it to `neg`")
        return verdicts
    if name == "labels" and isinstance(label, list):
        raise ValueError(f"`labels` has {len(label)} entries for {texts} texts of `pos`; give each its own")
    if name == "score" and not isinstance(row.get("sentence2", row.get("positive")), str):
        # Of a whole list it may be anything, a weight or the rank of a query.
        label = None
    if label is not None and negatives:
        # Beside negatives it is the margin of a teacher; but 0 says that the row has no positive.
        if label in (0, "0"):
            raise ValueError(f"`{name}` is {label!r} beside positives and negatives; remove the field or the row")
        label = None
    return [True if label is None else _is_positive(label, 1.0)] * texts


def _is_positive(label: Any, largest: float) -> bool:
    try:
        number = float(label)
    except (TypeError, ValueError):
        # No number, and so refused below.
        number = -1.0
    if not 0 <= number <= largest:
        remedy = "it must be a number from 0 to 1 (divide scores by their largest; rename a field that is no label)"
        raise ValueError(f"the label is {label!r}; {remedy}")
    return number >= LABEL_OF_A_POSITIVE
