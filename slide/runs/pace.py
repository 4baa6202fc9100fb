"""How often figures of a run are recorded."""

from __future__ import annotations

import time

PARTS = 500
"""Number of records over a run of known length."""

SHARE = 50
"""When the length of the run is unknown: record every 1/SHARE of the batches so far."""

SECONDS = 10.0
"""Longest time between two records, in seconds."""


class Pace:
    """Says after which batches to record figures, so that a run of any length gives a curve.

    These are the first batch and then one in each of `PARTS` equal parts of the run; if `SECONDS` pass without one, the
    next batch is recorded too. In a run of unknown length, records become rarer as it goes on.

    Parameters
    ----------
    batches : int
        Length of the run; 0 if it is unknown.
    """

    def __init__(self, batches: int):
        self._every = -(-batches // PARTS)
        self._next, self._deadline = 0, 0.0

    def due(self, batch: int) -> bool:
        """Return whether to record `batch`, the last one done; if so, the next interval begins."""
        if batch < self._next and time.monotonic() < self._deadline:
            return False
        every = self._every or max(1, batch // SHARE)
        self._next, self._deadline = batch + every, time.monotonic() + SECONDS
        return True
