"""Where training starts: weights of the features, and vectors of the layers from embeddings or from the data."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_matrix

from slide.data.dataset import Dataset
from slide.data.statistics import column_counts
from slide.kernels import dtypes
from slide.model.layers import InputLayer
from slide.model.output import UNSEEN
from slide.model.stack import Layer, LayerStack

BLOCK = 4096
"""Number of samples, or labels, whose vectors are in memory at a time in addition to the network's."""


def idf(X: csr_matrix) -> np.ndarray:
    """Return each feature's smoothed inverse document frequency, ``log((1 + n) / (1 + df)) + 1``: float32 [n_features].

    It is computed as if one more sample had every feature, so that features without samples get a finite weight.
    scikit-learn's ``TfidfTransformer`` uses this form by default.
    """
    return idf_of(column_counts(X, nonzero=True), X.shape[0])


def idf_of(df: np.ndarray, n: int) -> np.ndarray:
    """Return what `idf` returns, from the number of samples that have each feature, out of `n`."""
    return (np.log((1 + n) / (1 + df)) + 1).astype(dtypes.VALUE)


def label_means(layers: LayerStack, X: csr_matrix, Y: csr_matrix) -> None:
    """Set each label's weights to the centred mean of its samples' hidden vectors, at length ``init_scale``.

    The output layer then starts as a nearest-centroid classifier. The mean of all samples is subtracted first. Behind a
    ReLU no coordinate is negative, so all hidden vectors, and all means, would have mostly the same direction. On
    bibtex the first of five epochs then reaches 51 % P@1, with uncentred means 43 % and from random weights 31 %; on
    delicious 67, 64 and 61 %. A label without samples keeps its random weights, at `UNSEEN` of their length.

    The values of `Y` are float32 ones.
    """
    # A float32 copy if weights are bfloat16, which would round the sums over a label's samples.
    weights, scale = np.asarray(layers.output.table.weights), layers.config.output.init_scale
    n_labels, dim = weights.shape
    counts = column_counts(Y)
    weights[counts > 0] = 0
    weights[counts == 0] *= UNSEEN
    total = np.zeros(dim)
    for first in range(0, X.shape[0], BLOCK):
        hidden = layers.layer_inputs(X[first : first + BLOCK])[-1].vectors[:, :dim]
        total += hidden.sum(axis=0, dtype=np.float64)
        block = Y[first : first + BLOCK]
        labels, places = np.unique(block.indices, return_inverse=True)
        samples = csr_matrix((block.data, places, block.indptr), shape=(len(hidden), len(labels)))
        weights[labels] += samples.T @ hidden
    mean = total / X.shape[0]
    for first in range(0, n_labels, BLOCK):
        rows, count = weights[first : first + BLOCK], counts[first : first + BLOCK, None]
        centred = rows - count * mean
        lengths = np.linalg.norm(centred, axis=1, keepdims=True)
        # If all samples have a label, its centred mean is only rounding; zero weights are better.
        known = lengths > 1e-5 * count * np.linalg.norm(mean)
        unit = np.divide(centred, lengths, out=np.zeros_like(centred), where=known)
        rows[...] = np.where(count > 0, scale * unit, rows)
    layers.output.table.weights[...] = weights


def start(layers: LayerStack, data: Dataset) -> None:
    """Set what an untrained network takes from its training data, as configured: feature weights, label vectors."""
    if layers.config.feature_weights == "idf":
        assert layers.feature_weights is not None
        layers.feature_weights[:] = idf(data.X)
    if layers.config.output.init == "mean":
        label_means(layers, data.X, data.Y)
        _forget_tables(layers.output)


def set_vectors(layers: LayerStack, features: np.ndarray | None, labels: np.ndarray | None) -> None:
    """See ``Network.initialize``; whether this network may be initialized is checked there."""
    first = layers.hidden[0]
    # Check both before either is set, so that an error leaves the network as it was.
    if features is not None:
        features = _vectors(features, (layers.n_features, first.config.units), "features")
    if labels is not None:
        labels = _vectors(labels, layers.output.table.weights.shape, "labels")
    if features is not None:
        first.table.weights[...] = features if isinstance(first, InputLayer) else features.T
        _forget_tables(first)
    if labels is not None:
        layers.output.table.weights[...] = labels
        _forget_tables(layers.output)


def _forget_tables(layer: Layer) -> None:
    """Have the layer's hash tables, if it has any, built from its new weights before the next batch."""
    if layer.index is not None:
        layer.index.reset()


def _vectors(array: ArrayLike, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Return vectors as a float32 array, or raise ValueError if they do not fit."""
    array = np.asarray(array)
    if array.shape != shape:
        expected, found = (" x ".join(map(str, size)) for size in (shape, array.shape))
        raise ValueError(f"{what} must be {expected} numbers, got {found or 'no array'}")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{what} must be real numbers, got {array.dtype}")
    with np.errstate(over="ignore"):
        array = array.astype(dtypes.VALUE, copy=False)
    if not np.isfinite(array).all():
        raise ValueError(f"{what} has values that are not finite, or too large for float32")
    return array
