"""A batch's way through the layers: forward, and backward with the optimizer's step in each layer."""

from __future__ import annotations

import math

from slide.data.batches import Batch
from slide.kernels import dtypes
from slide.kernels.dropout import drop_entries
from slide.kernels.optim import measure
from slide.kernels.sparse import SampleGradient
from slide.model import faults
from slide.model.layers import HiddenLayer
from slide.model.output import OutputStats
from slide.model.stack import LayerStack, features_of
from slide.rows.activations import Activations
from slide.rows.passes import Pass
from slide.system.buffers import Buffers


class StepMemory:
    """Memory that training steps need besides the layers, the same for every batch.

    Parameters
    ----------
    buffers : Buffers
        Those of the layers.
    n_hidden : int
        Number of hidden layers.
    """

    def __init__(self, buffers: Buffers, n_hidden: int):
        self._buffers = buffers
        self._gradients: list[SampleGradient | None] = [None] * n_hidden

    def kept_features(self, layers: LayerStack, batch: Batch) -> Batch:
        """Return the batch without the features that its samples leave out this time."""
        config = layers.config
        if not config.input_dropout:
            return batch
        # The layers' dropout has the seeds before this one.
        seed = config.seed + len(layers.hidden) + 1
        indptr = self._buffers.array("kept feature offsets", batch.indptr.shape, dtypes.OFFSET)
        indices = self._buffers.array("kept features", batch.indices.shape, dtypes.INDEX)
        values = self._buffers.array("kept feature values", batch.values.shape, dtypes.VALUE)
        keys = (config.input_dropout, seed, layers.step)
        kept = drop_entries(batch.indptr, batch.indices, batch.values, *keys, indptr, indices, values)
        return Batch(indptr, indices[:kept], values[:kept], batch.label_ptr, batch.labels)

    def gradient(self, hidden: list[HiddenLayer], i: int, n: int) -> SampleGradient:
        """Return where the gradient with respect to hidden layer i's output is gathered, empty, for n samples."""
        gradient, layer = self._gradients[i], hidden[i]
        if gradient is None or gradient.n_samples < n:
            gradient = SampleGradient(n, layer.padded_dim, hugepages=self._buffers.hugepages)
            self._gradients[i] = gradient
            self._buffers.add(f"{layer.name} gradient", gradient.buffer_owner)
        gradient.clear()
        return gradient


class Stepper:
    """Takes the optimizer's steps.

    Parameters
    ----------
    buffers : Buffers
        Those of the layers.
    n_hidden : int
        Number of hidden layers.
    """

    def __init__(self, buffers: Buffers, n_hidden: int):
        self._buffers = buffers
        self._memory = StepMemory(buffers, n_hidden)

    def take(self, layers: LayerStack, batch: Batch, lr_factor: float) -> tuple[OutputStats, float | None]:
        """Take one step.

        Parameters
        ----------
        layers : LayerStack
        batch : Batch
        lr_factor : float
            Factor of the configured learning rate.

        Returns
        -------
        OutputStats
            Figures of the output layer for the batch, before the step.
        float or None
            The gradient's norm, if gradients are clipped.

        Raises
        ------
        NumericalFault
            A number is not finite, or soon would not be; see `slide.model.faults`. No step was taken, unless the message
            says that the layers above a faulty gradient have taken theirs, which is then counted.
        """
        now = Pass(layers.optimizer.rule(lr_factor), layers.step, layers.threads)
        activations = [features_of(self._memory.kept_features(layers, batch))]
        peaks = [faults.check_outputs(layers, None, activations[0].values, 0.0)]
        for layer in layers.hidden:
            activations.append(layer.forward(activations[-1], now))
            peaks.append(faults.check_outputs(layers, layer, activations[-1].dense, peaks[-1]))
        stats = layers.output.forward(batch, activations[-1], now)
        faults.check_loss(layers, stats.loss, peaks[-1])
        norm = self._clip(layers, activations, peaks, now)
        try:
            self._backward(layers, activations, peaks, now)
        finally:
            # Rows that have taken the step say so, even where a fault kept others from it.
            layers.optimizer.advance(lr_factor)
        return stats, norm

    def _clip(self, layers: LayerStack, activations: list[Activations], peaks: list[float], now: Pass) -> float | None:
        """Scale the gradient to the configured norm if it is longer; return its norm, or None without such a limit."""
        limit = layers.config.optimizer.clip_norm
        if limit is None:
            return None
        # A row's gradient is made and used up in one visit, so its norm takes a backward pass of its own. No row steps
        # in it, and the second pass reads the same weights.
        rule = measure()
        self._backward(layers, activations, peaks, now._replace(rule=rule), stepping=False)
        norm = math.sqrt(rule.squared_norm)
        faults.check_norm(layers, norm)
        if norm > limit:
            layers.output.scale_deltas(limit / norm)
        return norm

    def _backward(
        self, layers: LayerStack, activations: list[Activations], peaks: list[float], now: Pass, *, stepping: bool = True
    ) -> None:
        """Carry the gradient from the output down; every layer takes the step of the rule on the way."""
        hidden, n = layers.hidden, len(activations[-1].dense)
        gradient = self._memory.gradient(hidden, -1, n)
        layers.output.step(activations[-1], gradient, now)
        for i in reversed(range(len(hidden))):
            layer, out = hidden[i], activations[i + 1].dense
            dout = self._buffers.array(f"{layer.name} gradient sum", out.shape, dtypes.VALUE)
            gradient.sum_into(dout, out if layer.relu else None, now.threads)
            faults.check_gradient(layers, i, dout, peaks[i], stepped=stepping)
            below = self._memory.gradient(hidden, i - 1, n) if i else None
            layer.step(activations[i], dout, below, now)
            gradient = below
