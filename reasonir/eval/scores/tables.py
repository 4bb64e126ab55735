"""Tables of results: ours beside the published rows, as Markdown and LaTeX (the page has a form of its own).

Owns results.md, results.tex and what is printed at the end. Leaves numbers to `metrics.py` and `published.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reasonir.data.bright import BRIGHT_TASKS
from reasonir.eval.scores.published import published_rows

AVERAGE = "average"
ASPECT_METRICS = {
    "alpha-nDCG@10": "alpha_ndcg_at_10",
    "alpha-nDCG@25": "alpha_ndcg_at_25",
    "aspect recall@10": "aspect_recall_at_10",
    "aspect recall@25": "aspect_recall_at_25",
}
"""Shown beside nDCG@10 where the data names aspects."""
SHORT_NAMES = dict(
    zip(
        BRIGHT_TASKS,
        ("Bio.", "Earth", "Econ.", "Psy.", "Rob.", "Stack.", "Sust.", "Leet.", "Pony", "AoPS", "TheoQ.", "TheoT."),
        strict=True,
    )
)
"""What narrow columns call BRIGHT's tasks."""
GROUP_TITLES = {"original": "Original queries", "rewritten": "Rewritten queries", "": ""}
SOURCES = "Published rows: the papers that each names."
LATEX_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        **{character: "\\" + character for character in "&%$#_{}"},
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One system. points: nDCG@10 in points by column; a column may be absent. queries, source: of a published row."""

    name: str
    points: Mapping[str, float]
    queries: str = ""
    source: str = ""

    @property
    def ours(self) -> bool:
        """Say whether it was measured here."""
        return not self.source

    @property
    def label(self) -> str:
        """Return the name with queries and source."""
        return self.name if self.ours else f"{self.name}, {self.queries} ({self.source})"


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that compare with each other: the same kind of queries."""

    title: str
    rows: list[Row]

    def best(self, column: str) -> float | None:
        """Return the column's best value as it is printed; None where fewer than two rows have one."""
        values = [round(row.points[column], 1) for row in self.rows if column in row.points]
        return max(values) if len(values) > 1 else None

    def is_best(self, row: Row, column: str) -> bool:
        """Say whether a row's value is its column's best; equal ones all are."""
        return column in row.points and round(row.points[column], 1) == self.best(column)


@dataclass(frozen=True, slots=True)
class Table:
    """columns: task names, and `average` where there are several tasks."""

    columns: list[str]
    groups: list[Group]


@dataclass(frozen=True, slots=True)
class Measured:
    """A row of ours. ndcg_at_10: fractions by task. queries: "original", a rewriting's name, or None: compares with
    nothing published."""

    name: str
    ndcg_at_10: Mapping[str, float]
    queries: str | None


def build_table(rows: Sequence[Measured], averaged: bool, both_kinds: bool = False) -> Table:
    """Group our rows with the published ones on the same kind of queries.

    Args:
        rows: ours, all with the same tasks.
        averaged: whether a macro average stands at the end.
        both_kinds: show the published rows on the other kind of queries too.
    """
    tasks = list(rows[0].ndcg_at_10)
    columns = [*tasks, AVERAGE] if averaged else tasks
    bright = any(task in SHORT_NAMES for task in tasks)
    kinds = [(row, _kind(row.queries) if bright else "") for row in rows]
    shown = list(dict.fromkeys(kind for _, kind in kinds))
    if both_kinds and any(shown):
        shown += [kind for kind in ("original", "rewritten") if kind not in shown]
    groups = []
    for kind in shown:
        own = [Row(row.name, _points_of(row, averaged)) for row, its in kinds if its == kind]
        others = [
            Row(row.system, _for_tasks(row.by_column(), tasks), row.queries, row.source)
            for row in (published_rows(kind) if kind else ())
        ]
        groups.append(Group(GROUP_TITLES[kind], own + [row for row in others if row.points.keys() & set(columns)]))
    return Table(columns, groups)


def _kind(queries: str | None) -> str:
    if queries is None:
        return ""
    return "original" if queries == "original" else "rewritten"


def _points_of(row: Measured, averaged: bool) -> dict[str, float]:
    points = {task: 100 * value for task, value in row.ndcg_at_10.items()}
    if averaged:
        points[AVERAGE] = sum(points.values()) / len(points)
    return points


