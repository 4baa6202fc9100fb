"""The (sample, row) pairs of a batch, grouped by row.

A batch touches few rows of a parameter table. The pairs are grouped by row, so that one thread visits each touched row
once, for all samples that want it: no locks, no races, and sums whose order does not depend on the number of threads.

Grouping is a stable sort, so that there is one right result, whatever the number of threads. A few pairs are
sorted digit by digit. Many are spread over buckets of neighbouring rows, blocks of samples side by side, and each
bucket, which fits into a cache, is sorted by itself.
"""

cimport cython
from cython.parallel cimport parallel, prange
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memset

import numpy as np

from slide.kernels.memory cimport HugeBuffer
from slide.kernels.parallel cimport threads_for
from slide.kernels.rows cimport RowTable, slide_groups

cdef enum:
    _RADIX_BITS = 11
    _RADIX = 1 << 11
    _FEW_BITS = 5          # at least so many bits of a row's id choose its bucket where rows are few
    _PAIRS_A_PART = 1024
    _FEW_PAIRS = 1 << 15   # fewer are sorted by one thread, digit by digit
    _MOST_BLOCKS = 16

MOST_PARTS = _MOST_PARTS
"""The most tasks a batch's grouped pairs are cut into, and so the most threads that can share them."""

# The samples of a batch cut into blocks, each spread over the buckets by one thread, and the range of their rows.
cdef struct Spread:
    const int32_t *ids
    const int64_t *begin
    const int64_t *end
    int64_t n_rows
    int low_bits                      # low bits of a row's id, which order it within its bucket
    int64_t n_buckets
    int64_t n_blocks
    int64_t block[_MOST_BLOCKS + 1]   # first sample of each
    int32_t lowest[_MOST_BLOCKS]      # row ids
    int32_t highest[_MOST_BLOCKS]


