"""A batch's way through the layers: forward, then backward with the optimizer's step in each layer."""

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
    """Memory that training steps use in addition to that of the layers, again and again for every batch.

    Parameters
    ----------
    buffers : Buffers
        The layers' buffers.
    n_hidden : int
        Number of hidden layers.
    """

    def __init__(self, buffers: Buffers, n_hidden: int):
        self._buffers = buffers
        self._gradients: list[SampleGradient | None] = [None] * n_hidden

    def kept_features(self, layers: LayerStack, batch: Batch) -> Batch:
        """Return the batch without the features that input dropout leaves out at this step."""
        config = layers.config
        if not config.input_dropout:
            return batch
        # The dropout of the layers uses the seeds before this one.
        seed = config.seed + len(layers.hidden) + 1
        indptr = self._buffers.array("kept feature offsets", batch.indptr.shape, dtypes.OFFSET)
        indices = self._buffers.array("kept features", batch.indices.shape, dtypes.INDEX)
        values = self._buffers.array("kept feature values", batch.values.shape, dtypes.VALUE)
        keys = (config.input_dropout, seed, layers.step)
        kept = drop_entries(batch.indptr, batch.indices, batch.values, *keys, indptr, indices, values)
        return Batch(indptr, indices[:kept], values[:kept], batch.label_ptr, batch.labels)

    def gradient(self, hidden: list[HiddenLayer], i: int, n: int) -> SampleGradient:
        """Return the gradient with respect to hidden layer i's output, cleared, for n samples."""
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
        The layers' buffers.
    n_hidden : int
        Number of hidden layers.
    """

    def __init__(self, buffers: Buffers, n_hidden: int):
        self._buffers = buffers
        self._memory = StepMemory(buffers, n_hidden)

    def take(self, layers: LayerStack, batch: Batch, lr_factor: float) -> tuple[OutputStats, float | None]:
        """Take one step, at `lr_factor` times the configured learning rate.

        Returns
        -------
        OutputStats
            Figures of the output layer for the batch, before the step.
        float or None
            Norm of the gradient, if gradients are clipped.

        Raises
        ------
        NumericalFault
            A number is not finite, or soon would not be; see `slide.model.faults`. No step was taken, unless the
            message says that the layers above a faulty gradient have taken theirs. Such a step is counted.
        """
        now = Pass(layers.optimizer.rule(lr_factor), layers.step, layers.threads)
        activations = [features_of(self._memory.kept_features(layers, batch))]
        peaks = [faults.check_outputs(layers, None, activations[0].entries[1], 0.0)]
        for layer in layers.hidden:
            activations.append(layer.forward(activations[-1], now))
            peaks.append(faults.check_outputs(layers, layer, activations[-1].vectors, peaks[-1]))
        stats = layers.output.forward(batch, activations[-1], now)
        faults.check_loss(layers, stats.loss, peaks[-1])
        norm = self._clip(layers, activations, peaks, now)
        try:
            self._backward(layers, activations, peaks, now)
        finally:
            # Rows that have taken the step record it, so it counts even if a fault kept other rows from it.
            layers.optimizer.advance(lr_factor)
        return stats, norm

    def _clip(self, layers: LayerStack, activations: list[Activations], peaks: list[float], now: Pass) -> float | None:
        """Scale the gradient down to the configured norm if it is longer; return its norm, or None without a limit."""
        limit = layers.config.optimizer.clip_norm
        if limit is None:
            return None
        # A row's gradient is computed and used in one visit and never stored. So the norm needs a backward pass of its
        # own, in which no row steps; the second pass reads the same weights.
        rule = measure()
        self._backward(layers, activations, peaks, now._replace(rule=rule), stepping=False)
        norm = math.sqrt(rule.squared_norm)
        faults.check_norm(layers, norm)
        if norm > limit:
            layers.output.scale_deltas(limit / norm)
        return norm

    def _backward(
        self,
        layers: LayerStack,
        activations: list[Activations],
        peaks: list[float],
        now: Pass,
        *,
        stepping: bool = True,
    ) -> None:
        """Carry the gradient from the output down; each layer on the way takes the step of the rule."""
        hidden, n = layers.hidden, activations[-1].n_samples
        gradient = self._memory.gradient(hidden, -1, n)
        layers.output.step(activations[-1], gradient, now)
        for i in reversed(range(len(hidden))):
            layer, out = hidden[i], activations[i + 1].vectors
            dout = self._buffers.array(f"{layer.name} gradient sum", out.shape, dtypes.VALUE)
            gradient.sum_into(dout, out if layer.relu else None, now.threads)
            faults.check_gradient(layers, i, dout, peaks[i], stepped=stepping)
            below = self._memory.gradient(hidden, i - 1, n) if i else None
            layer.step(activations[i], dout, below, now)
            if below is not None:
                gradient = below
