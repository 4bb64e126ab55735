"""The page of answers to questions: accuracies, differences, hit rates, parts, and how answers were read.

Invariant: every figure is accuracy.json's own; only the stages that read the answers are counted here.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from reasonir.eval.rag.records import PASSAGES_FILE
from reasonir.eval.rag.table import NAMES, Part, part_rows, warnings_of
from reasonir.eval.report.answered import Answered
from reasonir.eval.report.page import Bar, BarChart, Page, Side, interval
from reasonir.eval.report.provenance import (
    data_of,
    facts_of,
    model_of,
    option_texts,
    read_manifest,
    read_options,
    side_by_side,
)
from reasonir.eval.report.question_items import Limits, filters_of


def answers_page(
    found: Answered, *, packed: Mapping[str, str], limits: Limits, answers_cut: int, notes: Sequence[str]
) -> Page:
    """Return the page of a folder of answers.

    Args:
        found: the folder of answers.
        packed: the questions, as `pack_questions` returns them.
        limits: the characters that texts were cut to.
        answers_cut: answers that lost their middle.
        notes: what the reader must know of the folder.
    """
    manifest, finished = read_manifest(found.folder)
    options = read_options(found.folder)
    facts = facts_of(_asked(options), found.folder, manifest, finished)
    return Page(
        kind="Answers to multiple-choice questions",
        title=found.report["title"],
        sides=[Side(NAMES[name]) for name in found.conditions],
        notes=[*notes, *_warnings(found)],
        facts=side_by_side([facts]),
        options=side_by_side([option_texts(options)]),
        charts=_charts(found),
        noun="questions",
        filters=filters_of(found),
        packed=packed,
        accuracy=found.report,
        stages=_stages(found),
        limits=limits,
        answers_cut=answers_cut,
    )


def notes_on_folder(found: Answered) -> list[str]:
    """Say what the folder lacks."""
    finished, _ = read_manifest(found.folder)
    notes = [] if finished else [f"{found.folder} has no manifest.json: its command is not finished, or runs again."]
    texts = sum(name not in found.passages for row in found.rows() for name in row["passages"])
    if texts:
        notes.append(f"{texts:,} times an answer names a passage whose text is not in {PASSAGES_FILE}.")
    return notes


def _warnings(found: Answered) -> list[str]:
    """Say what makes the figures less than they seem, as the table of results.md does."""
    return [
        f"{NAMES[condition].capitalize()}: {warning}."
        for condition in found.conditions
        for warning in warnings_of(found.report["counts"].get(condition, {}))
    ]


def _asked(options: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return what was asked of whom, and what was searched with what."""
    generator = options.get("generator") or {}
    pairs = [
        ("Questions", data_of(options)),
        ("Split", options.get("split")),
        ("Subjects", ", ".join(map(str, options.get("subjects") or []))),
        ("Reader", generator.get("model")),
        ("Temperature", generator.get("temperature")),
        ("Samples", options.get("samples")),
        ("Answer form", options.get("prompt_form")),
    ]
    if options.get("datastore") is None:
        # Without a config.yaml nobody knows whether passages were read.
        return [*pairs, ("Passages", "none: closed book" if options else None)]
    retriever = options.get("retriever")
    return [
        *pairs,
        ("Passages", options["datastore"]),
        ("Retriever", retriever),
        ("Model", model_of(options) if retriever in ("dense", "hybrid") else None),
        ("Searched with", options.get("queries")),
        ("Instruction", options.get("instruction")),
        ("Passages read", f"the first {options['top']}" if "top" in options else None),
    ]


def _charts(found: Answered) -> list[BarChart]:
    """Return the hit rates, and accuracy by group and subject, where there are any."""
    report = found.report
    charts = [_hit_rates(report["retrieval"], f"{report['confidence']:.0%}")] if report["retrieval"] else []
    for kind in ("group", "subject"):
        if rows := part_rows([report["conditions"][name] for name in found.conditions], f"{kind}s"):
            charts.append(_part_bars(found.conditions, kind, rows))
    return charts


def _hit_rates(retrieval: Mapping[str, Any], confidence: str) -> BarChart:
    return BarChart(
        id="hits",
        title="Gold passages found",
        link="Gold passages found",
        caption="Questions with a gold passage among the first hits, in percent of the "
        f"{retrieval['questions']:,} whose gold passages the datastore holds.",
        first="Among the first",
        heads=["Found"],
        rows=[
            Bar(depth, found["hits"], [100 * found["rate"]], note=interval(found["interval"]))
            for depth, found in retrieval["at"].items()
        ],
        last=confidence,
        colour=1,  # of the condition "retrieved", which these hits decide
    )


def _part_bars(conditions: Sequence[str], kind: str, parts: Sequence[Part]) -> BarChart:
    """Return accuracy by group or subject."""
    lead = "Accuracy in points, and the number of questions."
    if len(conditions) > 1:
        lead += f" Gain: {NAMES[conditions[1]]} − {NAMES[conditions[0]]}."
    rows = [
        Bar(part.name.replace("_", " "), part.questions, [None if s is None else 100 * s for s in part.shares])
        for part in parts
    ]
    return BarChart(
        id=f"{kind}s",
        title=f"By {kind}",
        link=f"{kind.capitalize()}s",
        caption=f"Accuracy in points by {kind}",
        first=kind.capitalize(),
        heads=list(range(len(conditions))),
        rows=rows,
        last="Gain" if len(conditions) > 1 else "",
        lead=lead,
    )


def _stages(found: Answered) -> list[tuple[str, bool, list[tuple[int, float]]]]:
    """Return (stage, whether it read a letter, counts and shares by condition), the most frequent first."""
    counts = Counter((row["stage"], bool(row["letter"]), row["condition"]) for row in found.rows())
    totals = Counter(row["condition"] for row in found.rows())
    sums: Counter[tuple[str, bool]] = Counter()
    for (stage, read, _), count in counts.items():
        sums[stage, read] += count
    return [
        (
            stage.replace("_", " "),
            read,
            [(n := counts[stage, read, name], n / max(totals[name], 1)) for name in found.conditions],
        )
        # Stages that read a letter come first; the name settles ties, so that two pages of one folder agree.
        for stage, read in sorted(sums, key=lambda key: (not key[1], -sums[key], key[0]))
    ]
