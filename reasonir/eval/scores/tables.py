"""Tables of results as Markdown and LaTeX: our rows beside the published ones.

Writes results.md; `reasonir-eval report` writes results.tex. Leaves numbers to `metrics.py` and
`published.py`. The HTML page has a form of its own.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reasonir.core.files import write_text
from reasonir.data.bright import BRIGHT_TASKS
from reasonir.eval.scores.published import SHORT_NAMES, TaskSize, published_rows, why_not_comparable
from reasonir.text.markdown import markdown_table

AVERAGE = "average"
ASPECT_METRICS = {
    "alpha-nDCG@10": "alpha_ndcg_at_10",
    "alpha-nDCG@25": "alpha_ndcg_at_25",
    "aspect recall@10": "aspect_recall_at_10",
    "aspect recall@25": "aspect_recall_at_25",
}
"""Shown beside nDCG@10 where the data names aspects. Bright-Pro (arXiv 2605.04018) reports the cut 25."""
GROUP_TITLES = {"original": "Original queries", "rewritten": "Rewritten queries", "": ""}
SOURCES = "Published rows: the papers that each names."
LATEX_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        **{character: "\\" + character for character in "&%$#_{}"},
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SystemRow:
    """One system's row. points: nDCG@10 in points by column; a column may be absent.

    queries, source: of a published row; empty for ours.
    """

    name: str
    points: Mapping[str, float]
    queries: str = ""
    source: str = ""

    @property
    def ours(self) -> bool:
        """Return whether the row was measured here."""
        return not self.source

    @property
    def label(self) -> str:
        """Return the name; of a published row with its queries and source."""
        return self.name if self.ours else f"{self.name}, {self.queries} ({self.source})"


@dataclass(frozen=True, slots=True)
class Group:
    """Rows on the same kind of queries, which can be compared."""

    title: str
    rows: list[SystemRow]

    def best(self, column: str) -> float | None:
        """Return the best value of a column as it is printed; None where fewer than two rows have one."""
        # Rounded first: two rows that print the same number are both the best.
        values = [round(row.points[column], 1) for row in self.rows if column in row.points]
        return max(values) if len(values) > 1 else None

    def is_best(self, row: SystemRow, column: str) -> bool:
        """Return whether a row has the best value of a column; several rows may share it."""
        return column in row.points and round(row.points[column], 1) == self.best(column)


@dataclass(frozen=True, slots=True)
class Table:
    """Groups of rows under the same columns: the tasks' names and, where there are several tasks, `average`.

    notes: a sentence for each task beside which no published row can stand.
    """

    columns: list[str]
    groups: list[Group]
    notes: list[str] = field(default_factory=list)

    @property
    def compared(self) -> bool:
        """Return whether a published row stands in it."""
        return any(not row.ours for group in self.groups for row in group.rows)


@dataclass(frozen=True, slots=True)
class Measured:
    """A result of ours, to become a row.

    ndcg_at_10: fractions of 1 by task. queries: "original", or a rewriting's name; None where no published row is
    comparable.
    """

    name: str
    ndcg_at_10: Mapping[str, float]
    queries: str | None


def build_table(
    rows: Sequence[Measured], averaged: bool, sizes: Mapping[str, TaskSize], both_kinds: bool = False
) -> Table:
    """Group our results with the published rows on the same kind of queries.

    A published value stands only beside the full task: a part of its queries or documents is another task.

    Args:
        rows: Our results, all with the same tasks.
        averaged: Whether a macro average over the tasks stands in a last column.
        sizes: How much of each task was ranked; a task that is missing here is compared with nothing.
        both_kinds: Show the published rows on the other kind of queries too.
    """
    tasks = list(rows[0].ndcg_at_10)
    differs = {
        task: why for task in tasks if task in SHORT_NAMES and (why := why_not_comparable(task, sizes.get(task)))
    }
    columns = [*tasks, AVERAGE] if averaged else tasks
    # Published rows exist for BRIGHT's tasks only: elsewhere the kind of queries makes no group.
    bright = any(task in SHORT_NAMES for task in tasks)
    kinds = [(row, _kind(row.queries) if bright else "") for row in rows]
    # In the order of our rows, each kind once.
    shown = list(dict.fromkeys(kind for _, kind in kinds))
    if both_kinds and any(shown):
        shown += [kind for kind in ("original", "rewritten") if kind not in shown]
    groups = []
    for kind in shown:
        own = [SystemRow(row.name, _points_of(row, averaged)) for row, its in kinds if its == kind]
        others = [
            SystemRow(row.system, _for_tasks(row.by_column(), tasks, differs), row.queries, row.source)
            for row in (published_rows(kind) if kind else ())
        ]
        found = own + [row for row in others if row.points.keys() & set(columns)]
        groups += [Group(GROUP_TITLES[kind], found)] if found else []
    notes = [f"{task}: {why}; no published row stands beside it." for task, why in differs.items()]
    return Table(columns, groups, notes if any(shown) else [])


def _kind(queries: str | None) -> str:
    if queries is None:
        return ""
    return "original" if queries == "original" else "rewritten"


def _points_of(row: Measured, averaged: bool) -> dict[str, float]:
    points = {task: 100 * value for task, value in row.ndcg_at_10.items()}
    if averaged:
        points[AVERAGE] = sum(points.values()) / len(points)
    return points


def _for_tasks(points: Mapping[str, float], tasks: Sequence[str], differs: Container[str]) -> dict[str, float]:
    """Return a published row's points for these tasks but those that differ, and where none does their average."""
    shown = {task: points[task] for task in tasks if task in points and task not in differs}
    # Over all 12 tasks the average is the printed one: it was rounded once, an average of rounded points is not it.
    if set(tasks) == set(BRIGHT_TASKS) and not any(task in differs for task in tasks):
        return {**shown, AVERAGE: points[AVERAGE]}
    return {**shown, AVERAGE: sum(shown.values()) / len(shown)} if len(shown) == len(tasks) else shown


