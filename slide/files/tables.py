"""Tables as aligned text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(
    header: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    align: str | None = None,
    widths: Sequence[int] | None = None,
    gap: str = "  ",
    markdown: bool = False,
    pad: bool = True,
) -> str:
    """Return a table as text; each column is as wide as its longest cell.

    Parameters
    ----------
    header : sequence
        Titles of the columns.
    rows : iterable of sequence
        Cells, shown as ``str`` shows them.
    align : str, optional
        A letter for each column: ``"l"`` flush left, ``"r"`` flush right. By default the first column is flush left and
        the others are flush right.
    widths : sequence of int, optional
        Smallest width of each column, in characters; 0 by default.
    gap : str
        Text between two columns; Markdown has its own.
    markdown : bool
        Write a Markdown table.
    pad : bool
        Fill up cells to the width of their column.
    """
    align = "l" + "r" * (len(header) - 1) if align is None else align
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    # Markdown's rule needs two characters, "-:", to say that a column is flush right.
    least = [0 if a == "l" or not markdown else 2 for a in align] if widths is None else widths
    wide = [max(w, *map(len, column)) if pad else 0 for w, column in zip(least, zip(*cells, strict=True), strict=True)]
    lines = [
        [cell.ljust(w) if a == "l" else cell.rjust(w) for cell, w, a in zip(row, wide, align, strict=True)]
        for row in cells
    ]
    if not markdown:
        return "\n".join(gap.join(line).rstrip() for line in lines)
    rule = ["-" * (w or 3) if a == "l" else "-" * ((w or 4) - 1) + ":" for w, a in zip(wide, align, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))
