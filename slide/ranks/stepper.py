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

SMALL = 1 << 13
"""Bytes of a gradient that are given to everybody at once: what counts then is how often ranks wait for each other."""


class DistributedStepper(Stepper):
    """Takes the steps of a distributed network; see `slide.stepper.Stepper`."""

    def __init__(self, buffers, n_hidden: int, grid):
        super().__init__(buffers, n_hidden)
        self._grid = grid
        self._averaged_at = 0

    def take(self, network, batch: Batch, lr_factor: float):
        """See `Stepper.take`; called by all ranks, with the same batch where they take steps together."""
        grid = self._grid
        figures, norm = self._step(network, batch, network.optimizer.rule(lr_factor))
        network.optimizer.advance(lr_factor)
        every = grid.config.average_every
        if every is not None and network.step % every == 0:
            self.average(network)
        loss, hits, active, labelled, counted = in_order(figures.wait()).tolist()
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

    def _step(self, network, batch, rule):
        """Step all layers; return the figures of all ranks' parts of the batch, under way, and the gradient's norm."""
        grid, threads = self._grid, network.threads
        if not len(batch):
            # Replicas that train each for itself need not run out of points at the same batch.
            return grid.world.begin_gather("loss", np.zeros(5)), None
        signals = [features_of(self._drop_features(network, batch))]
        for layer in network.hidden:
            signals.append(layer.forward(signals[-1], rule, network.step, threads))
        parts = parts_of(batch, grid.together.size)
        first, last = grid.rows_of_ranks
        points = slice(int(parts[first]), int(parts[last]))
        mine = _some(signals[-1], points)
        network.output.forward(network.output.part_of(batch, points), mine, rule, network.step, threads)
        norm = self._clip(network, signals, mine, parts, points)
        dout = self._of_output(network, mine, parts, points, rule)
        # Of a part of the batch, all of whose ranks know them, one tells the figures.
        counts = np.diff(batch.label_ptr)[points] if grid.labels.rank == 0 else np.zeros(0)
        figures = np.array([*network.output.sums(), np.count_nonzero(counts), len(counts)])
        figures = grid.world.begin_gather("loss", figures)
        self._of_hidden(network, signals, dout, rule)
        network.output.finish(rule, threads)
        return figures, norm

    def average(self, network) -> None:
        """Have replicas that do not combine their gradients average what they have become, if they have not just."""
        if self._grid.config.average_every is not None and self._averaged_at != network.step:
            average(self._grid, network, self._averaged_at)
            self._averaged_at = network.step

    def agreed(self, network) -> bool:
        """Tell whether replicas are the same at this step: always, or where they train each for itself since then."""
        return self._grid.config.average_every is None or self._averaged_at == network.step

    def resume(self, step: int) -> None:
        """Take note that replicas agree, at the end of a step.

        Parameters
        ----------
        step : int
        """
        self._averaged_at = step

    def _clip(self, network, signals, mine, parts, points):
        """Scale the gradient to the configured norm if it is longer; return how long it was, None if nobody asks."""
        limit = network.config.optimizer.clip_norm
        if limit is None:
            return None
        # Hidden layers' gradients are the same everywhere, those of the output layer each in one place.
        output, hidden = measure(), measure()
        self._of_hidden(network, signals, self._of_output(network, mine, parts, points, output), hidden)
        squares = self._grid.labels.gather("loss", np.array([output.squared_norm]))
        norm = math.sqrt(hidden.squared_norm + float(in_order(squares)[0]))
        if norm > limit:
            network.output.scale_deltas(limit / norm)
        return norm

    def _of_output(self, network, mine, parts, points, rule):
        """Step this rank's part of the output layer; return the gradient with respect to what it reads, of all points.

        Each rank adds up the gradient of its own points and all are given all or, where that takes no more, all are
        given everything and add it up.
        """
        grid, last = self._grid, network.hidden[-1]
        gradient = self._gradient(network, -1, max(1, points.stop - points.start))
        network.output.step(mine, gradient, rule, network.threads)
        part = self._buffers.array(f"{last.name} gradient part", mine.dense.shape, dtypes.VALUE)
        gradient.sum_into(part, mine.dense if last.relu else None, network.threads)
        if grid.together.size == grid.labels.size and (grid.labels.size == 2 or part.nbytes <= SMALL):
            return in_order(grid.labels.gather("gradient", part))
        counts, (begin, end) = np.diff(parts), grid.rows_of_ranks
        own = in_order(grid.labels.exchange("gradient", part, counts[begin:end]))
        return grid.together.join("gradient", own, counts)

    def _of_hidden(self, network, signals, dout, rule):
        """Carry the gradient further down, every hidden layer taking the step of `rule` on the way."""
        n, threads = len(dout), network.threads
        for i in reversed(range(len(network.hidden))):
            below = self._gradient(network, i - 1, n) if i else None
            network.hidden[i].step(signals[i], dout, below, rule, network.step, threads)
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
