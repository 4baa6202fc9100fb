"""What tells a data set from others: sizes and a digest."""

from __future__ import annotations

import hashlib

import numpy as np
from scipy.sparse import csr_matrix

from slide.data.dataset import Dataset, is_mapped
from slide.data.folder import describe

SAMPLE = 1000
"""Rows whose contents a fingerprint takes in; of the others it has the lengths."""


def fingerprint(data: Dataset) -> dict:
    """Return what tells a data set from others: sizes, and a digest of all rows' lengths and some rows' contents.

    It takes milliseconds, so a change to an entry of a row that is not among the `SAMPLE` evenly spaced ones goes
    unnoticed. Of data that is mapped into memory it is the digest of everything that its folder has.

    Parameters
    ----------
    data : Dataset

    Returns
    -------
    dict
        ``samples``, ``features``, ``labels``, ``values``, ``labels_of_points``, ``mapped`` and ``digest``.
    """
    digest = hashlib.blake2b(digest_size=16)
    for matrix in (data.X, data.Y):
        if is_mapped(matrix):
            digest.update(describe(matrix.mapping.indptr.path.parent)["fingerprint"].encode())
        else:
            _add(digest, matrix)
    return {
        "points": data.n_samples,
        "features": data.n_features,
        "labels": data.n_labels,
        "values": int(data.X.nnz),
        "labels_of_points": int(data.Y.nnz),
        "mapped": is_mapped(data.X),
        "digest": digest.hexdigest(),
    }


def _add(digest, matrix: csr_matrix):
    digest.update(np.asarray(matrix.indptr, np.int64))
    n = matrix.shape[0]
    for row in np.unique(np.linspace(0, n - 1, min(n, SAMPLE)).astype(np.int64)):
        entries = slice(int(matrix.indptr[row]), int(matrix.indptr[row + 1]))
        digest.update(np.ascontiguousarray(matrix.indices[entries], np.int32))
        digest.update(np.ascontiguousarray(matrix.data[entries], np.float32))
