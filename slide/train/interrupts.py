"""Signals that end training, noted until the batch is done."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

from slide.train.callbacks import Callback

if TYPE_CHECKING:
    from slide.train.records import Progress


class StopSignals(Callback):
    """Ends a run after the batch during which SIGINT or SIGTERM comes, while this is in use; the next acts as ever.

    With `checkpoints` the run can be resumed::

        with StopSignals() as stop:
            network.fit(X, Y, checkpoints=Checkpoints("run"), callbacks=[stop])

    Attributes
    ----------
    signum : int or None
        The signal that was noted.
    """

    def __init__(self):
        self.signum: int | None = None
        self._former: dict = {}

    def __enter__(self) -> StopSignals:
        # Python allows handlers in the main thread only; elsewhere signals are someone else's.
        if threading.current_thread() is threading.main_thread():
            self._former = {
                number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
            }
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def on_batch(self, progress: Progress) -> bool:
        """Tell whether a signal was noted."""
        return self.signum is not None

    def on_epoch(self, progress: Progress) -> bool:
        """Tell whether a signal was noted."""
        return self.signum is not None

    def _note(self, signum, frame):
        self.signum = signum
        self._restore()

    def _restore(self):
        while self._former:
            signal.signal(*self._former.popitem())
