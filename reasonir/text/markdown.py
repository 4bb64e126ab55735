"""Tables in Markdown: the one place that writes them."""

import re
from collections.abc import Sequence


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]], *, compact: bool = False) -> str:
    """Return a Markdown table without a line end behind it.

    Bars within a cell are escaped and line ends become spaces, so that any cell stays one cell; a name that holds HTML
    or a link is shown as it is written and does nothing.

    Args:
        header: The names of the columns.
        rows: As many cells each as there are columns.
        compact: Leave the cells as they are. Otherwise they are padded, so that the table reads well as plain text
            too: the first column stands to the left, the others to the right.
    """
    lines = [[_cell(str(cell)) for cell in row] for row in (header, *rows)]
    if compact:
        rule = f"|{'---|' * len(header)}"
        return "\n".join([_join(lines[0]), rule, *map(_join, lines[1:])])
    widths = [max(2, *map(len, column)) for column in zip(*lines, strict=True)]
    padded = [
        [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        for first, *others in lines
    ]
    rule = _join([f":{'-' * (widths[0] - 1)}", *(f"{'-' * (width - 1)}:" for width in widths[1:])])
    return "\n".join([_join(padded[0]), rule, *map(_join, padded[1:])])


def _cell(text: str) -> str:
    text = " ".join(text.splitlines()).replace("|", "\\|").replace("](", "]\\(")
    # "p < 0.05" opens no tag.
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)


def _join(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
