"""Plain tables, sizes as text, and colour for terminals."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TextIO

from slide.files import tables

COLOURS = {"red": 31, "green": 32, "yellow": 33, "bold": 1}
UNAVAILABLE = "not available here"


def size(nbytes: float | None) -> str:
    """Return a number of bytes as text, such as ``"2 MiB"``."""
    if nbytes is None:
        return "?"
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if abs(nbytes) >= scale:
            return f"{nbytes / scale:.4g} {unit}" if nbytes < 1000 * scale else f"{nbytes / scale:,.0f} {unit}"
    return f"{nbytes:.0f} B"


def share(part: float | None, whole: float | None) -> str:
    """Return a part of a whole in percent, or a dash if there is no whole."""
    return "-" if not whole or part is None else f"{100 * part / whole:.1f} %"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table; columns of numbers and sizes are flush right, and None is shown as a dash."""
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    right = [all(row[i][:1].isdigit() or row[i] in ("-", "?") for row in cells) for i in range(len(header))]
    return tables.table(header, cells, align="".join("r" if r else "l" for r in right))


def paint(text: str, colour: str, file: TextIO | None = None) -> str:
    """Return the text in a colour if `file`, by default standard output, is a terminal with colours."""
    file = sys.stdout if file is None else file
    if not file.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m"
