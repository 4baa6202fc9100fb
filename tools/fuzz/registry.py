"""All targets of the fuzzer, by name."""

from __future__ import annotations

from . import models, readers
from .targets import Target


def all_targets() -> dict[str, Target]:
    """Return the targets by name."""
    return {target.name: target for target in (*readers.TARGETS, *models.TARGETS)}
