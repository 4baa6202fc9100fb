"""Flat bucket tables: every table lists the ids it keeps once, bucket after bucket.

Bucket b of table t has the ids ``ids[t, offsets[t, b]:offsets[t, b + 1]]``. Memory is one int32 for each id
kept and each bucket of each table, whatever the occupancy. A table is a function of the ids' codes (and, with
a reservoir, of a seed) alone: ``update`` leaves what ``build`` would.
"""

from cython.parallel cimport prange, threadid
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

import numpy as np

from slide.kernels.memory cimport HugeBuffer, Scratch
from slide.kernels.parallel cimport threads_for

cdef extern from "rng.h" nogil:
    uint64_t slide_key(uint64_t seed, uint64_t a, uint64_t b)
    uint32_t slide_below(uint64_t r, uint32_t n)

cdef enum:
    _RADIX_BITS = 11
    _RADIX = 1 << 11
    _LINE = 64
    _FEW = 32  # where more than one id in 32 moves, a new table costs less than copying runs, as measured


def room(int64_t n, int64_t n_buckets, int64_t capacity=0):
    """Return how many ids a table of `n_buckets` must have room for; `capacity` as in `build`."""
    return n if capacity == 0 else min(n, capacity * n_buckets)


def build(
    const uint32_t[:, ::1] codes,
    int32_t[:, ::1] offsets,
    int32_t[:, ::1] ids,
    int threads,
    *,
    int64_t capacity=0,
    bint reservoir=False,
    uint64_t seed=0,
    int64_t[::1] dropped=None,
):
    """Fill the tables from every id's bucket index, by a counting sort per table.

    Ids are inserted in ascending order. Without a capacity a bucket keeps all of its ids, ascending. A bucket
    with a capacity keeps the last ones (FIFO), ascending, or a reservoir of them (Vitter, Algorithm R, ACM
    TOMS 1985): of c ids inserted each is kept with probability ``min(1, capacity / c)``, in no order. The
    reservoir's draws depend on (seed, table, bucket, position in the bucket) alone.

    Parameters
    ----------
    codes : uint32 array [l, n]
        ``codes[t, i]`` is id i's bucket in table t, below the number of buckets.
    offsets : int32 array [l, n_buckets + 1]
        Written.
    ids : int32 array [l, >= room(n, n_buckets, capacity)]
        Written, up to ``offsets[t, n_buckets]`` in row t.
    threads : int
        Tables are built in parallel, each by one thread.
    capacity : int
        The most ids a bucket keeps; 0 for no limit.
    reservoir : bool
        Full buckets keep a reservoir rather than the last ids.
    seed : int
        Keys the reservoir's draws.
    dropped : int64 array [l], optional
        Written: how many ids each table did not keep.

    Raises
    ------
    ValueError
        Shapes do not fit, the capacity is negative, or a code is not below the number of buckets (the tables
        are then half built).
    """
    cdef int64_t n_tables = codes.shape[0], n = codes.shape[1], n_buckets = offsets.shape[1] - 1, t
    cdef int64_t stride = ids.shape[1]
    if capacity < 0:
        raise ValueError(f"capacity must be 0 or more, got {capacity}")
    if n_buckets < 1 or offsets.shape[0] != n_tables:
        raise ValueError(
            f"offsets must be [{n_tables}, buckets + 1], got [{offsets.shape[0]}, {offsets.shape[1]}]"
        )
    cdef int64_t needed = room(n, n_buckets, capacity)
    if ids.shape[0] != n_tables or stride < needed:
        raise ValueError(f"ids must be [{n_tables}, {needed} or more], got [{ids.shape[0]}, {ids.shape[1]}]")
    if dropped is not None and dropped.shape[0] != n_tables:
        raise ValueError(f"dropped must fit {n_tables} tables, got {dropped.shape[0]}")
    if n_tables == 0:
        return
    if n == 0:
        offsets[:] = 0
        if dropped is not None:
            dropped[:] = 0
        return
    threads = threads_for(threads, n_tables * n, 1 << 14)
    cdef const uint32_t *code = &codes[0, 0]
    cdef int32_t *offset = &offsets[0, 0]
    cdef int32_t *id_ = &ids[0, 0]
    cdef int64_t slot = n_buckets * sizeof(int32_t) if capacity else 0
    cdef Scratch scratch = Scratch(threads * slot)
    cdef int32_t *seen = <int32_t *>scratch.data
    cdef int bad = 0
    for t in prange(n_tables, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
        if _count(code + t * n, n, n_buckets, offset + t * (n_buckets + 1)):
            bad += 1
        elif capacity == 0:
            _keep_all(code + t * n, n, n_buckets, offset + t * (n_buckets + 1), id_ + t * stride)
        elif reservoir:
            _keep_reservoir(code + t * n, n, n_buckets, min(capacity, n), slide_key(seed, t, 0),
                            seen + threadid() * n_buckets, offset + t * (n_buckets + 1), id_ + t * stride)
        else:
            _keep_last(code + t * n, n, n_buckets, min(capacity, n), seen + threadid() * n_buckets,
                       offset + t * (n_buckets + 1), id_ + t * stride)
    if bad:
        raise ValueError(f"codes must be below the number of buckets, {n_buckets}")
    if dropped is not None:
        for t in range(n_tables):
            dropped[t] = n - offsets[t, n_buckets]


cdef int _count(const uint32_t *codes, int64_t n, int64_t n_buckets, int32_t *offsets) noexcept nogil:
    """Leave bucket b's number of ids in ``offsets[b + 1]``; non-zero where a code is out of range."""
    cdef int64_t i
    memset(offsets, 0, (n_buckets + 1) * sizeof(int32_t))
    for i in range(n):
        if codes[i] >= n_buckets:
            return 1
        offsets[codes[i] + 1] += 1
    return 0


# The three below take counts from `_count`. While ids go in, offsets[b + 1] is bucket b's next place; once
# they are, that is its end, and so bucket b + 1's first.

cdef void _keep_all(const uint32_t *codes, int64_t n, int64_t n_buckets, int32_t *offsets,
                    int32_t *ids) noexcept nogil:
    cdef int64_t i, b
    cdef int32_t total = 0, count
    for b in range(1, n_buckets + 1):
        count = offsets[b]
        offsets[b] = total
        total += count
    for i in range(n):
        ids[offsets[codes[i] + 1]] = <int32_t>i
        offsets[codes[i] + 1] += 1


cdef void _keep_last(const uint32_t *codes, int64_t n, int64_t n_buckets, int64_t capacity, int32_t *skip,
                     int32_t *offsets, int32_t *ids) noexcept nogil:
    cdef int64_t i, b
    cdef int32_t total = 0, count, most = <int32_t>capacity
    for b in range(n_buckets):
        count = offsets[b + 1]
        offsets[b + 1] = total
        skip[b] = max(0, count - most)
        total += min(count, most)
    for i in range(n):
        b = codes[i]
        if skip[b] > 0:
            skip[b] -= 1
        else:
            ids[offsets[b + 1]] = <int32_t>i
            offsets[b + 1] += 1


cdef void _keep_reservoir(const uint32_t *codes, int64_t n, int64_t n_buckets, int64_t capacity, uint64_t key,
                          int32_t *seen, int32_t *offsets, int32_t *ids) noexcept nogil:
    cdef int64_t i, b
    cdef int32_t total = 0, count, most = <int32_t>capacity, position, place
    for b in range(n_buckets):
        count = offsets[b + 1]
        offsets[b + 1] = total
        seen[b] = 0
        total += min(count, most)
    for i in range(n):
        b = codes[i]
        position = seen[b]
        seen[b] += 1
        if position < most:
            ids[offsets[b + 1]] = <int32_t>i
            offsets[b + 1] += 1
        else:
            place = slide_below(slide_key(key, b, position), <uint32_t>position + 1)
            if place < most:
                ids[offsets[b + 1] - most + place] = <int32_t>i


def update(const int32_t[::1] rows, const uint32_t[:, ::1] old, const uint32_t[:, ::1] codes,
           int32_t[:, ::1] offsets, int32_t[:, ::1] ids, int threads):
    """Move the ids whose code has changed; the tables are then those that ``build(codes, ...)`` would make.

    Where few ids of a table move, it is read and written once from front to back, in runs: what leaves and
    what arrives is sorted by bucket, and what lies between is copied as it stands. Otherwise the table is
    built anew. Only for tables without a capacity: a full bucket has forgotten the ids that would take the
    place of those that leave.

    Parameters
    ----------
    rows : int32 array [m]
        The ids that may have moved, strictly ascending.
    old : uint32 array [l, m]
        ``old[t, i]`` is the bucket that ``rows[i]`` was in.
    codes : uint32 array [l, n]
        Every id's bucket; those not in `rows` have the code that the tables were built with.
    offsets : int32 array [l, n_buckets + 1]
    ids : int32 array [l, n]
        The tables, changed.
    threads : int
        Tables are updated in parallel, each by one thread.

    Raises
    ------
    ValueError
        Shapes do not fit, `rows` do not ascend or are out of range, or the tables do not hold all ids; the
        tables are then unchanged. A code is not below the number of buckets, or an id is not where `old`
        says; they are then half updated.
    """
    cdef int64_t n_tables = codes.shape[0], n = codes.shape[1], n_buckets = offsets.shape[1] - 1
    cdef int64_t m = rows.shape[0], t, i
    if n_buckets < 1 or offsets.shape[0] != n_tables:
        raise ValueError(
            f"offsets must be [{n_tables}, buckets + 1], got [{offsets.shape[0]}, {offsets.shape[1]}]"
        )
    if ids.shape[0] != n_tables or ids.shape[1] != n:
        raise ValueError(f"ids must be [{n_tables}, {n}], got [{ids.shape[0]}, {ids.shape[1]}]")
    if old.shape[0] != n_tables or old.shape[1] != m:
        raise ValueError(f"old must be [{n_tables}, {m}], got [{old.shape[0]}, {old.shape[1]}]")
    if m == 0 or n_tables == 0:
        return
    if rows[0] < 0 or rows[m - 1] >= n:
        raise ValueError(f"rows must lie in 0..{n - 1}, got {rows[0]}..{rows[m - 1]}")
    for i in range(1, m):
        if rows[i] <= rows[i - 1]:
            raise ValueError(f"rows must ascend, got {rows[i - 1]} before {rows[i]}")
    for t in range(n_tables):
        if offsets[t, n_buckets] != n:
            raise ValueError(f"table {t} holds {offsets[t, n_buckets]} of {n} ids: it can only be built")
    threads = threads_for(threads, n_tables * n, 1 << 14)
    # A thread has two lists of keys and room to sort each, a histogram, and a table's ids with all arrivals
    # among them.
    cdef int64_t slot = (4 * (m + 1) * 8 + _RADIX * 4 + (n + m) * 4 + _LINE) // _LINE * _LINE
    cdef Scratch scratch = Scratch(threads * slot)
    cdef char *work = <char *>scratch.data
    cdef const int32_t *row = &rows[0]
    cdef const uint32_t *before = &old[0, 0]
    cdef const uint32_t *code = &codes[0, 0]
    cdef int32_t *offset = &offsets[0, 0]
    cdef int32_t *id_ = &ids[0, 0]
    cdef int bad = 0
    for t in prange(n_tables, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
        bad += _update_one(row, m, before + t * m, code + t * n, n, n_buckets,
                           <uint64_t *>(work + threadid() * slot), offset + t * (n_buckets + 1), id_ + t * n)
    if bad:
        raise ValueError(f"codes must be below the number of buckets, {n_buckets}, and old be the tables'")


cdef int _update_one(const int32_t *rows, int64_t m, const uint32_t *old, const uint32_t *codes, int64_t n,
                     int64_t n_buckets, uint64_t *work, int32_t *offsets, int32_t *ids) noexcept nogil:
    cdef uint64_t *leaving = work
    cdef uint64_t *arriving = work + 2 * (m + 1)
    cdef int32_t *histogram = <int32_t *>(work + 4 * (m + 1))
    cdef int32_t *merged = histogram + _RADIX
    cdef int64_t i, b, moves = 0, bucket = -1, begin = 0, read = 0, written = 0, at, end, half
    cdef int32_t id_, shift = 0
    cdef uint64_t key
    cdef bint arrives
    for i in range(m):
        b = codes[rows[i]]
        if b >= n_buckets or old[i] >= n_buckets:
            return 1
        if b != old[i]:
            leaving[moves] = <uint64_t>old[i] << 32 | <uint32_t>rows[i]
            arriving[moves] = <uint64_t>b << 32 | <uint32_t>rows[i]
            moves += 1
    if moves == 0:
        return 0
    if moves > n // _FEW:
        if _count(codes, n, n_buckets, offsets):
            return 1
        _keep_all(codes, n, n_buckets, offsets, ids)
        return 0
    leaving = _sort_by_bucket(leaving, leaving + m + 1, moves, n_buckets, histogram)
    arriving = _sort_by_bucket(arriving, arriving + m + 1, moves, n_buckets, histogram)
    leaving[moves] = arriving[moves] = <uint64_t>-1  # behind every bucket
    for _ in range(2 * moves):
        arrives = arriving[0] < leaving[0]
        key = arriving[0] if arrives else leaving[0]
        leaving += not arrives
        arriving += arrives
        id_ = <int32_t>key
        b = key >> 32
        if b != bucket:
            # Offsets up to bucket b's first place move by what came and went before it; its end is still the
            # old one.
            begin = offsets[b]
            for at in range(bucket + 1, b + 1):
                offsets[at] += shift
            bucket = b
        # The first place in the old bucket that is not below the id.
        at = max(begin, read)
        end = offsets[b + 1]
        while at < end:
            half = (at + end) // 2
            if ids[half] < id_:
                at = half + 1
            else:
                end = half
        memcpy(merged + written, ids + read, (at - read) * sizeof(int32_t))
        written += at - read
        read = at
        if arrives:
            merged[written] = id_
            written += 1
            shift += 1
        else:
            if at == offsets[b + 1] or ids[at] != id_:
                return 1
            read += 1
            shift -= 1
    # As many have come as have gone: what lies behind the last move stays where it is.
    memcpy(ids, merged, written * sizeof(int32_t))
    return 0


cdef uint64_t *_sort_by_bucket(uint64_t *keys, uint64_t *other, int64_t m, int64_t n_buckets,
                               int32_t *histogram) noexcept nogil:
    """Sort by the upper halves, stably, least significant digit first; return the array with the result."""
    cdef int bits = 0, digit, shift = 32
    cdef int64_t i
    cdef uint32_t mask, d
    cdef int32_t total, count
    cdef uint64_t *swap
    while n_buckets > <int64_t>1 << bits:
        bits += 1
    while bits > 0:
        # Digits of about equal width, in as few passes as the histogram allows.
        digit = (bits + (bits - 1) // _RADIX_BITS) // ((bits - 1) // _RADIX_BITS + 1)
        mask = (1u << digit) - 1
        memset(histogram, 0, (<int64_t>1 << digit) * sizeof(int32_t))
        for i in range(m):
            histogram[<uint32_t>(keys[i] >> shift) & mask] += 1
        total = 0
        for d in range(mask + 1):
            count = histogram[d]
            histogram[d] = total
            total += count
        for i in range(m):
            d = <uint32_t>(keys[i] >> shift) & mask
            other[histogram[d]] = keys[i]
            histogram[d] += 1
        swap = keys
        keys = other
        other = swap
        shift += digit
        bits -= digit
    return keys


def probe(const uint32_t[::1] codes, const int32_t[:, ::1] offsets, const int32_t[:, ::1] ids):
    """Look one query up in every table.

    Parameters
    ----------
    codes : uint32 array [l]
        The query's buckets.
    offsets : int32 array [l, n_buckets + 1]
    ids : int32 array [l, >= ids kept]
        The tables, as ``build`` leaves them.

    Returns
    -------
    ids : int32 array [found]
        The union of the query's buckets, in order of table and place.
    counts : int32 array [found]
        In how many of the buckets each of them is.

    Raises
    ------
    ValueError
        Shapes do not fit, or a bucket is out of range.
    """
    _, found, counts = batch_probe(np.asarray(codes).reshape(-1, 1), offsets, ids, 1, 1)
    return found, counts


def batch_probe(const uint32_t[:, ::1] codes, const int32_t[:, ::1] offsets, const int32_t[:, ::1] ids,
                int64_t queries, int threads):
    """Look queries up in every table: a first pass counts what each finds, a second one lists it.

    Parameters
    ----------
    codes : uint32 array [l, >= queries]
        The queries' buckets.
    offsets : int32 array [l, n_buckets + 1]
    ids : int32 array [l, >= ids kept]
        The tables, as ``build`` leaves them.

    Returns
    -------
    ptr : int64 array [queries + 1]
        Query q found ``ids[ptr[q]:ptr[q + 1]]``.
    ids : int32 array [ptr[-1]]
        The union of each query's buckets, in order of table and place.
    counts : int32 array [ptr[-1]]
        In how many of the query's buckets each of them is.

    Raises
    ------
    ValueError
        Shapes do not fit, or a bucket is out of range.
    """
    cdef Tables tables
    view_tables(&tables, codes, offsets, ids, queries)
    cdef int64_t[::1] ptr = np.zeros(queries + 1, np.int64)
    cdef int64_t most = 0, q
    for q in range(queries):
        most = max(most, bucket_total(&tables, q))
    threads = threads_for(threads, queries, 4)
    cdef int64_t slots = <int64_t>1 << (32 - slots_shift(most))
    cdef int64_t slot = (slots * sizeof(Slot) + 2 * most * sizeof(int32_t) + _LINE) // _LINE * _LINE
    cdef Scratch scratch = Scratch(threads * slot)
    cdef char *work = <char *>scratch.data
    for q in prange(queries, nogil=True, num_threads=threads, schedule="dynamic", chunksize=4):
        ptr[q + 1] = _probe_one(&tables, q, slots, most, work + threadid() * slot, NULL, NULL)
    for q in range(queries):
        ptr[q + 1] += ptr[q]
    cdef int64_t total = ptr[queries]
    buffer = HugeBuffer(2 * total * sizeof(int32_t), name="probed")
    both = buffer.array((2, total), np.int32)
    cdef int32_t[:, ::1] out = both
    cdef int32_t *out_ids = &out[0, 0] if total else NULL
    for q in prange(queries, nogil=True, num_threads=threads, schedule="dynamic", chunksize=4):
        _probe_one(&tables, q, slots, most, work + threadid() * slot, out_ids + ptr[q],
                   out_ids + total + ptr[q])
    return np.asarray(ptr), both[0], both[1]


cdef int64_t _probe_one(const Tables *tables, int64_t query, int64_t slots, int64_t most, char *work,
                        int32_t *out_ids, int32_t *out_counts) noexcept nogil:
    cdef Counter counter
    counter.slots = <Slot *>work
    counter.ids = <int32_t *>(counter.slots + slots)
    counter.counts = counter.ids + most
    counter_clear(&counter, bucket_total(tables, query))
    count_buckets(tables, query, &counter)
    if out_ids != NULL:
        memcpy(out_ids, counter.ids, counter.size * sizeof(int32_t))
        memcpy(out_counts, counter.counts, counter.size * sizeof(int32_t))
    return counter.size


cdef int view_tables(Tables *tables, const uint32_t[:, ::1] codes, const int32_t[:, ::1] offsets,
                     const int32_t[:, ::1] ids, int64_t queries) except -1:
    """Check the tables and the queries' codes, and point to them; ValueError where they do not fit."""
    cdef int64_t t, q, most = 0
    tables.n_tables = codes.shape[0]
    tables.codes_ld = codes.shape[1]
    tables.n_buckets = offsets.shape[1] - 1
    tables.ids_ld = ids.shape[1]
    if offsets.shape[0] != tables.n_tables or ids.shape[0] != tables.n_tables or tables.n_buckets < 1:
        raise ValueError("codes, offsets and ids must have a row for each table, offsets two columns or more")
    if not 0 <= queries <= codes.shape[1]:
        raise ValueError(f"codes must have a column for each query, got {codes.shape[1]} for {queries}")
    for t in range(tables.n_tables):
        most = max(most, <int64_t>offsets[t, tables.n_buckets])
        for q in range(queries):
            if codes[t, q] >= tables.n_buckets:
                raise ValueError(f"query {q} has bucket {codes[t, q]} in table {t}, of {tables.n_buckets}")
    if most > tables.ids_ld:
        raise ValueError(f"ids must have room for the {most} ids of a table, got {tables.ids_ld}")
    tables.codes = &codes[0, 0] if tables.n_tables and tables.codes_ld else NULL
    tables.offsets = &offsets[0, 0] if tables.n_tables else NULL
    tables.ids = &ids[0, 0] if tables.n_tables and tables.ids_ld else NULL
    return 0


cdef int64_t bucket_total(const Tables *tables, int64_t query) noexcept nogil:
    """Return the number of ids in the query's buckets; ids in several of them count each time."""
    cdef int64_t t, length, total = 0
    for t in range(tables.n_tables):
        bucket(tables, t, query, &length)
        total += length
    return total


cdef void count_buckets(const Tables *tables, int64_t query, Counter *counter) noexcept nogil:
    """Count the ids of the query's buckets; the counter must be ready for ``bucket_total`` of them."""
    cdef int64_t t, length
    cdef const int32_t *ids
    for t in range(min(4, tables.n_tables)):
        prefetch_bucket(tables, t, query)
    for t in range(tables.n_tables):
        if t + 4 < tables.n_tables:
            prefetch_bucket(tables, t + 4, query)
        ids = bucket(tables, t, query, &length)
        counter_add(counter, ids, length)
