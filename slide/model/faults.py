"""Numerical faults: numbers that are NaN, infinite or about to overflow, named by layer and step.

Every batch is checked where a check costs almost nothing: the output of each layer, the loss, and the gradient that
reaches each hidden layer. All but the gradients are known before anything changes, so such a batch can be skipped. No
weight or moment changes then, no step is counted, and draws, which depend on the step, go on as if the batch had not
been there. All parameters of a layer are searched only after a fault was seen, at the end of epochs that are long
enough, and before anything is saved.
"""

from __future__ import annotations

import math

import numpy as np

from slide.kernels.bfloat16 import BFloat16View, blocks
from slide.model.layers import HiddenLayer
from slide.model.stack import Layer, LayerStack

LARGEST = 1e15
"""Largest magnitude of outputs and gradients: up to here float32 holds the squares of sums over a batch, which the
optimizer keeps. No network that learns comes near it."""


class NumericalFault(FloatingPointError):
    """Numbers are not finite, or soon would not be.

    Attributes
    ----------
    layer : str
        Where they were seen first: ``"features"``, ``"hidden.0"`` and so on, or ``"output"``.
    step : int
        The training step that was, or would have been, taken, counted from 1.
    harmless : bool
        Whether the network is as it was before the batch, without numbers that are not finite in the layers searched.
    """

    def __init__(self, message: str, layer: str = "", step: int = 0, harmless: bool = False):
        super().__init__(message)
        self.layer, self.step, self.harmless = layer, step, harmless

    def __reduce__(self):
        return type(self), (str(self), self.layer, self.step, self.harmless)

    def with_context(self, where: str, advice: str = "") -> NumericalFault:
        """Return the fault with `where` before its message and `advice` after it."""
        return type(self)(f"{where}{self}{advice}", self.layer, self.step, self.harmless)


def peak(values: np.ndarray) -> float:
    """Return the largest magnitude of some numbers, NaN if one of them is NaN."""
    return float(max(values.max(), -values.min())) if values.size else 0.0


def check_outputs(layers: LayerStack, layer: HiddenLayer | None, values: np.ndarray, inputs: float) -> float:
    """Return the largest magnitude of a layer's output for a batch, `values`; or of the features, if `layer` is None.

    `inputs` is the largest magnitude of the layer's input.

    Raises
    ------
    NumericalFault
        The output is not finite, or too large.
    """
    most = peak(values)
    if most <= LARGEST:
        return most
    if layer is None:
        step = layers.step + 1
        raise NumericalFault(
            f"the batch's features reach {most:.3g} at step {step:,}; no step was taken. Scale them "
            "(NetworkConfig.normalize does it), or leave such samples out",
            "features",
            step,
            harmless=True,
        )
    raise _of_layer(layers, layer.name, layer, f"its output reaches {most:.3g}, from inputs up to {inputs:.3g}")


def check_loss(layers: LayerStack, loss: float, inputs: float) -> None:
    """Raise NumericalFault if a loss is not finite; `inputs` is the largest magnitude of the output layer's input."""
    if not math.isfinite(loss):
        raise _of_layer(
            layers, "output", layers.output, f"the loss is {loss:g}, from hidden vectors up to {inputs:.3g}"
        )


def check_norm(layers: LayerStack, norm: float) -> None:
    """Raise NumericalFault if a gradient's norm is not finite."""
    if not math.isfinite(norm):
        raise _fault(layers, "output", f"the gradient's norm is {norm:g}", "no step was taken")


def check_gradient(layers: LayerStack, i: int, gradient: np.ndarray, inputs: float, *, stepped: bool) -> None:
    """Raise NumericalFault if the gradient of hidden layer i's output is not finite, or too large.

    `inputs` is the largest magnitude of the layer's input; the gradient of its weights is a product of the two.
    `stepped` tells whether the layers above have taken their steps.
    """
    most = peak(gradient)
    if most <= LARGEST and most * inputs <= LARGEST:
        return
    # The gradient is a sum of weights of the layer above, each times a number that the loss bounds.
    above = list(layers)[i + 1]
    weights = max(peak(above.table.weights[block]) for block in blocks(above.table.weights.shape))
    what = (
        f"the gradient reaches {most:.3g}, from weights of layer {above.name} up to {weights:.3g} and inputs up to "
        f"{inputs:.3g}"
    )
    state = "the layers above have taken their step and must not be used" if stepped else "no step was taken"
    raise _fault(layers, layers.hidden[i].name, what, state, not stepped)


def check_network(layers: LayerStack, *, moments: bool = True) -> None:
    """Check that weights and biases are finite, and with `moments` what the optimizer keeps of them.

    Raises
    ------
    NumericalFault
        A number is not finite; the message names layer, array and row.
    """
    for layer in layers:
        found = _not_finite(layer, layers.threads, moments)
        if found is not None:
            raise NumericalFault(
                f"layer {layer.name} at step {layers.step:,}: its {found}, which further steps cannot repair. "
                f"{_advice(layers)}",
                layer.name,
                layers.step,
            )


def first_not_finite(array: np.ndarray | BFloat16View) -> int | None:
    """Return the first row of an array with a number that is not finite, None if all are finite."""
    for block in blocks(array.shape):
        finite = np.isfinite(array[block])
        if not finite.all():
            return block.start + int(np.argmin(finite.reshape(len(finite), -1).all(axis=1)))
    return None


def _not_finite(layer: Layer, threads: int, moments: bool = True) -> str | None:
    """Return in words which array of a layer is not finite, None if all are."""
    row, in_rows = layer.table.first_not_finite(threads, moments=moments), layer.rows_are_units
    for name, array in layer.state().items():
        if array.dtype.kind != "f" or not (moments or name in ("weights", "bias")):
            continue
        if in_rows or not name.startswith("bias"):
            found = row if row >= 0 and not np.isfinite(array[row]).all() else None
        else:
            # The rows are features, but the biases belong to units.
            found = first_not_finite(array)
        if found is not None:
            return f"{name} (row {found:,}) are not finite"
    return None


def _of_layer(layers: LayerStack, name: str, layer: Layer, what: str) -> NumericalFault:
    """Return the fault that a layer made, or that is in its parameters."""
    found = _not_finite(layer, layers.threads)
    if found is None:
        return _fault(layers, name, what, "its weights are finite; no step was taken")
    return _fault(layers, name, what, f"its {found}", False)


def _fault(layers: LayerStack, name: str, what: str, state: str, harmless: bool = True) -> NumericalFault:
    step = layers.step + 1
    return NumericalFault(f"{what} at step {step:,} in layer {name}; {state}. {_advice(layers)}", name, step, harmless)


def _advice(layers: LayerStack) -> str:
    optimizer = layers.config.optimizer
    clip = "" if optimizer.clip_norm else ", clip gradients (OptimizerConfig.clip_norm, such as 1)"
    scale = "" if layers.config.normalize else " or check the features' scale (NetworkConfig.normalize)"
    return f"Lower the learning rate (now {optimizer.lr:g}){clip}{scale}"
