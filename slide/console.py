"""What the command line shows: log lines and a progress bar on standard error; tables and JSON as text."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence

from tqdm import tqdm

from slide.training import Progress

log = logging.getLogger("slide")

LOG_SECONDS = 10.0
"""Time between two log lines of training where there is no terminal to draw a bar on."""

METRICS = ("P", "nDCG", "PSP", "R")


class _StderrHandler(logging.Handler):
    """Writes to what is standard error at that moment, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


@contextlib.contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Show the package's log on standard error for the time of a block."""
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


class TrainingDisplay:
    """Shows how training gets on: a bar if standard error is a terminal, else a log line every few seconds.

    Parameters
    ----------
    measured_on : str
        What quality is measured on: ``"test"`` or ``"validation"``.
    monitor : str
        A metric to show besides P@1.

    Attributes
    ----------
    progress : Progress
        The last that was shown.
    """

    def __init__(self, measured_on: str = "test", monitor: str = "P@1") -> None:
        self.progress = Progress()
        self._measured_on = measured_on
        self._monitor = monitor
        self._bar = tqdm(unit="batch", file=sys.stderr, disable=not sys.stderr.isatty(), dynamic_ncols=True)
        self._due = time.monotonic() + LOG_SECONDS

    def __enter__(self) -> TrainingDisplay:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def batch_done(self, progress: Progress) -> None:
        """Show how things stand after a batch.

        Parameters
        ----------
        progress : Progress
            As ``fit`` hands it to callbacks.
        """
        self.progress = progress
        if not self._bar.disable:
            self._bar.total = progress.batches
            self._bar.set_postfix_str(self._summary(progress), refresh=False)
            self._bar.update(progress.batch - self._bar.n)
        elif time.monotonic() >= self._due:
            log.info("batch %s of %s: %s", f"{progress.batch:,}", f"{progress.batches:,}", self._summary(progress))
            self._due = time.monotonic() + LOG_SECONDS

    def epoch_done(self, progress: Progress) -> None:
        """Log the end of an epoch.

        Parameters
        ----------
        progress : Progress
            As ``fit`` hands it to callbacks.
        """
        log.info("epoch %d, %.1f s: %s", progress.epoch, progress.seconds, self._summary(progress))
        self._due = time.monotonic() + LOG_SECONDS

    def _summary(self, progress):
        parts = [f"loss {progress.loss:.3f}", f"P@1 {progress.precision:.1%} in training"]
        if progress.quality:
            parts.append(f"{progress.quality['P@1']:.1%} in {self._measured_on}")
            if self._monitor != "P@1":
                parts.append(f"{self._monitor} {progress.quality[self._monitor]:.1%}")
        if progress.seconds > 0:
            parts.append(f"{progress.samples / progress.seconds:,.0f} samples/s")
        return ", ".join(parts)


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
