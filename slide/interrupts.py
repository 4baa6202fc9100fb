"""Signals that end training, noted until the batch is done."""

from __future__ import annotations

import signal
import threading


class StopSignals:
    """While in use, the first SIGINT or SIGTERM is only noted; the next acts as ever.

    A run that a callback ends when one was noted can be resumed::

        with StopSignals() as stop:
            network.fit(X, Y, checkpoints=Checkpoints("run"), on_batch=lambda progress: stop.signum is not None)

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

    def _note(self, signum, frame):
        self.signum = signum
        self._restore()

    def _restore(self):
        while self._former:
            signal.signal(*self._former.popitem())
