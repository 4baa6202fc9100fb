"""Sampling policies: which of the ids found in the tables become a sample's active set."""

from cython.parallel cimport prange, threadid
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memset

from slide.kernels.memory cimport HugeBuffer
from slide.kernels.parallel cimport threads_for

cdef extern from "rng.h" nogil:
    uint64_t slide_key(uint64_t seed, uint64_t a, uint64_t b)
    uint64_t slide_mix(uint64_t x)
    uint32_t slide_below(uint64_t r, uint32_t n)

cdef struct Tables:
    const uint32_t *codes      # [l, codes_ld]
    int64_t codes_ld
    const int32_t *offsets     # [l, n_buckets + 1]
    int64_t n_buckets
    const int32_t *ids         # [l, n]
    int64_t n
    int64_t l

cdef struct Seen:
    int32_t *slots             # open addressing, -1 for free
    uint32_t mask


def vanilla(
    const uint32_t[:, ::1] codes,
    const int32_t[:, ::1] offsets,
    const int32_t[:, ::1] ids,
    const int64_t[::1] forced_ptr,
    const int32_t[::1] forced_ids,
    int64_t budget,
    uint64_t seed,
    uint64_t iteration,
    int32_t[:, ::1] out_ids,
    int64_t[::1] out_counts,
    int num_threads,
):
    """Probe the tables in random order until the budget is met: the paper's vanilla sampling.

    A sample's active set is its forced ids first, then what its buckets hold, table after table in an order of its own,
    each bucket read from a random place in it, until the set has `budget` ids or the tables are exhausted. Forced ids
    count towards the budget and are all in even where they exceed it. No id appears twice. Where too few are found the
    set is smaller than the budget. The draws depend on (seed, iteration, sample) alone.

    Parameters
    ----------
    codes : uint32 array [l, >= samples]
        The samples' buckets.
    offsets : int32 array [l, n_buckets + 1]
    ids : int32 array [l, n]
        The tables, as ``tables.build`` leaves them.
    forced_ptr : int64 array [samples + 1]
    forced_ids : int32 array
        Sample s's forced ids, without repetition, are ``forced_ids[forced_ptr[s]:forced_ptr[s + 1]]``.
    budget : int
    seed, iteration : int
        Keys of the draws.
    out_ids : int32 array [samples, capacity]
        Written; the capacity is at least the budget and the most forced ids of any sample.
    out_counts : int64 array [samples]
        Written: the size of each set.
    num_threads : int

    Raises
    ------
    ValueError
        Shapes do not fit, or an id or bucket is out of range.
    """
    cdef int64_t samples = out_ids.shape[0], capacity = out_ids.shape[1], most_forced = 0, s, i
    cdef Tables tables
    tables.l = codes.shape[0]
    tables.n = ids.shape[1]
    tables.n_buckets = offsets.shape[1] - 1
    tables.codes_ld = codes.shape[1]
    if offsets.shape[0] != tables.l or ids.shape[0] != tables.l or codes.shape[1] < samples or tables.n_buckets < 1:
        raise ValueError("codes, offsets and ids must have a row for each table, and codes a column for each sample")
    if forced_ptr.shape[0] != samples + 1 or out_counts.shape[0] != samples:
        raise ValueError(f"forced_ptr and out_counts must fit {samples} samples")
    if samples == 0:
        return
    if forced_ptr[0] != 0 or forced_ptr[samples] > forced_ids.shape[0]:
        raise ValueError(f"forced_ptr must rise from 0 to at most {forced_ids.shape[0]}")
    for s in range(samples):
        if forced_ptr[s + 1] < forced_ptr[s]:
            raise ValueError(f"forced_ptr falls after sample {s}")
        most_forced = max(most_forced, forced_ptr[s + 1] - forced_ptr[s])
    for i in range(forced_ptr[samples]):
        if not 0 <= forced_ids[i] < tables.n:
            raise ValueError(f"forced id {forced_ids[i]} is not in 0..{tables.n - 1}")
    if capacity < max(budget, most_forced):
        raise ValueError(f"out_ids has room for {capacity} ids a sample, {max(budget, most_forced)} are asked for")
    cdef int64_t t
    for t in range(tables.l):
        for s in range(samples):
            if codes[t, s] >= tables.n_buckets:
                raise ValueError(f"sample {s} has bucket {codes[t, s]} in table {t}, of {tables.n_buckets}")

    cdef int threads = threads_for(num_threads, samples, 4)
    cdef int64_t size = 16
    while size < 2 * capacity:
        size *= 2
    cdef int64_t slot = size + (tables.l + 15) // 16 * 16
    cdef HugeBuffer scratch = HugeBuffer(threads * slot * sizeof(int32_t), name="sampling scratch")
    cdef int32_t *work = <int32_t *>scratch.data
    cdef int32_t *out = &out_ids[0, 0]
    cdef const int64_t *first = &forced_ptr[0]
    cdef const int32_t *forced = &forced_ids[0] if forced_ids.shape[0] else NULL
    tables.codes = &codes[0, 0] if tables.l else NULL
    tables.offsets = &offsets[0, 0] if tables.l else NULL
    tables.ids = &ids[0, 0] if tables.l and tables.n else NULL
    for s in prange(samples, nogil=True, num_threads=threads, schedule="dynamic", chunksize=4):
        out_counts[s] = _vanilla_one(
            &tables, s, forced + first[s], first[s + 1] - first[s], budget, slide_key(seed, iteration, s),
            work + threadid() * slot, size, out + s * capacity,
        )


