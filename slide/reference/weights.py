"""A network from the weights that the authors' C++ program saves.

The program writes a NumPy archive with four float32 arrays for each layer i, from the features upward: ``w_layer_i``,
weights [neurons, inputs]; ``b_layer_i``, biases [neurons]; ``am_layer_i`` and ``av_layer_i``, Adam's first and second
moments of the weights. The moments belong to the gradient of minus the loss. The program does not write the moments of
the biases, nor the trained biases: ``b_layer_i`` has the biases from before training.
"""

from __future__ import annotations

import itertools
import os
import re
import zipfile
from pathlib import Path

import numpy as np

from slide.config import HiddenConfig, NetworkConfig, OptimizerConfig, OutputConfig
from slide.data.dataset import DataError
from slide.data.npz import DAMAGE, open_array, rewound
from slide.files.atomic import open_regular
from slide.kernels import dtypes
from slide.model.layers import InputLayer
from slide.model.stack import Layer
from slide.network import Network
from slide.reference import Reference


def load_weights(
    path: str | os.PathLike,
    reference: Reference | None = None,
    *,
    moments: bool = False,
    step: int | None = None,
    threads: int | None = None,
) -> Network:
    """Make a network from the weights that the C++ program saved.

    Parameters
    ----------
    path : path-like
        The archive (.npz).
    reference : Reference, optional
        The program's configuration, which `slide.reference.read` returns: the network then has its settings, to train
        on with them. Without it, the sizes are those of the arrays, and the network computes every neuron.
    moments : bool
        Take over Adam's moments too, so that training can go on; default False.
    step : int, optional
        With `moments`: number of batches trained on so far, which is not in the archive. Default: the batches of the
        whole run that `reference` describes.
    threads : int, optional
        As for `Network`.

    Returns
    -------
    Network

    Raises
    ------
    DataError
        The file is missing, damaged or not such an archive, or does not fit `reference`.
    ValueError
        `moments` is True, and neither `step` nor `reference` says how many batches were trained on.
    """
    path = Path(path)
    if not moments:
        step = None
    elif step is None:
        if reference is None or reference.train_samples is None:
            raise ValueError(
                "to train on from saved moments, slide must know the number of batches so far: give the configuration "
                "file, with totRecords, or step"
            )
        training = reference.config.training
        step = training.epochs * (reference.train_samples // training.batch_size)
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            # All headers are checked before memory for a network is allocated.
            sizes = _sizes(path, archive)
            _check_arrays(path, archive, sizes, moments)
            if reference is not None:
                _check_fit(path, sizes, reference)
            config = _network_config(sizes) if reference is None else reference.config.network
            network = Network(sizes[0], sizes[-1], config, threads=threads, trainable=moments)
            for i, layer in enumerate(network.layers):
                _take(path, archive, i, layer, (sizes[i + 1], sizes[i]), step)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; expected weights that the C++ program saved (.npz)") from None
    except DAMAGE as error:
        raise DataError(f"{path}: not an archive of NumPy arrays (.npz), or a damaged one ({error})") from None
    if step is not None:
        network.optimizer.resume(step)
    return network


def _sizes(path: Path, archive: zipfile.ZipFile) -> list[int]:
    """Return the numbers of features, of units of each hidden layer and of labels, from the arrays' headers."""
    names = archive.namelist()
    n_layers = sum(re.fullmatch(r"w_layer_\d+\.npy", name) is not None for name in names)
    if n_layers < 2:
        raise DataError(
            f"{path}: expected the arrays w_layer_0, w_layer_1 and so on, one for each of two layers or more; it has "
            f"{', '.join(sorted(names)[:8]) or 'nothing'}"
        )
    sizes: list[int] = []
    for i in range(n_layers):
        name = f"w_layer_{i}"
        if f"{name}.npy" not in names:
            raise DataError(f"{path}: there is no array {name}, although there are {n_layers} of that kind")
        file, shape, dtype = open_array(path, archive, name, "f", 2)
        file.close()
        if 0 in shape:
            raise DataError(
                f"{path}: {name} has shape {list(shape)} and dtype {dtype}; expected float32 numbers, neurons x inputs"
            )
        sizes = sizes or [shape[1]]
        if shape[1] != sizes[-1]:
            raise DataError(f"{path}: {name} reads {shape[1]:,} inputs, but layer {i - 1} has {sizes[-1]:,} neurons")
        sizes.append(shape[0])
    return sizes


def _check_fit(path: Path, sizes: list[int], reference: Reference) -> None:
    units = [layer.units for layer in reference.config.network.hidden]
    expected = [reference.n_features, *units, reference.n_labels]
    if sizes != expected:
        found, wanted = (" - ".join(f"{size:,}" for size in row) for row in (sizes, expected))
        raise DataError(
            f"{path} has layers of sizes {found}, {reference.path} {wanted} (InputDim, sizesOfLayers): they do not "
            "belong together"
        )


def _network_config(sizes: list[int]) -> NetworkConfig:
    return NetworkConfig(
        hidden=tuple(HiddenConfig(units=units, activation="relu", dropout=0.0) for units in sizes[1:-1]),
        output=OutputConfig(candidates="full", correction="none", loss="softmax"),
        optimizer=OptimizerConfig(name="adam", lr=1e-4),
        normalize=False,
    )


def _take(
    path: Path, archive: zipfile.ZipFile, i: int, layer: Layer, shape: tuple[int, int], step: int | None
) -> None:
    """Copy the arrays of layer i, of shape [neurons, inputs]; the moments only if `step` is given."""
    state = layer.state()
    # The rows of an InputLayer are features; those of all other layers are neurons.
    turned = isinstance(layer, InputLayer)

    def table(name: str) -> np.ndarray:
        array = _array(path, archive, name, shape)
        return array.T if turned else array

    state["weights"][...] = table(f"w_layer_{i}")
    state["bias"][...] = _array(path, archive, f"b_layer_{i}", shape[:1])
    if step is not None:
        state["m"][...] = -table(f"am_layer_{i}")
        squares = table(f"av_layer_{i}")
        if (squares < 0).any():
            raise DataError(f"{path}: av_layer_{i} has negative values, but second moments are means of squares")
        state["v"][...] = squares
        # The program's Adam steps every row at every step.
        state["last_step"][...] = step


def _check_arrays(path: Path, archive: zipfile.ZipFile, sizes: list[int], moments: bool) -> None:
    """Raise DataError if an array is missing or has a wrong shape."""
    for i, (below, above) in enumerate(itertools.pairwise(sizes)):
        for letter in ("w", "b", *(("am", "av") if moments else ())):
            name = f"{letter}_layer_{i}"
            shape: tuple[int, ...] = (above,) if letter == "b" else (above, below)
            file, found, dtype = open_array(path, archive, name, "f", len(shape))
            file.close()
            if found != shape:
                raise DataError(
                    f"{path}: {name} has shape {list(found)} and dtype {dtype}; expected {list(shape)} float32 numbers"
                )


def _array(path: Path, archive: zipfile.ZipFile, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of the archive as float32, or raise DataError if a value is not finite."""
    with open_array(path, archive, name, "f", len(shape))[0] as file:
        array = np.lib.format.read_array(rewound(file), allow_pickle=False)
    # If the sum is finite, all values are; unlike isfinite it needs no array of its own.
    with np.errstate(invalid="ignore", over="ignore"):
        if not np.isfinite(array.sum(dtype=np.float64)):
            raise DataError(f"{path}: {name} has values that are not finite")
    return array.astype(dtypes.VALUE, copy=False)
