"""Sparse-dense kernels on a batch of (sample, row) pairs: SpMM, SDDMM, and the parts of the samples' gradient."""

cimport cython
from cython.parallel cimport prange
from libc.math cimport sqrt
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy, memset

import numpy as np

from slide.kernels.catch_up cimport Owed
from slide.kernels.grouping cimport _MOST_PARTS, PairGroups
from slide.kernels.memory cimport HugeBuffer
from slide.kernels.parallel cimport threads_for
from slide.kernels.rows cimport KERNELS, RowTable, slide_groups, slide_owed, slide_table

from slide.kernels.catch_up import check_owed
from slide.kernels.grouping import check_grouped

cdef enum:
    _ROWS_A_BLOCK = 32  # rows that catch up and are read before the next ones: they stay in the nearest cache


@cython.final
cdef class SampleGradient:
    """The batch's gradient with respect to its hidden vectors, gathered in parts and summed in a fixed order.

    Each part is a [samples, dim] array that one task owns. One thread at a time may use the object.

    Parameters
    ----------
    n_samples : int
        The most samples of a batch.
    padded_dim : int
        A multiple of 16.
    hugepages : bool or str
        What pages to ask the kernel for; see `slide.kernels.memory.HugeBuffer`.
    """

    def __cinit__(self, int64_t n_samples, int64_t padded_dim, *, hugepages=True):
        if n_samples < 1 or padded_dim < 16 or padded_dim % 16:
            raise ValueError(f"expected samples and a multiple of 16, got {n_samples} and {padded_dim}")
        cdef int64_t size = 2 * _MOST_PARTS * n_samples * padded_dim * 4
        self.buffer = HugeBuffer(size, name="hidden gradient parts", hugepages=hugepages)
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
        """Forget all parts, as a batch begins."""
        self.n_parts = 0

    def sum_into(self, float[:, ::1] out, const float[:, ::1] active, int threads):
        """Write the sum of all parts, zero where the ReLU was off, and forget them: the next batch may begin.

        Parameters
        ----------
        out : float32 array [samples, padded_dim]
            Written.
        active : float32 array [samples, padded_dim] or None
            The hidden activations; where one is not positive the gradient is zero. None for a linear layer.

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
        threads = threads_for(threads, n * self.n_parts, 1 << 13)
        for s in prange(n, nogil=True, num_threads=threads, schedule="static"):
            KERNELS.sum_parts(self.data + s * dim, self.n_parts, distance,
                              <const float *>NULL if on == NULL else on + s * dim, to + s * dim, dim)
        self.n_parts = 0


def take_rows(const int64_t[::1] indptr, const int32_t[::1] indices, const float[::1] values, const float[::1] weights,
              const int64_t[::1] rows, bint normalize, int64_t[::1] out_indptr, int32_t[::1] out_indices,
              float[::1] out_values):
    """Copy some rows of a CSR matrix, in the order given, and return the number of entries copied.

    Parameters
    ----------
    indptr, indices, values : arrays
        The matrix; `values` may be empty where only the pattern is wanted.
    weights : float32 array [columns] or [0]
        Multiplied into the values of each column; empty for none.
    rows : int64 array [n]
    normalize : bool
        Scale each row, after weighting, to unit Euclidean length; a row of zeros stays as it is.
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
         const float[::1] bias, bint relu, float[:, ::1] out, int threads):
    """SpMM: ``out[s] = bias + sum_i values[i] * weights[indices[i]]`` over sample s's entries, then ReLU if asked.

    With a sampled layer's deltas as values this is the transposed product that carries the gradient down.

    Parameters
    ----------
    indptr : int64 array [samples + 1]
    indices : int32 array [indptr[-1] or more]
    values : float32 array [indptr[-1] or more]
    bias : float32 array [padded_dim] or [0]
        Empty for none.
    out : float32 array [samples, padded_dim]
        Written.

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
    threads = threads_for(threads, total * dp, 1 << 18)
    for s in prange(n, nogil=True, num_threads=threads, schedule="dynamic", chunksize=8):
        row = &out[s, 0]
        if start != NULL:
            memcpy(row, start, dp * sizeof(float))
        else:
            memset(row, 0, dp * sizeof(float))
        KERNELS.spmm(&table.table, index + indptr[s], value + indptr[s], indptr[s + 1] - indptr[s], row)
        if relu:
            for j in range(dp):
                # The form lets NaN pass: a fault must reach the loss to be seen.
                row[j] = 0.0 if row[j] < 0.0 else row[j]


def sddmm(RowTable table, PairGroups groups, const float[:, ::1] hidden, float[::1] out, int threads,
          Owed owed=None):
    """SDDMM: ``out[slot] = table.weights[row] . hidden[sample] + table.bias[row]`` for every grouped pair.

    Parameters
    ----------
    hidden : float32 array [samples, padded_dim]
    out : float32 array [slots]
        Written at the pairs' slots alone.
    owed : Owed, optional
        Rows that are behind catch up before they are read.

    Raises
    ------
    ValueError
        Shapes do not fit.
    """
    check_grouped(table, groups, hidden, out.shape[0])
    if owed is not None:
        check_owed(table, owed)
    if groups.n_pairs == 0:
        return
    cdef slide_groups view = groups.view()
    cdef const slide_owed *missed = NULL if owed is None else &owed.owed
    cdef const float *h = &hidden[0, 0]
    cdef float *logits = &out[0]
    cdef int64_t p
    threads = threads_for(threads, groups.n_pairs * table.padded_dim, 1 << 18)
    for p in prange(groups.n_parts, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
        _score_part(&table.table, &view, groups.part_ptr[p], groups.part_ptr[p + 1], missed, h, logits)


cdef void _score_part(const slide_table *table, const slide_groups *groups, int64_t first, int64_t last,
                      const slide_owed *owed, const float *hidden, float *out) noexcept nogil:
    cdef int64_t g = first, end
    if owed == NULL:
        KERNELS.sddmm(table, groups, first, last, hidden, out)
        return
    while g < last:
        end = min(g + _ROWS_A_BLOCK, last)
        KERNELS.catch_up(table, groups.rows, g, end, owed)
        KERNELS.sddmm(table, groups, g, end, hidden, out)
        g = end
