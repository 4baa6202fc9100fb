"""The sizes that the measurements of speed share, those of Amazon-670K and kowiki-670k, and arrays of them.

``SLIDE_BENCH_SCALE`` in the environment shrinks the numbers of labels and features, to see whether all still runs.
"""

import os

import numpy as np
from scipy.sparse import csr_matrix

from slide.kernels.rows import RowTable

SCALE = float(os.environ.get("SLIDE_BENCH_SCALE", "1"))
LABELS, FEATURES = round(670_091 * SCALE), round(135_909 * SCALE)
UNITS, BATCH = 128, 128
FEATURES_PER_POINT, LABELS_PER_POINT = 75, 5
ACTIVE = min(3_800, LABELS // 4)
"""Neurons of a sample in the paper's mode, scattered over all rows."""
SHARED = min(1_600, LABELS // 4)
"""Neurons that a batch shares in the default mode: 1,024 draws, and the labels of its samples."""


def make_table(n_rows, *, seed=1, threads=1):
    """Return a layer's parameters with Adam's moments, in hugepages; at full size larger than the caches."""
    table = RowTable(n_rows, UNITS, moments=2, name="rows", hugepages=True)
    table.fill_uniform(UNITS**-0.5, seed, threads)
    return table


def make_hidden(rng, n=BATCH):
    """Return hidden vectors as a ReLU leaves them [n, UNITS]."""
    return np.maximum(rng.standard_normal((n, UNITS)), 0).astype(np.float32)


def make_pairs(rng, each, n_rows, n=BATCH):
    """Return n samples' row ids, `each` of them a sample, and where they begin and end."""
    ids = rng.integers(0, n_rows, n * each).astype(np.int32)
    ptr = np.arange(n + 1, dtype=np.int64) * each
    return ids, ptr[:-1].copy(), ptr[1:].copy()


def make_features(rng, n=BATCH):
    """Return n sparse samples of unit length: indptr, ids ascending, values."""
    ids = np.sort(rng.integers(0, FEATURES, (n, FEATURES_PER_POINT)).astype(np.int32))
    values = np.full(ids.size, FEATURES_PER_POINT**-0.5, np.float32)
    return np.arange(n + 1, dtype=np.int64) * FEATURES_PER_POINT, ids.reshape(-1), values


def make_samples(n, n_features, n_labels, *, seed=0):
    """Return n samples as X and Y: features of unit length and labels, drawn uniformly, in memory for them alone."""
    rng, matrices = np.random.default_rng(seed), []
    for columns, each in ((n_features, FEATURES_PER_POINT), (n_labels, LABELS_PER_POINT)):
        ids = rng.integers(0, columns, (n, each), np.int32)
        values = np.full(ids.size, each**-0.5, np.float32)
        matrix = csr_matrix((values, ids.reshape(-1), np.arange(n + 1, dtype=np.int64) * each), (n, columns))
        matrix.sum_duplicates()
        matrices.append(matrix)
    return matrices
