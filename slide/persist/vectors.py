"""The output layer as a plain matrix, for other programs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from slide.files.atomic import write_in_place
from slide.kernels import dtypes
from slide.model.stack import LayerStack
from slide.persist.format import write_array


def output_matrix(layers: LayerStack, *, centred: bool = True) -> np.ndarray:
    """Return the output layer as a plain matrix, one row per label, for libraries of nearest-neighbour search.

    The last column has the biases, to be multiplied with a one. The labels whose rows have the largest inner products
    with ``network.hidden_vectors(X, append_one=True)`` are those that ``predict`` finds; this is hnswlib's space
    ``"ip"`` and FAISS's ``IndexFlatIP``.

    Parameters
    ----------
    layers : LayerStack
        Layers of a network: ``network.layers``.
    centred : bool
        Subtract the mean of all rows; True by default. That moves all scores of a sample alike and changes no ranking,
        but graphs of neighbours need it: without it all rows are much alike, above all because of their biases. After
        two epochs on delicious, hnswlib finds 100 % of the five best labels with it and 60 % without it, with its
        defaults and ef = 100. Without it the inner products are the logits.

    Returns
    -------
    float32 array [n_labels, units + 1]
        A copy.
    """
    layers.settle()
    table = layers.output.table
    matrix = np.empty((table.n_rows, table.dim + 1), dtypes.VALUE)
    matrix[:, :-1] = table.weights
    matrix[:, -1] = table.bias
    if centred:
        matrix -= matrix.mean(axis=0, dtype=np.float64).astype(dtypes.VALUE)
    return matrix


def save_output_matrix(layers: LayerStack, path: str | os.PathLike, *, centred: bool = True) -> None:
    """Write the output layer as a .npy file that appears complete or not at all.

    Parameters
    ----------
    layers : LayerStack
        Layers of a network: ``network.layers``.
    path : path-like
        Name of the file.
    centred : bool
        As for ``output_matrix``.

    Raises
    ------
    OSError
        The file cannot be written; a file of that name from before is unchanged.
    """
    matrix = output_matrix(layers, centred=centred)
    write_in_place(Path(path), lambda file: write_array(file, matrix))
