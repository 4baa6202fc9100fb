"""Dropout: units and features of training samples left out at random, the rest raised so that the mean stays.

Whether an entry is dropped is a function of (seed, iteration, sample, column) alone. No mask is stored: the gradient is
masked by the same call with the same keys, and the number of threads does not matter. Inverted dropout (Srivastava et
al., *Dropout: A Simple Way to Prevent Neural Networks from Overfitting*, JMLR 2014): prediction needs no correction.
"""

from cython.parallel cimport prange
from libc.stdint cimport int32_t, int64_t, uint64_t

from slide.kernels.parallel cimport threads_for

cdef extern from "rng.h" nogil:
    uint64_t slide_mix(uint64_t x)
    uint64_t slide_key(uint64_t seed, uint64_t a, uint64_t b)

# Keeps these draws apart from those of sampling, which have the same (seed, iteration, sample).
cdef uint64_t STREAM = 0x64726F706F757421


cdef uint64_t _threshold(double p) except? 1:
    """Return the number below which draws are dropped: a share p of all 64-bit numbers are below it."""
    if not 0.0 <= p < 1.0:
        raise ValueError(f"p must be from 0 to below 1, got {p}")
    return <uint64_t>(p * 18446744073709551616.0)


cdef inline float _dropped(float value, uint64_t key, int64_t column, uint64_t threshold, float scale) noexcept nogil:
    return value * scale if slide_mix(key ^ <uint64_t>column) >= threshold else <float>0.0


def drop_units(float[:, ::1] values, double p, uint64_t seed, uint64_t iteration, int threads):
    """Set each value to zero with probability p and divide the others by 1 - p.

    Parameters
    ----------
    values : float32 array [samples, columns]
        Overwritten.
    p : float
        From 0 to below 1.
    seed, iteration : int
        Key the draws, with the sample and the column.

    Raises
    ------
    ValueError
        `p` is out of range.
    """
    cdef int64_t n = values.shape[0], columns = values.shape[1], s, j
    cdef uint64_t threshold = _threshold(p), key
    cdef float scale = <float>(1.0 / (1.0 - p))
    cdef float *row
    if n == 0 or columns == 0 or p == 0.0:
        return
    threads = threads_for(threads, n * columns, 1 << 14)
    for s in prange(n, nogil=True, num_threads=threads, schedule="static"):
        key = slide_key(seed ^ STREAM, iteration, s)
        row = &values[s, 0]
        for j in range(columns):
            row[j] = _dropped(row[j], key, j, threshold, scale)


def drop_pairs(float[::1] values, const int32_t[::1] ids, const int64_t[::1] begin, const int64_t[::1] end, double p,
               uint64_t seed, uint64_t iteration, int threads):
    """``drop_units`` on the columns ``ids[begin[s]..end[s]]`` of each sample s alone, with the same draws.

    Parameters
    ----------
    values : float32 array [n]
        Parallel to `ids`; overwritten.
    ids : int32 array [n]
    begin, end : int64 arrays [samples]
    p, seed, iteration
        As for ``drop_units``.

    Raises
    ------
    ValueError
        `p` or a run is out of range.
    """
    cdef int64_t n = begin.shape[0], s, i, total = 0
    cdef uint64_t threshold = _threshold(p), key
    cdef float scale = <float>(1.0 / (1.0 - p))
    if end.shape[0] != n or values.shape[0] != ids.shape[0]:
        raise ValueError(f"{n} runs begin and {end.shape[0]} end; {values.shape[0]} values for {ids.shape[0]} ids")
    for s in range(n):
        if not 0 <= begin[s] <= end[s] <= ids.shape[0]:
            raise ValueError(f"sample {s}'s run {begin[s]}..{end[s]} is outside 0..{ids.shape[0]}")
        total += end[s] - begin[s]
    if total == 0 or p == 0.0:
        return
    threads = threads_for(threads, total, 1 << 14)
    for s in prange(n, nogil=True, num_threads=threads, schedule="static"):
        key = slide_key(seed ^ STREAM, iteration, s)
        for i in range(begin[s], end[s]):
            values[i] = _dropped(values[i], key, ids[i], threshold, scale)


def drop_entries(const int64_t[::1] indptr, const int32_t[::1] indices, const float[::1] values, double p,
                 uint64_t seed, uint64_t iteration, int64_t[::1] out_indptr, int32_t[::1] out_indices,
                 float[::1] out_values):
    """Copy a CSR matrix without the entries that ``drop_units`` would zero, and return how many are left.

    Parameters
    ----------
    indptr, indices, values : int64 [samples + 1], int32, float32 arrays
    p, seed, iteration
        As for ``drop_units``.
    out_indptr : int64 array [at least samples + 1]
    out_indices, out_values : arrays
        Written; with room for every entry.

    Raises
    ------
    ValueError
        `p` is out of range, `indptr` is not consistent, or the output is too small.
    """
    cdef int64_t n = indptr.shape[0] - 1, s, i, kept = 0
    cdef uint64_t threshold = _threshold(p), key
    cdef float scale = <float>(1.0 / (1.0 - p))
    if n < 0 or indptr[0] != 0 or indptr[n] > indices.shape[0] or indptr[n] > values.shape[0]:
        raise ValueError("indptr must rise from 0 to at most the number of indices and values")
    for s in range(n):
        if indptr[s] > indptr[s + 1]:
            raise ValueError(f"indptr is not consistent at row {s}")
    if out_indptr.shape[0] <= n or out_indices.shape[0] < indptr[n] or out_values.shape[0] < indptr[n]:
        raise ValueError(f"no room for {n} rows with {indptr[n]} entries")
    out_indptr[0] = 0
    with nogil:
        for s in range(n):
            key = slide_key(seed ^ STREAM, iteration, s)
            for i in range(indptr[s], indptr[s + 1]):
                # An entry is always written, and the next one overwrites it if it is dropped: no branch.
                out_indices[kept] = indices[i]
                out_values[kept] = values[i] * scale
                kept += slide_mix(key ^ <uint64_t>indices[i]) >= threshold
            out_indptr[s + 1] = kept
    return kept
