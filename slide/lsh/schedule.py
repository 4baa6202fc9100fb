"""When the hash tables of a layer are rebuilt."""

from __future__ import annotations

import math
from collections.abc import Callable

from slide.config import RehashConfig


class RehashSchedule:
    """Decides after which batches tables are rebuilt, and when with new hash functions.

    Attributes
    ----------
    config : RehashConfig
        The settings.
    rebuilds : int
        Number of rebuilds so far.
    """

    def __init__(self, config: RehashConfig):
        self.config = config
        self.rebuilds = 0
        self._next = 0

    def due(self, step: int, drift: Callable[[], float]) -> bool:
        """Return whether to rebuild before the batch that follows `step` steps.

        `drift` measures the share of changed bucket indices. It is called only if the schedule depends on it, and then
        once every ``config.period`` steps.
        """
        if step < self._next:
            return False
        if self.config.schedule == "drift" and self.rebuilds and drift() < self.config.drift:
            self._next = step + self.config.period
            return False
        return True

    def built(self, step: int) -> None:
        """Record a rebuild after `step` steps."""
        gap = float(self.config.period)
        if self.config.schedule == "exponential":
            gap *= math.exp(min(self.config.decay * self.rebuilds, 50.0))
        self._next = step + max(1, round(gap))
        self.rebuilds += 1

    def state(self) -> dict[str, int]:
        """Return what ``restore`` needs to go on, as plain values."""
        return {"rebuilds": self.rebuilds, "next": self._next}

    def restore(self, rebuilds: int, next: int) -> None:
        """Go on from where another schedule of this configuration stood, by the values of its ``state``."""
        self.rebuilds, self._next = rebuilds, next

    @property
    def wants_new_functions(self) -> bool:
        """Whether the next rebuild draws new hash functions."""
        renew = self.config.renew
        return renew is not None and self.rebuilds > 0 and self.rebuilds % renew == 0
