"""Tables of results: which rows stand beside ours, averages, marks, and what LaTeX and Markdown make of odd names."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from reasonir.data.bright import BRIGHT_TASKS
from reasonir.eval.scores.published import BRIGHT_SIZES, ORIGINAL, REWRITTEN, TaskSize
from reasonir.eval.scores.tables import Measured, Table, build_table, to_latex, to_markdown, write_table

ALL = Measured("mine", {task: 0.2 + number / 100 for number, task in enumerate(BRIGHT_TASKS)}, "original")


def table_of(
    rows: list[Measured], averaged: bool, both_kinds: bool = False, sizes: Mapping[str, TaskSize] = BRIGHT_SIZES
) -> Table:
    """Group rows that were measured on the full tasks, where nothing else is said."""
    return build_table(rows, averaged, sizes, both_kinds)


def test_rows_stand_with_their_kind_of_queries() -> None:
    rewritten = Measured("mine", ALL.ndcg_at_10, "gpt4")
    first, second = table_of([ALL, rewritten], True).groups
    assert [len(group.rows) for group in (first, second)] == [1 + len(ORIGINAL), 1 + len(REWRITTEN)]
    assert first.rows[0].ours and second.rows[0].ours and not any(row.ours for row in first.rows[1:])
    assert len(table_of([ALL], True).groups) == 1 and len(table_of([ALL], True, both_kinds=True).groups) == 2
    assert [row.ours for row in table_of([Measured("x", {"scifact": 0.5}, "original")], False).groups[0].rows] == [True]
    assert [row.ours for row in table_of([Measured("x", ALL.ndcg_at_10, None)], True).groups[0].rows] == [True]


def test_averages_are_over_the_tasks_shown() -> None:
    two = Measured("mine", {"pony": 0.1, "biology": 0.3}, "original")
    table = table_of([two], True)
    rows = {row.name: row.points for row in table.groups[0].rows}
    assert rows["mine"]["average"] == pytest.approx(20.0)
    assert rows["BM25"]["average"] == pytest.approx((7.9 + 18.9) / 2)
    assert "ReasonEmbed-Qwen3-8B" not in rows, "only its average over all tasks is known"
    everything = {row.name: row.points for row in table_of([ALL], True).groups[0].rows}
    assert everything["BM25"]["average"] == 14.5 and everything["ReasonEmbed-Qwen3-8B"] == {"average": 38.1}
    stranger = Measured("mine", {"pony": 0.1, "physics": 0.3}, "original")
    rows = {row.name: row.points for row in table_of([stranger], True).groups[0].rows}
    assert rows["BM25"] == {"pony": 7.9}, "no average where a task is missing"


PARTS = [
    ({"queries": 8, "documents": 800}, "not the full task: 8 of 112 queries, 800 of 7,894 documents"),
    ({"queries": 112, "documents": 7_893}, "not the full task: 112 of 112 queries, 7,893 of 7,894 documents"),
    ({"queries": 111}, "not the full task: 111 of 112 queries, 7,894 of 7,894 documents"),
    ({"documents": 9_000}, "not the full task: 112 of 112 queries, 9,000 documents where BRIGHT has 7,894"),
]


@pytest.mark.parametrize(("changes", "words"), PARTS)
def test_no_published_value_stands_beside_a_part_of_a_task(changes: dict[str, int], words: str) -> None:
    sizes = {**BRIGHT_SIZES, "pony": replace(BRIGHT_SIZES["pony"], **changes)}
    alone = table_of([Measured("mine", {"pony": 0.5}, "original")], True, both_kinds=True, sizes=sizes)
    assert [row.name for group in alone.groups for row in group.rows] == ["mine"]
    assert alone.notes == [f"pony: {words}; no published row stands beside it."]
    assert alone.notes[0] in to_markdown(alone) and "Published" not in to_markdown(alone)
    assert f"% {alone.notes[0]}\n" in to_latex(alone)
    # Beside a full task its value stays; nobody's average is one over both, not even the printed one over all tasks.
    for rows in ([Measured("mine", {"pony": 0.5, "biology": 0.2}, "original")], [ALL]):
        found = {row.name: row.points for row in table_of(rows, True, sizes=sizes).groups[0].rows}
        assert found["BM25"]["biology"] == 18.9 and not {"pony", "average"} & found["BM25"].keys()
        assert "average" in found["mine"] and "ReasonEmbed-Qwen3-8B" not in found


def test_a_task_whose_size_nobody_names_is_compared_with_nothing() -> None:
    nobody = table_of([Measured("mine", {"pony": 0.5}, "original")], True, sizes={})
    assert not nobody.compared and "is not known" in nobody.notes[0]
    assert table_of([Measured("mine", {"pony": 0.5}, None)], True, sizes={}).notes == [], "nothing to compare"
    assert table_of([Measured("mine", {"scifact": 0.5}, "original")], False, sizes={}).notes == []


def test_best_goes_by_what_is_printed() -> None:
    rows = [Measured(name, {"a": value}, None) for name, value in (("x", 0.5004), ("y", 0.4996), ("z", 0.499))]
    group = table_of(rows, False).groups[0]
    assert [group.is_best(row, "a") for row in group.rows] == [True, True, False]
    assert not table_of(rows[:1], False).groups[0].is_best(group.rows[0], "a"), "nothing to be better than"


def test_latex_is_escaped_and_whole() -> None:
    name = r"50%_of & #1 {x} $y^2~\z"
    text = to_latex(table_of([Measured(name, {"a_b": 0.5, "pony": 0.25}, None)], True))
    expected = r"50\%\_of \& \#1 \{x\} \$y\textasciicircum{}2\textasciitilde{}\textbackslash{}z & 50.0 & 25.0 & 37.5 \\"
    assert expected in text and r"nDCG@10 & a\_b & Pony & Avg. \\" in text
    whole = to_latex(table_of([ALL, Measured("other", ALL.ndcg_at_10, "gpt4")], True))
    rows = [line for line in whole.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {13}
    assert whole.count("\\begin{tabular}{lrrrrrrrrrrrrr}") == whole.count("\\end{tabular}") == 1
    assert whole.count("{") - whole.count("\\{") == whole.count("}") - whole.count("\\}")
    assert "\\textbf{58.2}" in whole and "\\toprule" in whole


def test_markdown_keeps_its_columns(tmp_path: Path) -> None:
    text = to_markdown(table_of([Measured("a|b", {"pony": 0.5}, None)], False))
    assert text.splitlines()[2] == r"| **a\|b** | 50.0 |" and "Published" not in text
    results = {
        task: {"ndcg_at_10": value, "num_queries": BRIGHT_SIZES[task].queries} for task, value in ALL.ndcg_at_10.items()
    }
    documents = {task: size.documents for task, size in BRIGHT_SIZES.items()}
    write_table(tmp_path, results, title="mine", averaged=True, queries="original", documents=documents)
    lines = (tmp_path / "results.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert {line.count("|") for line in table} == {15} and len(table) == 3 + len(ORIGINAL)
    assert table[2].endswith("| 25.5 |") and lines[-1].startswith("Published rows")
