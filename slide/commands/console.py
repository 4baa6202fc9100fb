"""What the command line shows: log lines and a progress bar on standard error; tables and JSON as text."""

from __future__ import annotations

import contextlib
import logging
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tqdm import tqdm

from slide.runs.display import LOG_SECONDS, TIME, TIME_LENGTH, columns

if TYPE_CHECKING:
    pass

log = logging.getLogger("slide")

METRICS = ("P", "nDCG", "PSP", "R")


class _StderrHandler(logging.Handler):
    """Writes to what is standard error at that moment, above a progress bar if there is one.

    On a terminal a line is broken between words, and the rest stands under its text; elsewhere a line is a line.
    """

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if sys.stderr.isatty():
            indent = " " * (TIME_LENGTH + 1)
            text = textwrap.fill(
                text, columns(), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
            )
        tqdm.write(text, file=sys.stderr)


@contextlib.contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Show the package's log on standard error for the time of a block."""
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", TIME))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


class PiecesDisplay:
    """Shows how a conversion gets on: a bar if standard error is a terminal, else a log line every few seconds."""

    def __init__(self) -> None:
        self._bar = tqdm(unit=" samples", unit_scale=True, file=sys.stderr, disable=not sys.stderr.isatty())
        self._due = time.monotonic() + LOG_SECONDS

    def __enter__(self) -> PiecesDisplay:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def piece_done(self, n_samples: int, n_bytes: int) -> None:
        """Show how far things have got.

        Parameters
        ----------
        n_samples, n_bytes : int
            Written so far.
        """
        if not self._bar.disable:
            self._bar.set_postfix_str(f"{n_bytes / 1e6:,.0f} MB written", refresh=False)
            self._bar.update(n_samples - self._bar.n)
        elif time.monotonic() >= self._due:
            log.info("%s samples, %s MB written", f"{n_samples:,}", f"{n_bytes / 1e6:,.0f}")
            self._due = time.monotonic() + LOG_SECONDS


def quality_table(
    quality: dict[str, float], ks: Sequence[int], popular: dict[str, float] | None = None
) -> str:
    """Return metrics as a table in percent, a row for each metric and a column for each depth.

    Parameters
    ----------
    quality : dict
        As ``Network.evaluate`` returns it.
    ks : sequence of int
        Depths.
    popular : dict, optional
        The same metrics of the baseline that always predicts the most frequent labels; of it P@k is shown.
    """
    rows = [("%", [f"@{k}" for k in ks])]
    for metric in METRICS:
        if f"{metric}@{ks[0]}" in quality:
            rows.append((metric, [f"{100 * quality[f'{metric}@{k}']:.2f}" for k in ks]))
    if popular:
        rows.append(("P, most popular labels", [f"{100 * popular[f'P@{k}']:.2f}" for k in ks]))
    width = max(len(name) for name, _ in rows)
    return "\n".join(name.ljust(width) + "".join(cell.rjust(9) for cell in cells) for name, cells in rows)


def modes_table(report: dict, mode: str) -> str:
    """Return the quality and the times of a mode of prediction beside the exact one, a row for each figure.

    Parameters
    ----------
    report : dict
        As `slide.predict.profile.compare_with_exact` returns it.
    mode : str
        What to call the mode.
    """
    exact, sampled, speedup = report["exact"], report["sampled"], report["speedup"]
    rows = [("", "exact", mode, "")]
    for name in exact:
        a, b = exact[name], sampled[name]
        if name == "points_per_second":
            rows.append(("samples/s in batches", f"{a:,.0f}", f"{b:,.0f}", f"{speedup[name]:.2f} x"))
        elif name.endswith("_ms"):
            label = f"{name.removesuffix('_ms')} of single samples, ms"
            rows.append((label, f"{a:.2f}", f"{b:.2f}", f"{speedup[name]:.2f} x"))
        else:
            rows.append((f"{name}, %", f"{100 * a:.2f}", f"{100 * b:.2f}", f"{100 * (b - a):+.2f}"))
    for name, share in report["recall"].items():
        k = name.partition("@")[2]
        rows.append((f"of the exact best {k} found, %", f"{100:.2f}", f"{100 * share:.2f}", ""))
    width = max(len(row[0]) for row in rows)
    lines = (row[0].ljust(width) + "".join(cell.rjust(12) for cell in row[1:]) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
