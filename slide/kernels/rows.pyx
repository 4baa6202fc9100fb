"""RowTable: the parameters of one layer, a row for each feature or neuron.

A row is ``[header | w | m | v]``: bias and last step in the header, then the weights and the optimizer's moments side
by side, so that a visit to a row is one stream from one page. Each part is padded to 64 bytes and the padding stays
zero. Weights and moments are float32 or bfloat16 (``simd/bf16.h``), the header is float32, and so is all arithmetic.
The layout is spelled out in ``simd/rows.h``; nothing outside this class and those kernels depends on it.
"""

cimport cython
from cython.parallel cimport prange
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uintptr_t

import numpy as np

from slide.kernels.memory cimport HugeBuffer
from slide.kernels.parallel cimport slide_isa_level, threads_for

from slide.kernels.bfloat16 import BFloat16View

cdef extern from "rng.h" nogil:
    uint64_t slide_key(uint64_t seed, uint64_t a, uint64_t b)

cdef extern from "bf16.h" nogil:
    uint16_t slide_narrow_nearest(float x)

cdef extern from "row_kernels.h" nogil:
    slide_row_kernels slide_rows_for(int level)

KERNELS = slide_rows_for(slide_isa_level())

PRECISIONS = ("fp32", "bf16-moments", "bf16")
"""Types that a table's weights and moments may be stored in, the most exact first."""


