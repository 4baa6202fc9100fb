"""Sparse-dense kernels on a batch of (sample, row) pairs: SpMM, SDDMM, and the grouping of pairs by row.

A batch touches few rows of a parameter table. Grouped by row, each touched row is visited once for all the samples that
want it, by one thread: no locks, no races, and sums in an order that does not depend on the number of threads.
"""

cimport cython
from cython.parallel cimport prange
from libc.math cimport sqrt
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

import numpy as np

from slide.kernels.memory cimport HugeBuffer
from slide.kernels.parallel cimport threads_for
from slide.kernels.rows cimport KERNELS, RowTable, slide_groups

cdef enum:
    _RADIX_BITS = 11
    _RADIX = 1 << 11
    _PAIRS_A_PART = 1024

MOST_PARTS = _MOST_PARTS
"""The most tasks a batch's grouped pairs are cut into, and so the most threads that can share them."""


@cython.final
cdef class PairGroups:
    """The (sample, row) pairs of a batch, grouped by row; its memory is allocated once and used for every batch.

    Within a group pairs are in slot order. Groups are also cut into ``n_parts`` runs of similar work; the cut depends
    on the pairs alone, which is what keeps sums over parts the same at any number of threads. One thread at a time.

    Parameters
    ----------
    capacity : int
        The most pairs, and the most slots, a batch may have.

    Attributes
    ----------
    n_samples, n_pairs, n_groups, n_parts : int
        Of the batch last grouped.
    """

    def __cinit__(self, int64_t capacity):
        if not 0 <= capacity < 2**31:
            raise ValueError(f"capacity must be between 0 and 2**31 - 1, got {capacity}")
        cdef int64_t room = capacity + 16
        self.capacity = capacity
        self.buffer = HugeBuffer(room * (4 * 4 + 3 * 8) + (_MOST_PARTS + 1) * 8, name="pair groups")
        self.keys = <uint64_t *>self.buffer.data
        self.keys_to = self.keys + room
        self.group_ptr = <int64_t *>(self.keys_to + room)
        self.part_ptr = self.group_ptr + room
        self.group_row = <int32_t *>(self.part_ptr + _MOST_PARTS + 1)
        self.pair_sample = self.group_row + room
        self.pair_slot = self.pair_sample + room
        self.slot_sample = self.pair_slot + room
        self.n_parts = 0

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
        """Int32 view [n_groups] of the same, valid until the next batch is grouped."""
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

    def group(self, const int32_t[::1] ids, const int64_t[::1] begin, const int64_t[::1] end, int64_t n_rows):
        """Group pairs (s, ids[i]) for every sample s and every i in ``begin[s]..end[s]``; i is the pair's slot.

        Parameters
        ----------
        ids : int32 array
        begin, end : int64 arrays [samples]
            Runs of `ids` that do not overlap and rise with the sample.
        n_rows : int
            Ids lie below it.

        Raises
        ------
        ValueError
            More pairs or slots than the capacity, runs that are not in order, or an id out of range.
        """
        cdef int64_t samples = begin.shape[0], s, i, pairs = 0, last = 0
        cdef int32_t highest = -1, lowest = 0
        if end.shape[0] != samples:
            raise ValueError(f"begin and end must have the same length, got {samples} and {end.shape[0]}")
        if ids.shape[0] > self.capacity:
            raise ValueError(f"{ids.shape[0]} slots, but room for {self.capacity}")
        for s in range(samples):
            if begin[s] < last or end[s] < begin[s] or end[s] > ids.shape[0]:
                raise ValueError(f"sample {s}'s run {begin[s]}..{end[s]} is out of order or range")
            last = end[s]
        cdef const int32_t *id_ = &ids[0] if ids.shape[0] else NULL
        with nogil:
            for s in range(samples):
                for i in range(begin[s], end[s]):
                    highest = max(highest, id_[i])
                    lowest = min(lowest, id_[i])
                    self.keys[pairs] = (<uint64_t><uint32_t>id_[i]) << 32 | <uint64_t>i
                    self.slot_sample[i] = <int32_t>s
                    pairs += 1
        self.n_samples = samples
        self.n_pairs = self.n_groups = self.n_parts = 0
        self.highest_row = highest
        self.highest_slot = last - 1
        if lowest < 0 or highest >= n_rows:
            raise ValueError(f"row ids must lie in 0..{n_rows - 1}, got {lowest if lowest < 0 else highest}")
        self.n_pairs = pairs
        with nogil:
            self._sort(highest + 1)
            self._finish()

    cdef void _sort(self, int64_t n_rows) noexcept nogil:
        """Stable radix sort of the keys by row; slots stay ascending within a row."""
        cdef int64_t count[_RADIX]
        cdef int64_t i, total, c
        cdef int shift = 0
        cdef uint64_t key
        cdef uint64_t *swap
        while n_rows > (<int64_t>1 << shift):
            memset(count, 0, sizeof(count))
            for i in range(self.n_pairs):
                count[(self.keys[i] >> (32 + shift)) & (_RADIX - 1)] += 1
            total = 0
            for i in range(_RADIX):
                c = count[i]
                count[i] = total
                total += c
            for i in range(self.n_pairs):
                key = self.keys[i]
                c = (key >> (32 + shift)) & (_RADIX - 1)
                self.keys_to[count[c]] = key
                count[c] += 1
            swap = self.keys
            self.keys = self.keys_to
            self.keys_to = swap
            shift += _RADIX_BITS

    cdef void _finish(self) noexcept nogil:
        cdef int64_t i, g = -1, p = 0, work, done = 0
        cdef int32_t row = -1, slot
        for i in range(self.n_pairs):
            slot = <int32_t>(self.keys[i] & 0xFFFFFFFFu)
            if <int32_t>(self.keys[i] >> 32) != row:
                row = <int32_t>(self.keys[i] >> 32)
                g += 1
                self.group_row[g] = row
                self.group_ptr[g] = i
            self.pair_slot[i] = slot
            self.pair_sample[i] = self.slot_sample[slot]
        self.n_groups = g + 1
        self.group_ptr[self.n_groups] = self.n_pairs
        # A visit to a row costs about as much as four pairs do.
        work = self.n_pairs + 4 * self.n_groups
        self.n_parts = min((work + _PAIRS_A_PART - 1) // _PAIRS_A_PART, _MOST_PARTS)
        self.part_ptr[0] = 0
        for g in range(self.n_groups):
            while p < self.n_parts and done * self.n_parts >= p * work:
                self.part_ptr[p] = g
                p += 1
            done += self.group_ptr[g + 1] - self.group_ptr[g] + 4
        while p <= self.n_parts:
            self.part_ptr[p] = self.n_groups
            p += 1


@cython.final
cdef class SampleGradient:
    """The batch's gradient with respect to its hidden vectors, gathered in parts and summed in a fixed order.

    Each part is a [samples, dim] array that one task owns. One thread at a time.

    Parameters
    ----------
    n_samples : int
        Of a batch, at most.
    padded_dim : int
        A multiple of 16.
    """

    def __cinit__(self, int64_t n_samples, int64_t padded_dim):
        if n_samples < 1 or padded_dim < 16 or padded_dim % 16:
            raise ValueError(f"expected samples and a multiple of 16, got {n_samples} and {padded_dim}")
        self.buffer = HugeBuffer(2 * _MOST_PARTS * n_samples * padded_dim * 4, name="hidden gradient parts")
        self.data = <float *>self.buffer.data
        self.n_samples = n_samples
        self.dim = padded_dim
        self.n_parts = 0

    @property
    def buffer_owner(self):
        """The HugeBuffer behind the parts, for memory reports."""
        return self.buffer

    cdef float *add_parts(self, int64_t count) except NULL:
        if self.n_parts + count > 2 * _MOST_PARTS:
            raise ValueError("more parts than a batch may have; sum_into() ends a batch")
        cdef float *first = self.data + self.n_parts * self.n_samples * self.dim
        self.n_parts += count
        return first

    def clear(self):
        """Forget all parts: a batch begins."""
        self.n_parts = 0

    def sum_into(self, float[:, ::1] out, const float[:, ::1] active, int num_threads):
        """Write the sum of all parts, zero where the ReLU was off, and make ready for the next batch.

        Parameters
        ----------
        out : float32 array [samples, padded_dim]
        active : float32 array [samples, padded_dim] or None
            The hidden activations; where one is not positive the gradient is zero. None for a linear layer.
        num_threads : int

        Raises
        ------
        ValueError
            Shapes do not fit.
        """
        cdef int64_t n = out.shape[0], s, dim = self.dim, distance = self.n_samples * self.dim
        if n > self.n_samples or out.shape[1] != dim:
            raise ValueError(f"out must be [at most {self.n_samples}, {dim}], got [{n}, {out.shape[1]}]")
        if active is not None and (active.shape[0] != n or active.shape[1] != dim):
            raise ValueError("active must have the shape of out")
        cdef const float *on = NULL
        if n == 0:
            self.n_parts = 0
            return
        if active is not None:
            on = &active[0, 0]
        cdef float *to = &out[0, 0]
        cdef int threads = threads_for(num_threads, n * self.n_parts, 1 << 13)
        for s in prange(n, nogil=True, num_threads=threads, schedule="static"):
            KERNELS.sum_parts(self.data + s * dim, self.n_parts, distance,
                              <const float *>NULL if on == NULL else on + s * dim, to + s * dim, dim)
        self.n_parts = 0


def take_rows(const int64_t[::1] indptr, const int32_t[::1] indices, const float[::1] values, const float[::1] weights,
              const int64_t[::1] rows, bint normalize, int64_t[::1] out_indptr, int32_t[::1] out_indices,
              float[::1] out_values):
    """Copy some rows of a CSR matrix, in the order given, and return how many entries that made.

    Parameters
    ----------
    indptr, indices, values : arrays
        The matrix; `values` may be empty where only the pattern is wanted.
    weights : float32 array [columns] or [0]
        Multiplied into the values of each column; empty for none.
    rows : int64 array [n]
    normalize : bool
        Scale each row, weighted, to unit Euclidean length; a row of zeros stays.
    out_indptr : int64 array [at least n + 1]
    out_indices, out_values : arrays
        Written.

    Raises
    ------
    ValueError
        A row is out of range, a column has no weight, or the output is too small.
    """
    cdef int64_t n = rows.shape[0], i, j, total = 0, first, length
    cdef bint with_values = values.shape[0] > 0, weighted = with_values and weights.shape[0] > 0
    cdef double square, scale, value
    cdef int32_t low = 0, high = -1
    for i in range(n):
        if not 0 <= rows[i] < indptr.shape[0] - 1:
            raise ValueError(f"row {rows[i]} is not in 0..{indptr.shape[0] - 2}")
        if not 0 <= indptr[rows[i]] <= indptr[rows[i] + 1] <= indices.shape[0]:
            raise ValueError(f"indptr is not consistent at row {rows[i]}")
        total += indptr[rows[i] + 1] - indptr[rows[i]]
        if weighted:
            for j in range(indptr[rows[i]], indptr[rows[i] + 1]):
                low, high = min(low, indices[j]), max(high, indices[j])
    if weighted and (low < 0 or high >= weights.shape[0]):
        raise ValueError(f"column {low if low < 0 else high} is not one of the {weights.shape[0]} that have a weight")
    if with_values and values.shape[0] < indices.shape[0]:
        raise ValueError(f"{values.shape[0]} values for {indices.shape[0]} indices")
    if out_indptr.shape[0] < n + 1 or out_indices.shape[0] < total or (with_values and out_values.shape[0] < total):
        raise ValueError(f"no room for {n} rows with {total} entries")
    total = 0
    out_indptr[0] = 0
    with nogil:
        for i in range(n):
            first = indptr[rows[i]]
            length = indptr[rows[i] + 1] - first
            if length:
                memcpy(&out_indices[total], &indices[first], length * sizeof(int32_t))
                if with_values:
                    square = 0.0
                    for j in range(length):
                        value = values[first + j]
                        if weighted:
                            value *= weights[indices[first + j]]
                        square += value * value
                    scale = 1.0 / sqrt(square) if normalize and square > 0.0 else 1.0
                    for j in range(length):
                        value = scale * values[first + j]
                        if weighted:
                            value *= weights[indices[first + j]]
                        out_values[total + j] = <float>value
            total += length
            out_indptr[i + 1] = total
    return total


def spmm(RowTable table, const int64_t[::1] indptr, const int32_t[::1] indices, const float[::1] values,
         const float[::1] bias, bint relu, float[:, ::1] out, int num_threads):
    """SpMM: ``out[s] = bias + sum_i values[i] * weights[indices[i]]`` over sample s's entries, then ReLU if asked.

    With a sampled layer's deltas as values this is the transposed product that carries the gradient down.

    Parameters
    ----------
    table : RowTable
    indptr : int64 array [samples + 1]
    indices : int32 array
    values : float32 array
    bias : float32 array [padded_dim] or [0]
        Empty for none.
    relu : bool
    out : float32 array [samples, padded_dim]
        Written.
    num_threads : int

    Raises
    ------
    ValueError
        Shapes do not fit, or an index is out of range.
    """
    cdef int64_t n = out.shape[0], dp = table.padded_dim, s, j, total
    if out.shape[1] != dp or bias.shape[0] not in (0, dp):
        raise ValueError(f"out and bias must have {dp} columns, got {out.shape[1]} and {bias.shape[0]}")
    if indptr.shape[0] < n + 1:
        raise ValueError(f"indptr must have {n + 1} entries, got {indptr.shape[0]}")
    if n == 0:
        return
    total = indptr[n]
    if indptr[0] != 0 or total > indices.shape[0] or total > values.shape[0] or np.any(np.diff(indptr[: n + 1]) < 0):
        raise ValueError("indptr must rise from 0 to at most the number of indices and values")
    if total:
        low, high = np.min(indices[:total]), np.max(indices[:total])
        if low < 0 or high >= table.n_rows:
            raise ValueError(f"indices must lie in 0..{table.n_rows - 1}, got {low if low < 0 else high}")
    cdef const int32_t *index = &indices[0] if total else NULL
    cdef const float *value = &values[0] if total else NULL
    cdef const float *start = &bias[0] if bias.shape[0] else NULL
    cdef float *row
    cdef int threads = threads_for(num_threads, total * dp, 1 << 18)
    for s in prange(n, nogil=True, num_threads=threads, schedule="dynamic", chunksize=8):
        row = &out[s, 0]
        if start != NULL:
            memcpy(row, start, dp * sizeof(float))
        else:
            memset(row, 0, dp * sizeof(float))
        KERNELS.spmm(&table.table, index + indptr[s], value + indptr[s], indptr[s + 1] - indptr[s], row)
        if relu:
            for j in range(dp):
                # Written so that NaN passes through: a fault must reach the loss to be seen.
                row[j] = 0.0 if row[j] < 0.0 else row[j]


def sddmm(RowTable table, PairGroups groups, const float[:, ::1] hidden, float[::1] out, int num_threads):
    """SDDMM: ``out[slot] = table.weights[row] . hidden[sample] + table.bias[row]`` for every grouped pair.

    Parameters
    ----------
    table : RowTable
    groups : PairGroups
    hidden : float32 array [samples, padded_dim]
    out : float32 array
        Written at the pairs' slots alone.
    num_threads : int

    Raises
    ------
    ValueError
        Shapes do not fit.
    """
    check_grouped(table, groups, hidden, out.shape[0])
    if groups.n_pairs == 0:
        return
    cdef slide_groups view = groups.view()
    cdef const float *h = &hidden[0, 0]
    cdef float *logits = &out[0]
    cdef int64_t p
    cdef int threads = threads_for(num_threads, groups.n_pairs * table.padded_dim, 1 << 18)
    for p in prange(groups.n_parts, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
        KERNELS.sddmm(&table.table, &view, groups.part_ptr[p], groups.part_ptr[p + 1], h, logits)


def check_grouped(RowTable table, PairGroups groups, hidden, slots):
    """Raise ValueError unless the grouped pairs fit the table, the hidden vectors and an array of so many slots."""
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
