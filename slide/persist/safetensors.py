"""A network's numbers in forms that other programs read: safetensors, and the output layer as a plain matrix.

A ``.safetensors`` file has the arrays of a saved network under the names that `slide.checkpoint` gives them, all
float32, and in its metadata, under ``slide``, what ``network.json`` says. Weights alone: it is for exchange and
prediction. It takes the package safetensors, an extra.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from slide import checkpoint
from slide.extras import load_extra
from slide.folders import write_in_place
from slide.kernels import dtypes
from slide.network import Network
from slide.saved_checks import CheckpointError, checked

KEY = "slide"
"""Of the metadata."""


def save_safetensors(network: Network, path: str | os.PathLike) -> None:
    """Write a network's weights to a safetensors file, which appears complete or not at all.

    Parameters
    ----------
    network : Network
        The weights are copied in memory while they are written.
    path : path-like

    Raises
    ------
    MissingExtra
        The package safetensors is missing.
    OSError
        The file cannot be written; what was there before is as it was.
    """
    path = Path(path)
    save = _package("safetensors.numpy").save
    about = checkpoint.manifest(network, moments=False, layout="arrays")
    arrays = checkpoint.parameters(network, moments=False)
    tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_in_place(path, lambda file: file.write(save(tensors, {KEY: json.dumps(about)})))


class SafetensorsFile:
    """A network in a safetensors file, read as a folder of arrays is; see `slide.checkpoint.open_arrays`.

    Parameters
    ----------
    path : Path

    Raises
    ------
    CheckpointError
        There is no such file, or it is damaged.
    MissingExtra
        The package safetensors is missing.
    """

    def __init__(self, path: Path):
        self.manifest, package = path, _package("safetensors")
        if not path.is_file():
            raise CheckpointError(f"{path} is not a saved network: there is no such file")
        try:
            self._file = package.safe_open(path, framework="numpy")
        except (OSError, ValueError, package.SafetensorError) as error:
            raise CheckpointError(f"{path}: {error}; the file is damaged, or no safetensors file") from None

    def about(self) -> object:
        """Return what ``network.json`` would say."""
        text = (self._file.metadata() or {}).get(KEY)
        if text is None:
            raise CheckpointError(
                f"{self.manifest}: has no {KEY!r} in its metadata, so that the network's configuration is not known. "
                "Vectors from elsewhere can be the start of a network: Network.initialize(features, labels)"
            )
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.manifest}, metadata {KEY!r}: {error}") from None

    def name(self, name: str) -> str:
        """Return where an array is, for messages."""
        return f"{self.manifest}, {name}"

    def size(self, name: str) -> int:
        """Return the bytes that could be an array's, 0 if it is not there."""
        if name not in self._file.keys():  # noqa: SIM118 - no mapping
            return 0
        return int(np.prod(self._file.get_slice(name).get_shape())) * dtypes.VALUE.itemsize

    def read(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return the array of that name.

        Raises
        ------
        CheckpointError
            It is not there, or not as expected.
        """
        if not self.size(name):
            raise CheckpointError(f"{self.manifest} has no array {name!r}")
        return checked(self.name(name), self._file.get_tensor(name), shape, dtype)


def output_matrix(network: Network, *, centred: bool = True) -> np.ndarray:
    """Return the output layer as a plain matrix, a row for each label, for libraries of nearest-neighbour search.

    The last column is the biases, to be multiplied with a one: the labels of the largest inner products of rows with
    ``network.hidden_vectors(X, append_one=True)``, hnswlib's space ``"ip"`` or FAISS's ``IndexFlatIP``, are those that
    ``predict`` finds.

    Parameters
    ----------
    network : Network
    centred : bool
        Subtract the mean of all rows. That moves all scores of a point alike and so changes no ranking, but graphs of
        neighbours depend on it: rows are otherwise all much alike, from their biases above all. After two epochs on
        delicious hnswlib finds 100 % of the five best labels with it and 60 % without, with its defaults and ef = 100.
        Without it the inner products are the logits.

    Returns
    -------
    float32 array [n_labels, units + 1]
    """
    network.settle()
    table = network.output.table
    matrix = np.empty((table.n_rows, table.dim + 1), dtypes.VALUE)
    matrix[:, :-1] = table.weights
    matrix[:, -1] = table.bias
    if centred:
        matrix -= matrix.mean(axis=0, dtype=np.float64).astype(dtypes.VALUE)
    return matrix


def save_output_matrix(network: Network, path: str | os.PathLike, *, centred: bool = True) -> None:
    """Write the output layer as a .npy file that appears complete or not at all.

    Parameters
    ----------
    network : Network
    path : path-like
    centred : bool
        As for ``output_matrix``.

    Raises
    ------
    OSError
        The file cannot be written; what was there before is as it was.
    """
    matrix = output_matrix(network, centred=centred)
    write_in_place(Path(path), lambda file: checkpoint.write_array(file, matrix))


def _package(name):
    return load_extra(name, "safetensors", "a .safetensors file")