@cython.final
cdef class RowTable:
    """Parameters of `n_rows` rows, each with `dim` weights and a bias, and their optimizer state; all zero.

    Parameters
    ----------
    n_rows, dim : int
        1 or more rows and dimensions.
    moments : int
        How many moment vectors the optimizer keeps beside the weights: 0 (SGD) to 2 (Adam).
    name : str
        The name in memory reports.
    hugepages : bool or str
        As for `HugeBuffer`. The rows are spread over all NUMA nodes: any thread may visit any row.
    biased : bool
        Whether rows have biases. If not, those in the table stay zero.
    accumulates : bool
        Whether the optimizer (Adagrad) accumulates the squares of each row's gradients. The header has room for them in
        any case; this makes them a part of ``state``.
    precision : str
        ``"fp32"``, ``"bf16-moments"`` (weights float32, moments bfloat16) or ``"bf16"`` (both bfloat16).
    records : array [n_rows] of ``record_dtype(dim, precision)``, optional
        Existing rows without moments, such as those of a mapped file, to read in place of memory of the table's own.
        Contiguous and aligned to 64 bytes; nothing is ever written to them.

    Attributes
    ----------
    buffer : HugeBuffer or array
        The memory of all views below.
    read_only : bool
        Whether the rows are somebody else's `records`. Kernels that would write to them refuse, and views are not
        writable.
    padded_dim : int
        `dim` rounded up to a multiple of 16: what the kernels expect of vectors they combine with rows.

    Raises
    ------
    ValueError
        A size is out of range, or `records` are not as they should be.
    MemoryError
        The table does not fit.
    """

    def __cinit__(self, n_rows, dim, *, moments=2, name="", hugepages=True, biased=True, accumulates=False,
                  precision="fp32", records=None):
        if not 1 <= n_rows < 2**31:
            raise ValueError(f"n_rows must be between 1 and 2**31 - 1, got {n_rows}")
        if not 1 <= dim <= 2**20:
            raise ValueError(f"dim must be between 1 and 2**20, got {dim}")
        if not 0 <= moments <= 2:
            raise ValueError(f"moments must be 0, 1 or 2, got {moments}")
        size = self.bytes_needed(n_rows, dim, moments, precision)
        self.read_only = records is not None
        cdef HugeBuffer memory
        cdef uintptr_t address
        if self.read_only:
            address = self._check_records(records, n_rows, dim, moments or accumulates, precision)
            self.buffer = records.view(np.uint8)
            self.buffer.flags.writeable = False
        else:
            memory = self.buffer = HugeBuffer(size, name=name, hugepages=hugepages, interleave=True)
            address = <uintptr_t>memory.data
        self.n_rows = n_rows
        self.dim = dim
        self.padded_dim = _padded(dim)
        self.moments = moments
        self.accumulates = accumulates
        self.precision = precision
        self.table.base = <float *>address
        self.table.n_rows = n_rows
        self.table.dim = dim
        self.table.dp = self.padded_dim
        self.table.format = {"fp32": SLIDE_FP32, "bf16-moments": SLIDE_BF16_MOMENTS, "bf16": SLIDE_BF16}[precision]
        self.table.biased = bool(biased)
        weights, moment = _part_floats(dim, precision)
        self.table.m = SLIDE_HEADER + weights
        self.table.v = self.table.m + moment
        self.table.stride = self.table.m + moment * moments

    @staticmethod
    def bytes_needed(n_rows, dim, moments=2, precision="fp32"):
        """Return the bytes a table of that shape takes, without making one."""
        weights, moment = _part_floats(dim, precision)
        return int(n_rows) * (SLIDE_HEADER + weights + moment * int(moments)) * 4

    @staticmethod
    def record_dtype(dim, precision="fp32"):
        """Return the dtype of a row without moments: fields ``bias`` and ``weights``, bfloat16 as uint16."""
        weights = (np.uint16 if precision == "bf16" else np.float32, (dim,))
        size = (SLIDE_HEADER + _part_floats(dim, precision)[0]) * 4
        return np.dtype({"names": ["bias", "weights"], "formats": [np.float32, weights],
                         "offsets": [SLIDE_BIAS * 4, SLIDE_HEADER * 4], "itemsize": size})

    def _check_records(self, records, n_rows, dim, optimizes, precision):
        """Return the address of somebody else's rows, if they can be read where they are."""
        dtype = self.record_dtype(dim, precision)
        if optimizes:
            raise ValueError("records have no room for what an optimizer keeps")
        if records.dtype != dtype or records.shape != (n_rows,):
            raise ValueError(f"records must be [{n_rows}] of {dtype}, got {list(records.shape)} of {records.dtype}")
        address = records.ctypes.data
        if not records.flags.c_contiguous or address % 64:
            raise ValueError("records must be contiguous and begin at a multiple of 64 bytes")
        return address

    def _columns(self, first, count, dtype=np.float32):
        """Return a view of `count` columns of a type, from `first` floats after the beginning of each row on."""
        return np.ndarray((self.n_rows, count), dtype, buffer=self.buffer, offset=first * 4,
                          strides=(self.table.stride * 4, np.dtype(dtype).itemsize))

    def _part(self, first, bint narrow):
        return BFloat16View(self._columns(first, self.dim, np.uint16)) if narrow else self._columns(first, self.dim)

    @property
    def weights(self):
        """Writable view [n_rows, dim]: a float32 array or, where weights are bfloat16, a `BFloat16View`."""
        return self._part(SLIDE_HEADER, self.table.format == SLIDE_BF16)

    @property
    def bias(self):
        """Writable float32 view [n_rows]."""
        return self._columns(SLIDE_BIAS, 1)[:, 0]

    @property
    def last_step(self):
        """Int32 view [n_rows]: the optimizer step that last updated each row, 0 for never."""
        return self._columns(SLIDE_LAST_STEP, 1, np.int32)[:, 0]

    def state(self):
        """Return writable views of everything a checkpoint keeps, by name: weights, bias and the moments of both.

        Views of bfloat16 numbers are `BFloat16View`, all others arrays.
        """
        views = {"weights": self.weights, "bias": self.bias, "last_step": self.last_step}
        names = ("m", "v")[: self.moments]
        for i, name in enumerate(names):
            views[name] = self._part((self.table.m, self.table.v)[i], self.table.format != SLIDE_FP32)
            views[f"bias_{name}"] = self._columns((SLIDE_BIAS_M, SLIDE_BIAS_V)[i], 1)[:, 0]
        if self.accumulates:
            views["accumulator"] = self._columns(SLIDE_ACCUMULATOR, 1)[:, 0]
            views["bias_accumulator"] = self._columns(SLIDE_BIAS_V, 1)[:, 0]
        return views

    def fill_uniform(self, float limit, uint64_t seed, int threads, int64_t first=0, int64_t distance=1):
        """Set every weight to a uniform draw from [-limit, limit), a function of (seed, row, column) alone.

        Bfloat16 weights are the same draws, rounded to nearest. Where the table has some rows of a larger one, its row
        i gets what row ``first + i * distance`` of the larger one would.

        Raises
        ------
        ValueError
            The rows are read-only.
        """
        check_writable(self)
        cdef int64_t row, column, n_rows = self.n_rows, dim = self.dim
        cdef slide_table table = self.table
        threads = threads_for(threads, n_rows * dim, 1 << 16)
        cdef float *w
        cdef float x
        for row in prange(n_rows, nogil=True, num_threads=threads, schedule="static"):
            w = table.base + row * table.stride + SLIDE_HEADER
            for column in range(dim):
                x = limit * (<float>(slide_key(seed, first + row * distance, column) >> 40) * (2.0 / (1 << 24)) - 1.0)
                if table.format == SLIDE_BF16:
                    (<uint16_t *>w)[column] = slide_narrow_nearest(x)
                else:
                    w[column] = x

    def first_not_finite(self, int threads, *, bint moments=True):
        """Return the first row that has a number which is NaN or infinite, -1 if there is none.

        Parameters
        ----------
        moments : bool
            Whether what the optimizer keeps counts, beside weights and biases.
        """
        cdef slide_table table = self.table
        cdef int64_t n_rows = self.n_rows, n_blocks = (n_rows + _ROWS_A_BLOCK - 1) // _ROWS_A_BLOCK, block
        threads = threads_for(threads, n_rows * table.stride, 1 << 16)
        cdef int64_t[::1] found = np.full(n_blocks, -1, np.int64)
        for block in prange(n_blocks, nogil=True, num_threads=threads, schedule="static"):
            found[block] = _first_bad(&table, block * _ROWS_A_BLOCK, min(n_rows, (block + 1) * _ROWS_A_BLOCK), moments)
        for block in range(n_blocks):
            if found[block] >= 0:
                return found[block]
        return -1


