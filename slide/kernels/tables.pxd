from libc.stdint cimport int32_t, int64_t, uint32_t
from libc.string cimport memset

cdef extern from *:
    void slide_prefetch "__builtin_prefetch"(const void *) noexcept nogil


cdef struct Tables:
    const uint32_t *codes      # [l, codes_ld]: a column for each query
    int64_t codes_ld
    const int32_t *offsets     # [l, n_buckets + 1]
    int64_t n_buckets
    const int32_t *ids         # [l, ids_ld]
    int64_t ids_ld
    int64_t n_tables


cdef struct Slot:
    int32_t id
    int32_t place              # in Counter.ids and Counter.counts; -1 where the slot is free


cdef struct Counter:
    Slot *slots                # open addressing, 2**(32 - shift) of them, at most half in use
    int32_t shift
    int32_t *ids               # [size], in order of appearance
    int32_t *counts            # [size]
    int64_t size


cdef inline const int32_t *bucket_ends(const Tables *tables, int64_t t, int64_t query) noexcept nogil:
    """Return where the offsets of a query's bucket in table t are: that of its first id, then that of its end."""
    return tables.offsets + t * (tables.n_buckets + 1) + tables.codes[t * tables.codes_ld + query]


cdef inline const int32_t *bucket(const Tables *tables, int64_t t, int64_t query,
                                  int64_t *length) noexcept nogil:
    """Return a query's bucket in table t, and how many ids it has."""
    cdef const int32_t *ends = bucket_ends(tables, t, query)
    length[0] = ends[1] - ends[0]
    return tables.ids + t * tables.ids_ld + ends[0]


cdef inline void prefetch_bucket(const Tables *tables, int64_t t, int64_t query) noexcept nogil:
    """Prefetch the first lines of a bucket: the processor sees no pattern in where buckets lie."""
    cdef int64_t length, i
    cdef const int32_t *ids = bucket(tables, t, query, &length)
    for i in range(0, min(length, 64), 16):
        slide_prefetch(ids + i)


cdef inline int32_t slots_shift(int64_t ids) noexcept nogil:
    """Return the shift at which a hash map has at least 16 slots and twice as many as `ids`."""
    cdef int32_t shift = 28
    while (<int64_t>1 << (32 - shift)) < 2 * ids:
        shift -= 1
    return shift


cdef inline void counter_clear(Counter *counter, int64_t most) noexcept nogil:
    """Empty the counter and make it ready for `most` different ids."""
    counter.shift = slots_shift(most)
    counter.size = 0
    memset(counter.slots, 0xFF, (<int64_t>1 << (32 - counter.shift)) * sizeof(Slot))


cdef inline void counter_add(Counter *counter, const int32_t *ids, int64_t length) noexcept nogil:
    """Count each of the ids once more."""
    cdef Slot *slots = counter.slots
    cdef uint32_t mask = <uint32_t>((<int64_t>1 << (32 - counter.shift)) - 1), at
    cdef int32_t shift = counter.shift, size = <int32_t>counter.size, id_
    cdef int32_t *known = counter.ids
    cdef int32_t *counts = counter.counts
    cdef int64_t i
    for i in range(length):
        id_ = ids[i]
        at = (<uint32_t>id_ * 0x9E3779B1u) >> shift
        while slots[at].place >= 0 and slots[at].id != id_:
            at = (at + 1) & mask
        if slots[at].place >= 0:
            counts[slots[at].place] += 1
        else:
            slots[at].id = id_
            slots[at].place = size
            known[size] = id_
            counts[size] = 1
            size += 1
    counter.size = size


cdef int view_tables(Tables *tables, const uint32_t[:, ::1] codes, const int32_t[:, ::1] offsets,
                     const int32_t[:, ::1] ids, int64_t queries) except -1
cdef int64_t bucket_total(const Tables *tables, int64_t query) noexcept nogil
cdef void count_buckets(const Tables *tables, int64_t query, Counter *counter) noexcept nogil
