"""Sampling policies: which of the ids found in the tables become a sample's active set.

Every policy has the same contract. A sample's active set is its forced ids first, in the order given, then
ids from its buckets, up to the budget. Forced ids count towards the budget and are all in even where they
exceed it. No id appears twice. Where too few are found the set stays smaller than the budget, or is filled up
with ids drawn uniformly from all those not yet in it. All draws depend on (seed, iteration, sample) alone.
"""

from cython.parallel cimport prange, threadid
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from slide.kernels.memory cimport Scratch
from slide.kernels.parallel cimport threads_for
from slide.kernels.tables cimport (
    Counter,
    Slot,
    Tables,
    bucket,
    bucket_ends,
    bucket_total,
    count_buckets,
    counter_add,
    counter_clear,
    prefetch_bucket,
    slide_prefetch,
    slots_shift,
    view_tables,
)

cdef extern from "rng.h" nogil:
    uint64_t slide_key(uint64_t seed, uint64_t a, uint64_t b)
    uint64_t slide_mix(uint64_t x)
    uint32_t slide_below(uint64_t r, uint32_t n)

cdef enum:
    _LINE = 64
    _AHEAD = 6  # tables

cdef struct Seen:
    int32_t *slots             # open addressing, -1 for free
    uint32_t mask

cdef struct Sets:
    const int64_t *forced_ptr  # [samples + 1]
    const int32_t *forced_ids
    int32_t *ids               # [samples, capacity]
    int64_t capacity
    int64_t n                  # ids are below it
    int64_t budget
    bint fill


def vanilla(
    const uint32_t[:, ::1] codes,
    const int32_t[:, ::1] offsets,
    const int32_t[:, ::1] ids,
    int64_t n,
    const int64_t[::1] forced_ptr,
    const int32_t[::1] forced_ids,
    int64_t budget,
    uint64_t seed,
    uint64_t iteration,
    int32_t[:, ::1] out_ids,
    int64_t[::1] out_counts,
    int threads,
    *,
    bint fill=False,
):
    """Probe the tables in random order until the budget is met: the paper's vanilla sampling.

    Each sample has its own order of the tables, and reads each bucket from a random place in it, so that a
    bucket that is read in part favours nobody.

    Parameters
    ----------
    codes : uint32 array [l, >= samples]
        The samples' buckets.
    offsets : int32 array [l, n_buckets + 1]
    ids : int32 array [l, >= ids kept]
        The tables, as ``tables.build`` leaves them.
    n : int
        All ids are below it.
    forced_ptr : int64 array [samples + 1]
    forced_ids : int32 array [forced_ptr[-1] or more]
        Sample s has the forced ids ``forced_ids[forced_ptr[s]:forced_ptr[s + 1]]``, without repetition.
    budget : int
        The most ids of a set that does not have more forced ones.
    seed, iteration : int
        Key the draws.
    out_ids : int32 array [samples, capacity]
        Written; the capacity is at least the budget and the most forced ids of any sample.
    out_counts : int64 array [samples]
        Written: the size of each set.
    fill : bool
        Fill sets below the budget with uniform draws, as far as there are ids.

    Raises
    ------
    ValueError
        Shapes do not fit, or an id or bucket is out of range.
    """
    cdef int64_t samples = out_ids.shape[0], s
    cdef Tables tables
    cdef Sets sets
    view_tables(&tables, codes, offsets, ids, samples)
    _view_sets(&sets, n, forced_ptr, forced_ids, budget, fill, out_ids, out_counts)
    threads = threads_for(threads, samples, 4)
    cdef int64_t size = <int64_t>1 << (32 - slots_shift(sets.capacity))
    cdef int64_t slot = ((size + tables.n_tables) * sizeof(int32_t) + _LINE) // _LINE * _LINE
    cdef Scratch scratch = Scratch(threads * slot)
    cdef char *work = <char *>scratch.data
    for s in prange(samples, nogil=True, num_threads=threads, schedule="dynamic", chunksize=4):
        out_counts[s] = _vanilla_one(&tables, &sets, s, slide_key(seed, iteration, s),
                                     <int32_t *>(work + threadid() * slot), size)


