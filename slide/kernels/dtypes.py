"""NumPy dtypes of the arrays that the kernels read and write: float, int32_t, int64_t and uint32_t in their source."""

import numpy as np

VALUE = np.dtype(np.float32)
"""Weights, activations, data values."""

INDEX = np.dtype(np.int32)
"""Row, feature, label and sample ids."""

OFFSET = np.dtype(np.int64)
"""CSR row offsets and every element offset."""

CODE = np.dtype(np.uint32)
"""Bucket indices."""
