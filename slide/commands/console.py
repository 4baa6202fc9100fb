"""What the command line shows: log lines and a progress bar on standard error; tables and JSON as text."""

from __future__ import annotations

import contextlib
import logging
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence

from tqdm import tqdm

from slide.files.tables import table
from slide.runs.display import LOG_SECONDS, TIME, TIME_LENGTH, columns

log = logging.getLogger("slide")

METRICS = ("P", "nDCG", "PSP", "R")


class _StderrHandler(logging.Handler):
    """Writes to the current standard error, above a progress bar if there is one.

    On a terminal, long lines are broken between words and indented under their text; elsewhere they stay whole.
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
    """Show the package's log on standard error while a block is executed."""
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
    """Shows the progress of a conversion: a bar on a terminal, elsewhere a log line every few seconds."""

    def __init__(self) -> None:
        self._bar = tqdm(unit=" samples", unit_scale=True, file=sys.stderr, disable=not sys.stderr.isatty())
        self._due = time.monotonic() + LOG_SECONDS

    def __enter__(self) -> PiecesDisplay:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def piece_done(self, n_samples: int, n_bytes: int) -> None:
        """Show the numbers of samples and bytes written so far."""
        if not self._bar.disable:
            self._bar.set_postfix_str(f"{n_bytes / 1e6:,.0f} MB written", refresh=False)
            self._bar.update(n_samples - self._bar.n)
        elif time.monotonic() >= self._due:
            log.info("%s samples, %s MB written", f"{n_samples:,}", f"{n_bytes / 1e6:,.0f}")
            self._due = time.monotonic() + LOG_SECONDS


def quality_table(quality: dict[str, float], ks: Sequence[int], popular: dict[str, float] | None = None) -> str:
    """Return metrics as a table in percent, with a row for each metric and a column for each depth.

    Parameters
    ----------
    quality : dict
        Result of ``Network.evaluate``.
    ks : sequence of int
        Depths.
    popular : dict, optional
        The same metrics of always predicting the most frequent labels; only P@k is shown.
    """
    rows = [
        (metric, *(f"{100 * quality[f'{metric}@{k}']:.2f}" for k in ks))
        for metric in METRICS
        if f"{metric}@{ks[0]}" in quality
    ]
    if popular:
        rows.append(("P, most popular labels", *(f"{100 * popular[f'P@{k}']:.2f}" for k in ks)))
    return table(("%", *(f"@{k}" for k in ks)), rows, widths=(0, *(9 for _ in ks)), gap="")


def modes_table(report: dict, mode: str) -> str:
    """Return a table of the quality and times of a mode of prediction beside exact prediction.

    Parameters
    ----------
    report : dict
        Result of `slide.predict.profile.compare_with_exact`.
    mode : str
        Name of the mode, for the header.
    """
    exact, sampled, speedup = report["exact"], report["sampled"], report["speedup"]
    rows: list[tuple[str, str, str, str]] = []
    for name in exact:
        a, b = exact[name], sampled[name]
        if name == "points_per_second":
            rows.append(("samples/s in batches", f"{a:,.0f}", f"{b:,.0f}", f"{speedup[name]:.2f} x"))
        elif name.endswith("_ms"):
            label = f"{name.removesuffix('_ms')} of single samples, ms"
            rows.append((label, f"{a:.2f}", f"{b:.2f}", f"{speedup[name]:.2f} x"))
        else:
            rows.append((f"{name}, %", f"{100 * a:.2f}", f"{100 * b:.2f}", f"{100 * (b - a):+.2f}"))
    for name, recall in report["recall"].items():
        k = name.partition("@")[2]
        rows.append((f"of the exact best {k} found, %", f"{100:.2f}", f"{100 * recall:.2f}", ""))
    return table(("", "exact", mode, ""), rows, widths=(0, 12, 12, 12), gap="")
