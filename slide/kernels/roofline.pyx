"""The memory's limits, measured: rows read, or read and written back, in any order, with nothing else done to them.

They are the best that a row kernel could reach. Rows are prefetched a few ahead of the one that is read, as the row
kernels do.
"""

from cython.parallel cimport prange
from libc.stdint cimport int32_t, int64_t, uint64_t

import numpy as np

from slide.kernels.parallel cimport threads_for

cdef extern from *:
    """
    #if defined(__GNUC__)
    #define slide_prefetch(address) __builtin_prefetch(address)
    #else
    #define slide_prefetch(address) ((void)(address))
    #endif
    """
    void slide_prefetch(const void *address) noexcept nogil

cdef enum:
    _WORDS_A_LINE = 8


cdef inline void _ask_for(const uint64_t *row, int64_t words) noexcept nogil:
    cdef int64_t i
    for i in range((words + _WORDS_A_LINE - 1) // _WORDS_A_LINE):
        slide_prefetch(row + i * _WORDS_A_LINE)


cdef uint64_t _read(const uint64_t *table, int64_t words, const int32_t *ids, int64_t first, int64_t last,
                    int64_t ahead) noexcept nogil:
    cdef uint64_t total = 0
    cdef const uint64_t *row
    cdef int64_t i, j
    for i in range(first, last):
        if ahead and i + ahead < last:
            _ask_for(table + ids[i + ahead] * words, words)
        row = table + ids[i] * words
        for j in range(words):
            total += row[j]
    return total


cdef void _update(uint64_t *table, int64_t words, const int32_t *ids, int64_t first, int64_t last,
                  int64_t ahead) noexcept nogil:
    cdef uint64_t *row
    cdef int64_t i, j
    for i in range(first, last):
        if ahead and i + ahead < last:
            _ask_for(table + ids[i + ahead] * words, words)
        row = table + ids[i] * words
        for j in range(words):
            row[j] += 1


cdef _check(const uint64_t[:, ::1] table, const int32_t[::1] ids, int64_t ahead):
    if ids.shape[0] and (np.min(ids) < 0 or np.max(ids) >= table.shape[0]):
        raise ValueError(f"ids must lie in 0..{table.shape[0] - 1}, got {np.min(ids)}..{np.max(ids)}")
    if ahead < 0:
        raise ValueError(f"ahead must be 0 or more, got {ahead}")


def read_rows(const uint64_t[:, ::1] table, const int32_t[::1] ids, int64_t ahead, int threads):
    """Read some rows, one after the other.

    Parameters
    ----------
    table : uint64 array [rows, words]
        Rows of whole cache lines, from the beginning of one, are prefetched in the fewest requests.
    ids : int32 array [n]
        Each thread reads a run of them.
    ahead : int
        How many rows ahead a row is prefetched; 0 leaves it to the processor.

    Returns
    -------
    int
        The sum of all words read, modulo 2**64, so that no compiler leaves the reading out.

    Raises
    ------
    ValueError
        An id is out of range, or `ahead` is negative.
    """
    _check(table, ids, ahead)
    cdef int64_t n = ids.shape[0], words = table.shape[1], t
    if n == 0 or words == 0:
        return 0
    threads = threads_for(threads, n * words, 1 << 12)
    cdef const uint64_t *rows = &table[0, 0]
    cdef const int32_t *wanted = &ids[0]
    cdef uint64_t total = 0
    for t in prange(threads, nogil=True, num_threads=threads, schedule="static"):
        total += _read(rows, words, wanted, t * n // threads, (t + 1) * n // threads, ahead)
    return total


def update_rows(uint64_t[:, ::1] table, const int32_t[::1] ids, int64_t ahead, int threads):
    """Add one to every word of some rows.

    Parameters
    ----------
    table : uint64 array [rows, words]
        Modulo 2**64.
    ids : int32 array [n]
        As for ``read_rows``. If two threads get the same row, one of their additions to it may be lost.
    ahead : int
        As for ``read_rows``.

    Raises
    ------
    ValueError
        An id is out of range, or `ahead` is negative.
    """
    _check(table, ids, ahead)
    cdef int64_t n = ids.shape[0], words = table.shape[1], t
    if n == 0 or words == 0:
        return
    threads = threads_for(threads, n * words, 1 << 12)
    cdef uint64_t *rows = &table[0, 0]
    cdef const int32_t *wanted = &ids[0]
    for t in prange(threads, nogil=True, num_threads=threads, schedule="static"):
        _update(rows, words, wanted, t * n // threads, (t + 1) * n // threads, ahead)