def _for_tasks(points: Mapping[str, float], tasks: Sequence[str]) -> dict[str, float]:
    """Return a published row for these tasks; its average as printed for all 12, else of these."""
    shown = {task: points[task] for task in tasks if task in points}
    if set(tasks) == set(BRIGHT_TASKS):
        return {**shown, AVERAGE: points[AVERAGE]}
    return {**shown, AVERAGE: sum(shown.values()) / len(shown)} if len(shown) == len(tasks) else shown


def to_markdown(table: Table) -> str:
    """Return the table as Markdown, our rows in bold."""
    lines = [f"| nDCG@10 | {' | '.join(table.columns)} |", f"|---|{'---|' * len(table.columns)}"]
    for group in table.groups:
        if len(table.groups) > 1:
            lines.append(f"| *{group.title}* |{' |' * len(table.columns)}")
        for row in group.rows:
            name = " ".join(row.label.split()).replace("|", "\\|")
            cells = " | ".join(_cell(row, column) for column in table.columns)
            lines.append(f"| {f'**{name}**' if row.ours else name} | {cells} |")
    text = "\n".join(lines) + "\n"
    return f"{text}\n{SOURCES}\n" if _has_published(table) else text


def to_latex(table: Table) -> str:
    """Return the table as a LaTeX tabular of booktabs, the best of each column and group in bold."""
    heads = [SHORT_NAMES.get(column, "Avg." if column == AVERAGE else _latex(column)) for column in table.columns]
    lines = ["% \\usepackage{booktabs}", f"\\begin{{tabular}}{{l{'r' * len(heads)}}}", "\\toprule"]
    lines.append(f"nDCG@10 & {' & '.join(heads)} \\\\")
    for group in table.groups:
        lines.append("\\midrule")
        if len(table.groups) > 1:
            lines.append(f"\\multicolumn{{{len(heads) + 1}}}{{l}}{{\\emph{{{group.title}}}}} \\\\")
        for row in group.rows:
            cells = [
                f"\\textbf{{{_cell(row, column)}}}" if group.is_best(row, column) else _cell(row, column)
                for column in table.columns
            ]
            lines.append(f"{_latex(row.label)} & {' & '.join(cells)} \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def _cell(row: Row, column: str) -> str:
    return f"{row.points[column]:.1f}" if column in row.points else ""


def _latex(text: str) -> str:
    return text.translate(LATEX_ESCAPES)


def _has_published(table: Table) -> bool:
    return any(not row.ours for group in table.groups for row in group.rows)


def write_table(
    folder: Path,
    results: dict[str, dict[str, float]],
    average: dict[str, float] | None,
    beside: str | None,
    title: str,
    above: Mapping[str, tuple[Mapping[str, float], float]] | None = None,
) -> None:
    """Write results.md: nDCG@10 in points per task, and the published rows where the tasks are BRIGHT's.

    Tasks that name aspects are followed by a table of the metrics over them.

    Args:
        average: None for no average.
        beside: kind of queries whose published rows stand beneath ("original" or a rewriting); None for none.
        above: further rows of ours, by title, to stand before the results: nDCG@10 by task, and its average.
    """
    others = {name: {task: values[task] for task in results} for name, (values, _) in (above or {}).items()}
    rows = [Measured(name, values, beside) for name, values in others.items()]
    rows.append(Measured(title, {task: mean["ndcg_at_10"] for task, mean in results.items()}, beside))
    text = to_markdown(build_table(rows, average is not None)) + _aspect_table(results)
    (folder / "results.md").write_text(text, encoding="utf-8")
    print(f"\n{text}")


def _aspect_table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Return the table of metrics over aspects, in points; nothing where no task names any."""
    named = {task: row for task, row in results.items() if "alpha_ndcg_at_10" in row}
    if not named:
        return ""
    lines = ["", f"| over aspects | {' | '.join(named)} | average |", f"|---|{'---|' * (len(named) + 1)}"]
    for title, metric in ASPECT_METRICS.items():
        values = [row[metric] for row in named.values()]
        cells = [f"{100 * value:.1f}" for value in [*values, sum(values) / len(values)]]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table that is aligned as plain text too; the first column to the left, others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = [f":{'-' * (widths[0] - 1)}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    return [line(header), line(rule), *map(line, rows)]
