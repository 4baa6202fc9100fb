"""Locality-sensitive hash families: SimHash (two forms), WTA, DWTA and MinHash.

A hasher turns each vector into `l` bucket indices, and makes each index of `k` hash codes. All randomness is in the
arrays and seeds that it is made with. Hashers are immutable and may be used from several threads.
"""

cimport cython
from cython.parallel cimport prange, threadid
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

import numpy as np

from slide.kernels.memory cimport Scratch
from slide.kernels.parallel cimport slide_isa_level, threads_for

cdef slide_hash_kernels KERNELS = slide_hash_for(slide_isa_level())

# Held while a hasher's one lazy attribute is read or set, never while it is made.
cdef cython.pymutex _TERMS_LOCK

cdef enum:
    _HADAMARD = 0
    _SPARSE_SIGNS = 1
    _WTA = 2
    _DWTA = 3
    _MINHASH = 4
    _LANES = 16


cdef struct _SparseRows:
    int64_t n
    const int64_t *indptr
    const int32_t *indices
    const float *values
    int64_t capacity               # coordinates of a block
    const int64_t *column_ptr      # sparse signs only: see _terms_by_coordinate
    const int32_t *terms


cdef class _Coded:
    """The numbers of codes, tables and buckets."""

    cdef slide_code_shape shape

    cdef _set_shape(self, int k, int l, int64_t radix, int bucket_bits):
        if k < 1 or l < 1 or radix < 1:
            raise ValueError(f"k, l and the values of a code must be positive, got {k}, {l} and {radix}")
        cdef uint64_t total = 1
        cdef int bits = 0, _i
        for _i in range(k):
            if total * <uint64_t>radix > <uint64_t>1 << 32:
                raise ValueError(f"k codes of {radix} values must fit 32 bits, got k = {k}")
            total *= radix
        while total >> (bits + 1):
            bits += 1
        if radix > <int64_t>1 << 31:
            raise ValueError(f"a code must have at most 2**31 values, got {radix}")
        if not 1 <= bucket_bits <= 30:
            raise ValueError(f"bucket_bits must be between 1 and 30, got {bucket_bits}")
        self.shape.k = k
        self.shape.l = l
        self.shape.radix = radix
        self.shape.total = total
        self.shape.total_bits = bits if total == <uint64_t>1 << bits else -1
        self.shape.bucket_bits = min(bucket_bits, bits)

    @property
    def k(self):
        """Hash codes in a bucket index."""
        return self.shape.k

    @property
    def l(self):  # noqa: E743
        """Bucket indices (tables) of a vector."""
        return self.shape.l

    @property
    def radix(self):
        """Values of a hash code."""
        return self.shape.radix

    @property
    def bucket_bits(self):
        """Bits of a bucket index: as many as were asked for, or fewer where codes have fewer combinations."""
        return self.shape.bucket_bits


