"""The page of a contamination report: a table, and a sentence that a model card can quote."""

from typing import Any

from reasonir.eval.audit.training_texts import ROW_SIDES
from reasonir.text.markdown import markdown_table

SIDE_NAMES = {"query": "queries", "gold": "gold documents", "other": "other documents"}


def render(report: dict[str, Any]) -> tuple[str, str]:
    """Return the page as Markdown, and its statement."""
    tasks = report["tasks"]
    total = {side: _total([task[side] for task in tasks.values()]) for side in SIDE_NAMES}
    shown = {**tasks, "all": total} if len(tasks) > 1 else tasks
    ngram, threshold = report["ngram"], report["threshold"]
    header = ["task", "", "texts", "flagged", *(f"by {side}" for side in ROW_SIDES), "equal", "seeds by id",
              f"share a {ngram}-gram", "largest share", f"under {ngram} words"]  # fmt: skip
    rows = [_row(name, side, counts[side]) for name, counts in shown.items() for side in SIDE_NAMES]
    statement = _statement(report, total)
    lines = ["# Overlap of training rows and evaluation", "", statement, "", markdown_table(header, rows), ""]
    lines.append(
        f"flagged: the text is equal to one of a row, or {threshold:.0%} or more of its {ngram}-grams of words stand "
        "in texts of rows; by which side of the rows. Case, white space and punctuation do not count. Texts of fewer "
        f"than {ngram} words are compared whole. seeds by id: documents that rows name as what they were made from."
    )
    matches = report["matches"]
    rest = f"; {matches['not_written']:,} more beyond matches_per_text" if matches["not_written"] else ""
    lines += ["", f"matches.jsonl: {matches['written']:,} pairs{rest}."]
    without = sum(counts["without_words"] for counts in total.values())
    if without:
        lines += ["", f"{without:,} texts of the evaluation hold no word and match nothing."]
    if report["same_id_other_text"]:
        pairs = f"{report['same_id_other_text']:,} pairs"
        lines += ["", f"{pairs} of a row and a document share an id but no text; they are not counted as seeds."]
    return "\n".join(lines) + "\n", statement


def _total(counts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the counts of one side added up over tasks; of shares the largest."""
    total: dict[str, Any] = {}
    for name, value in counts[0].items():
        values = [count[name] for count in counts]
        if isinstance(value, dict):
            total[name] = _total(values)
        else:
            total[name] = max(values) if name == "largest_share" else sum(values)
    return total


def _row(task: str, side: str, counts: dict[str, Any]) -> list[str]:
    whole = counts["any"]
    numbers = [counts["texts"], whole["flagged"], *(counts[name]["flagged"] for name in ROW_SIDES), whole["exact"]]
    numbers += [counts["seeds_by_id"], whole["sharing_an_ngram"]]
    cells = [f"{number:,}" for number in numbers]
    return [task, SIDE_NAMES[side], *cells, f"{whole['largest_share']:.2f}", f"{counts['shorter_than_ngram']:,}"]


def _statement(report: dict[str, Any], total: dict[str, dict[str, Any]]) -> str:
    """Return one sentence that says all that a reader of a score must know."""
    tasks = ", ".join(report["tasks"])
    found = [
        f"{total[side]['any']['flagged']:,} of {total[side]['texts']:,} {name}" for side, name in SIDE_NAMES.items()
    ]
    seeds = sum(counts["seeds_by_id"] for counts in total.values())
    share = f"{report['threshold']:.0%} or more of the text's {report['ngram']}-grams of words in any of them"
    return (
        f"Of the evaluation ({tasks}), {found[0]}, {found[1]} and {found[2]} occur in the {report['rows']['rows']:,} "
        f"training rows (equal text, or {share}); {seeds:,} documents are seeds of training rows by id, "
        f"{total['gold']['seeds_by_id']:,} of them gold."
    )