cdef enum:
    _ROWS_A_BLOCK = 4096


cdef int64_t _first_bad(const slide_table *table, int64_t first, int64_t last, bint moments) noexcept nogil:
    cdef int64_t row
    cdef const float *at
    cdef uint32_t bad
    for row in range(first, last):
        at = table.base + row * table.stride
        bad = _not_finite(at + SLIDE_BIAS, 1, False)
        bad |= _not_finite(at + SLIDE_HEADER, table.m - SLIDE_HEADER, table.format == SLIDE_BF16)
        if moments:
            bad |= _not_finite(at + SLIDE_BIAS_M, 1, False) | _not_finite(at + SLIDE_BIAS_V, 1, False)
            bad |= _not_finite(at + SLIDE_ACCUMULATOR, 1, False)
            bad |= _not_finite(at + table.m, table.stride - table.m, table.format != SLIDE_FP32)
        if bad:
            return row
    return -1


cdef inline uint32_t _not_finite(const float *part, int64_t n, bint narrow) noexcept nogil:
    """Return nonzero if any of n words has an exponent of ones; each half of a word counts where it is two bfloat16."""
    cdef const uint32_t *word = <const uint32_t *>part
    cdef uint32_t bad = 0
    cdef int64_t i
    if narrow:
        for i in range(n):
            bad |= ((word[i] & 0x7F800000) == 0x7F800000) | ((word[i] & 0x7F80) == 0x7F80)
    else:
        for i in range(n):
            bad |= (word[i] & 0x7F800000) == 0x7F800000
    return bad


def check_writable(RowTable table):
    """Raise ValueError if a table's rows are somebody else's, and read-only."""
    if table.read_only:
        raise ValueError("the table's rows are read where they lie, such as in a mapped file; they cannot be changed")


cdef int64_t _padded(int64_t dim):
    return (dim + SLIDE_LANES - 1) // SLIDE_LANES * SLIDE_LANES


def _part_floats(dim, precision):
    """Return the room, in floats, for a row's weights and for one of its moments."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    wide, narrow = int(_padded(dim)), int(_padded((dim + 1) // 2))
    return narrow if precision == "bf16" else wide, wide if precision == "fp32" else narrow