cdef int64_t _vanilla_one(const Tables *tables, int64_t sample, const int32_t *forced, int64_t n_forced,
                          int64_t budget, uint64_t key, int32_t *work, int64_t size,
                          int32_t *out) noexcept nogil:
    cdef Seen seen
    cdef int32_t *order = work + size
    cdef int64_t found = 0, i, j, t, begin, length, start
    cdef const int32_t *bucket
    cdef const int32_t *offsets
    cdef int32_t id_
    seen.slots = work
    seen.mask = <uint32_t>(size - 1)
    memset(work, 0xFF, size * sizeof(int32_t))
    for i in range(n_forced):
        _add(&seen, forced[i])
        out[found] = forced[i]
        found += 1
    for t in range(tables.l):
        order[t] = <int32_t>t
    for t in range(tables.l):
        if found >= budget:
            break
        # The next table of a random order, drawn only as far as it is used (Fisher and Yates).
        key = slide_mix(key)
        j = t + slide_below(key, <uint32_t>(tables.l - t))
        id_ = order[j]
        order[j] = order[t]
        order[t] = id_
        offsets = tables.offsets + <int64_t>id_ * (tables.n_buckets + 1) + tables.codes[id_ * tables.codes_ld + sample]
        begin = offsets[0]
        length = offsets[1] - begin
        if length == 0:
            continue
        bucket = tables.ids + <int64_t>id_ * tables.n + begin
        key = slide_mix(key)
        start = slide_below(key, <uint32_t>length)
        for i in range(length):
            j = start + i
            if j >= length:
                j -= length
            id_ = bucket[j]
            if _add(&seen, id_):
                out[found] = id_
                found += 1
                if found >= budget:
                    break
    return found


cdef inline bint _add(Seen *seen, int32_t id_) noexcept nogil:
    """Put the id into the set; False where it was there already. The set is never more than half full."""
    cdef uint32_t place = (<uint32_t>id_ * 0x9E3779B1u) & seen.mask
    while seen.slots[place] != -1:
        if seen.slots[place] == id_:
            return False
        place = (place + 1) & seen.mask
    seen.slots[place] = id_
    return True


def split_shared(const int32_t[::1] place, int32_t[:, ::1] ids, int64_t[::1] counts, int32_t[:, ::1] out_places,
                 int64_t[::1] out_counts, int num_threads):
    """Take the ids that the whole batch shares out of every sample's active set.

    Parameters
    ----------
    place : int32 array [n]
        Where an id stands among the shared ones, -1 for ids that are not shared.
    ids : int32 array [samples, capacity]
    counts : int64 array [samples]
        The active sets; changed to what is left of them, in the same order.
    out_places : int32 array [samples, capacity]
    out_counts : int64 array [samples]
        Written: the places of what was taken out.
    num_threads : int

    Raises
    ------
    ValueError
        Shapes do not fit, or an id is out of range.
    """
    cdef int64_t samples = ids.shape[0], capacity = ids.shape[1], s
    cdef int bad = 0
    if counts.shape[0] != samples or out_counts.shape[0] != samples:
        raise ValueError(f"counts and out_counts must fit {samples} samples")
    if out_places.shape[0] != samples or out_places.shape[1] != capacity:
        raise ValueError(f"out_places must be [{samples}, {capacity}]")
    for s in range(samples):
        if not 0 <= counts[s] <= capacity:
            raise ValueError(f"sample {s} has {counts[s]} ids, with room for {capacity}")
    cdef int threads = threads_for(num_threads, samples * capacity, 1 << 13)
    for s in prange(samples, nogil=True, num_threads=threads, schedule="static"):
        bad += _split_one(place, ids, s, &counts[s], out_places, &out_counts[s])
    if bad:
        raise ValueError(f"ids must lie in 0..{place.shape[0] - 1}")


cdef int _split_one(const int32_t[::1] place, int32_t[:, ::1] ids, int64_t s, int64_t *count,
                    int32_t[:, ::1] out_places, int64_t *out_count) noexcept nogil:
    cdef int64_t i, kept = 0, taken = 0
    cdef int32_t id_
    for i in range(count[0]):
        id_ = ids[s, i]
        if id_ < 0 or id_ >= place.shape[0]:
            return 1
        if place[id_] >= 0:
            out_places[s, taken] = place[id_]
            taken += 1
        else:
            ids[s, kept] = id_
            kept += 1
    count[0] = kept
    out_count[0] = taken
    return 0
