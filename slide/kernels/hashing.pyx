"""Locality-sensitive hash families: SimHash (two forms) and DWTA.

A hasher turns vectors into `l` bucket indices each, every index `k` hash codes side by side. All randomness is in the
arrays it is made with, so that the caller owns the seed. Hashers are immutable and may be used from several threads.
"""

cimport cython
from cython.parallel cimport prange, threadid
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

import numpy as np

from slide.kernels.memory cimport HugeBuffer
from slide.kernels.parallel cimport slide_isa_level, threads_for

cdef slide_hash_kernels KERNELS = slide_hash_for(slide_isa_level())

cdef enum:
    _HADAMARD = 0
    _SPARSE_SIGNS = 1
    _DWTA = 2
    _LANES = 16


cdef class _BlockHasher:
    """What the families share: the road from rows of floats to bucket indices, sixteen rows at a time."""

    cdef int kind
    cdef slide_code_shape shape
    cdef readonly int64_t dim
    cdef int64_t coordinates       # of a block: dim, or dim rounded up to a power of two
    cdef int64_t scratch_floats    # per thread, behind the block
    cdef object _kept              # the arrays the pointers below look into
    cdef const float *signs
    cdef const int32_t *index
    cdef const int64_t *ptr
    cdef int64_t bin_size
    cdef uint64_t seed

    cdef _set_shape(self, int64_t dim, int k, int l, int width, int bucket_bits):
        if dim < 1:
            raise ValueError(f"dim must be positive, got {dim}")
        if k < 1 or l < 1 or not 1 <= width <= 16:
            raise ValueError(f"k and l must be positive and the code width 1 to 16, got {k}, {l} and {width}")
        if k * width > 32:
            raise ValueError(f"k codes of {width} bits must fit 32 bits, got k = {k}")
        if not 1 <= bucket_bits <= 30:
            raise ValueError(f"bucket_bits must be between 1 and 30, got {bucket_bits}")
        self.dim = dim
        self.shape.k = k
        self.shape.l = l
        self.shape.width = width
        self.shape.bucket_bits = min(bucket_bits, k * width)
        self.coordinates = dim

    @property
    def k(self):
        """Hash codes in a bucket index."""
        return self.shape.k

    @property
    def l(self):  # noqa: E743
        """Bucket indices (tables) of a vector."""
        return self.shape.l

    @property
    def bucket_bits(self):
        """Bits of a bucket index."""
        return self.shape.bucket_bits

    def hash(self, const float[:, :] x, uint32_t[:, ::1] out, int num_threads, const int32_t[::1] rows=None):
        """Hash rows of `x` into bucket indices.

        Parameters
        ----------
        x : float32 array [n, >= dim]
            Unit stride along a row; the first `dim` columns are hashed.
        out : uint32 array [l, >= n]
            ``out[t, i]`` becomes row i's bucket in table t.
        num_threads : int
        rows : int32 array, optional
            Hash these rows alone; the others' columns of `out` stay as they are.

        Raises
        ------
        ValueError
            Shapes do not fit, or a row id is out of range.
        """
        cdef int64_t n = x.shape[0] if rows is None else rows.shape[0]
        if x.shape[1] < self.dim:
            raise ValueError(f"x must have at least {self.dim} columns, got {x.shape[1]}")
        if x.strides[1] != sizeof(float) or x.strides[0] % sizeof(float):
            raise ValueError("x must have unit stride along its rows")
        if out.shape[0] != self.shape.l or out.shape[1] < x.shape[0]:
            raise ValueError(
                f"out must be [{self.shape.l}, {x.shape[0]} or more], got [{out.shape[0]}, {out.shape[1]}]"
            )
        if n == 0:
            return
        if rows is not None and (np.min(rows) < 0 or np.max(rows) >= x.shape[0]):
            raise ValueError(f"rows must lie in 0..{x.shape[0] - 1}, got {np.min(rows)}..{np.max(rows)}")
        cdef int64_t blocks = (n + _LANES - 1) // _LANES
        cdef int threads = threads_for(num_threads, blocks, 4)
        cdef int64_t block_floats = self.coordinates * _LANES
        cdef int64_t slot = (block_floats + self.scratch_floats + self.shape.l * _LANES + 31) // 16 * 16
        cdef HugeBuffer scratch = HugeBuffer(threads * slot * 4, name="hash scratch")
        cdef float *work = <float *>scratch.data
        cdef const float *base = &x[0, 0]
        cdef const int32_t *ids = NULL
        if rows is not None:
            ids = &rows[0]
        cdef int64_t stride = x.strides[0] // sizeof(float), ld = out.shape[1], b
        cdef uint32_t *codes = &out[0, 0]
        for b in prange(blocks, nogil=True, num_threads=threads, schedule="static"):
            self._hash_block(base, stride, ids, b * _LANES, n, work + threadid() * slot, codes, ld)

    cdef void _hash_block(self, const float *base, int64_t stride, const int32_t *ids, int64_t first, int64_t n,
                          float *work, uint32_t *codes, int64_t ld) noexcept nogil:
        cdef const float *lanes[_LANES]
        cdef int64_t place[_LANES]
        cdef int64_t j, t
        cdef int64_t count = min(n - first, _LANES)
        for j in range(_LANES):
            # Lanes past the end hash the last row again; their codes are not stored.
            place[j] = first + min(j, count - 1)
            if ids != NULL:
                place[j] = ids[place[j]]
            lanes[j] = base + place[j] * stride
        cdef float *block = work
        cdef float *scratch = work + self.coordinates * _LANES
        cdef uint32_t *out = <uint32_t *>(scratch + self.scratch_floats)
        KERNELS.load(lanes, self.dim, self.coordinates, block)
        if self.kind == _HADAMARD:
            KERNELS.hadamard(block, self.coordinates, self.signs, scratch, &self.shape, out)
        elif self.kind == _SPARSE_SIGNS:
            KERNELS.sparse_signs(block, self.index, self.ptr, &self.shape, out)
        else:
            KERNELS.dwta(block, self.index, self.bin_size, self.seed, <uint32_t *>scratch, &self.shape, out)
        if ids == NULL and count == _LANES:
            for t in range(self.shape.l):
                memcpy(codes + t * ld + first, out + t * _LANES, _LANES * sizeof(uint32_t))
        else:
            for t in range(self.shape.l):
                for j in range(count):
                    codes[t * ld + place[j]] = out[t * _LANES + j]