def ranked(
    const uint32_t[:, ::1] codes,
    const int32_t[:, ::1] offsets,
    const int32_t[:, ::1] ids,
    int64_t n,
    const int64_t[::1] forced_ptr,
    const int32_t[::1] forced_ids,
    int64_t budget,
    uint64_t seed,
    uint64_t iteration,
    int32_t[:, ::1] out_ids,
    int64_t[::1] out_counts,
    int threads,
    *,
    int64_t min_tables=1,
    bint fill=False,
):
    """Take the ids found in the most tables, of those found in `min_tables` or more: top-K, hard threshold.

    Ids come in falling order of the number of tables they were found in. Where the budget cuts through ids of
    equal number, random ones stay.

    Parameters
    ----------
    codes, offsets, ids, n, forced_ptr, forced_ids, budget, seed, iteration, out_ids, out_counts
        As for ``vanilla``.
    min_tables : int
        1 for top-K; more for the hard threshold.
    fill : bool
        As for ``vanilla``; ids found in too few tables may be drawn.

    Raises
    ------
    ValueError
        Shapes do not fit, an id or bucket is out of range, or `min_tables` is not positive.
    """
    cdef int64_t samples = out_ids.shape[0], most = 0, s
    cdef Tables tables
    cdef Sets sets
    if min_tables < 1:
        raise ValueError(f"min_tables must be positive, got {min_tables}")
    view_tables(&tables, codes, offsets, ids, samples)
    _view_sets(&sets, n, forced_ptr, forced_ids, budget, fill, out_ids, out_counts)
    for s in range(samples):
        most = max(most, bucket_total(&tables, s))
    # A counter holds the forced ids beside those found; the same slots serve as the set that is filled.
    most += sets.capacity
    threads = threads_for(threads, samples, 4)
    cdef int64_t slots = <int64_t>1 << (32 - slots_shift(most))
    cdef int64_t slot = slots * sizeof(Slot) + (2 * most + tables.n_tables + 1) * sizeof(int32_t)
    slot = (slot + _LINE) // _LINE * _LINE
    cdef Scratch scratch = Scratch(threads * slot)
    cdef char *work = <char *>scratch.data
    for s in prange(samples, nogil=True, num_threads=threads, schedule="dynamic", chunksize=4):
        out_counts[s] = _ranked_one(&tables, &sets, s, slide_key(seed, iteration, s), min_tables,
                                    work + threadid() * slot, slots, most)


cdef int _view_sets(Sets *sets, int64_t n, const int64_t[::1] forced_ptr, const int32_t[::1] forced_ids,
                    int64_t budget, bint fill, int32_t[:, ::1] out_ids,
                    const int64_t[::1] out_counts) except -1:
    """Check the arrays that all policies take, and point to them."""
    cdef int64_t samples = out_ids.shape[0], most_forced = 0, s, i
    sets.capacity = out_ids.shape[1]
    sets.n = n
    sets.budget = budget
    sets.fill = fill
    if not 0 <= n < 2**31:
        raise ValueError(f"n must be between 0 and 2**31 - 1, got {n}")
    if forced_ptr.shape[0] != samples + 1 or out_counts.shape[0] != samples:
        raise ValueError(f"forced_ptr and out_counts must fit {samples} samples")
    if forced_ptr[0] != 0 or forced_ptr[samples] > forced_ids.shape[0]:
        raise ValueError(f"forced_ptr must rise from 0 to at most {forced_ids.shape[0]}")
    for s in range(samples):
        if forced_ptr[s + 1] < forced_ptr[s]:
            raise ValueError(f"forced_ptr falls after sample {s}")
        most_forced = max(most_forced, forced_ptr[s + 1] - forced_ptr[s])
    for i in range(forced_ptr[samples]):
        if not 0 <= forced_ids[i] < n:
            raise ValueError(f"forced id {forced_ids[i]} is not in 0..{n - 1}")
    if sets.capacity < max(budget, most_forced):
        raise ValueError(
            f"out_ids has room for {sets.capacity} ids a sample, {max(budget, most_forced)} are asked for"
        )
    sets.forced_ptr = &forced_ptr[0]
    sets.forced_ids = &forced_ids[0] if forced_ids.shape[0] else NULL
    sets.ids = &out_ids[0, 0] if samples and sets.capacity else NULL
    return 0


