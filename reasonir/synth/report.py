"""report.md of a finished output folder: its rows, its rejections, and whether the queries are hard.

The files are read as streams. Counts are of all rows; BM25 ranks a bounded sample, the same for the same files.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from reasonir.core.files import CONFIG_FILE, MANIFEST_FILE, write_text
from reasonir.data.collections import stream_documents
from reasonir.llm.prompts import draw_number
from reasonir.synth.output import DATA_FILE, REJECTIONS_FILE, query_text
from reasonir.text.language import ENGLISH
from reasonir.text.markdown import markdown_table
from reasonir.text.words import words_and_operators

SIDES = ("query", "positive", "negative")
# Width of a bar in the plot of lengths.
BIN_WORDS = 20
# Bounds of the BM25 ranking, which takes seconds with them.
RANKED_QUERIES, RANKED_DOCUMENTS, DEEPEST_RANK = 500, 20_000, 1_000
# Rows that the report shows, and characters of each text.
SAMPLES, SAMPLE_CHARACTERS = 5, 700


@dataclass(slots=True)
class Findings:
    """Counts of one pass over the files. Lengths in words; overlaps as shares of a query's content words, in %."""

    rows: int = 0
    lengths: dict[str, Counter[int]] = field(default_factory=lambda: {side: Counter() for side in SIDES})
    overlaps: dict[str, Counter[int]] = field(default_factory=lambda: {side: Counter() for side in SIDES[1:]})
    ratios: Counter[int] = field(default_factory=Counter)
    """Words obtained per word drawn (varied length), in %."""
    sample: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    rejected: Counter[tuple[str, bool]] = field(default_factory=Counter)
    """Rejected answers by (reason, whether the item was rejected with it)."""


def write_report(folder: Path) -> Path:
    """Write report.md and its plots; return its path."""
    manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    options = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    # A merged folder's config.yaml names no corpus. Of the other recipes the manifest's source is a file of rows.
    corpus = options.get("corpus") or (manifest.get("source") if manifest.get("merged") in ("hq", "eq") else None)
    # A corpus on the hub is not downloaded for a report.
    if corpus is not None and not Path(corpus).exists():
        corpus = None
    found = survey(folder, corpus if options.get("positive") == "id" else None)
    ranks, pool = rank_positives([row for _, row in found.sample], corpus)
    plots = draw_plots(folder, found, ranks)
    lines = [f"# {manifest.get('merged') or options['recipe']}: {found.rows:,} rows", *_counts(manifest, found)]
    lines += [*_lengths(found), *_difficulty(found, ranks, pool), *plots, *_samples(found)]
    path = folder / "report.md"
    write_text(path, "\n".join(lines) + "\n")
    return path


def survey(folder: Path, corpus: str | None) -> Findings:
    """Read both files once. Overlaps and lengths of positives that are ids (`corpus` is not None) are left out."""
    found = Findings()
    for row in _rows(folder / DATA_FILE):
        found.rows += 1
        query = query_text(row)
        content = {word for word in words_and_operators(query) if word not in ENGLISH}
        found.lengths["query"][len(query.split())] += 1
        for side, entries in (("positive", [] if corpus else row.get("pos", [])), ("negative", row.get("neg", []))):
            for entry in entries:
                text = _text(entry)
                found.lengths[side][len(text.split())] += 1
                # A query of function words alone has no share that a text could hold.
                if content:
                    found.overlaps[side][round(100 * len(content & set(words_and_operators(text))) / len(content))] += 1
        for name in ("query_words", "positive_words"):
            if name in row["provenance"]:
                drawn, obtained = row["provenance"][name]
                found.ratios[round(100 * obtained / drawn)] += 1
        # The rows with the smallest draws are a uniform sample. Sorting at twice its size bounds memory and time.
        found.sample.append((draw_number(0, "sample", row["id"]), row))
        if len(found.sample) >= 2 * RANKED_QUERIES:
            found.sample = sorted(found.sample, key=lambda entry: entry[0])[:RANKED_QUERIES]
    found.sample = sorted(found.sample, key=lambda entry: entry[0])[:RANKED_QUERIES]
    for line in _rows(folder / REJECTIONS_FILE):
        found.rejected[line["reason"], bool(line["final"])] += 1
    return found


def rank_positives(sample: list[dict[str, Any]], corpus: str | None) -> tuple[list[int | None], int]:
    """Return BM25's rank of each sampled row's positive (None beyond the deepest), and the number of documents.

    The documents are the sample's positives and negatives and the corpus's first ones.
    """
    sample = [row for row in sample if row.get("pos")]
    if not sample:
        return [], 0
    documents = islice(stream_documents(corpus), RANKED_DOCUMENTS) if corpus else ()
    by_id = {document.id: document.text for document in documents}
    targets = [by_id.get(_text(row["pos"][0]), _text(row["pos"][0])) for row in sample]
    # Each text once: a copy of the positive in the corpus would stand beside it and push its rank down.
    texts = dict.fromkeys(targets) | dict.fromkeys(_text(n) for row in sample for n in row.get("neg", []))
    texts |= dict.fromkeys(by_id.values())
    pool = list(texts)
    place = {text: number for number, text in enumerate(pool)}

    from reasonir.retrieval.bm25 import BM25Index

    # Ties go to the larger id: the positives, which come first in the pool, lose them.
    index = BM25Index([f"{number:08d}" for number in range(len(pool))], pool)
    hits, _ = index.search([query_text(row) for row in sample], top=min(DEEPEST_RANK, len(pool)))
    ranks: list[int | None] = []
    for target, row in zip(targets, hits.tolist(), strict=True):
        wanted = place[target]
        ranks.append(row.index(wanted) + 1 if wanted in row else None)
    return ranks, len(pool)


