"""Signals that end training at the end of the batch."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from slide.train.callbacks import Callback
from slide.train.records import Progress


class StopSignals(Callback):
    """Ends a run after the batch during which SIGINT or SIGTERM arrives; a second signal acts as usual.

    Signals are caught only inside a ``with`` block. With `checkpoints` the run can be resumed::

        with StopSignals() as stop:
            network.fit(X, Y, checkpoints=Checkpoints("run"), callbacks=[stop])

    Attributes
    ----------
    signum : int or None
        The signal that arrived; None if none has.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._former: dict = {}

    def __enter__(self) -> StopSignals:
        # Python allows signal handlers in the main thread only.
        if threading.current_thread() is threading.main_thread():
            self._former = {
                number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
            }
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def on_batch(self, progress: Progress) -> bool:
        """Return whether a signal has arrived."""
        return self.signum is not None

    def on_epoch(self, progress: Progress) -> bool:
        """Return whether a signal has arrived."""
        return self.signum is not None

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        self._restore()

    def _restore(self) -> None:
        while self._former:
            signal.signal(*self._former.popitem())
