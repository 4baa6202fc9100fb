"""A run on the terminal: a progress bar, or log lines where there is no terminal."""

from __future__ import annotations

import logging
import math
import os
import shutil
import sys
import time

from tqdm import tqdm

from slide.train.callbacks import Callback, Run
from slide.train.records import History, Progress

log = logging.getLogger("slide")

LOG_SECONDS = 10.0
"""Seconds between two log lines, where there is no terminal."""

TIME = "%H:%M:%S"
TIME_LENGTH = len("00:00:00")
"""Format of the time in log lines, and its length in characters."""

BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"

BAR_LENGTH = 10
"""Smallest length of the bar itself, in characters."""


def columns() -> int:
    """Return the longest line for this terminal: a column less than its width, which some terminals would break."""
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        columns = shutil.get_terminal_size().columns
    return max(columns, 20) - 1


class TrainingDisplay(Callback):
    """Shows the progress of training: a bar on a terminal, elsewhere a log line every few seconds.

    Parameters
    ----------
    measured_on : str
        Name of the samples that quality is measured on: ``"test"`` (the default) or ``"validation"``.
    monitor : str
        A metric to show together with P@1; default ``"P@1"``, nothing more.

    Attributes
    ----------
    progress : Progress or None
        Progress of the current or last run; None before the first.
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
        """Update the bar, or log a line if it is time for one."""
        if not self._bar.disable:
            self._draw(progress)
        elif time.monotonic() >= self._due:
            batches = f"{progress.batch:,}" + (f" of {progress.batches:,}" if progress.batches else "")
            log.info("batch %s: %s", batches, self._summary(progress))
            self._due = time.monotonic() + LOG_SECONDS

    def on_epoch(self, progress: Progress) -> None:
        """Log the end of an epoch."""
        head = f"epoch {progress.epoch}, {progress.seconds:.1f} s: "
        room = math.inf if self._bar.disable else columns() - TIME_LENGTH - 1 - len(head)
        log.info("%s%s", head, self._summary(progress, room))
        self._due = time.monotonic() + LOG_SECONDS
        if not self._bar.disable:
            self._draw(progress)

    def on_end(self, history: History) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def _draw(self, progress: Progress) -> None:
        frame = len("100%||  [00:00:00<00:00:00, ]") + len(f"{progress.batches}/{progress.batches}")
        summary = self._summary(progress, columns() - frame - BAR_LENGTH)
        self._bar.set_postfix_str(summary, refresh=False)
        self._bar.update(progress.batch - self._bar.n)

    def _summary(self, progress: Progress, room: float = math.inf) -> str:
        """Return the figures in `room` characters or fewer; those that matter least are left out first."""
        measured: list[str] = []
        throughput: list[str] = []
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
