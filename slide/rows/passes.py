"""What a layer needs to know about a batch's pass through the layers."""

from __future__ import annotations

from typing import NamedTuple

from slide.kernels.optim import StepRule


class Pass(NamedTuple):
    """A batch's way through the layers, forward and backward.

    Attributes
    ----------
    rule : StepRule
        The step that the rows take, and how rows that skipped earlier steps catch up before they are read.
    iteration : int
        Keys the draws and the dropout of the batch.
    threads : int
        Number of threads.
    """

    rule: StepRule
    iteration: int
    threads: int