cdef int64_t _vanilla_one(const Tables *tables, const Sets *sets, int64_t sample, uint64_t key, int32_t *work,
                          int64_t size) noexcept nogil:
    cdef Seen seen
    cdef int32_t *order = work + size
    cdef int32_t *out = sets.ids + sample * sets.capacity
    cdef int64_t found = 0, i, j, t, length
    cdef const int32_t *found_ids
    cdef int32_t id_
    _seen_clear(&seen, work, size)
    for i in range(sets.forced_ptr[sample], sets.forced_ptr[sample + 1]):
        _seen_add(&seen, sets.forced_ids[i])
        out[found] = sets.forced_ids[i]
        found += 1
    for t in range(tables.n_tables):
        order[t] = <int32_t>t
    for t in range(tables.n_tables):  # Fisher and Yates
        j = t + slide_below(slide_mix(key + <uint64_t>t), <uint32_t>(tables.n_tables - t))
        id_ = order[j]
        order[j] = order[t]
        order[t] = id_
    key = slide_mix(key + <uint64_t>tables.n_tables)
    for t in range(min(_AHEAD, tables.n_tables)):
        slide_prefetch(bucket_ends(tables, order[t], sample))
    for t in range(tables.n_tables):
        if found >= sets.budget:
            break
        if t + _AHEAD < tables.n_tables:
            slide_prefetch(bucket_ends(tables, order[t + _AHEAD], sample))
        if t + _AHEAD // 2 < tables.n_tables:
            prefetch_bucket(tables, order[t + _AHEAD // 2], sample)
        found_ids = bucket(tables, order[t], sample, &length)
        if length == 0:
            continue
        key = slide_mix(key)
        j = slide_below(key, <uint32_t>length)
        for _ in range(length):
            id_ = found_ids[j]
            j += 1
            if j == length:
                j = 0
            if _seen_add(&seen, id_):
                out[found] = id_
                found += 1
                if found >= sets.budget:
                    break
    if sets.fill:
        found = _fill(sets, &seen, out, found, key)
    return found


cdef int64_t _ranked_one(const Tables *tables, const Sets *sets, int64_t sample, uint64_t key,
                         int64_t min_tables, char *work, int64_t slots, int64_t most) noexcept nogil:
    cdef Counter counter
    cdef int32_t *out = sets.ids + sample * sets.capacity
    cdef int64_t first = sets.forced_ptr[sample], forced = sets.forced_ptr[sample + 1] - first
    cdef int64_t found = forced, room = max(0, sets.budget - forced), i, j, above, cut, spare, left
    cdef int32_t *starts
    cdef int32_t id_, count
    counter.slots = <Slot *>work
    counter.ids = <int32_t *>(counter.slots + slots)
    counter.counts = counter.ids + most
    starts = counter.counts + most
    counter_clear(&counter, bucket_total(tables, sample) + forced)
    counter_add(&counter, sets.forced_ids + first, forced)
    count_buckets(tables, sample, &counter)

    # Candidates come after the forced ids. starts[c] counts those found in c tables, and then says where they
    # go.
    memset(starts, 0, (tables.n_tables + 1) * sizeof(int32_t))
    for i in range(forced, counter.size):
        starts[counter.counts[i]] += 1
    above = 0
    cut = tables.n_tables + 1
    spare = 0
    while cut > min_tables and above < room:
        cut -= 1
        spare = starts[cut]
        starts[cut] = <int32_t>above
        above += spare
    # All ids that were found more often than `cut` are in, and `left` of those that were found `cut` times.
    left = spare - max(0, above - room)
    cdef int32_t *tied = <int32_t *>work  # the slots are done with
    spare = 0
    if forced:  # otherwise there may be no array of them
        memcpy(out, sets.forced_ids + first, forced * sizeof(int32_t))
    for i in range(forced, counter.size):
        count = counter.counts[i]
        if count < cut:
            continue
        if count > cut:
            out[forced + starts[count]] = counter.ids[i]
            starts[count] += 1
            found += 1
        else:
            tied[spare] = counter.ids[i]
            spare += 1
    if left < spare:
        for i in range(left):  # Fisher and Yates
            j = i + slide_below(slide_mix(key + <uint64_t>i), <uint32_t>(spare - i))
            id_ = tied[j]
            tied[j] = tied[i]
            tied[i] = id_
    if left:
        memcpy(out + found, tied, left * sizeof(int32_t))
    found += left
    cdef Seen seen
    if sets.fill and found < sets.budget:
        _seen_clear(&seen, <int32_t *>work, slots)
        for i in range(found):
            _seen_add(&seen, out[i])
        found = _fill(sets, &seen, out, found, key)
    return found


cdef int64_t _fill(const Sets *sets, Seen *seen, int32_t *out, int64_t found, uint64_t key) noexcept nogil:
    """Fill a set with uniform draws up to the budget, or with all ids there are; return its size."""
    cdef int64_t goal = min(sets.budget, sets.n)
    cdef int32_t id_
    while found < goal:
        key = slide_mix(key)
        id_ = <int32_t>slide_below(key, <uint32_t>sets.n)
        if _seen_add(seen, id_):
            out[found] = id_
            found += 1
    return found


cdef inline void _seen_clear(Seen *seen, int32_t *slots, int64_t size) noexcept nogil:
    seen.slots = slots
    seen.mask = <uint32_t>(size - 1)
    memset(slots, 0xFF, size * sizeof(int32_t))


cdef inline bint _seen_add(Seen *seen, int32_t id_) noexcept nogil:
    """Put the id into the set; return False if it was there already. The set is never more than half full."""
    cdef uint32_t place = (<uint32_t>id_ * 0x9E3779B1u) & seen.mask
    while seen.slots[place] != -1:
        if seen.slots[place] == id_:
            return False
        place = (place + 1) & seen.mask
    seen.slots[place] = id_
    return True


def split_shared(const int32_t[::1] place, int32_t[:, ::1] ids, int64_t[::1] counts,
                 int32_t[:, ::1] out_places, int64_t[::1] out_counts, int threads):
    """Take the ids that the whole batch shares out of every sample's active set.

    Parameters
    ----------
    place : int32 array [n]
        An id's place among the shared ones, -1 for ids that are not shared.
    ids : int32 array [samples, capacity]
    counts : int64 array [samples]
        The active sets; changed to the ids that are left, in the same order.
    out_places : int32 array [samples, capacity]
    out_counts : int64 array [samples]
        Written: the places of the ids that were taken out.

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
    threads = threads_for(threads, samples * capacity, 1 << 16)
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
