"""report.md of a finished output folder: its rows, its rejections, and whether its queries are hard or garbage.

Counts are of all rows. What costs time (ranks, embeddings, likeness) is measured on samples that the run's seed draws,
the same for the same files. Every figure stands beside the number of rows that it is of, and beside what garbage and
what hard but good queries would show.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from reasonir.core.files import CONFIG_FILE, MANIFEST_FILE, write_text
from reasonir.synth.recipes.inputs import count_lines
from reasonir.synth.report.plots import draw_plots
from reasonir.synth.report.risks import Case, distinct, show_rank
from reasonir.synth.report.signs import describe_difficulty, describe_manner, prose
from reasonir.synth.report.study import Study, study_rows
from reasonir.synth.report.survey import Survey, entry_text, quantile, survey
from reasonir.text.markdown import markdown_table

# Rows of each list that the report shows, and characters of each text.
SHOWN, SAMPLE_CHARACTERS = 10, 700
COMPLETIONS_FILE = "completions.jsonl"


def write_report(folder: Path, model: str | None) -> Path:
    """Write report.md and its plots; return its path.

    Args:
        folder: A finished run of a recipe that asks a language model, or of merge.
        model: Small encoder that searches beside BM25: folder or hub id; None is none.
    """
    # 1 what the run was
    manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    options = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    recipe, seed = manifest.get("merged") or options["recipe"], options["seed"]
    # A merged folder's config.yaml names no corpus. Of the other recipes the manifest's source is a file of rows.
    corpus = options.get("corpus") or (manifest.get("source") if recipe in ("hq", "eq") else None)
    ids = recipe == "negatives" and corpus is not None
    # A corpus on the hub is not downloaded for a report.
    if corpus is not None and not Path(corpus).exists():
        corpus = None
    # 2 the files, once; then the sampled rows
    found = survey(folder, seed, ids=ids)
    study = study_rows(found, corpus, seed, model, ids=ids)
    # 3 the page
    draw_plots(folder, found.lengths, found.overlaps, study.ranks)
    lines = [f"# {recipe}: {found.rows:,} rows", *_counts(manifest), *_yield(manifest["counts"], folder)]
    lines += [
        *describe_difficulty(found, study),
        *describe_manner(study),
        *_lengths(found),
        *_rejected(found),
        *_samples(study),
    ]
    path = folder / "report.md"
    write_text(path, "\n".join(lines) + "\n")
    return path


def _counts(manifest: dict[str, Any]) -> list[str]:
    counts = manifest["counts"]
    rows = [("items", counts["in"]), ("accepted", counts["accepted"])]
    rows += [(f"rejected: {reason}", count) for reason, count in counts["rejected"].items()]
    rows += [(name.replace("_", " "), count) for name, count in counts["tallies"].items()]
    rows += [("tokens read", counts["input_tokens"]), ("tokens written", counts["output_tokens"])]
    cells = [(name, f"{count:,}") for name, count in rows]
    cells.append(("seconds of the last run", f"{manifest['wall_seconds']:,.1f}"))
    return ["", markdown_table(["", ""], cells)]


def _yield(counts: dict[str, Any], folder: Path) -> list[str]:
    items, accepted, requests = counts["in"], counts["accepted"], count_lines(str(folder / COMPLETIONS_FILE))
    lines = ["", "## Yield", ""]
    if items:
        lines.append(f"- {100 * accepted / items:.1f} accepted rows per 100 items asked (n = {items:,} items).")
    # A merged folder has no log of answers.
    if requests:
        lines.append(
            f"- {100 * accepted / requests:.1f} accepted rows per 100 requests (n = {requests:,} paid answers)."
        )
    if accepted:
        read, written = (f"{counts[f'{side}_tokens'] / accepted:,.0f}" for side in ("input", "output"))
        lines.append(f"- {read} tokens read and {written} written per accepted row (n = {accepted:,} rows).")
    garbage = "Garbage: few rows per 100 requests, most answers refused for one reason, many tokens a row."
    good = "Hard but good: as many rows as an easy recipe gives."
    return [*lines, "", *prose(garbage, good, "A high yield alone proves nothing: gates refuse what they know.")]


def _lengths(found: Survey) -> list[str]:
    rows = [
        (side, f"{counts.total():,}", *(f"{quantile(counts, share):,}" for share in (0.05, 0.5, 0.95, 1.0)))
        for side, counts in found.lengths.items()
        if counts
    ]
    header = ["", "n", "5 %", "median", "95 %", "longest"]
    lines = ["", "## Lengths, in words", "", markdown_table(header, rows)]
    if found.ratios:
        marks = ", ".join(f"{name} {quantile(found.ratios, share)} %" for name, share in
                          (("least", 0.0), ("5 %", 0.05), ("median", 0.5), ("95 %", 0.95)))  # fmt: skip
        lines += ["", f"Words obtained per word drawn: {marks} (n = {found.ratios.total():,})."]
    garbage = "Garbage: queries of a few words, or as long as the model may write."
    return [*lines, "", *prose(garbage, "Hard but good: as long as the recipe asks, with some spread.")]


def _rejected(found: Survey) -> list[str]:
    if not found.reasons:
        return []
    reasons = sorted(found.reasons.items())
    total = sum(reason.again + reason.final for _, reason in reasons)
    rows = [(name, f"{reason.again:,}", f"{reason.final:,}") for name, reason in reasons]
    lines = ["", "## Rejected answers", "", markdown_table(["reason", "tried again", "final"], rows), ""]
    lines += prose(
        f"n = {total:,} answers. Garbage: one reason for nearly all.",
        "Hard but good: few, for several reasons. Answers below that a person would accept: a gate is too strict.",
    )
    for name, reason in reasons:
        (line,) = reason.example.values()
        lines += ["", f"One of {name}: {line['detail']}", "", *_quoted(line["text"])]
    return lines


def _samples(study: Study) -> list[str]:
    drawn = f"of {len(study.cases):,} rows drawn by the seed"
    lines = ["", f"## The riskiest {drawn}", ""]
    judged = "Garbage: most rows, and reading confirms it. Hard but good: few, and reading clears them."
    lines += prose(f"{len(study.risky):,} have a sign of risk (n = {len(study.cases):,}).", judged)
    for case, count in distinct(study.risky)[:SHOWN]:
        lines += _sample(case, count, len(study.pool.texts))
    lines += ["", f"## Ten at random {drawn}"]
    for case in study.cases[:SHOWN]:
        lines += _sample(case, 1, len(study.pool.texts))
    return lines


def _sample(case: Case, count: int, pool: int) -> list[str]:
    lines = ["", f"### {case.row['id']}", ""]
    lines += [f"- sign: {words}" for _, words in sorted(case.risks, reverse=True)]
    if count > 1:
        lines.append(f"- {count:,} of these rows have this query")
    if case.source is not None:
        dense = "" if case.dense is None else f", by the encoder {case.dense:,}"
        lines.append(f"- rank of the positive by BM25 {show_rank(case.lexical)}{dense}, of {pool:,} documents")
    texts = [("query", case.query), ("positive", case.source)]
    texts += [("negative", entry_text(entry)) for entry in case.row.get("neg", [])[:1]]
    for name, text in texts:
        if text is not None:
            lines += ["", f"{name}:", "", *_quoted(text)]
    return lines


def _quoted(text: str) -> list[str]:
    cut = text if len(text) <= SAMPLE_CHARACTERS else text[:SAMPLE_CHARACTERS] + " …"
    return [f"> {line}" for line in cut.splitlines()] or ["> (no text)"]
