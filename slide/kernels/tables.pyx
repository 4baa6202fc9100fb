"""Flat bucket tables: every table lists all ids once, ordered by bucket.

``ids[t, offsets[t, b]:offsets[t, b + 1]]`` are the ids in bucket b of table t, ascending. Memory is one int32 for each
id and bucket of each table, whatever the occupancy; nothing overflows.
"""

from cython.parallel cimport prange
from libc.stdint cimport int32_t, int64_t, uint32_t

from slide.kernels.parallel cimport threads_for


def build(const uint32_t[:, ::1] codes, int32_t[:, ::1] offsets, int32_t[:, ::1] ids, int num_threads):
    """Fill the tables from every id's bucket index, by a counting sort per table.

    Parameters
    ----------
    codes : uint32 array [l, n]
        ``codes[t, i]`` is id i's bucket in table t, below the number of buckets.
    offsets : int32 array [l, n_buckets + 1]
        Written.
    ids : int32 array [l, n]
        Written.
    num_threads : int
        Tables are built in parallel, one by one thread.

    Raises
    ------
    ValueError
        Shapes do not fit, or a code is not below the number of buckets (the tables are then half built).
    """
    cdef int64_t l = codes.shape[0], n = codes.shape[1], n_buckets = offsets.shape[1] - 1, t
    if n_buckets < 1 or offsets.shape[0] != l or ids.shape[0] != l or ids.shape[1] != n:
        raise ValueError(
            f"for codes [{l}, {n}], offsets must be [{l}, buckets + 1] and ids [{l}, {n}], "
            f"got [{offsets.shape[0]}, {offsets.shape[1]}] and [{ids.shape[0]}, {ids.shape[1]}]"
        )
    if l == 0:
        return
    if n == 0:
        offsets[:] = 0
        return
    cdef const uint32_t *code = &codes[0, 0]
    cdef int32_t *offset = &offsets[0, 0]
    cdef int32_t *id_ = &ids[0, 0]
    cdef int bad = 0
    cdef int threads = threads_for(num_threads, l * (n + n_buckets), 1 << 15)
    for t in prange(l, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
        bad += _build_one(code + t * n, n, n_buckets, offset + t * (n_buckets + 1), id_ + t * n)
    if bad:
        raise ValueError(f"codes must be below the number of buckets, {n_buckets}")


cdef int _build_one(const uint32_t *codes, int64_t n, int64_t n_buckets, int32_t *offsets,
                    int32_t *ids) noexcept nogil:
    cdef int64_t i, b
    cdef int32_t total = 0, count
    for b in range(n_buckets + 1):
        offsets[b] = 0
    for i in range(n):
        if codes[i] >= n_buckets:
            return 1
        offsets[codes[i] + 1] += 1
    # offsets[b + 1] is bucket b's first place while ids go in, and so its end, bucket b + 1's first, once they are.
    for b in range(1, n_buckets + 1):
        count = offsets[b]
        offsets[b] = total
        total += count
    for i in range(n):
        ids[offsets[codes[i] + 1]] = <int32_t>i
        offsets[codes[i] + 1] += 1
    return 0
