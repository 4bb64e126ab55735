"""Markdown tables: a cell stays one cell, and the padded form is the same table."""

from reasonir.text.markdown import markdown_table


def test_compact_table_escapes_bars_and_line_ends() -> None:
    text = markdown_table(["a", "b"], [["x | y", 1], ["two\nlines", ""]], compact=True)
    assert text == "| a | b |\n|---|---|\n| x \\| y | 1 |\n| two lines |  |"


def test_padded_table_aligns_its_columns() -> None:
    text = markdown_table(["", "queries"], [["long name", "7"], ["  of it", "1,234"]])
    assert text.splitlines() == [
        "|           | queries |",
        "| :-------- | ------: |",
        "| long name |       7 |",
        "|   of it   |   1,234 |",
    ]
    assert len({len(line) for line in text.splitlines()}) == 1
    unpadded = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    compact = markdown_table(["", "queries"], [["long name", "7"], ["  of it", "1,234"]], compact=True)
    others = [[cell.strip() for cell in line.split("|")] for line in compact.splitlines()]
    assert [unpadded[0], *unpadded[2:]] == [others[0], *others[2:]]


def test_rule_of_a_narrow_column_is_one() -> None:
    """A rule needs a dash beside its colon: `| : |` would be read as a row."""
    assert markdown_table(["a", "b"], [["x", "1"]]).splitlines()[1] == "| :- | -: |"


def test_names_do_nothing_in_a_page() -> None:
    names = ["<img src=x onerror=f()>", "</td>", "<!-- a", "![x](http://a/b.png)", "p < 0.05", "a[1] (b)", "<3"]
    rows = markdown_table(["name", "n"], [[name, 1] for name in names], compact=True).splitlines()[2:]
    shown = [row.removeprefix("| ").removesuffix(" | 1 |") for row in rows]
    assert shown == [
        "&lt;img src=x onerror=f()>", "&lt;/td>", "&lt;!-- a", "![x]\\(http://a/b.png)", "p < 0.05", "a[1] (b)", "<3"
    ]  # fmt: skip