@cython.final
cdef class HadamardSimHash(_BlockHasher):
    """SimHash, signs of random rotations: O(d log d) for d functions.

    Each rotation is three rounds of random signs and a Walsh-Hadamard transform (Andoni et al., NeurIPS 2015). Two
    vectors at angle theta agree in a code with probability close to ``1 - theta / pi``.

    Parameters
    ----------
    dim, k, l : int
        Dimension, codes per table, tables.
    signs : float32 array [rotations, 3, p]
        Of +1 and -1; p is `dim` rounded up to a power of two, and ``rotations * p >= k * l``.
    bucket_bits : int
        Most bits a bucket index may have.
    """

    def __cinit__(self, int64_t dim, int k, int l, const float[:, :, ::1] signs, int bucket_bits):
        self._set_shape(dim, k, l, 1, bucket_bits)
        self.kind = _HADAMARD
        while self.coordinates & (self.coordinates - 1):
            self.coordinates += self.coordinates & -self.coordinates
        self.scratch_floats = self.coordinates * _LANES
        if signs.shape[1] != 3 or signs.shape[2] != self.coordinates or signs.shape[0] * signs.shape[2] < k * l:
            raise ValueError(
                f"signs must be [{(k * l - 1) // self.coordinates + 1} or more, 3, {self.coordinates}], "
                f"got [{signs.shape[0]}, {signs.shape[1]}, {signs.shape[2]}]"
            )
        self._kept = signs
        self.signs = &signs[0, 0, 0]


@cython.final
cdef class SparseSimHash(_BlockHasher):
    """SimHash, signs of sparse random projections with entries +1, 0, -1 (Achlioptas, JCSS 2003; the SLIDE paper's).

    Parameters
    ----------
    dim, k, l : int
        Dimension, codes per table, tables.
    index : int32 array
        Coordinates of all functions, those added before those subtracted.
    ptr : int64 array [2 * k * l + 1]
        Function f adds ``index[ptr[2f]:ptr[2f+1]]`` and subtracts ``index[ptr[2f+1]:ptr[2f+2]]``.
    bucket_bits : int
        Most bits a bucket index may have.
    """

    def __cinit__(self, int64_t dim, int k, int l, const int32_t[::1] index, const int64_t[::1] ptr, int bucket_bits):
        self._set_shape(dim, k, l, 1, bucket_bits)
        self.kind = _SPARSE_SIGNS
        if ptr.shape[0] != 2 * k * l + 1 or ptr[0] != 0 or ptr[2 * k * l] != index.shape[0] or np.any(np.diff(ptr) < 0):
            raise ValueError(f"ptr must rise from 0 to {index.shape[0]} in {2 * k * l + 1} steps")
        _check_coordinates(index, dim)
        self._kept = (index, ptr)
        self.index = &index[0] if index.shape[0] else NULL
        self.ptr = &ptr[0]


@cython.final
cdef class DWTA(_BlockHasher):
    """Densified winner-take-all: which of `bin_size` coordinates is largest, zeros counting as missing.

    A bin with no non-zero coordinate takes the code of another bin, found by a universal hash (Chen and Shrivastava,
    UAI 2018). For vectors without zeros this is WTA (Yagnik et al., ICCV 2011), and two vectors agree in a code with
    probability ``sum_i C(n_i, m - 1) / C(d, m)``, where n_i counts the coordinates below i's in both.

    Parameters
    ----------
    dim, k, l : int
        Dimension, codes per table, tables.
    index : int32 array [k * l, bin_size]
        The coordinates of each bin, without repetition within one.
    width : int
        Bits kept of a code: at most 2**width places are told apart, the rest wrap around.
    seed : int
        Keys the densification.
    bucket_bits : int
        Most bits a bucket index may have.
    """

    def __cinit__(self, int64_t dim, int k, int l, const int32_t[:, ::1] index, int width, uint64_t seed,
                  int bucket_bits):
        self._set_shape(dim, k, l, width, bucket_bits)
        self.kind = _DWTA
        if index.shape[0] != k * l or index.shape[1] < 1:
            raise ValueError(f"index must be [{k * l}, bin size], got [{index.shape[0]}, {index.shape[1]}]")
        _check_coordinates(index, dim)
        self.bin_size = index.shape[1]
        self.scratch_floats = k * l * _LANES
        self.seed = seed
        self._kept = index
        self.index = &index[0, 0]


def _check_coordinates(index, dim):
    index = np.asarray(index)
    if index.size and (index.min() < 0 or index.max() >= dim):
        raise ValueError(f"coordinates must lie in 0..{dim - 1}, got {index.min()}..{index.max()}")
