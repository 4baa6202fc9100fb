"""A batch's way through a network: forward, and backward with the optimiser's step in each layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from slide import faults
from slide.buffers import Buffers
from slide.data.batches import Batch
from slide.kernels import dtypes
from slide.kernels.dropout import drop_entries
from slide.kernels.optim import measure
from slide.kernels.sparse import SampleGradient
from slide.prediction import features_of

if TYPE_CHECKING:
    from slide.network import Network


class Stepper:
    """Takes a network's optimiser steps; what they need besides the layers is kept from batch to batch.

    Parameters
    ----------
    buffers : Buffers
        The network's.
    n_hidden : int
        Hidden layers.
    """

    def __init__(self, buffers: Buffers, n_hidden: int):
        self._buffers = buffers
        self._gradients: list[SampleGradient | None] = [None] * n_hidden

    def take(self, network: Network, batch: Batch, lr_factor: float):
        """Take one step.

        Parameters
        ----------
        network : Network
        batch : Batch
        lr_factor : float
            Multiplies the configured learning rate.

        Returns
        -------
        OutputStats
            The output layer's, of the batch before the step.
        float or None
            The gradient's norm, if gradients are clipped.

        Raises
        ------
        NumericalFault
            Something is not finite, or soon would not be; see `slide.faults`. No step was taken, unless the message
            says that the layers above a faulty gradient have taken theirs, which is then counted.
        """
        n, threads = len(batch), network.threads
        rule = network.optimizer.rule(lr_factor)
        signals = [features_of(self._drop_features(network, batch))]
        peaks = [faults.check_outputs(network, None, signals[0].values, 0.0)]
        for layer in network.hidden:
            signals.append(layer.forward(signals[-1], rule, network.step, threads))
            peaks.append(faults.check_outputs(network, layer, signals[-1].dense, peaks[-1]))
        stats = network.output.forward(batch, signals[-1], rule, network.step, threads)
        faults.check_loss(network, stats.loss, peaks[-1])
        norm = self._clip(network, signals, peaks, n)
        try:
            self._backward(network, signals, peaks, rule, n)
        finally:
            # Rows that have taken the step say so, even where a fault kept others from it.
            network.optimizer.advance(lr_factor)
        return stats, norm

    def _drop_features(self, network, batch):
        """The batch without the features that its samples leave out this time."""
        config = network.config
        if not config.input_dropout:
            return batch
        # The layers' dropout has the seeds before this one.
        seed = config.seed + len(network.hidden) + 1
        indptr = self._buffers.array("kept feature offsets", batch.indptr.shape, dtypes.OFFSET)
        indices = self._buffers.array("kept features", batch.indices.shape, dtypes.INDEX)
        values = self._buffers.array("kept feature values", batch.values.shape, dtypes.VALUE)
        keys = (config.input_dropout, seed, network.step)
        kept = drop_entries(batch.indptr, batch.indices, batch.values, *keys, indptr, indices, values)
        return Batch(indptr, indices[:kept], values[:kept], batch.label_ptr, batch.labels)

    def _clip(self, network, signals, peaks, n):
        """Scale the gradient to the configured norm if it is longer; return how long it was, None if nobody asks."""
        limit = network.config.optimizer.clip_norm
        if limit is None:
            return None
        # A row's gradient is made and used up in one visit, so its norm takes a backward pass of its own. No row steps
        # in it, and the second pass reads the same weights.
        rule = measure()
        self._backward(network, signals, peaks, rule, n, stepping=False)
        norm = math.sqrt(rule.squared_norm)
        faults.check_norm(network, norm)
        if norm > limit:
            network.output.scale_deltas(limit / norm)
        return norm

    def _backward(self, network, signals, peaks, rule, n, *, stepping=True):
        """Carry the gradient from the output down, every layer taking the step of `rule` on the way."""
        threads = network.threads
        network.output.step(signals[-1], self._gradient(network, -1, n), rule, threads)
        for i in reversed(range(len(network.hidden))):
            layer, out = network.hidden[i], signals[i + 1].dense
            dout = self._buffers.array(f"{layer.name} gradient sum", out.shape, dtypes.VALUE)
            self._gradients[i].sum_into(dout, out if layer.relu else None, threads)
            faults.check_gradient(network, i, dout, peaks[i], stepped=stepping)
            below = self._gradient(network, i - 1, n) if i else None
            layer.step(signals[i], dout, below, rule, network.step, threads)

    def _gradient(self, network, i, n):
        """Where the gradient with respect to hidden layer i's output is gathered, empty and with room for n samples."""
        gradient, layer = self._gradients[i], network.hidden[i]
        if gradient is None or gradient.n_samples < n:
            gradient = SampleGradient(n, layer.padded_dim, hugepages=self._buffers.hugepages)
            self._gradients[i] = gradient
            self._buffers.add(f"{layer.name} gradient", gradient.buffer_owner)
        gradient.clear()
        return gradient
