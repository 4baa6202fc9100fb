"""How often a run is written down."""

from __future__ import annotations

import time

PARTS = 500
"""Into how many steps of batches `Pace` cuts a run."""

SHARE = 50
"""After how small a part of the batches so far `Pace` takes note where it does not know how many will come."""

SECONDS = 10.0
"""How long `Pace` waits at most."""


class Pace:
    """Says after which batches to take note: so often that a run makes a curve, however long or short it is.

    That is after the first batch and then at most `PARTS` times over the run, or `SECONDS` after the last time. In a
    run of unknown length it is ever less often.

    Parameters
    ----------
    batches : int
        Of the run; 0 where nobody knows.
    """

    def __init__(self, batches: int):
        self._every = -(-batches // PARTS)
        self._next, self._deadline = 0, 0.0

    def due(self, batch: int) -> bool:
        """Return whether to take note now; if so, the time until the next note begins.

        Parameters
        ----------
        batch : int
            The last that was done.
        """
        if batch < self._next and time.monotonic() < self._deadline:
            return False
        every = self._every or max(1, batch // SHARE)
        self._next, self._deadline = batch + every, time.monotonic() + SECONDS
        return True
