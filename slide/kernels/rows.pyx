"""RowTable: the parameters of one layer, a row for each feature or neuron.

A row is ``[header | w | m | v]``: bias and last step in the header, then the weights and the optimiser's moments side
by side, so that a visit to a row is one stream from one page. Each part is padded to 64 bytes and the padding stays
zero. The layout is spelled out in ``simd/rows.h``; nothing outside this class and those kernels depends on it.
"""

cimport cython
from cython.parallel cimport prange
from libc.stdint cimport int64_t, uint64_t

import numpy as np

from slide.kernels.memory cimport HugeBuffer
from slide.kernels.parallel cimport threads_for

cdef extern from "rng.h" nogil:
    uint64_t slide_key(uint64_t seed, uint64_t a, uint64_t b)


@cython.final
cdef class RowTable:
    """Parameters of `n_rows` rows of `dim` float32 weights, a bias each, and their optimiser state, all zero.

    Parameters
    ----------
    n_rows, dim : int
        1 or more rows and dimensions.
    moments : int
        How many moment vectors the optimiser keeps beside the weights: 0 (SGD) to 2 (Adam).
    name : str
        For memory reports.
    hugepages : bool or str
        As for `HugeBuffer`. The rows are spread over all NUMA nodes: any thread may visit any row.
    biased : bool
        Whether rows have biases. If not, those in the table stay zero.

    Attributes
    ----------
    buffer : HugeBuffer
        The memory all views below look at.
    padded_dim : int
        `dim` rounded up to a multiple of 16: what the kernels expect of vectors they combine with rows.

    Raises
    ------
    ValueError
        A size is out of range.
    MemoryError
        The table does not fit.
    """

    def __cinit__(self, n_rows, dim, *, moments=2, name="", hugepages=True, biased=True):
        if not 1 <= n_rows < 2**31:
            raise ValueError(f"n_rows must be between 1 and 2**31 - 1, got {n_rows}")
        if not 1 <= dim <= 2**20:
            raise ValueError(f"dim must be between 1 and 2**20, got {dim}")
        if not 0 <= moments <= 2:
            raise ValueError(f"moments must be 0, 1 or 2, got {moments}")
        self.buffer = HugeBuffer(self.bytes_needed(n_rows, dim, moments), name=name, hugepages=hugepages,
                                 interleave=True)
        self.n_rows = n_rows
        self.dim = dim
        self.padded_dim = _padded(dim)
        self.moments = moments
        self.table.base = <float *>self.buffer.data
        self.table.n_rows = n_rows
        self.table.dp = self.padded_dim
        self.table.biased = bool(biased)
        self.table.stride = SLIDE_HEADER + self.padded_dim * (1 + moments)

    @staticmethod
    def bytes_needed(n_rows, dim, moments=2):
        """Return the bytes a table of that shape takes, without making one."""
        return int(n_rows) * (SLIDE_HEADER + _padded(dim) * (1 + int(moments))) * 4

    def _columns(self, first, count, dtype=np.float32):
        return np.ndarray((self.n_rows, count), dtype, buffer=self.buffer, offset=first * 4,
                          strides=(self.table.stride * 4, 4))

    @property
    def weights(self):
        """Float32 view [n_rows, dim], writable."""
        return self._columns(SLIDE_HEADER, self.dim)

    @property
    def bias(self):
        """Float32 view [n_rows], writable."""
        return self._columns(SLIDE_BIAS, 1)[:, 0]

    @property
    def last_step(self):
        """Int32 view [n_rows]: the optimiser step that last updated each row, 0 for never."""
        return self._columns(SLIDE_LAST_STEP, 1, np.int32)[:, 0]

    def state(self):
        """Return writable views of everything a checkpoint keeps, by name: weights, bias and the moments of both."""
        views = {"weights": self.weights, "bias": self.bias, "last_step": self.last_step}
        names = ("m", "v")[: self.moments]
        for i, name in enumerate(names):
            views[name] = self._columns(SLIDE_HEADER + (1 + i) * self.padded_dim, self.dim)
            views[f"bias_{name}"] = self._columns((SLIDE_BIAS_M, SLIDE_BIAS_V)[i], 1)[:, 0]
        return views

    def fill_uniform(self, float limit, uint64_t seed, int num_threads):
        """Set every weight to a uniform draw from [-limit, limit), a function of (seed, row, column) alone."""
        cdef int64_t row, column, n_rows = self.n_rows, dim = self.dim
        cdef slide_table table = self.table
        cdef int threads = threads_for(num_threads, n_rows * dim, 1 << 16)
        cdef float *w
        for row in prange(n_rows, nogil=True, num_threads=threads, schedule="static"):
            w = table.base + row * table.stride + SLIDE_HEADER
            for column in range(dim):
                w[column] = limit * (<float>(slide_key(seed, row, column) >> 40) * (2.0 / (1 << 24)) - 1.0)


cdef int64_t _padded(int64_t dim):
    return (dim + SLIDE_LANES - 1) // SLIDE_LANES * SLIDE_LANES