@cython.final
cdef class PairGroups:
    """The (sample, row) pairs of a batch, grouped by row; its memory is allocated once and used for every batch.

    Pairs are in slot order within a group. Groups are also cut into ``n_parts`` runs of similar work; the cut depends
    on the pairs alone, so that sums over parts are the same at any number of threads. One thread at a time may use it.

    Parameters
    ----------
    capacity : int
        The most pairs, and the most slots, a batch may have.
    hugepages : bool or str
        What pages to ask the kernel for; see `slide.kernels.memory.HugeBuffer`.

    Attributes
    ----------
    n_samples, n_pairs, n_groups, n_parts : int
        Sizes of the batch that was grouped last.
    """

    def __cinit__(self, int64_t capacity, *, hugepages=True):
        if not 0 <= capacity < 2**31:
            raise ValueError(f"capacity must be between 0 and 2**31 - 1, got {capacity}")
        cdef int64_t room = capacity + 16
        self.capacity = capacity
        self.buffer = HugeBuffer(self.bytes_needed(capacity), name="pair groups", hugepages=hugepages)
        self.keys = <uint64_t *>self.buffer.data
        self.keys_to = self.keys + room
        self.group_ptr = <int64_t *>(self.keys_to + room)
        self.part_ptr = self.group_ptr + room
        self.bucket_ptr = self.part_ptr + _MOST_PARTS + 1
        self.bucket_groups = self.bucket_ptr + _RADIX + 1
        self.counts = <int32_t *>(self.bucket_groups + _RADIX + 1)
        self.group_row = self.counts + _MOST_BLOCKS * _RADIX
        self.pair_sample = self.group_row + room
        self.pair_slot = self.pair_sample + room
        self.slot_sample = self.pair_slot + room
        self.n_parts = 0

    @staticmethod
    def bytes_needed(int64_t capacity):
        """Return the bytes that groups of that capacity take, without making them."""
        fixed = (_MOST_PARTS + 1 + 2 * (_RADIX + 1)) * 8 + _MOST_BLOCKS * _RADIX * 4
        return (capacity + 16) * (4 * 4 + 3 * 8) + fixed

    cdef slide_groups view(self) noexcept nogil:
        cdef slide_groups groups
        groups.rows = self.group_row
        groups.ptr = self.group_ptr
        groups.sample = self.pair_sample
        groups.slot = self.pair_slot
        return groups

    @property
    def buffer_owner(self):
        """The HugeBuffer behind the groups, for memory reports."""
        return self.buffer

    @property
    def rows(self):
        """Int32 copy [n_groups]: the row of each group, ascending."""
        return self._copy(<size_t>self.group_row, self.n_groups, np.int32)

    @property
    def rows_in_place(self):
        """Int32 view [n_groups] of the same rows, valid until the next batch is grouped."""
        return self._view(<size_t>self.group_row, self.n_groups, np.int32)

    @property
    def ptr(self):
        """Int64 copy [n_groups + 1]: where each group's pairs begin and end."""
        return self._copy(<size_t>self.group_ptr, self.n_groups + 1, np.int64)

    @property
    def samples(self):
        """Int32 copy [n_pairs]: each pair's sample."""
        return self._copy(<size_t>self.pair_sample, self.n_pairs, np.int32)

    @property
    def slots(self):
        """Int32 copy [n_pairs]: each pair's place in the caller's per-pair arrays."""
        return self._copy(<size_t>self.pair_slot, self.n_pairs, np.int32)

    @property
    def parts(self):
        """Int64 copy [n_parts + 1]: the groups at which each part begins and ends."""
        return self._copy(<size_t>self.part_ptr, self.n_parts + 1, np.int64)

    def _copy(self, size_t address, count, dtype):
        return self._view(address, count, dtype).copy()

    def _view(self, size_t address, count, dtype):
        return np.frombuffer(self.buffer, dtype, count, address - <size_t>self.buffer.data)

    def group(self, const int32_t[::1] ids, const int64_t[::1] begin, const int64_t[::1] end, int64_t n_rows,
              int threads=1):
        """Group pairs (s, ids[i]) for every sample s and every i in ``begin[s]..end[s]``; i is the pair's slot.

        Parameters
        ----------
        ids : int32 array [slots]
        begin, end : int64 arrays [samples]
            Runs of `ids` that do not overlap and rise with the sample.
        n_rows : int
            All ids are below it.
        threads : int
            The groups do not depend on it.

        Raises
        ------
        ValueError
            More pairs or slots than the capacity, runs that are not in order, or an id out of range.
        """
        cdef int64_t samples = begin.shape[0], s, pairs = 0, last = 0
        cdef int32_t highest = -1, lowest = 0
        if end.shape[0] != samples:
            raise ValueError(f"begin and end must have the same length, got {samples} and {end.shape[0]}")
        if ids.shape[0] > self.capacity:
            raise ValueError(f"{ids.shape[0]} slots, but room for {self.capacity}")
        for s in range(samples):
            if begin[s] < last or end[s] < begin[s] or end[s] > ids.shape[0]:
                raise ValueError(f"sample {s}'s run {begin[s]}..{end[s]} is out of order or range")
            last = end[s]
            pairs += end[s] - begin[s]
        self.n_samples = samples
        self.n_pairs = self.n_groups = self.n_parts = 0
        self.highest_row = -1
        self.highest_slot = last - 1
        if pairs == 0:
            self.group_ptr[0] = self.part_ptr[0] = 0
            return
        cdef Spread spread
        cdef bint few = pairs < _FEW_PAIRS
        threads = 1 if few else min(threads_for(threads, pairs, 1 << 15), <int>_MOST_BLOCKS)
        cdef int64_t b
        _plan(&spread, &ids[0], &begin[0], &end[0], samples, pairs, n_rows, threads)
        if few:
            with nogil:
                _make_keys(self, &spread)
        else:
            # One region, and no step for one thread in it: on a busy machine to meet costs more than small sums do.
            with nogil, parallel(num_threads=threads):
                for b in prange(spread.n_blocks, schedule="static", chunksize=1):
                    _count_block(self, &spread, b)
                for b in prange(spread.n_blocks, schedule="static", chunksize=1):
                    _spread_block(self, &spread, b)
                for b in prange(spread.n_buckets, schedule="dynamic", chunksize=4):
                    _sort_bucket(self, &spread, b)
        for b in range(spread.n_blocks):
            lowest = min(lowest, spread.lowest[b])
            highest = max(highest, spread.highest[b])
        self.highest_row = highest
        if lowest < 0 or highest >= n_rows:
            self.n_groups = 0
            raise ValueError(f"row ids must lie in 0..{n_rows - 1}, got {lowest if lowest < 0 else highest}")
        self.n_pairs = pairs
        with nogil:
            if few:
                self._sort(highest + 1)
                self.bucket_ptr[0] = 0
                self.bucket_groups[0] = _emit(self, self.keys, 0, pairs)
                spread.n_buckets = 1
            self._gather(spread.n_buckets)
            self.group_ptr[self.n_groups] = pairs
            self._cut()

    cdef void _sort(self, int64_t n_rows) noexcept nogil:
        """Stable radix sort of the keys by row; slots stay ascending within a row."""
        cdef uint64_t *swap
        cdef int shift = 0
        while n_rows > (<int64_t>1 << shift):
            _sort_digit(self.keys, self.keys_to, self.n_pairs, 32 + shift, _RADIX_BITS)
            swap = self.keys
            self.keys = self.keys_to
            self.keys_to = swap
            shift += _RADIX_BITS

    cdef void _gather(self, int64_t n_buckets) noexcept nogil:
        """Put the groups of all buckets one after another."""
        cdef const uint64_t *found
        cdef int64_t bucket, g
        self.n_groups = 0
        for bucket in range(n_buckets):
            found = self.keys_to + self.bucket_ptr[bucket]
            for g in range(self.bucket_groups[bucket]):
                self.group_row[self.n_groups] = <int32_t>(found[g] >> 32)
                self.group_ptr[self.n_groups] = found[g] & 0xFFFFFFFFu
                self.n_groups += 1

    cdef void _cut(self) noexcept nogil:
        """Cut the groups into parts: part p begins where p shares of the work are done."""
        cdef int64_t work, p, g, low, high
        # A visit to a row costs about as much as four pairs do.
        work = self.n_pairs + 4 * self.n_groups
        self.n_parts = min((work + _PAIRS_A_PART - 1) // _PAIRS_A_PART, _MOST_PARTS)
        low = 0
        for p in range(self.n_parts):
            high = self.n_groups
            while low < high:
                g = (low + high) // 2
                if (self.group_ptr[g] + 4 * g) * self.n_parts >= p * work:
                    high = g
                else:
                    low = g + 1
            self.part_ptr[p] = low
        self.part_ptr[self.n_parts] = self.n_groups


cdef void _plan(Spread *spread, const int32_t *ids, const int64_t *begin, const int64_t *end, int64_t samples,
                int64_t pairs, int64_t n_rows, int threads) noexcept nogil:
    """Choose the buckets, and cut the samples into blocks of about as many pairs each."""
    cdef int bits = 0
    cdef int64_t s = 0, b, before = 0
    while n_rows > (<int64_t>1 << bits):
        bits += 1
    spread.ids = ids
    spread.begin = begin
    spread.end = end
    spread.n_rows = n_rows
    spread.low_bits = max(bits - _RADIX_BITS, min(_RADIX_BITS, max(bits - _FEW_BITS, 0)))
    spread.n_buckets = (max(n_rows - 1, 0) >> spread.low_bits) + 1
    spread.n_blocks = threads
    for b in range(threads):
        spread.block[b] = s
        while s < samples and before * threads < (b + 1) * pairs:
            before += end[s] - begin[s]
            s += 1
    spread.block[threads] = samples


cdef void _make_keys(PairGroups groups, Spread *spread) noexcept nogil:
    """Write a key for each pair: its row, then its slot."""
    cdef int64_t s, i, n = 0
    cdef int32_t row, lowest = 0, highest = -1
    for s in range(groups.n_samples):
        for i in range(spread.begin[s], spread.end[s]):
            row = spread.ids[i]
            lowest = min(lowest, row)
            highest = max(highest, row)
            groups.keys[n] = (<uint64_t><uint32_t>row) << 32 | <uint64_t>i
            groups.slot_sample[i] = <int32_t>s
            n += 1
    spread.lowest[0] = lowest
    spread.highest[0] = highest


cdef void _count_block(PairGroups groups, Spread *spread, int64_t block) noexcept nogil:
    """Count the block's pairs for each bucket, and find the range of their rows, which may be out of bounds."""
    cdef int32_t *count = groups.counts + block * _RADIX
    cdef int64_t s, i
    cdef int32_t row, lowest = 0, highest = -1
    memset(count, 0, spread.n_buckets * sizeof(int32_t))
    for s in range(spread.block[block], spread.block[block + 1]):
        for i in range(spread.begin[s], spread.end[s]):
            row = spread.ids[i]
            lowest = min(lowest, row)
            highest = max(highest, row)
            if 0 <= row < spread.n_rows:
                count[row >> spread.low_bits] += 1
            groups.slot_sample[i] = <int32_t>s
    spread.lowest[block] = lowest
    spread.highest[block] = highest


cdef void _spread_block(PairGroups groups, Spread *spread, int64_t block) noexcept nogil:
    """Put the block's keys into the buckets, behind those of the blocks before it."""
    cdef int32_t to[_RADIX]
    cdef int64_t s, i, bucket, other, total = 0
    cdef int32_t row
    for other in range(spread.n_blocks):
        if spread.lowest[other] < 0 or spread.highest[other] >= spread.n_rows:
            if block == 0:
                memset(groups.bucket_ptr, 0, (spread.n_buckets + 1) * sizeof(int64_t))
            return
    for bucket in range(spread.n_buckets):
        if block == 0:
            groups.bucket_ptr[bucket] = total
        for other in range(spread.n_blocks):
            if other == block:
                to[bucket] = <int32_t>total
            total += groups.counts[other * _RADIX + bucket]
    if block == 0:
        groups.bucket_ptr[spread.n_buckets] = total
    for s in range(spread.block[block], spread.block[block + 1]):
        for i in range(spread.begin[s], spread.end[s]):
            row = spread.ids[i]
            groups.keys[to[row >> spread.low_bits]] = (<uint64_t><uint32_t>row) << 32 | <uint64_t>i
            to[row >> spread.low_bits] += 1


cdef void _sort_bucket(PairGroups groups, Spread *spread, int64_t bucket) noexcept nogil:
    """Sort a bucket's keys and find its groups, which wait in `keys_to` for their final places."""
    cdef int64_t begin = groups.bucket_ptr[bucket], n = groups.bucket_ptr[bucket + 1] - begin
    cdef uint64_t *keys = groups.keys + begin
    cdef uint64_t *to = groups.keys_to + begin
    cdef uint64_t *swap
    cdef int digit = 4, shift = 0, passes
    # Counters cost time as pairs do: about as many of them, and digits of equal length.
    while digit < _RADIX_BITS and n > (<int64_t>1 << digit):
        digit += 1
    passes = (spread.low_bits + digit - 1) // digit
    if passes and n:
        digit = (spread.low_bits + passes - 1) // passes
        while shift < spread.low_bits:
            _sort_digit(keys, to, n, 32 + shift, digit)
            swap = keys
            keys = to
            to = swap
            shift += digit
    groups.bucket_groups[bucket] = _emit(groups, keys, begin, n)


cdef void _sort_digit(const uint64_t *keys, uint64_t *to, int64_t n, int shift, int bits) noexcept nogil:
    """One pass of a stable radix sort."""
    cdef int32_t count[_RADIX]
    cdef int64_t i, c
    cdef int32_t total = 0, here
    cdef int64_t size = <int64_t>1 << bits
    cdef uint64_t mask = <uint64_t>size - 1
    memset(count, 0, size * sizeof(int32_t))
    for i in range(n):
        count[(keys[i] >> shift) & mask] += 1
    for i in range(size):
        here = count[i]
        count[i] = total
        total += here
    for i in range(n):
        c = (keys[i] >> shift) & mask
        to[count[c]] = keys[i]
        count[c] += 1


cdef int64_t _emit(PairGroups groups, const uint64_t *keys, int64_t begin, int64_t n) noexcept nogil:
    """Write the pairs of n sorted keys from `begin` on, and each group's row and first pair to `keys_to` from there on.

    The keys may be in `keys_to` themselves, since there are never more groups than keys read.
    """
    cdef uint64_t *found = groups.keys_to + begin
    cdef int64_t i, g = 0
    cdef int64_t row = -1
    cdef uint64_t key
    cdef int32_t slot
    for i in range(n):
        key = keys[i]
        slot = <int32_t>(key & 0xFFFFFFFFu)
        groups.pair_slot[begin + i] = slot
        groups.pair_sample[begin + i] = groups.slot_sample[slot]
        if <int64_t>(key >> 32) != row:
            row = <int64_t>(key >> 32)
            found[g] = <uint64_t>row << 32 | <uint64_t>(begin + i)
            g += 1
    return g


def check_grouped(RowTable table, PairGroups groups, hidden, slots):
    """Raise ValueError unless the grouped pairs fit the table, the hidden vectors and an array of `slots` entries."""
    if hidden.shape[1] != table.padded_dim or hidden.shape[0] < groups.n_samples:
        raise ValueError(
            f"hidden must be [{groups.n_samples} or more, {table.padded_dim}], "
            f"got [{hidden.shape[0]}, {hidden.shape[1]}]"
        )
    if groups.n_pairs and (groups.highest_row >= table.n_rows or groups.highest_slot >= slots):
        raise ValueError(
            f"pairs reach row {groups.highest_row} and slot {groups.highest_slot}, "
            f"but there are {table.n_rows} rows and {slots} slots"
        )