def to_markdown(table: Table) -> str:
    """Return the table as Markdown, with our rows in bold."""
    rows = []
    for group in table.groups:
        if len(table.groups) > 1:
            rows.append([f"*{group.title}*", *("" for _ in table.columns)])
        for row in group.rows:
            name = f"**{row.label.strip()}**" if row.ours else row.label
            rows.append([name, *(_cell(row, column) for column in table.columns)])
    text = markdown_table(["nDCG@10", *table.columns], rows, compact=True) + "\n"
    below = [*table.notes, *([SOURCES] if table.compared else [])]
    return "\n\n".join([text.rstrip("\n"), *below]) + "\n"


def to_latex(table: Table) -> str:
    """Return the table as a LaTeX tabular of booktabs, the best of each column and group in bold."""
    heads = [SHORT_NAMES.get(column, "Avg." if column == AVERAGE else _latex(column)) for column in table.columns]
    notes = [f"% {note}" for note in table.notes]
    lines = ["% \\usepackage{booktabs}", *notes, f"\\begin{{tabular}}{{l{'r' * len(heads)}}}", "\\toprule"]
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


def _cell(row: SystemRow, column: str) -> str:
    return f"{row.points[column]:.1f}" if column in row.points else ""


def _latex(text: str) -> str:
    return text.translate(LATEX_ESCAPES)


def write_table(
    folder: Path,
    results: Mapping[str, Mapping[str, float]],
    *,
    title: str,
    averaged: bool,
    queries: str | None,
    documents: Mapping[str, int],
    above: Mapping[str, Mapping[str, float]] | None = None,
    below: Sequence[str] = (),
    whole_pages: bool = False,
) -> str:
    """Write results.md: nDCG@10 in points by task, beside the published rows where the tasks are BRIGHT's.

    Tasks that name aspects are followed by a table of the metrics over aspects.

    Args:
        folder: The folder of results.
        results: Every metric's mean by task.
        title: The name of our row.
        averaged: Whether a macro average over the tasks stands in a last column.
        queries: "original", or a rewriting's name: which published rows stand below; None for none.
        documents: Documents of each task's corpus: published rows stand beside full tasks only.
        above: Further results of ours that stand above this row: nDCG@10 by task, by title.
        below: Paragraphs and tables that follow.
        whole_pages: Add recall@1, the BRIGHT paper's measure for whole pages (arXiv 2407.12883).

    Returns:
        What was written.
    """
    rows = [Measured(name, {task: values[task] for task in results}, queries) for name, values in (above or {}).items()]
    rows.append(Measured(title, {task: mean["ndcg_at_10"] for task, mean in results.items()}, queries))
    sizes = {task: TaskSize(int(results[task]["num_queries"]), count) for task, count in documents.items()}
    text = to_markdown(build_table(rows, averaged, sizes)) + _aspect_table(results)
    if whole_pages:
        text += _recall_table(results)
    text += "".join(f"\n{part}\n" for part in below)
    write_text(folder / "results.md", text)
    return text


def _aspect_table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Return the table of metrics over aspects, in points; empty where no task names aspects."""
    named = {task: row for task, row in results.items() if "alpha_ndcg_at_10" in row}
    if not named:
        return ""
    rows = []
    for title, metric in ASPECT_METRICS.items():
        rows.append([title, *_points_and_average([row[metric] for row in named.values()])])
    return f"\n{markdown_table(['over aspects', *named, AVERAGE], rows, compact=True)}\n"


def _recall_table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Return the table of recall@1, in points."""
    cells = _points_and_average([mean["recall_at_1"] for mean in results.values()])
    return f"\n{markdown_table(['recall@1', *results, AVERAGE], [['**whole pages**', *cells]], compact=True)}\n"


def _points_and_average(values: Sequence[float]) -> list[str]:
    return [f"{100 * value:.1f}" for value in [*values, sum(values) / len(values)]]
