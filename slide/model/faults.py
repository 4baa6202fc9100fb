"""Numerical faults: numbers that are NaN, infinite or about to overflow, named by layer and step, and what a run does.

A batch is looked at where it costs next to nothing: what each layer gives, the loss, and the gradient that reaches each
hidden layer. All but the last are known before anything is changed, so that such a batch can be left out: no weight, no
moment and no step is counted, and draws, which are functions of the step, go on as if it had not been there. Layers are
searched for what is not finite only once a fault was seen, at the end of epochs that are long enough, and before
anything is saved.
"""

from __future__ import annotations

import math

import numpy as np

from slide.kernels.bfloat16 import BFloat16View, blocks
from slide.model.layers import HiddenLayer
from slide.model.stack import LayerStack

LARGEST = 1e15
"""What a layer may give, or a gradient be, at most: sums of such numbers over a batch still have squares in float32,
which the optimizer keeps. Nothing that learns comes near it."""


class NumericalFault(FloatingPointError):
    """Numbers that are not finite, or soon would not be.

    Attributes
    ----------
    layer : str
        Where they were seen first: ``"features"``, ``"hidden.0"`` and so on, or ``"output"``.
    step : int
        Of the network, from 1: the one that was, or would have been, taken.
    harmless : bool
        Whether the network is as it was before the batch, and finite as far as was looked.
    """

    def __init__(self, message: str, layer: str = "", step: int = 0, harmless: bool = False):
        super().__init__(message)
        self.layer, self.step, self.harmless = layer, step, harmless

    def __reduce__(self):
        return type(self), (str(self), self.layer, self.step, self.harmless)

    def with_context(self, where: str, advice: str = "") -> NumericalFault:
        """Return the fault with more said about it.

        Parameters
        ----------
        where, advice : str
            Go before and after what is said so far.
        """
        return type(self)(f"{where}{self}{advice}", self.layer, self.step, self.harmless)


def peak(values: np.ndarray) -> float:
    """Return the largest magnitude of some numbers, NaN if any is.

    Parameters
    ----------
    values : float array
    """
    return float(max(values.max(), -values.min())) if values.size else 0.0


def check_outputs(layers: LayerStack, layer: HiddenLayer | None, values: np.ndarray, inputs: float) -> float:
    """Return the largest magnitude of what a layer gives, or of the features.

    Parameters
    ----------
    layers : LayerStack
    layer : HiddenLayer or None
        None for the features.
    values : float array
        What it gives for a batch.
    inputs : float
        The largest magnitude of what it was given.

    Raises
    ------
    NumericalFault
        It is not finite, or too large to go on with.
    """
    most = peak(values)
    if most <= LARGEST:
        return most
    if layer is None:
        step = layers.step + 1
        raise NumericalFault(
            f"the batch's features reach {most:.3g} at step {step:,}; no step was taken. Scale them "
            "(NetworkConfig.normalize does), or leave such samples out",
            "features",
            step,
            harmless=True,
        )
    raise _of_layer(layers, layer.name, layer, f"what it gives reaches {most:.3g}, from inputs up to {inputs:.3g}")


def check_loss(layers: LayerStack, loss: float, inputs: float) -> None:
    """Raise NumericalFault if a loss is not finite.

    Parameters
    ----------
    layers : LayerStack
    loss : float
    inputs : float
        The largest magnitude of what the output layer was given.
    """
    if not math.isfinite(loss):
        raise _of_layer(
            layers, "output", layers.output, f"the loss is {loss:g}, from hidden vectors up to {inputs:.3g}"
        )


def check_norm(layers: LayerStack, norm: float) -> None:
    """Raise NumericalFault if a gradient's norm is not finite.

    Parameters
    ----------
    layers : LayerStack
    norm : float
    """
    if not math.isfinite(norm):
        raise _fault(layers, "output", f"the gradient's norm is {norm:g}", "no step was taken")


def check_gradient(layers: LayerStack, i: int, gradient: np.ndarray, inputs: float, *, stepped: bool) -> None:
    """Raise NumericalFault if a hidden layer's gradient is not finite, or too large to go on with.

    Parameters
    ----------
    layers : LayerStack
    i : int
        Of the layer.
    gradient : float array
        With respect to what the layer gives.
    inputs : float
        The largest magnitude of what the layer was given: times the gradient that is what its weights get.
    stepped : bool
        Whether the layers above have taken their steps.
    """
    most = peak(gradient)
    if most <= LARGEST and most * inputs <= LARGEST:
        return
    # It is the sum of weights above, each times a number that the loss bounds.
    above = list(layers)[i + 1]
    weights = max(peak(above.table.weights[block]) for block in blocks(above.table.weights.shape))
    what = f"the gradient reaches {most:.3g}, from weights of layer {above.name} up to {weights:.3g}, inputs to {inputs:.3g}"
    state = "the layers above have taken their step and are not to be used" if stepped else "no step was taken"
    raise _fault(layers, layers.hidden[i].name, what, state, not stepped)


def check_network(layers: LayerStack, *, moments: bool = True) -> None:
    """Look through weights, biases and what the optimizer keeps of them.

    Parameters
    ----------
    layers : LayerStack
    moments : bool
        Whether what the optimizer keeps counts.

    Raises
    ------
    NumericalFault
        Something is not finite; the message names layer, array and row.
    """
    for layer in layers:
        found = _not_finite(layer, layers.threads, moments)
        if found is not None:
            raise NumericalFault(
                f"layer {layer.name} at step {layers.step:,}: its {found}, and no step repairs that. {_advice(layers)}",
                layer.name,
                layers.step,
            )


def first_not_finite(array: np.ndarray | BFloat16View) -> int | None:
    """Return the first row of an array that has a number that is not finite, None if there is none.

    Parameters
    ----------
    array : float array or BFloat16View
    """
    for block in blocks(array.shape):
        finite = np.isfinite(array[block])
        if not finite.all():
            return block.start + int(np.argmin(finite.reshape(len(finite), -1).all(axis=1)))
    return None


def _not_finite(layer, threads, moments=True):
    """What of a layer is not finite, in words; None if all is."""
    row, in_rows = layer.table.first_not_finite(threads, moments=moments), layer.rows_are_units
    for name, array in layer.state().items():
        if array.dtype.kind != "f" or not (moments or name in ("weights", "bias")):
            continue
        if in_rows or not name.startswith("bias"):
            found = row if row >= 0 and not np.isfinite(array[row]).all() else None
        else:
            # Of units where the rows are features.
            found = first_not_finite(array)
        if found is not None:
            return f"{name} (row {found:,}) are not finite"
    return None


def _of_layer(layers, name, layer, what):
    """The fault that a layer made, or had in it."""
    found = _not_finite(layer, layers.threads)
    if found is None:
        return _fault(layers, name, what, "its weights are finite; no step was taken")
    return _fault(layers, name, what, f"its {found}", False)


def _fault(layers, name, what, state, harmless=True):
    step = layers.step + 1
    return NumericalFault(f"{what} at step {step:,} in layer {name}; {state}. {_advice(layers)}", name, step, harmless)


def _advice(layers):
    optimizer = layers.config.optimizer
    clip = "" if optimizer.clip_norm else ", clip gradients (OptimizerConfig.clip_norm, such as 1)"
    scale = "" if layers.config.normalize else " or check the features' scale (NetworkConfig.normalize)"
    return f"Lower the learning rate (now {optimizer.lr:g}){clip}{scale}"
