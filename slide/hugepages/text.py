"""Plain tables, sizes in words, and colour where a terminal reads them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

COLOURS = {"red": 31, "green": 32, "yellow": 33, "bold": 1}
UNAVAILABLE = "not available here"


def size(nbytes: float | None) -> str:
    """Return a number of bytes in words."""
    if nbytes is None:
        return "?"
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if abs(nbytes) >= scale:
            return f"{nbytes / scale:.4g} {unit}" if nbytes < 1000 * scale else f"{nbytes / scale:,.0f} {unit}"
    return f"{nbytes:.0f} B"


def share(part: float | None, whole: float | None) -> str:
    """Return a part in percent, a dash where there is no whole."""
    return "-" if not whole or part is None else f"{100 * part / whole:.1f} %"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table; columns whose cells are all numbers or sizes stand on the right.

    Parameters
    ----------
    header : sequence of str
    rows : sequence of sequences
        None is shown as a dash.
    """
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in (list(header), *cells)) for i in range(len(header))]
    right = [all(row[i][:1].isdigit() or row[i] in ("-", "?") for row in cells) for i in range(len(header))]
    lines = []
    for line in (list(header), *cells):
        aligned = [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, widths, right, strict=True)]
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)


def paint(text: str, colour: str, file=None) -> str:
    """Return the text in a colour if `file`, by default standard output, is a terminal that wants it."""
    file = sys.stdout if file is None else file
    if not file.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m"
