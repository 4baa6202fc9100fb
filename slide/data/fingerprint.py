"""A data set's fingerprint: sizes and a digest that tell it from other data sets."""

from __future__ import annotations

import hashlib

import numpy as np
from scipy.sparse import csr_matrix

from slide.data.dataset import Dataset, is_mapped
from slide.data.folder import describe
from slide.data.mapped import as_mapped

SAMPLE = 1000
"""Number of rows whose contents a fingerprint reads; it reads the lengths of all rows."""


def fingerprint(data: Dataset) -> dict:
    """Return what tells a data set from others: sizes, and a digest of all rows' lengths and some rows' contents.

    To stay fast, only `SAMPLE` evenly spaced rows are read in full; a change elsewhere that keeps row lengths is not
    noticed. If the data is mapped into memory, the digest is made of the folder's own, which covers everything in it.

    Returns
    -------
    dict
        ``points`` (number of samples), ``features``, ``labels``, ``values``, ``labels_of_points``, ``mapped`` and
        ``digest``.
    """
    digest = hashlib.blake2b(digest_size=16)
    for matrix in (data.X, data.Y):
        mapped = as_mapped(matrix)
        if mapped is not None:
            digest.update(describe(mapped.files.indptr.path.parent)["fingerprint"].encode())
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


def _add(digest, matrix: csr_matrix) -> None:
    digest.update(np.asarray(matrix.indptr, np.int64))
    n = matrix.shape[0]
    for row in np.unique(np.linspace(0, n - 1, min(n, SAMPLE)).astype(np.int64)):
        entries = slice(int(matrix.indptr[row]), int(matrix.indptr[row + 1]))
        digest.update(np.ascontiguousarray(matrix.indices[entries], np.int32))
        digest.update(np.ascontiguousarray(matrix.data[entries], np.float32))
