"""Numerical faults: numbers that are NaN, infinite or about to overflow, named by layer and step, and what a run does.

A batch is looked at where it costs next to nothing: what each layer gives, the loss, and the gradient that reaches each
hidden layer. All but the last are known before anything is changed, so that such a batch can be left out: no weight, no
moment and no step is counted, and draws, which are functions of the step, go on as if it had not been there. Layers are
searched for what is not finite only once a fault was seen, at the end of epochs that are long enough, and before
anything is saved.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slide.kernels.bfloat16 import BFloat16View, blocks

if TYPE_CHECKING:
    from slide.data.batches import Batch
    from slide.network import BatchStats, Network
    from slide.training import Progress

log = logging.getLogger("slide")

LARGEST = 1e15
"""What a layer may give, or a gradient be, at most: sums of such numbers over a batch still have squares in float32,
which the optimiser keeps. Nothing that learns comes near it."""

PATIENCE = 10
"""Batches left out in a row after which a run ends all the same: it is not the batches then."""

TOLD = 10
"""Batches left out of which each is logged; then every hundredth is."""


SMALL, SPEED, WORTH = 1 << 26, 2e9, 30
"""Bytes of parameters that are looked through after every epoch; larger ones, of which a second takes so many, after as
many times as long of training."""


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

    def told(self, where: str, advice: str = "") -> NumericalFault:
        """Return the fault with more said about it.

        Parameters
        ----------
        where, advice : str
            Go before and after what is said so far.
        """
        return type(self)(f"{where}{self}{advice}", self.layer, self.step, self.harmless)


class Tolerance:
    """Trains on a run's batches, and does about numerical faults what the run was asked to.

    Parameters
    ----------
    on_fault : str
        ``"stop"`` or ``"skip"``; see `slide.TrainingConfig`.
    progress : Progress
        Of the run; a batch that is left out is counted there.
    keep : callable, optional
        Told of a fault that ends the run; returns the newest checkpoint, or None.
    """

    def __init__(
        self, on_fault: str, progress: Progress, keep: Callable[[NumericalFault], Path | None] | None = None
    ):
        self._skips = on_fault == "skip"
        self._progress = progress
        self._keep = keep
        self._checked = progress.seconds

    def train(self, network: Network, batch: Batch, lr_factor: float) -> BatchStats | None:
        """Train on a batch; return None if it was left out.

        Parameters
        ----------
        network : Network
        batch : Batch
        lr_factor : float

        Raises
        ------
        NumericalFault
            The run is to stop at faults, the fault is not the batch's alone, or too many were left out in a row.
        """
        progress = self._progress
        try:
            stats = network.train_batch(batch, lr_factor=lr_factor)
        except NumericalFault as fault:
            if not self._skips or not fault.harmless:
                raise fault.told(f"batch {progress.batch + 1:,}: ", self._last_good(fault)) from None
            if progress.skipped_in_a_row + 1 >= PATIENCE:
                many = f"batch {progress.batch + 1:,} is the {PATIENCE}th in a row that had to be left out: "
                raise fault.told(many, self._last_good(fault)) from None
            progress.pass_over(batch.n_points)
            if progress.skipped <= TOLD or progress.skipped % 100 == 0:
                log.warning("batch %s is left out, %s so far: %s", f"{progress.batch:,}", progress.skipped, fault)
            return None
        progress.skipped_in_a_row = 0
        return stats

    def check(self, network: Network) -> None:
        """Look through all the network has learnt, unless that would cost more than a few hundredths of the run.

        Raises
        ------
        NumericalFault
            Something is not finite.
        """
        nbytes = sum(layer.table.buffer.nbytes for layer in (*network.hidden, network.output))
        if nbytes > SMALL and self._progress.seconds - self._checked < WORTH * nbytes / SPEED:
            return
        self._checked = self._progress.seconds
        try:
            check_network(network)
        except NumericalFault as fault:
            raise fault.told(f"after batch {self._progress.batch:,}: ", self._last_good(fault)) from None

    def _last_good(self, fault):
        path = None if self._keep is None else self._keep(fault)
        if path is None:
            return ""
        more = ""
        if fault.harmless and not self._skips:
            more = ', and resuming with on_fault "skip" leaves such batches out'
        return f". The last good checkpoint is {path}: Network.load gives that network, for other settings{more}"


def peak(values: np.ndarray) -> float:
    """Return the largest magnitude of some numbers, NaN if any is.

    Parameters
    ----------
    values : float array
    """
    return float(max(values.max(), -values.min())) if values.size else 0.0


def check_outputs(network: Network, layer, values: np.ndarray, inputs: float) -> float:
    """Return the largest magnitude of what a layer gives, or of the features.

    Parameters
    ----------
    network : Network
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
        step = network.step + 1
        raise NumericalFault(
            f"the batch's features reach {most:.3g} at step {step:,}; no step was taken. Scale them "
            "(NetworkConfig.normalize does), or leave such points out",
            "features",
            step,
            harmless=True,
        )
    raise _of_layer(network, layer.name, layer, f"what it gives reaches {most:.3g}, from inputs up to {inputs:.3g}")


