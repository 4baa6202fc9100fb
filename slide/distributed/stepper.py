"""A batch's way through a distributed network.

Hidden layers are on every rank, and every rank takes all points of the batch through them and takes the same step: what
makes a step is then the features of the points and the gradient with respect to the last hidden layer's output, a few
hundred bytes a point ("sufficient factors"; Xie et al., UAI 2016), where the gradients of the rows would be a hundred
times as much, and no cheaper to add up. The output layer has of the points those of its row of the grid, and of the
labels those of its column.
"""

from __future__ import annotations

import math

import numpy as np

from slide import faults
from slide.data.batches import Batch
from slide.distributed.comm import in_order
from slide.distributed.replicas import average
from slide.kernels import dtypes
from slide.kernels.optim import measure
from slide.output import OutputStats
from slide.prediction import features_of
from slide.signals import Runs, Signal
from slide.stepper import Stepper


class DistributedStepper(Stepper):
    """Takes the steps of a distributed network; see `slide.stepper.Stepper`."""

    def __init__(self, buffers, n_hidden: int, grid):
        super().__init__(buffers, n_hidden)
        self._grid = grid
        self._averaged_at = 0

    def take(self, network, batch: Batch, lr_factor: float):
        """See `Stepper.take`; called by all ranks, with the same batch where they take steps together."""
        grid, threads = self._grid, network.threads
        rule = network.optimizer.rule(lr_factor)
        signals = [features_of(self._drop_features(network, batch))]
        for layer in network.hidden:
            signals.append(layer.forward(signals[-1], rule, network.step, threads))
        parts = parts_of(batch, grid.together.size)
        first, last = grid.rows_of_ranks
        points = slice(int(parts[first]), int(parts[last]))
        mine = _some(signals[-1], points)
        network.output.forward(network.output.part_of(batch, points), mine, rule, network.step, threads)
        norm = self._clipped(network, signals, mine, parts, points)
        self._carry_back(network, signals, mine, parts, points, rule)
        # Of a part of the batch, all of whose ranks know them, one tells the figures.
        counts = np.diff(batch.label_ptr)[points] if grid.labels.rank == 0 else np.zeros(0)
        figures = np.array([*network.output.sums(), np.count_nonzero(counts), len(counts)])
        sums = in_order(grid.world.gather("loss", figures))
        network.optimizer.advance(lr_factor)
        every = grid.config.average_every
        if every is not None and network.step % every == 0:
            self.average(network)
        loss, hits, active, labelled, counted = sums.tolist()
        if not math.isfinite(loss):
            # All ranks know it, and stop at the same batch.
            faults.check_network(network)
            raise faults.NumericalFault(
                f"the loss is {loss} at step {network.step:,} in layer output, over all ranks. Lower the learning rate "
                f"(now {network.config.optimizer.lr:g}), or check the features' scale (NetworkConfig.normalize)",
                "output",
                network.step,
            )
        labelled = max(1.0, labelled)
        return OutputStats(loss / labelled, hits / labelled, active / max(1.0, counted)), norm

    def average(self, network) -> None:
        """Have replicas that do not combine their gradients average what they have become, if they have not just."""
        if self._grid.config.average_every is not None and self._averaged_at != network.step:
            average(self._grid, network, self._averaged_at)
            self._averaged_at = network.step

    def resume(self, step: int) -> None:
        """Take note that replicas agree, at the end of a step.

        Parameters
        ----------
        step : int
        """
        self._averaged_at = step

    def _clipped(self, network, signals, mine, parts, points):
        limit = network.config.optimizer.clip_norm
        if limit is None:
            return None
        # Hidden layers' gradients are the same everywhere, those of the output layer each in one place.
        of_output, of_hidden = measure(), measure()
        self._carry_back(network, signals, mine, parts, points, of_hidden, of_output)
        squares = self._grid.labels.gather("loss", np.array([of_output.squared_norm]))
        norm = math.sqrt(of_hidden.squared_norm + float(in_order(squares)[0]))
        if norm > limit:
            network.output.scale_deltas(limit / norm)
        return norm

    def _carry_back(self, network, signals, mine, parts, points, rule, rule_of_output=None):
        """Carry the gradient from the output down, every layer taking the step of its rule on the way."""
        grid, threads, last = self._grid, network.threads, network.hidden[-1]
        n, here = len(signals[-1].dense), points.stop - points.start
        gradient = self._gradient(network, -1, max(1, here))
        network.output.step(mine, gradient, rule_of_output or rule, threads)
        part = self._buffers.array(f"{last.name} gradient part", mine.dense.shape, dtypes.VALUE)
        gradient.sum_into(part, mine.dense if last.relu else None, threads)
        counts = np.diff(parts)
        begin, end = grid.rows_of_ranks
        # Each rank adds up the gradient of its own points, and all are given all.
        own = in_order(grid.labels.exchange("gradient", part, counts[begin:end]))
        dout = grid.together.join("gradient", own, counts)
        for i in reversed(range(len(network.hidden))):
            layer = network.hidden[i]
            below = self._gradient(network, i - 1, n) if i else None
            layer.step(signals[i], dout, below, rule, network.step, threads)
            if i:
                layer, out = network.hidden[i - 1], signals[i].dense
                dout = self._buffers.array(f"{layer.name} gradient sum", out.shape, dtypes.VALUE)
                below.sum_into(dout, out if layer.relu else None, threads)


def parts_of(batch: Batch, ranks: int) -> np.ndarray:
    """Return where the points of each rank begin in a batch, and its end: int64 [ranks + 1].

    Parameters
    ----------
    batch : Batch
        One that was joined from several ranks says; of any other the points are cut evenly.
    ranks : int
    """
    parts = getattr(batch, "parts", None)
    return len(batch) * np.arange(ranks + 1) // ranks if parts is None else parts


def _some(signal, points):
    """Consecutive points of a hidden layer's output."""
    columns = signal.columns
    if columns is not None:
        columns = Runs(columns.flat, columns.begin[points], columns.end[points])
    return Signal(signal.dense[points], columns, signal.values)
