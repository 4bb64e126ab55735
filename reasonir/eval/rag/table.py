"""The page of a multiple-choice task in Markdown, in points: what is printed and what results.md holds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reasonir.eval.rag.records import CLOSED, GOLD, RETRIEVED
from reasonir.eval.scores.significance import format_p_value
from reasonir.text.markdown import markdown_table

UNBIASED_LETTERS = (
    "letters: a reader that prefers none shows the row unbiased: the gold letter where it is right, each other letter "
    "equally often where it is wrong. p of a distance as large:"
)
NAMES = {CLOSED: "closed book", RETRIEVED: "retrieved", GOLD: "gold passages"}
WARNINGS = {
    "unreadable_failed": "questions got no answer from the server and count as wrong; run the command again",
    "cut_at_limit": "answers were cut at generator.max_new_tokens",
    "answers_with_passages_dropped": "answers had read fewer passages, to fit context_tokens",
}
"""What is said of a count that makes a figure less than it seems."""


@dataclass(frozen=True, slots=True)
class Part:
    """A group or a subject. shares: accuracy by condition, None where it was not asked under one."""

    name: str
    questions: int
    shares: list[float | None]


def render(report: dict[str, Any], details: bool) -> str:
    """Return the page; details: with groups and subjects."""
    interval = f"{report['confidence']:.0%} interval"
    header = ["", "questions", "accuracy", interval, "unreadable", "with guesses", interval]
    rows = [_row(NAMES[name], entry["all"]) for name, entry in report["conditions"].items()]
    lines = [f"# {report['title']}", "", markdown_table(header, rows), "", *_differences(report)]
    lines += [*_samples(report), *_hits(report["retrieval"]), *_letters(report), *_remarks(report)]
    if details:
        for kind in ("groups", "subjects"):
            lines += _parts(report, kind)
    return "\n".join(lines) + "\n"


def _row(name: str, entry: dict[str, Any]) -> list[str]:
    return [
        name, f"{entry['questions']:,}", _points(entry["accuracy"]), _interval(entry["interval"]),
        f"{entry['unreadable']:,}", _points(entry["accuracy_with_guesses"]), _interval(entry["interval_with_guesses"]),
    ]  # fmt: skip


def _differences(report: dict[str, Any]) -> list[str]:
    """Return the table of pairs."""
    if not report["differences"]:
        return []
    several = any(len(entry["samples"]) > 1 for entry in report["conditions"].values())
    test = "p (randomisation)" if several else "p (McNemar, exact)"
    rows = [
        [f"{NAMES[d['b']]} - {NAMES[d['a']]}", f"{d['questions']:,}", f"{100 * d['difference']:+.1f}",
         f"{d['gained']:,}", f"{d['lost']:,}", format_p_value(d["p_value"])]
        for d in report["differences"]
    ]  # fmt: skip
    return [markdown_table(["difference", "questions", "points", "gained", "lost", test], rows), ""]


def _samples(report: dict[str, Any]) -> list[str]:
    interval, lines = f"{report['confidence']:.0%} interval", []
    for name, entry in report["conditions"].items():
        if len(entry["samples"]) > 1:
            each = ", ".join(_points(value) for value in entry["samples"])
            lines.append(
                f"{NAMES[name]}: samples {each}; {interval} of their mean {_interval(entry['samples_interval'])}."
            )
    return [*lines, ""] if lines else []


def _hits(retrieval: dict[str, Any] | None) -> list[str]:
    """Return the table of hit rates."""
    if retrieval is None:
        return []
    at = retrieval["at"]
    row = [f"of {retrieval['questions']:,} questions", *(_points(entry["rate"]) for entry in at.values())]
    return [markdown_table(["gold passage among the first", *at], [row]), ""]


def _letters(report: dict[str, Any]) -> list[str]:
    """Return the table of letters chosen, and what it would be for a reader that prefers none."""
    # Files of older versions have no such entry.
    found = {name: entry["letters"] for name, entry in report["conditions"].items() if entry.get("letters")}
    if not found:
        return []
    letters = max((entry["letters"] for entry in found.values()), key=len)
    rows = []
    for name, entry in found.items():
        chosen = [
            f"{_points(share)} ({_interval(interval)})"
            for share, interval in zip(entry["chosen"], entry["intervals"], strict=True)
        ]
        cells = {"chosen": chosen, **{kind: map(_points, entry[kind]) for kind in ("gold", "unbiased", "chance")}}
        rows += [[f"{NAMES[name]}: {kind}", *_filled(values, len(letters))] for kind, values in cells.items()]
    head = [f"letters, % of answers ({report['confidence']:.0%} interval)", *letters]
    tests = ", ".join(f"{NAMES[name]} {format_p_value(entry['p_value'])}" for name, entry in found.items())
    return [markdown_table(head, rows), "", f"{UNBIASED_LETTERS} {tests}.", ""]


def _filled(cells: Iterable[str], count: int) -> list[str]:
    found = list(cells)
    return found + [""] * (count - len(found))


def _remarks(report: dict[str, Any]) -> list[str]:
    """Return what a reader of the table must know."""
    lines = [
        "accuracy: an answer that cannot be read counts as wrong; with guesses: it counts as a drawn letter. Means "
        "over questions (micro average)."
    ]
    for condition, counts in report["counts"].items():
        notes = [*warnings_of(counts), f"{counts.get('input_tokens', 0):,} tokens read, "
                 f"{counts.get('output_tokens', 0):,} written"]  # fmt: skip
        lines.append(f"{NAMES[condition]}: {'; '.join(notes)}.")
    return [*lines, ""]


def warnings_of(counts: Mapping[str, int]) -> list[str]:
    """Return what makes one condition's figures less than they seem."""
    return [f"{counts[name]:,} {words}" for name, words in WARNINGS.items() if counts.get(name)]


def part_rows(entries: Sequence[Mapping[str, Any]], kind: str) -> list[Part]:
    """Return the accuracy of every group or subject by condition; nothing where there are fewer than two.

    Args:
        entries: figures of the conditions, as accuracy.json holds them.
        kind: groups or subjects.
    """
    # One group is the whole: a table of it would repeat the first one.
    names = sorted({name for entry in entries for name in entry[kind]})
    rows = []
    for name in names if len(names) > 1 else []:
        found = [entry[kind].get(name) for entry in entries]
        questions = max(part["questions"] for part in found if part)
        rows.append(Part(name, questions, [part["accuracy"] if part else None for part in found]))
    return rows


def _parts(report: dict[str, Any], kind: str) -> list[str]:
    """Return the table of accuracy by group or subject, conditions side by side."""
    conditions = report["conditions"]
    rows = [
        [part.name, f"{part.questions:,}", *("" if share is None else _points(share) for share in part.shares)]
        for part in part_rows(list(conditions.values()), kind)
    ]
    if not rows:
        return []
    return [markdown_table([kind.removesuffix("s"), "questions", *(NAMES[name] for name in conditions)], rows), ""]


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _interval(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"