def check_loss(network: Network, loss: float, inputs: float) -> None:
    """Raise NumericalFault if a loss is not finite.

    Parameters
    ----------
    network : Network
    loss : float
    inputs : float
        The largest magnitude of what the output layer was given.
    """
    if not math.isfinite(loss):
        raise _of_layer(
            network, "output", network.output, f"the loss is {loss:g}, from hidden vectors up to {inputs:.3g}"
        )


def check_norm(network: Network, norm: float) -> None:
    """Raise NumericalFault if a gradient's norm is not finite.

    Parameters
    ----------
    network : Network
    norm : float
    """
    if not math.isfinite(norm):
        raise _fault(network, "output", f"the gradient's norm is {norm:g}", "no step was taken")


def check_gradient(network: Network, i: int, gradient: np.ndarray, inputs: float, *, stepped: bool) -> None:
    """Raise NumericalFault if a hidden layer's gradient is not finite, or too large to go on with.

    Parameters
    ----------
    network : Network
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
    above, name = [*((layer, layer.name) for layer in network.hidden), (network.output, "output")][i + 1]
    weights = max(peak(above.table.weights[block]) for block in blocks(above.table.weights.shape))
    what = f"the gradient reaches {most:.3g}, from weights of layer {name} up to {weights:.3g}, inputs to {inputs:.3g}"
    state = "the layers above have taken their step and are not to be used" if stepped else "no step was taken"
    raise _fault(network, network.hidden[i].name, what, state, not stepped)


def check_network(network: Network, *, moments: bool = True) -> None:
    """Look through weights, biases and what the optimiser keeps of them.

    Parameters
    ----------
    network : Network
    moments : bool
        Whether what the optimiser keeps counts.

    Raises
    ------
    NumericalFault
        Something is not finite; the message names layer, array and row.
    """
    for name, layer in (*((layer.name, layer) for layer in network.hidden), ("output", network.output)):
        found = _not_finite(layer, network.threads, moments)
        if found is not None:
            raise NumericalFault(
                f"layer {name} at step {network.step:,}: its {found}, and no step repairs that. {_advice(network)}",
                name,
                network.step,
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


def _of_layer(network, name, layer, what):
    """The fault that a layer made, or had in it."""
    found = _not_finite(layer, network.threads)
    if found is None:
        return _fault(network, name, what, "its weights are finite; no step was taken")
    return _fault(network, name, what, f"its {found}", False)


def _fault(network, name, what, state, harmless=True):
    step = network.step + 1
    return NumericalFault(f"{what} at step {step:,} in layer {name}; {state}. {_advice(network)}", name, step, harmless)


def _advice(network):
    optimizer = network.config.optimizer
    clip = "" if optimizer.clip_norm else ", clip gradients (OptimizerConfig.clip_norm, such as 1)"
    scale = "" if network.config.normalize else " or check the features' scale (NetworkConfig.normalize)"
    return f"Lower the learning rate (now {optimizer.lr:g}){clip}{scale}"
