"""A batch's way through a distributed network.

Every rank has the hidden layers, takes all samples of the batch through them and takes the same step. For this, the
ranks exchange the features of the samples and the gradient with respect to the last hidden layer's output, a few
hundred bytes per sample ("sufficient factors"; Xie et al., UAI 2016). The gradients of the rows would be a hundred
times as much, and no cheaper to add up. The output layer of a rank has the samples of its row of the grid and the
labels of its column.
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
from slide.ranks.parcels import JoinedBatch
from slide.ranks.replicas import average
from slide.ranks.stack import RankStack
from slide.rows.activations import Activations, Ragged
from slide.rows.passes import Pass
from slide.system.buffers import Buffers

SMALL = 1 << 13
"""Largest size, in bytes, of a gradient that every rank sends to all others: with small ones, only the number of times
that ranks wait for each other matters."""


class DistributedStepper:
    """Takes the steps of a network on several ranks; see `slide.model.stepper.Stepper`."""

    def __init__(self, buffers: Buffers, n_hidden: int, grid: Grid):
        self._buffers = buffers
        self._memory = StepMemory(buffers, n_hidden)
        self._grid = grid
        self._averaged_at = 0

    def take(self, layers: RankStack, batch: Batch, lr_factor: float) -> tuple[OutputStats, float | None]:
        """See `Stepper.take`; all ranks call this, with the same batch if they take steps together."""
        grid = self._grid
        now = Pass(layers.optimizer.rule(lr_factor), layers.step, layers.threads)
        figures, norm = self._step(layers, batch, now)
        layers.optimizer.advance(lr_factor)
        every = grid.config.average_every
        if every is not None and layers.step % every == 0:
            self.average(layers)
        loss, hits, active, labelled, counted = in_order(figures.wait()).tolist()
        if not math.isfinite(loss):
            # All ranks have the same loss, and so stop at the same batch.
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
        """Step all layers; return the pending figures of the parts of all ranks, and the norm of the gradient."""
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
        # All ranks of a row of the grid know the numbers of labels; only one of them adds these to the totals.
        counts = np.diff(batch.label_ptr)[samples] if grid.labels.rank == 0 else np.zeros(0)
        own = np.array([*layers.output.sums(), np.count_nonzero(counts), len(counts)])
        figures = grid.world.iallgather("loss", own)
        self._of_hidden(layers, activations, dout, now)
        layers.output.finish(now.rule, now.threads)
        return figures, norm

    def average(self, layers: RankStack) -> None:
        """Average the replicas if they train with local SGD and have not just been averaged."""
        if self._grid.config.average_every is not None and self._averaged_at != layers.step:
            average(self._grid, layers, self._averaged_at)
            self._averaged_at = layers.step

    def agreed(self, layers: RankStack) -> bool:
        """Return whether replicas are equal at this step: always or, with local SGD, right after an average."""
        return self._grid.config.average_every is None or self._averaged_at == layers.step

    def resume(self, step: int) -> None:
        """Record that replicas are equal at the end of a step."""
        self._averaged_at = step

    def _clip(
        self,
        layers: RankStack,
        activations: list[Activations],
        mine: Activations,
        parts: np.ndarray,
        samples: slice,
        now: Pass,
    ) -> float | None:
        """Scale the gradient down to the configured norm if it is longer; return its norm, None without a limit."""
        limit = layers.config.optimizer.clip_norm
        if limit is None:
            return None
        # Gradients of the hidden layers are equal on all ranks; those of the output layer are each on one rank.
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
        """Step this rank's part of the output layer; return the gradient with respect to its input for all samples.

        Each rank adds up the gradient of its own samples and sends the sum to all others. If that is no cheaper, all
        ranks exchange everything and each adds up.
        """
        grid, last, hidden = self._grid, layers.hidden[-1], mine.vectors
        gradient = self._memory.gradient(layers.hidden, -1, max(1, samples.stop - samples.start))
        layers.output.step(mine, gradient, now)
        part = self._buffers.array(f"{last.name} gradient part", hidden.shape, dtypes.VALUE)
        gradient.sum_into(part, hidden if last.relu else None, now.threads)
        if grid.together.size == grid.labels.size and (grid.labels.size == 2 or part.nbytes <= SMALL):
            return in_order(grid.labels.allgather("gradient", part))
        counts, (begin, end) = np.diff(parts), grid.rows_of_ranks
        own = in_order(grid.labels.alltoallv("gradient", part, counts[begin:end]))
        return grid.together.allgatherv("gradient", own, counts)

    def _of_hidden(self, layers: RankStack, activations: list[Activations], dout: np.ndarray, now: Pass) -> None:
        """Carry the gradient further down; every hidden layer takes its step on the way."""
        hidden, n = layers.hidden, len(dout)
        for i in reversed(range(len(hidden))):
            below = self._memory.gradient(hidden, i - 1, n) if i else None
            hidden[i].step(activations[i], dout, below, now)
            if below is not None:
                layer, out = hidden[i - 1], activations[i].vectors
                dout = self._buffers.array(f"{layer.name} gradient sum", out.shape, dtypes.VALUE)
                below.sum_into(dout, out if layer.relu else None, now.threads)


def parts_of(batch: Batch, ranks: int) -> np.ndarray:
    """Return where each rank's samples begin in a batch, and its end: int64 [ranks + 1].

    A joined batch says so itself; any other is cut evenly.
    """
    return batch.parts if isinstance(batch, JoinedBatch) else len(batch) * np.arange(ranks + 1) // ranks


def _some(inputs: Activations, samples: slice) -> Activations:
    """Return consecutive samples of a hidden layer's output."""
    columns = inputs.columns
    if columns is not None:
        columns = Ragged(columns.flat, columns.begin[samples], columns.end[samples])
    return Activations(inputs.vectors[samples], columns, inputs.values)
