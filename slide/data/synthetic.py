"""Synthetic data of any size, with structure to learn and with label frequencies as uneven as in real data."""

from __future__ import annotations

from typing import overload

import numpy as np
from scipy.sparse import csr_matrix, vstack

from slide.data.dataset import Dataset
from slide.system.renames import former_names

BLOCK = 1 << 12
"""Number of samples drawn at a time, which bounds the memory of the draws."""

# Purposes of the random streams; part of their keys.
_STRUCTURE, _TRAIN, _TEST = range(3)


@overload
def make_extreme(
    n_samples: int = ...,
    n_features: int = ...,
    n_labels: int = ...,
    *,
    features_per_sample: int = ...,
    labels_per_sample: int = ...,
    words_per_label: int = ...,
    zipf: float = ...,
    noise: float = ...,
    seed: int = ...,
) -> Dataset: ...
@overload
def make_extreme(
    n_samples: int = ...,
    n_features: int = ...,
    n_labels: int = ...,
    *,
    features_per_sample: int = ...,
    labels_per_sample: int = ...,
    words_per_label: int = ...,
    zipf: float = ...,
    noise: float = ...,
    seed: int = ...,
    test_samples: int,
) -> tuple[Dataset, Dataset]: ...
@former_names(
    n_points="n_samples",
    test_points="test_samples",
    features_per_point="features_per_sample",
    labels_per_point="labels_per_sample",
)
def make_extreme(
    n_samples=10_000,
    n_features=5_000,
    n_labels=1_000,
    *,
    features_per_sample=30,
    labels_per_sample=3,
    words_per_label=10,
    zipf=1.0,
    noise=0.2,
    seed=0,
    test_samples=0,
):
    """Draw samples whose features are mostly words of their labels.

    Every label has a few feature "words" of its own, drawn uniformly. A sample draws its labels with probabilities that
    fall as a power of a label's rank (Zipf's law). Then it draws its features: usually a word of one of its labels,
    sometimes any feature. A value counts how often the feature was drawn, and rows are scaled to unit length. Label ids
    say nothing about rank.

    Parameters
    ----------
    n_samples, n_features, n_labels : int
        Sizes of the data set. By default 10,000 samples, 5,000 features and 1,000 labels.
    features_per_sample, labels_per_sample : int
        Draws per sample, by default 30 and 3. Repeats make a row shorter.
    words_per_label : int
        Draws per label, by default 10. Two labels may share a word.
    zipf : float
        Exponent of Zipf's law, by default 1; 0 makes all labels equally frequent.
    noise : float
        Share of the features that are drawn regardless of the labels, from 0 to 1, by default 0.2.
    seed : int
        The same arguments give the same data; by default 0. If only `n_samples` grows or `test_samples` is given, the
        former samples stay as they were.
    test_samples : int
        Number of samples of a second data set with the same words and label frequencies. By default 0, for none.

    Returns
    -------
    Dataset, or a pair of them, train and test, if `test_samples` is positive

    Raises
    ------
    ValueError
        A size is not positive, or `noise` or `zipf` is out of range.

    Examples
    --------
    >>> from slide.data import make_extreme
    >>> train, test = make_extreme(100, n_features=50, n_labels=20, test_samples=10)
    >>> len(train), len(test)
    (100, 10)
    """
    sizes = {
        "n_samples": n_samples,
        "n_features": n_features,
        "n_labels": n_labels,
        "features_per_sample": features_per_sample,
        "labels_per_sample": labels_per_sample,
        "words_per_label": words_per_label,
    }
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, not {size!r}")
    if test_samples < 0:
        raise ValueError(f"test_samples must not be negative, not {test_samples!r}")
    if not 0 <= noise <= 1:
        raise ValueError(f"noise must lie between 0 and 1, not {noise!r}")
    if not 0 <= zipf < np.inf:
        raise ValueError(f"zipf must be zero or a positive number, not {zipf!r}")

    rng = np.random.default_rng([seed, _STRUCTURE])
    words = rng.integers(n_features, size=(n_labels, words_per_label), dtype=np.int32)
    label_by_rank = rng.permutation(n_labels)
    cumulative = np.cumsum(np.arange(1, n_labels + 1, dtype=np.float64) ** -zipf)
    cumulative /= cumulative[-1]

    def draw_block(stream, block, size):
        rng = np.random.default_rng([seed, stream, block])
        # A whole block is always drawn, so that a sample does not depend on the number of samples.
        ranks = np.searchsorted(cumulative, rng.random((BLOCK, labels_per_sample))[:size], side="right")
        labels = label_by_rank[ranks]
        shape = (BLOCK, features_per_sample)
        chosen = rng.integers(labels_per_sample, size=shape, dtype=np.int32)[:size]
        word = rng.integers(words_per_label, size=shape, dtype=np.int32)[:size]
        features = words[np.take_along_axis(labels, chosen, axis=1), word]
        unrelated = rng.random(shape, dtype=np.float32)[:size] < noise
        features[unrelated] = rng.integers(n_features, size=shape, dtype=np.int32)[:size][unrelated]
        X = _count(features, n_features)
        lengths = np.sqrt(np.add.reduceat(X.data**2, X.indptr[:-1]))
        X.data /= np.repeat(lengths, np.diff(X.indptr))
        Y = _count(labels, n_labels)
        Y.data[:] = 1
        return X, Y

    def draw(stream, size, name):
        blocks = [
            draw_block(stream, block, min(BLOCK, size - start))
            for block, start in enumerate(range(0, size, BLOCK))
        ]
        X, Y = (vstack(matrices, format="csr") for matrices in zip(*blocks, strict=True))
        return Dataset(X, Y, name=name)

    train = draw(_TRAIN, n_samples, "synthetic")
    if test_samples == 0:
        return train
    return train, draw(_TEST, test_samples, "synthetic test")


def _count(ids: np.ndarray, n_columns: int) -> csr_matrix:
    """Return the CSR matrix of how often each id occurs in each row of `ids`."""
    ids = np.sort(ids, axis=1)
    starts = np.flatnonzero(np.diff(ids, axis=1, prepend=-1))
    counts = np.diff(starts, append=ids.size).astype(np.float32)
    indptr = np.searchsorted(starts, np.arange(len(ids) + 1) * ids.shape[1])
    return csr_matrix((counts, ids.ravel()[starts], indptr), shape=(len(ids), n_columns))
