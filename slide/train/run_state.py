"""Where a training run stands between two batches: all that its rest depends on besides the network and the data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from slide.files.fields import read_count, read_figure, read_figures, read_flag
from slide.train.early_stopping import BestEpoch
from slide.train.records import Epoch, History, Progress


@dataclass
class RunState:
    """Where a run stands.

    Attributes
    ----------
    progress : Progress
    history : History
    best : BestEpoch
    under_way : bool
        Whether an epoch has begun that is not in the history yet.
    batches, of_epoch : int
        Of that epoch: done, and in all.
    skipped : int
        Of those that are done, left out for a numerical fault.
    totals : float64 array [3]
        Sums of these batches' loss, precision and active neurons.
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
        """Return plain values that ``restore`` takes; the best epoch's weights are apart, in ``best.weights``."""
        history = dataclasses.asdict(self.history)
        # A run that was stopped goes on as if it had not been.
        history["stopped"] = False
        del history["error"], history["bytes_per_batch"]
        progress = dataclasses.asdict(self.progress)
        # The last of the history's epochs.
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
        """Stand where another run stood.

        Parameters
        ----------
        values : dict
            What ``state`` returned.
        best_weights : dict of array or None

        Raises
        ------
        KeyError, TypeError, ValueError
            Something is missing or is not what it should be.
        """
        planned = self.progress.batches
        epochs = [Epoch(**_read(Epoch, epoch)) for epoch in values["history"]["epochs"]]
        # Runs from before batches could be left out do not say that none was.
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
                f"epochs that are over do not belong together, or not to this run of {planned} batches"
            )
        self.best.restore(values["best"], best_weights)
        for target, fields in ((self.progress, progress), (self.history, history)):
            for name, value in fields.items():
                setattr(target, name, value)
        self.under_way, self.batches, self.began = under_way, batches, began
        self.skipped = read_count(none | values, "skipped", batches)
        self.totals[:] = totals


def _read(kind, values, **given):
    """The fields of a dataclass of figures out of plain values, those that are given aside."""
    fields = dict(given)
    for f in dataclasses.fields(kind):
        if f.name not in given:
            reader = {"int": read_count, "float": read_figure, "bool": read_flag, "dict[str, float]": read_figures}
            optional = {"optional": True} if f.type == "int | None" else {}
            fields[f.name] = reader.get(f.type, read_count)(values, f.name, **optional)
    return fields