def draw_plots(folder: Path, found: Findings, ranks: list[int | None]) -> list[str]:
    """Write the plots beside the report; return the lines that show them.

    Args:
        folder: Receives report.png.
        found: The counts.
        ranks: As `rank_positives` returns them.
    """
    # Not pyplot, which keeps figures and a backend for the whole process.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, sides, width in ((axes[0], found.lengths, BIN_WORDS), (axes[1], found.overlaps, 5)):
        for side, counts in sides.items():
            if counts:
                bins = range(0, max(counts) + 2 * width, width) if width == BIN_WORDS else range(0, 105, width)
                axis.hist(list(counts), weights=list(counts.values()), bins=bins, histtype="step", label=side)
    if ranks:
        buckets = _rank_buckets(ranks)
        axes[2].bar(list(buckets), list(buckets.values()))
    titles = ("length, words", "query's content words found in it, %", "BM25 rank of the positive")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    figure.savefig(folder / "report.png", dpi=110)
    return ["", "![lengths, lexical overlap, BM25 rank](report.png)"]


def _counts(manifest: dict[str, Any], found: Findings) -> list[str]:
    counts = manifest["counts"]
    rows = [("items", counts["in"]), ("accepted", counts["accepted"])]
    rows += [(f"rejected: {reason}", count) for reason, count in counts["rejected"].items()]
    rows += [(name.replace("_", " "), count) for name, count in counts["tallies"].items()]
    rows += [("tokens read", counts["input_tokens"]), ("tokens written", counts["output_tokens"])]
    cells = [(name, f"{count:,}") for name, count in rows]
    cells.append(("seconds of the last run", f"{manifest['wall_seconds']:,.1f}"))
    lines = ["", markdown_table(["", ""], cells)]
    if found.rejected:
        reasons = sorted({reason for reason, _ in found.rejected})
        rejected = [(name, *(f"{found.rejected[name, final]:,}" for final in (False, True))) for name in reasons]
        lines += ["", "## Rejected answers", "", markdown_table(["reason", "tried again", "final"], rejected)]
    return lines


def _lengths(found: Findings) -> list[str]:
    rows = [
        (side, f"{counts.total():,}", *(f"{_quantile(counts, share):,}" for share in (0.05, 0.5, 0.95, 1.0)))
        for side, counts in found.lengths.items()
        if counts
    ]
    header = ["", "texts", "5 %", "median", "95 %", "longest"]
    lines = ["", "## Lengths, in words", "", markdown_table(header, rows)]
    if found.ratios:
        marks = ", ".join(f"{name} {_quantile(found.ratios, share)} %" for name, share in
                          (("least", 0.0), ("5 %", 0.05), ("median", 0.5), ("95 %", 0.95)))  # fmt: skip
        lines += ["", f"Words obtained per word drawn: {marks}."]
    return lines


def _difficulty(found: Findings, ranks: list[int | None], pool: int) -> list[str]:
    lines = ["", "## Are the queries hard?", ""]
    for side, counts in found.overlaps.items():
        if counts:
            lines.append(f"- Of a query's content words a {side} holds {_quantile(counts, 0.5)} % (median).")
    if ranks:
        buckets = ", ".join(f"{name}: {count}" for name, count in _rank_buckets(ranks).items())
        lines.append(f"- BM25 rank of the positive for {len(ranks):,} rows among {pool:,} documents: {buckets}.")
    return lines


def _samples(found: Findings) -> list[str]:
    lines = ["", "## Samples"]
    for _, row in found.sample[:SAMPLES]:
        lines += ["", f"### {row['id']}"]
        shown = [("query", query_text(row)), *(("positive", _text(p)) for p in row.get("pos", [])[:1]),
                 *(("negative", _text(n)) for n in row.get("neg", [])[:1])]  # fmt: skip
        for name, text in shown:
            cut = text if len(text) <= SAMPLE_CHARACTERS else text[:SAMPLE_CHARACTERS] + " …"
            lines += ["", f"{name}:", "", *(f"> {line}" for line in cut.splitlines())]
    return lines


def _rank_buckets(ranks: list[int | None]) -> dict[str, int]:
    bounds = {"1": 1, "2-10": 10, "11-100": 100, f"101-{DEEPEST_RANK:,}": DEEPEST_RANK}
    buckets = dict.fromkeys([*bounds, "not found"], 0)
    for rank in ranks:
        name = "not found" if rank is None else next(name for name, bound in bounds.items() if rank <= bound)
        buckets[name] += 1
    return buckets


def _quantile(counts: Counter[int], share: float) -> int:
    """Return the smallest value that at least `share` of the counted values do not exceed."""
    passed, total = 0, counts.total()
    for value in sorted(counts):
        passed += counts[value]
        if passed >= share * total:
            return value
    raise AssertionError("nothing was counted")


def _text(entry: Any) -> str:
    return entry if isinstance(entry, str) else str(entry[1])


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        with path.open("rb") as stream:
            yield from map(json.loads, stream)
