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
