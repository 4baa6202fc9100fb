"""A batch's way through a distributed network.

Hidden layers are on every rank, and every rank takes all samples of the batch through them and takes the same step: what
makes a step is then the features of the samples and the gradient with respect to the last hidden layer's output, a few
hundred bytes a sample ("sufficient factors"; Xie et al., UAI 2016), where the gradients of the rows would be a hundred
times as much, and no cheaper to add up. The output layer has of the samples those of its row of the grid, and of the
labels those of its column.
"""

from __future__ import annotations

import math

import numpy as np

from slide.data.batches import Batch
from slide.kernels import dtypes
from slide.kernels.optim import measure
from slide.model import faults
from slide.model.output import OutputStats
from slide.model.stack import features_of
from slide.model.stepper import StepMemory
from slide.ranks.comm import Pending, in_order
from slide.ranks.grid import Grid
from slide.ranks.replicas import average
from slide.ranks.stack import RankStack
from slide.rows.activations import Activations, Ragged
from slide.rows.passes import Pass
from slide.system.buffers import Buffers

SMALL = 1 << 13
"""Bytes of a gradient that are given to everybody at once: what counts then is how often ranks wait for each other."""


class DistributedStepper:
    """Takes the steps of a network on several ranks; see `slide.model.stepper.Stepper`.

    Parameters
    ----------
    buffers : Buffers
    n_hidden : int
    grid : Grid
    """

    def __init__(self, buffers: Buffers, n_hidden: int, grid: Grid):
        self._buffers = buffers
        self._memory = StepMemory(buffers, n_hidden)
        self._grid = grid
        self._averaged_at = 0

    def take(self, layers: RankStack, batch: Batch, lr_factor: float) -> tuple[OutputStats, float | None]:
        """See `Stepper.take`; called by all ranks, with the same batch where they take steps together."""
        grid = self._grid
        now = Pass(layers.optimizer.rule(lr_factor), layers.step, layers.threads)
        figures, norm = self._step(layers, batch, now)
        layers.optimizer.advance(lr_factor)
        every = grid.config.average_every
        if every is not None and layers.step % every == 0:
            self.average(layers)
        loss, hits, active, labelled, counted = in_order(figures.wait()).tolist()
        if not math.isfinite(loss):
            # All ranks know it, and stop at the same batch.
            faults.check_network(layers)
            raise faults.NumericalFault(
                f"the loss is {loss} at step {layers.step:,} in layer output, over all ranks. Lower the learning rate "
                f"(now {layers.config.optimizer.lr:g}), or check the features' scale (NetworkConfig.normalize)",
                "output",
                layers.step,
            )
        labelled = max(1.0, labelled)
        return OutputStats(loss / labelled, hits / labelled, active / max(1.0, counted)), norm

    def _step(self, layers: RankStack, batch: Batch, now: Pass) -> tuple[Pending, float | None]:
        """Step all layers; return the figures of all ranks' parts of the batch, under way, and the gradient's norm."""
        grid = self._grid
        if not len(batch):
            # With local SGD, replicas may run out of samples at different batches.
            return grid.world.iallgather("loss", np.zeros(5)), None
        activations = [features_of(self._memory.kept_features(layers, batch))]
        for layer in layers.hidden:
            activations.append(layer.forward(activations[-1], now))
        parts = parts_of(batch, grid.together.size)
        first, last = grid.rows_of_ranks
        samples = slice(int(parts[first]), int(parts[last]))
        mine = _some(activations[-1], samples)
        layers.output.forward(layers.output.part_of(batch, samples), mine, now)
        norm = self._clip(layers, activations, mine, parts, samples, now)
        dout = self._of_output(layers, mine, parts, samples, now)
        # Of a part of the batch, all of whose ranks know them, one tells the figures.
        counts = np.diff(batch.label_ptr)[samples] if grid.labels.rank == 0 else np.zeros(0)
        figures = np.array([*layers.output.sums(), np.count_nonzero(counts), len(counts)])
        figures = grid.world.iallgather("loss", figures)
        self._of_hidden(layers, activations, dout, now)
        layers.output.finish(now.rule, now.threads)
        return figures, norm

    def average(self, layers: RankStack) -> None:
        """Have replicas that do not combine their gradients average what they have become, if they have not just."""
        if self._grid.config.average_every is not None and self._averaged_at != layers.step:
            average(self._grid, layers, self._averaged_at)
            self._averaged_at = layers.step

    def agreed(self, layers: RankStack) -> bool:
        """Tell whether replicas are the same at this step: always, or where they train each for itself since then."""
        return self._grid.config.average_every is None or self._averaged_at == layers.step

    def resume(self, step: int) -> None:
        """Take note that replicas agree, at the end of a step.

        Parameters
        ----------
        step : int
        """
        self._averaged_at = step

    def _clip(
        self, layers: RankStack, activations: list[Activations], mine: Activations, parts: np.ndarray, samples: slice, now: Pass
    ) -> float | None:
        """Scale the gradient to the configured norm if it is longer; return how long it was, None if nobody asks."""
        limit = layers.config.optimizer.clip_norm
        if limit is None:
            return None
        # Hidden layers' gradients are the same everywhere, those of the output layer each in one place.
        output, hidden = measure(), measure()
        dout = self._of_output(layers, mine, parts, samples, now._replace(rule=output))
        self._of_hidden(layers, activations, dout, now._replace(rule=hidden))
        squares = self._grid.labels.allgather("loss", np.array([output.squared_norm]))
        norm = math.sqrt(hidden.squared_norm + float(in_order(squares)[0]))
        if norm > limit:
            layers.output.scale_deltas(limit / norm)
        return norm

    def _of_output(
        self, layers: RankStack, mine: Activations, parts: np.ndarray, samples: slice, now: Pass
    ) -> np.ndarray:
        """Step this rank's part of the output layer; return the gradient with respect to what it reads, of all samples.

        Each rank adds up the gradient of its own samples and all are given all or, where that takes no more, all are
        given everything and add it up.
        """
        grid, last = self._grid, layers.hidden[-1]
        gradient = self._memory.gradient(layers.hidden, -1, max(1, samples.stop - samples.start))
        layers.output.step(mine, gradient, now)
        part = self._buffers.array(f"{last.name} gradient part", mine.dense.shape, dtypes.VALUE)
        gradient.sum_into(part, mine.dense if last.relu else None, now.threads)
        if grid.together.size == grid.labels.size and (grid.labels.size == 2 or part.nbytes <= SMALL):
            return in_order(grid.labels.allgather("gradient", part))
        counts, (begin, end) = np.diff(parts), grid.rows_of_ranks
        own = in_order(grid.labels.alltoallv("gradient", part, counts[begin:end]))
        return grid.together.allgatherv("gradient", own, counts)

    def _of_hidden(self, layers: RankStack, activations: list[Activations], dout: np.ndarray, now: Pass) -> None:
        """Carry the gradient further down, every hidden layer taking the step of `rule` on the way."""
        hidden, n = layers.hidden, len(dout)
        for i in reversed(range(len(hidden))):
            below = self._memory.gradient(hidden, i - 1, n) if i else None
            hidden[i].step(activations[i], dout, below, now)
            if i:
                layer, out = hidden[i - 1], activations[i].dense
                dout = self._buffers.array(f"{layer.name} gradient sum", out.shape, dtypes.VALUE)
                below.sum_into(dout, out if layer.relu else None, now.threads)


def parts_of(batch: Batch, ranks: int) -> np.ndarray:
    """Return where the samples of each rank begin in a batch, and its end: int64 [ranks + 1].

    Parameters
    ----------
    batch : Batch
        One that was joined from several ranks says; of any other the samples are cut evenly.
    ranks : int
    """
    parts = getattr(batch, "parts", None)
    return len(batch) * np.arange(ranks + 1) // ranks if parts is None else parts


def _some(inputs, samples):
    """Consecutive samples of a hidden layer's output."""
    columns = inputs.columns
    if columns is not None:
        columns = Ragged(columns.flat, columns.begin[samples], columns.end[samples])
    return Activations(inputs.dense[samples], columns, inputs.values)
