"""What the command line shows: log lines and a progress bar on standard error; tables and JSON as text."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tqdm import tqdm

from slide.callbacks import Callback, Run

if TYPE_CHECKING:
    from slide.training import History, Progress

log = logging.getLogger("slide")

LOG_SECONDS = 10.0
"""Time between two log lines of training where there is no terminal to draw a bar on."""

TIME = "%H:%M:%S"
TIME_LENGTH = len("00:00:00")

BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
BAR_LENGTH = 10
"""The fewest characters of the bar itself."""

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
                text, _columns(), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
            )
        tqdm.write(text, file=sys.stderr)


def _columns():
    """How many characters may stand in a line of the terminal; some break a line that is filled to the last."""
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        columns = shutil.get_terminal_size().columns
    return max(columns, 20) - 1


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


class TrainingDisplay(Callback):
    """Shows how training gets on: a bar if standard error is a terminal, else a log line every few seconds.

    Parameters
    ----------
    measured_on : str
        What quality is measured on: ``"test"`` or ``"validation"``.
    monitor : str
        A metric to show besides P@1.

    Attributes
    ----------
    progress : Progress or None
        Of the run that is, or was last, shown.
    """

    def __init__(self, measured_on: str = "test", monitor: str = "P@1") -> None:
        self.progress: Progress | None = None
        self._measured_on = measured_on
        self._monitor = monitor

    def on_start(self, run: Run) -> None:
        """Show an empty bar."""
        self.progress = run.progress
        self._bar = tqdm(
            total=run.progress.batches or None,
            initial=run.progress.batch,
            unit="batch",
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            bar_format=BAR,
        )
        self._due = time.monotonic() + LOG_SECONDS

    def on_batch(self, progress: Progress) -> None:
        """Show how things stand after a batch."""
        if not self._bar.disable:
            self._draw(progress)
        elif time.monotonic() >= self._due:
            batches = f"{progress.batch:,}" + (f" of {progress.batches:,}" if progress.batches else "")
            log.info("batch %s: %s", batches, self._summary(progress))
            self._due = time.monotonic() + LOG_SECONDS

    def on_epoch(self, progress: Progress) -> None:
        """Log the end of an epoch."""
        head = f"epoch {progress.epoch}, {progress.seconds:.1f} s: "
        room = math.inf if self._bar.disable else _columns() - TIME_LENGTH - 1 - len(head)
        log.info("%s%s", head, self._summary(progress, room))
        self._due = time.monotonic() + LOG_SECONDS
        if not self._bar.disable:
            self._draw(progress)

    def on_end(self, history: History) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def _draw(self, progress):
        frame = len("100%||  [00:00:00<00:00:00, ]") + len(f"{progress.batches}/{progress.batches}")
        summary = self._summary(progress, _columns() - frame - BAR_LENGTH)
        self._bar.set_postfix_str(summary, refresh=False)
        self._bar.update(progress.batch - self._bar.n)

    def _summary(self, progress, room=math.inf):
        """How things stand, in no more characters than there is room for: what matters least is left out."""
        measured, throughput = [], []
        if progress.quality:
            measured.append(f"{progress.quality['P@1']:.1%} in {self._measured_on}")
            if self._monitor != "P@1":
                measured.append(f"{self._monitor} {progress.quality[self._monitor]:.1%}")
        if progress.seconds > 0:
            throughput.append(f"{progress.samples / progress.seconds:,.0f} samples/s")
        loss, precision = f"loss {progress.loss:.3f}", f"P@1 {progress.precision:.1%}"
        in_training = [loss, f"{precision} in training"]
        for parts in (
            [*in_training, *measured, *throughput],
            [*in_training, *measured],
            [precision, *measured],
            [loss, precision],
        ):
            text = ", ".join(parts)
            if len(text) <= room:
                return text
        return precision if len(precision) <= room else ""


class PiecesDisplay:
    """Shows how a conversion gets on: a bar if standard error is a terminal, else a log line every few seconds."""

    def __init__(self) -> None:
        self._bar = tqdm(unit=" points", unit_scale=True, file=sys.stderr, disable=not sys.stderr.isatty())
        self._due = time.monotonic() + LOG_SECONDS

    def __enter__(self) -> PiecesDisplay:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def piece_done(self, n_points: int, n_bytes: int) -> None:
        """Show how far things have got.

        Parameters
        ----------
        n_points, n_bytes : int
            Written so far.
        """
        if not self._bar.disable:
            self._bar.set_postfix_str(f"{n_bytes / 1e6:,.0f} MB written", refresh=False)
            self._bar.update(n_points - self._bar.n)
        elif time.monotonic() >= self._due:
            log.info("%s points, %s MB written", f"{n_points:,}", f"{n_bytes / 1e6:,.0f}")
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
        As `slide.serving.compare_with_exact` returns it.
    mode : str
        What to call the mode.
    """
    exact, sampled, speedup = report["exact"], report["sampled"], report["speedup"]
    rows = [("", "exact", mode, "")]
    for name in exact:
        a, b = exact[name], sampled[name]
        if name == "points_per_second":
            rows.append(("points/s in batches", f"{a:,.0f}", f"{b:,.0f}", f"{speedup[name]:.2f} x"))
        elif name.endswith("_ms"):
            label = f"{name.removesuffix('_ms')} of single points, ms"
            rows.append((label, f"{a:.2f}", f"{b:.2f}", f"{speedup[name]:.2f} x"))
        else:
            rows.append((f"{name}, %", f"{100 * a:.2f}", f"{100 * b:.2f}", f"{100 * (b - a):+.2f}"))
    for name, share in report["recall"].items():
        k = name.partition("@")[2]
        rows.append((f"of the exact best {k} found, %", f"{100:.2f}", f"{100 * share:.2f}", ""))
    width = max(len(row[0]) for row in rows)
    lines = (row[0].ljust(width) + "".join(cell.rjust(12) for cell in row[1:]) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def as_json(report: dict) -> str:
    """Return one line of JSON; numbers that are not finite, for which JSON has no word, become null.

    Parameters
    ----------
    report : dict
        Plain values and dictionaries of them.
    """
    return json.dumps(_finite(report), allow_nan=False)


def _finite(value):
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
