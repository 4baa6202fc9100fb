"""The k best of many (score, id), for any k: a buffer that is cut back to its best k whenever it is full.

An entry is one integer, its key: keys compare like scores and, where scores are equal, the smaller id has the larger
key. No two entries are equal, so the best k are the same in whatever order entries come. A cut costs a selection of
linear time and happens after k entries or more, each above the last cut's k-th: no entry costs time that grows with k.
"""

from libc.math cimport INFINITY, nextafterf
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    BEST_ROOM = 12         # entries that a buffer has room for beside twice k: more would let a small k's bar lag

ctypedef struct BestK:
    uint64_t *keys         # [best_room(k)]
    int64_t count
    int64_t k
    uint64_t bar           # what a new entry's key must exceed
    float scan             # a score above this may be taken: a scan for candidates stops there


cdef inline int64_t best_room(int64_t k) noexcept nogil:
    return 2 * k + BEST_ROOM


cdef inline uint64_t key_of(float score, int32_t id_) noexcept nogil:
    cdef uint32_t bits
    score = score + <float>0.0    # minus zero becomes zero: they are equal
    memcpy(&bits, &score, sizeof(uint32_t))
    bits = ~bits if bits >> 31 else bits | 0x80000000u
    return (<uint64_t>bits << 32) | <uint32_t>(~id_)


cdef inline int32_t id_of(uint64_t key) noexcept nogil:
    return <int32_t>(~<uint32_t>key)


cdef inline float score_of(uint64_t key) noexcept nogil:
    cdef uint32_t bits = <uint32_t>(key >> 32)
    cdef float score
    bits = bits & 0x7fffffffu if bits >> 31 else ~bits
    memcpy(&score, &bits, sizeof(float))
    return score


cdef inline void best_start(BestK *best, uint64_t *keys, int64_t k) noexcept nogil:
    best.keys = keys
    best.count = 0
    best.k = k
    best_above(best, -INFINITY)


cdef inline void best_above(BestK *best, float score) noexcept nogil:
    """Take nothing from now on but scores above this one."""
    best.bar = key_of(score, 0)    # the largest key of that score
    best.scan = score


cdef inline int64_t _partition(uint64_t *keys, int64_t low, int64_t high) noexcept nogil:
    """Bring one of keys[low..high] to the place that it has in descending order; return the place.

    There are no branches on keys, which no processor could predict.
    """
    cdef int64_t middle = low + (high - low) // 2, i, place = low
    cdef uint64_t pivot, key
    # The median of three goes last.
    if keys[middle] > keys[low]:
        keys[middle], keys[low] = keys[low], keys[middle]
    if keys[high] > keys[low]:
        keys[high], keys[low] = keys[low], keys[high]
    if keys[middle] > keys[high]:
        keys[middle], keys[high] = keys[high], keys[middle]
    pivot = keys[high]
    for i in range(low, high):
        key = keys[i]
        keys[i] = keys[place]
        keys[place] = key
        place += key > pivot
    keys[high] = keys[place]
    keys[place] = pivot
    return place


cdef inline void select_largest(uint64_t *keys, int64_t n, int64_t k) noexcept nogil:
    """Move the k largest of n > k keys to the front, the k-th to its end."""
    cdef int64_t low = 0, high = n - 1, place
    while low < high:
        place = _partition(keys, low, high)
        if place == k - 1:
            return
        if place < k - 1:
            low = place + 1
        else:
            high = place - 1


cdef inline void sort_descending(uint64_t *keys, int64_t n) noexcept nogil:
    cdef int64_t bounds[128]    # parts that are left to sort: the shorter goes first, so that 64 pairs are enough
    cdef int64_t depth = 1, low, high, place, i, j
    cdef uint64_t key
    bounds[0] = 0
    bounds[1] = n - 1
    while depth > 0:
        depth -= 1
        low = bounds[2 * depth]
        high = bounds[2 * depth + 1]
        if high - low < 16:
            for i in range(low + 1, high + 1):
                key = keys[i]
                j = i
                while j > low and keys[j - 1] < key:
                    keys[j] = keys[j - 1]
                    j -= 1
                keys[j] = key
            continue
        place = _partition(keys, low, high)
        if place - low > high - place:
            bounds[2 * depth], bounds[2 * depth + 1] = low, place - 1
            bounds[2 * depth + 2], bounds[2 * depth + 3] = place + 1, high
        else:
            bounds[2 * depth], bounds[2 * depth + 1] = place + 1, high
            bounds[2 * depth + 2], bounds[2 * depth + 3] = low, place - 1
        depth += 2


cdef inline void best_cut(BestK *best) noexcept nogil:
    """Forget all but the best k, and let the k-th be the bar."""
    if best.count <= best.k:
        return
    select_largest(best.keys, best.count, best.k)
    best.count = best.k
    best.bar = best.keys[best.k - 1]
    # An equal score may belong to a smaller id, and then counts.
    best.scan = nextafterf(score_of(best.bar), -INFINITY)


cdef inline void best_restart(BestK *best, int64_t k) noexcept nogil:
    """Empty a buffer for another k; if it has its old k, the k-th of them becomes the bar."""
    best_cut(best)
    if best.count < best.k:
        best_start(best, best.keys, k)
    best.count = 0
    best.k = k


cdef inline bint best_takes(const BestK *best, float score, int32_t id_) noexcept nogil:
    return score > best.scan and key_of(score, id_) > best.bar    # a NaN is above nothing


cdef inline void best_add(BestK *best, float score, int32_t id_) noexcept nogil:
    """Add an entry that ``best_takes``; the next cut decides."""
    best.keys[best.count] = key_of(score, id_)
    best.count += 1
    if best.count == best_room(best.k):
        best_cut(best)


cdef inline void best_finish(BestK *best, int32_t *ids, float *scores) noexcept nogil:
    """Write the best k in order, and -1 and minus infinity where there are fewer."""
    cdef int64_t i
    best_cut(best)
    sort_descending(best.keys, best.count)
    for i in range(best.count):
        ids[i] = id_of(best.keys[i])
        scores[i] = score_of(best.keys[i])
    for i in range(best.count, best.k):
        ids[i] = -1
        scores[i] = -INFINITY