cdef class CodeCombiner(_Coded):
    """Bucket indices from codes that were computed elsewhere, as the hashers here make them from theirs.

    A table's codes are the digits of one number, which is mixed such that combinations of codes fall into the buckets
    evenly and every bucket can be reached.

    Parameters
    ----------
    k, l : int
        Codes per table, tables.
    radix : int
        Values of a code: 0 to ``radix - 1``. ``radix**k`` is at most 2**32.
    bucket_bits : int
        Most bits a bucket index may have.

    Raises
    ------
    ValueError
        A size is out of range.
    """

    def __cinit__(self, int k, int l, int64_t radix, int bucket_bits):
        self._set_shape(k, l, radix, bucket_bits)

    def combine(self, const int32_t[:, ::1] codes, uint32_t[:, ::1] out):
        """Write the bucket indices of vectors.

        Parameters
        ----------
        codes : int32 array [n, k * l]
            Columns ``t * k`` to ``t * k + k - 1`` have the codes of table t.
        out : uint32 array [l, n]
            Written.

        Raises
        ------
        ValueError
            Shapes do not fit, or a code is out of range.
        """
        cdef int64_t n = codes.shape[0], n_codes = <int64_t>self.shape.k * self.shape.l, b, i, j, t
        if codes.shape[1] != n_codes:
            raise ValueError(f"codes must be [n, {n_codes}], got [{n}, {codes.shape[1]}]")
        if out.shape[0] != self.shape.l or out.shape[1] != n:
            raise ValueError(f"out must be [{self.shape.l}, {n}], got [{out.shape[0]}, {out.shape[1]}]")
        if n and (np.min(codes) < 0 or np.max(codes) >= self.shape.radix):
            raise ValueError(
                f"codes must lie in 0..{self.shape.radix - 1}, got {np.min(codes)}..{np.max(codes)}"
            )
        cdef Scratch scratch = Scratch((n_codes + self.shape.l) * _LANES * 4)
        cdef uint32_t *block = <uint32_t *>scratch.data
        cdef uint32_t *buckets = block + n_codes * _LANES
        with nogil:
            for b in range((n + _LANES - 1) // _LANES):
                for j in range(min(n - b * _LANES, _LANES)):
                    for i in range(n_codes):
                        block[i * _LANES + j] = codes[b * _LANES + j, i]
                KERNELS.combine(block, 0, &self.shape, buckets)
                for t in range(self.shape.l):
                    for j in range(min(n - b * _LANES, _LANES)):
                        out[t, b * _LANES + j] = buckets[t * _LANES + j]


cdef class _BlockHasher(_Coded):
    """The base of the families: turns rows of floats into bucket indices, sixteen rows at a time."""

    cdef int kind
    cdef readonly int64_t dim
    cdef int64_t coordinates       # a dense block's: dim, or dim rounded up to a power of two
    cdef int64_t scratch_floats    # per thread, behind the block
    cdef object _kept              # the arrays the pointers below look into
    cdef const float *signs
    cdef const int32_t *index
    cdef const int32_t *labels
    cdef const int64_t *ptr
    cdef int64_t index_size
    cdef readonly int64_t bin_size
    cdef readonly int32_t top
    cdef uint64_t seed
    cdef object _by_coordinate     # sparse signs, for sparse rows

    cdef _set_dim(self, int64_t dim):
        if dim < 1:
            raise ValueError(f"dim must be positive, got {dim}")
        self.dim = dim
        self.coordinates = dim

    cdef _set_winner_bins(self, int64_t dim, int k, int l, const int32_t[:, ::1] index, int width, int bucket_bits):
        cdef int64_t size = index.shape[1]
        self._set_dim(dim)
        _check_width(width)
        _check_bins(index, <int64_t>k * l, dim)
        if size % min(size, 1 << width):
            raise ValueError(f"2**width must divide the bin size, {size}, or be no smaller, got a width of {width}")
        self._set_shape(k, l, min(size, 1 << width), bucket_bits)
        # Equal coordinates, such as zeros, go to the lower one and so, over the bins, to all places alike.
        order = np.argsort(index, axis=1)
        self._set_bins(np.take_along_axis(np.asarray(index), order, axis=1), order % self.shape.radix)

    cdef _set_bins(self, index, labels):
        index = np.ascontiguousarray(index, np.int32)
        labels = np.ascontiguousarray(labels, np.int32)
        cdef const int32_t[:, ::1] places = index
        cdef const int32_t[:, ::1] codes = labels
        self._kept = (index, labels)
        self.index = &places[0, 0]
        self.labels = &codes[0, 0]
        self.index_size = places.shape[0] * places.shape[1]
        self.bin_size = places.shape[1]
        self.scratch_floats = places.shape[0] * _LANES

    def hash(self, const float[:, :] x, uint32_t[:, ::1] out, int threads, const int32_t[::1] rows=None):
        """Hash rows of `x` into bucket indices.

        Parameters
        ----------
        x : float32 array [n, >= dim]
            Unit stride along a row; the first `dim` columns are hashed.
        out : uint32 array [l, >= n]
            Written: ``out[t, i]`` becomes row i's bucket in table t.
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
        threads = threads_for(threads, blocks, 4)
        cdef int64_t block_floats = self.coordinates * _LANES
        cdef int64_t slot = (block_floats + self.scratch_floats + self.shape.l * _LANES + 31) // 16 * 16
        cdef Scratch scratch = Scratch(threads * slot * 4)
        cdef float *work = <float *>scratch.data
        cdef const float *base = &x[0, 0]
        cdef const int32_t *ids = NULL
        if rows is not None:
            ids = &rows[0]
        cdef int64_t stride = x.strides[0] // sizeof(float), ld = out.shape[1], b
        cdef uint32_t *codes = &out[0, 0]
        for b in prange(blocks, nogil=True, num_threads=threads, schedule="static"):
            self._hash_rows(base, stride, ids, b * _LANES, n, work + threadid() * slot, codes, ld)

    def hash_sparse(self, const int64_t[::1] indptr, const int32_t[::1] indices, const float[::1] values,
                    uint32_t[:, ::1] out, int threads):
        """Hash sparse rows in CSR form: the bucket indices that ``hash`` gives for the same rows as a dense array.

        The time depends on a row's non-zeros and on the hash functions, not on the dimension, except for
        HadamardSimHash, whose rotations are dense.

        Parameters
        ----------
        indptr : int64 array [n + 1]
        indices : int32 array [entries]
            Columns, in any order; values of the same column of a row are added up.
        values : float32 array [entries]
        out : uint32 array [l, >= n]
            Written.

        Raises
        ------
        ValueError
            Shapes do not fit, `indptr` falls or leads out of the arrays, or a column is out of range.
        """
        cdef int64_t n = indptr.shape[0] - 1
        if n < 0:
            raise ValueError("indptr must have at least one entry")
        if indices.shape[0] != values.shape[0]:
            raise ValueError(
                f"indices and values must be of the same length, got {indices.shape[0]} and {values.shape[0]}"
            )
        if indptr[0] < 0 or indptr[n] > indices.shape[0] or np.any(np.diff(indptr) < 0):
            raise ValueError(f"indptr must rise within 0..{indices.shape[0]}")
        if out.shape[0] != self.shape.l or out.shape[1] < n:
            raise ValueError(f"out must be [{self.shape.l}, {n} or more], got [{out.shape[0]}, {out.shape[1]}]")
        if n == 0:
            return
        used = np.asarray(indices)[indptr[0] : indptr[n]]
        _check_coordinates(used, self.dim)
        cdef int64_t blocks = (n + _LANES - 1) // _LANES
        threads = threads_for(threads, blocks, 4)
        starts = np.asarray(indptr)[:n:_LANES]
        cdef int64_t most = np.diff(starts, append=indptr[n]).max()
        cdef _SparseRows rows
        cdef const int64_t[::1] column_ptr
        cdef const int32_t[::1] terms
        rows.n = n
        rows.indptr = &indptr[0]
        rows.indices = &indices[0] if indices.shape[0] else NULL
        rows.values = &values[0] if indices.shape[0] else NULL
        rows.capacity = self.coordinates if self.kind == _HADAMARD else min(self.dim, most) + 1
        if self.kind == _SPARSE_SIGNS:
            column_ptr, terms = self._terms()
            rows.column_ptr = &column_ptr[0]
            rows.terms = &terms[0] if terms.shape[0] else NULL
        # Block, scratch and bucket indices, as for dense rows; then what slide_compact needs, and the relabelled bins.
        cdef int64_t slot = rows.capacity * _LANES + self.scratch_floats + self.shape.l * _LANES
        if self.kind != _HADAMARD:
            slot += self.dim + rows.capacity + 2 * (self.dim // 64 + 2)
        if self.kind != _SPARSE_SIGNS:
            slot += self.index_size
        slot = (slot + 31) // 16 * 16
        cdef Scratch scratch = Scratch(threads * slot * 4, zeroed=True)
        cdef float *work = <float *>scratch.data
        cdef int64_t ld = out.shape[1], b
        cdef uint32_t *codes = &out[0, 0]
        for b in prange(blocks, nogil=True, num_threads=threads, schedule="dynamic", chunksize=4):
            self._hash_sparse_rows(&rows, b * _LANES, work + threadid() * slot, codes, ld)

    cdef _terms(self):
        """Return what ``_terms_by_coordinate`` makes, once, on the thread that comes first."""
        with _TERMS_LOCK:
            terms = self._by_coordinate
        if terms is None:
            terms = _terms_by_coordinate(*self._kept, self.dim)
            with _TERMS_LOCK:
                if self._by_coordinate is None:
                    self._by_coordinate = terms
        return terms

    cdef void _hash_rows(self, const float *base, int64_t stride, const int32_t *ids, int64_t first, int64_t n,
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
        cdef float *scratch = work + self.coordinates * _LANES
        cdef uint32_t *out = <uint32_t *>(scratch + self.scratch_floats)
        KERNELS.load(lanes, self.dim, self.coordinates, work)
        if self.kind == _SPARSE_SIGNS:
            KERNELS.sparse_signs(work, self.index, self.ptr, &self.shape, out)
        else:
            self._hash_block(work, self.coordinates, self.index, scratch, out)
        if ids == NULL and count == _LANES:
            for t in range(self.shape.l):
                memcpy(codes + t * ld + first, out + t * _LANES, _LANES * sizeof(uint32_t))
        else:
            for t in range(self.shape.l):
                for j in range(count):
                    codes[t * ld + place[j]] = out[t * _LANES + j]

    cdef void _hash_sparse_rows(self, const _SparseRows *rows, int64_t first, float *work, uint32_t *codes,
                                int64_t ld) noexcept nogil:
        cdef int64_t count = min(rows.n - first, _LANES), n, i, t
        cdef float *scratch = work + rows.capacity * _LANES
        cdef uint32_t *out = <uint32_t *>(scratch + self.scratch_floats)
        cdef uint64_t *marks = <uint64_t *>(out + self.shape.l * _LANES)
        cdef int32_t *place = <int32_t *>(marks + self.dim // 64 + 1)
        cdef int32_t *coordinates = place + self.dim
        cdef int32_t *index = coordinates + rows.capacity
        if self.kind == _HADAMARD:
            slide_scatter(rows.indptr + first, count, rows.indices, rows.values, self.coordinates, work)
            self._hash_block(work, self.coordinates, NULL, scratch, out)
        else:
            n = slide_compact(rows.indptr + first, count, rows.indices, rows.values, self.dim, marks, place,
                              coordinates, work)
            if self.kind == _SPARSE_SIGNS:
                KERNELS.column_signs(work, coordinates, n, rows.column_ptr, rows.terms, scratch, &self.shape, out)
            else:
                for i in range(self.index_size):
                    index[i] = place[self.index[i]]
                self._hash_block(work, n, index, scratch, out)
            slide_forget(coordinates, n, marks, place)
        for t in range(self.shape.l):
            memcpy(codes + t * ld + first, out + t * _LANES, count * sizeof(uint32_t))

    cdef void _hash_block(self, float *block, int64_t n, const int32_t *index, float *scratch,
                          uint32_t *out) noexcept nogil:
        cdef uint32_t *codes = <uint32_t *>scratch
        cdef int64_t bins = <int64_t>self.shape.k * self.shape.l
        if self.kind == _HADAMARD:
            KERNELS.hadamard(block, n, self.signs, scratch, &self.shape, out)
            return
        if self.kind == _MINHASH:
            KERNELS.keep_top(block, n, self.top)
            KERNELS.first_members(block, index, self.labels, bins, self.bin_size, codes)
        else:
            if self.kind == _DWTA:
                KERNELS.hide_zeros(block, n)
            KERNELS.winners(block, index, self.labels, bins, self.bin_size, codes)
        KERNELS.combine(codes, self.seed, &self.shape, out)


cdef class HadamardSimHash(_BlockHasher):
    """SimHash, signs of random rotations: O(d log d) for d functions.

    Each rotation is three rounds of random signs and a Walsh-Hadamard transform (Andoni et al., NeurIPS 2015). Two
    vectors at angle theta agree in a code with probability close to ``1 - theta / pi``.

    Parameters
    ----------
    dim, k, l : int
        Dimension, codes per table, tables.
    signs : float32 array [rotations, 3, p]
        Each is +1 or -1; p is `dim` rounded up to a power of two, and ``rotations * p >= k * l``.
    bucket_bits : int
        Most bits a bucket index may have.
    """

    def __cinit__(self, int64_t dim, int k, int l, const float[:, :, ::1] signs, int bucket_bits):
        self._set_dim(dim)
        self._set_shape(k, l, 2, bucket_bits)
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


cdef class SparseSimHash(_BlockHasher):
    """SimHash, signs of sparse random projections with entries +1, 0, -1 (Achlioptas, JCSS 2003; the SLIDE paper's).

    Parameters
    ----------
    dim, k, l : int
        Dimension, codes per table, tables.
    index : int32 array [ptr[-1]]
        Coordinates of all functions; each function has those that it adds before those that it subtracts.
    ptr : int64 array [2 * k * l + 1]
        Function f adds ``index[ptr[2f]:ptr[2f+1]]`` and subtracts ``index[ptr[2f+1]:ptr[2f+2]]``.
    bucket_bits : int
        Most bits a bucket index may have.
    """

    def __cinit__(self, int64_t dim, int k, int l, const int32_t[::1] index, const int64_t[::1] ptr, int bucket_bits):
        self._set_dim(dim)
        self._set_shape(k, l, 2, bucket_bits)
        self.kind = _SPARSE_SIGNS
        if ptr.shape[0] != 2 * k * l + 1 or ptr[0] != 0 or ptr[2 * k * l] != index.shape[0] or np.any(np.diff(ptr) < 0):
            raise ValueError(f"ptr must rise from 0 to {index.shape[0]} in {2 * k * l + 1} steps")
        _check_coordinates(index, dim)
        self.scratch_floats = <int64_t>k * l * _LANES
        self._kept = (np.asarray(index), np.asarray(ptr))
        self.index = &index[0] if index.shape[0] else NULL
        self.ptr = &ptr[0]


cdef class WTA(_BlockHasher):
    """Winner-take-all: which of `bin_size` coordinates is largest (Yagnik et al., ICCV 2011).

    The lower of equal coordinates wins. Two vectors have the same winner with probability
    ``sum_i C(n_i, m - 1) / C(d, m)``, where m is the bin size and n_i counts the coordinates below i's in both.

    Parameters
    ----------
    dim, k, l : int
        Dimension, codes per table, tables.
    index : int32 array [k * l, bin_size]
        The coordinates of each bin, without repetition within one. A code is the winner's place in its row.
    width : int
        Bits kept of a code: places that are equal modulo ``2**width`` are not told apart, so that this must divide the
        bin size or be no smaller.
    bucket_bits : int
        Most bits a bucket index may have.

    Raises
    ------
    ValueError
        Shapes do not fit, or a size or coordinate is out of range.
    """

    def __cinit__(self, int64_t dim, int k, int l, const int32_t[:, ::1] index, int width, int bucket_bits):
        self._set_winner_bins(dim, k, l, index, width, bucket_bits)
        self.kind = _WTA


cdef class DWTA(_BlockHasher):
    """Densified winner-take-all: WTA for sparse vectors, zeros counting as missing.

    A bin with no non-zero coordinate takes the code of another bin, found by a universal hash (Chen and Shrivastava,
    UAI 2018). Two non-negative vectors agree in a code with probability ``(c + e / m) / (1 - b)``: for a random bin, c
    is the probability that the largest non-zero coordinate is the same in both, e that the bin is empty in one of them
    and b that it is empty in both. The zero vector has code 0 everywhere.

    Parameters
    ----------
    dim, k, l, index, width, bucket_bits
        As for `WTA`.
    seed : int
        Keys the densification.

    Raises
    ------
    ValueError
        Shapes do not fit, or a size or coordinate is out of range.
    """

    def __cinit__(self, int64_t dim, int k, int l, const int32_t[:, ::1] index, int width, uint64_t seed,
                  int bucket_bits):
        self._set_winner_bins(dim, k, l, index, width, bucket_bits)
        self.kind = _DWTA
        self.seed = seed


cdef class MinHash(_BlockHasher):
    """Densified one-permutation minhash of the set of a vector's `top` largest non-zero coordinates.

    A bin's code is a random label of the first of its coordinates that is in the set (Li, Owen and Zhang, NeurIPS
    2012); a bin without any takes the code of another, found by a universal hash (Shrivastava, ICML 2017). Where the
    bins are parts of random permutations, two sets of Jaccard similarity J agree in a code with probability
    ``J + (1 - J) / 2**width``.

    The set has all non-zero coordinates where there are no more than `top`; among equals the lower coordinates go
    first. The zero vector has code 0 everywhere.

    Parameters
    ----------
    dim, k, l : int
        Dimension, codes per table, tables.
    index : int32 array [k * l, bin_size]
        The coordinates of each bin in their permuted order.
    top : int
        Coordinates in a vector's set, at most.
    width : int
        Bits of a code.
    seed : int
        Keys the labels and the densification.
    bucket_bits : int
        Most bits a bucket index may have.

    Raises
    ------
    ValueError
        Shapes do not fit, or a size or coordinate is out of range.
    """

    def __cinit__(self, int64_t dim, int k, int l, const int32_t[:, ::1] index, int top, int width, uint64_t seed,
                  int bucket_bits):
        cdef int64_t bin, i
        self._set_dim(dim)
        _check_width(width)
        self._set_shape(k, l, 1 << width, bucket_bits)
        _check_bins(index, <int64_t>k * l, dim)
        if top < 1:
            raise ValueError(f"top must be positive, got {top}")
        labels = np.empty((index.shape[0], index.shape[1]), np.int32)
        cdef int32_t[:, ::1] label = labels
        for bin in range(index.shape[0]):
            for i in range(index.shape[1]):
                # ~bin, not bin, so that no label shares its key with a borrower's attempt.
                label[bin, i] = slide_key(seed, <uint64_t>~bin, i) & ((1u << width) - 1)
        self._set_bins(index, labels)
        self.kind = _MINHASH
        self.top = top
        self.seed = seed


def _check_coordinates(index, dim):
    index = np.asarray(index)
    if index.size and (index.min() < 0 or index.max() >= dim):
        raise ValueError(f"coordinates must lie in 0..{dim - 1}, got {index.min()}..{index.max()}")


def _check_bins(index, bins, dim):
    if index.shape[0] != bins or index.shape[1] < 1:
        raise ValueError(f"index must be [{bins}, bin size], got [{index.shape[0]}, {index.shape[1]}]")
    _check_coordinates(index, dim)


def _check_width(width):
    if not 1 <= width <= 30:
        raise ValueError(f"the code width must be from 1 to 30, got {width}")


def _terms_by_coordinate(index, ptr, dim):
    """Return (column_ptr, terms): for each coordinate the functions that add it, as 2f, or subtract it, as 2f + 1."""
    terms = np.repeat(np.arange(len(ptr) - 1, dtype=np.int32), np.diff(ptr))
    column_ptr = np.zeros(dim + 1, np.int64)
    np.cumsum(np.bincount(index, minlength=dim), out=column_ptr[1:])
    return column_ptr, terms[np.argsort(index, kind="stable")]
