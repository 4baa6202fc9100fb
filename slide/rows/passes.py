"""What a layer needs to know of the pass in which a batch goes through it."""

from __future__ import annotations

from typing import NamedTuple

from slide.kernels.optim import StepRule


class Pass(NamedTuple):
    """A batch's way through the layers, forward and backward.

    Attributes
    ----------
    rule : StepRule
        The step that the rows take. Rows that skipped earlier steps catch up by it before they are read.
    iteration : int
        Keys the draws and the dropout of the batch.
    threads : int
    """

    rule: StepRule
    iteration: int
    threads: int
