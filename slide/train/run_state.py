"""The state of a training run between two batches: the rest of the run depends on it, the network and the data only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from slide.files.fields import read_count, read_figure, read_figures, read_flag
from slide.train.early_stopping import BestEpoch
from slide.train.records import Epoch, History, Progress


@dataclass
class RunState:
    """The state of a run.

    Attributes
    ----------
    of_epoch : int
        Number of batches per epoch.
    under_way : bool
        Whether an epoch has begun that is not in the history yet.
    batches : int
        Number of its batches that are done.
    skipped : int
        Number of these batches that were skipped because of a numerical fault.
    totals : float64 array [3]
        Sums over these batches of the loss, the precision and the active neurons.
    began : float
        ``progress.seconds`` when the epoch began.
    """

    progress: Progress
    history: History
    best: BestEpoch
    of_epoch: int
    under_way: bool = False
    batches: int = 0
    skipped: int = 0
    totals: np.ndarray = field(default_factory=lambda: np.zeros(3))
    began: float = 0.0

    @property
    def unfinished(self) -> bool:
        """Whether there is anything left to do."""
        ended = self.progress.batch >= self.progress.batches or self.history.out_of_patience
        return self.under_way or not ended

    def begin_epoch(self) -> None:
        """Begin the next epoch, unless one is under way."""
        if not self.under_way:
            self.progress.epoch += 1
            self.under_way, self.batches, self.skipped, self.totals[:] = True, 0, 0, 0.0
            self.began = self.progress.seconds

    def state(self) -> dict:
        """Return plain values that ``restore`` takes, without the weights of the best epoch (``best.weights``)."""
        history = dataclasses.asdict(self.history)
        # A run that was stopped goes on as if it had not been.
        history["stopped"] = False
        del history["error"], history["bytes_per_batch"]
        progress = dataclasses.asdict(self.progress)
        # `finished` is also the last epoch of the history.
        del progress["finished"]
        own = {name: getattr(self, name) for name in ("under_way", "batches", "skipped", "began")}
        return {
            **own,
            "totals": self.totals.tolist(),
            "progress": progress,
            "history": history,
            "best": self.best.state(),
        }

    def restore(self, values: dict, best_weights: dict[str, np.ndarray] | None) -> None:
        """Go on from what ``state`` returned; KeyError, TypeError or ValueError if it is not complete and valid."""
        planned = self.progress.batches
        epochs = [Epoch(**_read(Epoch, epoch)) for epoch in values["history"]["epochs"]]
        # Runs of versions that could not skip batches do not say that none was skipped.
        none = {"skipped": 0, "skipped_in_a_row": 0}
        last = epochs[-1] if epochs else None
        history = _read(
            type(self.history), none | values["history"], epochs=epochs, error=None, bytes_per_batch={}
        )
        progress = _read(type(self.progress), none | values["progress"], finished=last)
        under_way, batches = read_flag(values, "under_way"), read_count(values, "batches", self.of_epoch)
        totals = [read_figure({"totals": total}, "totals") for total in values["totals"]]
        if len(totals) != len(self.totals):
            raise ValueError(f"totals must be {len(self.totals)} numbers, got {len(totals)}")
        began = read_figure(values, "began")
        over = progress["epoch"] - under_way
        done = over * self.of_epoch + batches if under_way else min(over * self.of_epoch, planned)
        if len(epochs) != over or progress["batch"] != done or progress["batches"] != planned or done > planned:
            raise ValueError(
                f"epoch {progress['epoch']}, batch {progress['batch']} of {progress['batches']} and {len(epochs)} "
                f"finished epochs do not fit together, or do not fit this run of {planned} batches"
            )
        self.best.restore(values["best"], best_weights)
        for target, fields in ((self.progress, progress), (self.history, history)):
            for name, value in fields.items():
                setattr(target, name, value)
        self.under_way, self.batches, self.began = under_way, batches, began
        self.skipped = read_count(none | values, "skipped", batches)
        self.totals[:] = totals


def _read(kind: type, values: dict, **given: object) -> dict:
    """Return the fields of a dataclass of figures, read from plain values unless they are given."""
    fields = dict(given)
    readers: dict[str, Callable[[dict, str], object]] = {
        "int": read_count,
        "int | None": partial(read_count, optional=True),
        "float": read_figure,
        "bool": read_flag,
        "dict[str, float]": read_figures,
    }
    for f in dataclasses.fields(kind):
        if f.name not in given:
            fields[f.name] = readers[str(f.type)](values, f.name)
    return fields
