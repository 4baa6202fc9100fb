"""Where training starts: the features' weights, the layers' vectors from embeddings or data, those of new labels."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from slide.data.dataset import Dataset
from slide.data.statistics import column_counts
from slide.kernels import dtypes
from slide.kernels.rows import RowTable
from slide.layers import InputLayer

BLOCK = 4096
"""Points, or labels, whose vectors are in memory at a time beside the network's."""

UNSEEN = 0.1
"""What the random weights of a label without training points are multiplied by where the others' come from theirs: it
must not outshine labels with a vector that means something."""


def idf(X: csr_matrix) -> np.ndarray:
    """Return each feature's smoothed inverse document frequency, ``log((1 + n) / (1 + df)) + 1``.

    As if one more point had every feature, so that a feature no point has gets a finite weight; the form that
    scikit-learn's ``TfidfTransformer`` uses by default.

    Parameters
    ----------
    X : csr_matrix, shape (n, n_features)

    Returns
    -------
    float32 array [n_features]
    """
    return idf_of(column_counts(X, nonzero=True), X.shape[0])


def idf_of(df: np.ndarray, n: int) -> np.ndarray:
    """Return what `idf` does, from the number of points, of `n`, that have each feature."""
    return (np.log((1 + n) / (1 + df)) + 1).astype(dtypes.VALUE)


def label_means(network, X: csr_matrix, Y: csr_matrix) -> None:
    """Set each label's weights to the centred mean of its points' hidden vectors, at length ``init_scale``.

    The output layer then starts as a nearest-centroid classifier. The mean of all points is subtracted first: behind a
    ReLU every hidden vector has mostly the same direction, no coordinate being negative, and so would every mean. On
    bibtex the first of five epochs then reaches 51 % P@1, 43 % with means as they are and 31 % from random weights; on
    delicious 67, 64 and 61 %. A label without points keeps its random weights, at `UNSEEN` of their length.

    Parameters
    ----------
    network : Network
    X : csr_matrix, shape (n, n_features)
    Y : csr_matrix of float32, shape (n, n_labels)
        Label indicator of ones.
    """
    # Sums over a label's points need all digits.
    weights, scale = np.asarray(network.output.table.weights), network.config.output.init_scale
    n_labels, dim = weights.shape
    counts = column_counts(Y)
    weights[counts > 0] = 0
    weights[counts == 0] *= UNSEEN
    total = np.zeros(dim)
    for first in range(0, X.shape[0], BLOCK):
        hidden = network.layer_inputs(X[first : first + BLOCK])[-1].dense[:, :dim]
        total += hidden.sum(axis=0, dtype=np.float64)
        block = Y[first : first + BLOCK]
        labels, places = np.unique(block.indices, return_inverse=True)
        points = csr_matrix((block.data, places, block.indptr), shape=(len(hidden), len(labels)))
        weights[labels] += points.T @ hidden
    mean = total / X.shape[0]
    for first in range(0, n_labels, BLOCK):
        rows, count = weights[first : first + BLOCK], counts[first : first + BLOCK, None]
        centred = rows - count * mean
        lengths = np.linalg.norm(centred, axis=1, keepdims=True)
        # What is left of a label that all points have is rounding; its weights are better zero.
        known = lengths > 1e-5 * count * np.linalg.norm(mean)
        unit = np.divide(centred, lengths, out=np.zeros_like(centred), where=known)
        rows[...] = np.where(count > 0, scale * unit, rows)
    # Of bfloat16 weights the sums were a copy.
    network.output.table.weights[...] = weights


def new_labels(table: RowTable, first: int, loss: str) -> None:
    """Start the rows of labels that a trained layer has not known so that they take no known label's place.

    With ``"bce"`` they say of every point what an average label's bias says: random weights, at `UNSEEN` of their
    length, tell one from another. Behind a softmax only differences between logits mean anything, and trained labels
    score far below 0 the points that are not theirs: there the mean of all rows comes on top, which scores a point as
    an average label does (Hewitt, *Initializing New Word Embeddings for Pretrained Language Models*, 2021). Without it
    new labels would at first be the best of a quarter of all points, in a test of 40 beside 80; with it, with bce, the
    mean row would be more to unlearn.

    Parameters
    ----------
    table : RowTable
        Its rows from `first` on have random weights, which are replaced, and nothing else.
    first : int
    loss : str
        As of `OutputConfig`.
    """
    weights, bias = table.weights, table.bias
    new = UNSEEN * weights[first:]
    if loss == "softmax":
        new += weights[:first].mean(axis=0, dtype=np.float64)
    weights[first:] = new
    bias[first:] = bias[:first].mean(dtype=np.float64)


def start(network, data: Dataset) -> None:
    """Set what a network that has not been trained takes from its training data, as its configuration says.

    Parameters
    ----------
    network : Network
    data : Dataset
    """
    if network.config.feature_weights == "idf":
        network.feature_weights[:] = idf(data.X)
    if network.config.output.init == "mean":
        label_means(network, data.X, data.Y)
        _forget_tables(network.output)


def set_vectors(network, features: np.ndarray | None, labels: np.ndarray | None) -> None:
    """Do what ``Network.initialize`` says, for a network that may be initialised."""
    first = network.hidden[0]
    # Both are checked before either is set: a refusal leaves the network as it was.
    if features is not None:
        features = _vectors(features, (network.n_features, first.config.units), "features")
    if labels is not None:
        labels = _vectors(labels, network.output.table.weights.shape, "labels")
    if features is not None:
        first.table.weights[...] = features if isinstance(first, InputLayer) else features.T
        _forget_tables(first)
    if labels is not None:
        network.output.table.weights[...] = labels
        _forget_tables(network.output)


def _forget_tables(layer):
    """Have the layer's hash tables, if any, built from its new weights before the next batch."""
    if layer.index is not None:
        layer.index.reset()


def _vectors(array, shape, what):
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
