"""SDDMM and the row step for samples that are sparse themselves: only their own columns of a row are read.

They are the counterparts of ``sparse.sddmm`` and ``optim.step_groups`` where a sample is a CSR row (the features, or
the active units of a sampled layer below) and not a dense vector.
"""

from cython.parallel cimport prange, threadid
from libc.stdint cimport int32_t, int64_t, uint32_t
from libc.string cimport memset

from slide.kernels.grouping cimport _MOST_PARTS, PairGroups
from slide.kernels.memory cimport Scratch
from slide.kernels.optim cimport StepRule
from slide.kernels.parallel cimport threads_for
from slide.kernels.rows cimport (
    KERNELS,
    SLIDE_ADAGRAD,
    SLIDE_BIAS,
    SLIDE_MEASURE,
    RowTable,
    slide_adagrad,
    slide_groups,
    slide_row_key,
    slide_rule,
    slide_step_column,
    slide_step_header,
    slide_table,
    slide_weight,
)
from slide.kernels.sparse cimport SampleGradient

from slide.kernels.optim import check_moments

cdef extern from "flush.h" nogil:
    ctypedef unsigned slide_fp_mode
    slide_fp_mode slide_flush_denormals()
    void slide_restore_mode(slide_fp_mode mode)

cdef struct Samples:
    const int64_t *begin
    const int64_t *end
    const int32_t *column
    const float *value


cdef Samples _samples(const int64_t[::1] begin, const int64_t[::1] end, const int32_t[::1] columns,
                      const float[::1] values, RowTable table, PairGroups groups, int64_t slots) except *:
    """Check all arrays and return the samples as pointers."""
    cdef Samples samples
    cdef int64_t n = begin.shape[0], s, i, last = 0
    if end.shape[0] != n or n < groups.n_samples:
        raise ValueError(f"begin and end must have {groups.n_samples} entries, got {n} and {end.shape[0]}")
    if columns.shape[0] != values.shape[0]:
        raise ValueError(f"{columns.shape[0]} columns, but {values.shape[0]} values")
    for s in range(n):
        if begin[s] < last or end[s] < begin[s] or end[s] > columns.shape[0]:
            raise ValueError(f"sample {s}'s run {begin[s]}..{end[s]} is out of order or range")
        last = end[s]
        for i in range(begin[s], end[s]):
            if not 0 <= columns[i] < table.dim:
                raise ValueError(f"sample {s} has column {columns[i]}, the rows have {table.dim}")
    if groups.n_pairs and (groups.highest_row >= table.n_rows or groups.highest_slot >= slots):
        raise ValueError(
            f"pairs reach row {groups.highest_row} and slot {groups.highest_slot}, "
            f"but there are {table.n_rows} rows and {slots} slots"
        )
    samples.begin = &begin[0] if n else NULL
    samples.end = &end[0] if n else NULL
    samples.column = &columns[0] if columns.shape[0] else NULL
    samples.value = &values[0] if columns.shape[0] else NULL
    return samples


cdef int _threads(int threads, PairGroups groups, int64_t entries):
    """Return how many threads are worth it for the pairs' multiplications, by the mean number of a sample's entries."""
    return threads_for(threads, groups.n_pairs * (1 + entries // max(groups.n_samples, 1)), 1 << 14)


def sddmm(RowTable table, PairGroups groups, const int64_t[::1] begin, const int64_t[::1] end,
          const int32_t[::1] columns, const float[::1] values, float[::1] out, int threads):
    """SDDMM with sparse samples: ``out[slot] = sum_i values[i] * weights[row, columns[i]] + bias[row]`` for each pair.

    Parameters
    ----------
    begin, end : int64 arrays [samples]
        Sample s has the entries ``begin[s]..end[s]``; runs do not overlap and rise with the sample.
    columns : int32 array [entries]
    values : float32 array [entries]
    out : float32 array [slots]
        Written at the pairs' slots alone.

    Raises
    ------
    ValueError
        Shapes do not fit, or a column is out of range.
    """
    cdef Samples samples = _samples(begin, end, columns, values, table, groups, out.shape[0])
    if groups.n_pairs == 0:
        return
    cdef slide_groups view = groups.view()
    cdef float *logits = &out[0]
    cdef int64_t p
    threads = _threads(threads, groups, values.shape[0])
    for p in prange(groups.n_parts, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
        _score(&table.table, &view, groups.part_ptr[p], groups.part_ptr[p + 1], &samples, logits)


cdef void _score(const slide_table *table, const slide_groups *groups, int64_t first, int64_t last,
                 const Samples *samples, float *out) noexcept nogil:
    cdef int64_t g, i, j, s
    cdef const float *row
    cdef float total
    for g in range(first, last):
        row = table.base + groups.rows[g] * table.stride
        for i in range(groups.ptr[g], groups.ptr[g + 1]):
            s = groups.sample[i]
            total = 0.0
            for j in range(samples.begin[s], samples.end[s]):
                total = total + samples.value[j] * slide_weight(table, row, samples.column[j])
            out[groups.slot[i]] = total + row[SLIDE_BIAS]


def step_groups(RowTable table, PairGroups groups, const float[::1] coefficients, const int64_t[::1] begin,
                const int64_t[::1] end, const int32_t[::1] columns, const float[::1] values, SampleGradient gradient,
                bint touched_only, StepRule rule, int threads):
    """Step every grouped row, once, for ``g[row] = sum over its pairs of coefficient * sample``, the samples sparse.

    Parameters
    ----------
    coefficients : float32 array [slots]
        Read at the pairs' slots.
    begin, end, columns, values : arrays
        The samples, as in ``sddmm``.
    gradient : SampleGradient or None
        Receives ``coefficient * w[row]``, of the weights before the step, at the samples' own columns, which must not
        repeat within a sample then.
    touched_only : bool
        Step the columns that some sample of the row has, and leave the others as they are, even if they are behind.
        Otherwise the whole row takes the step, as it does with dense samples.

    Raises
    ------
    ValueError
        Shapes do not fit, or a column is out of range.
    """
    cdef Samples samples = _samples(begin, end, columns, values, table, groups, coefficients.shape[0])
    check_moments(table, rule)
    cdef int64_t part_floats = 0, p
    cdef float *dsample = NULL
    if gradient is not None:
        if gradient.dim != table.padded_dim or gradient.n_samples < groups.n_samples:
            raise ValueError(f"gradient is for {gradient.n_samples} samples of {gradient.dim}, not for this batch")
        part_floats = gradient.n_samples * gradient.dim
        dsample = gradient.add_parts(groups.n_parts)
    if groups.n_pairs == 0:
        return
    # A row's gradient, which is zero between rows, its touched columns, and the group that last touched each column.
    cdef int64_t slot = 3 * table.padded_dim
    threads = _threads(threads, groups, values.shape[0])
    cdef Scratch scratch = Scratch(threads * slot * 4, zeroed=True)
    cdef float *work = <float *>scratch.data
    cdef slide_groups view = groups.view()
    cdef const float *coef = &coefficients[0]
    cdef double square[_MOST_PARTS]
    for p in prange(groups.n_parts, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
        if dsample != NULL:
            memset(dsample + p * part_floats, 0, groups.n_samples * table.padded_dim * sizeof(float))
        square[p] = _step(&table.table, &view, groups.part_ptr[p], groups.part_ptr[p + 1], coef, &samples,
                          NULL if dsample == NULL else dsample + p * part_floats, touched_only, &rule.rule,
                          work + threadid() * slot)
    for p in range(groups.n_parts):
        rule.measured(square[p])


cdef double _step(const slide_table *table, const slide_groups *groups, int64_t first, int64_t last, const float *coef,
                  const Samples *samples, float *dsample, bint touched_only, const slide_rule *rule,
                  float *grad) noexcept nogil:
    """Step the rows of some groups; return the squares of their gradients if the rule measures those."""
    cdef int32_t *touched = <int32_t *>(grad + table.dp)
    cdef int32_t *mark = touched + table.dp
    cdef int64_t g, i, j, s, n
    cdef float *row
    cdef float c, bias
    cdef double square = 0.0, own_square
    cdef int32_t column
    cdef uint32_t key
    cdef slide_rule own
    cdef const slide_rule *mine
    cdef slide_fp_mode mode = slide_flush_denormals()
    for g in range(first, last):
        row = table.base + groups.rows[g] * table.stride
        bias = 0.0
        n = 0
        for i in range(groups.ptr[g], groups.ptr[g + 1]):
            s = groups.sample[i]
            c = coef[groups.slot[i]]
            if table.biased:
                bias = bias + c
            for j in range(samples.begin[s], samples.end[s]):
                column = samples.column[j]
                if mark[column] != g + 1:
                    mark[column] = <int32_t>(g + 1)
                    touched[n] = column
                    n = n + 1
                grad[column] += c * samples.value[j]
                if dsample != NULL:
                    dsample[s * table.dp + column] += c * slide_weight(table, row, column)
        if touched_only:
            mine, own_square = rule, 0.0
            if rule.kind == SLIDE_MEASURE or rule.kind == SLIDE_ADAGRAD:
                for i in range(n):
                    own_square += grad[touched[i]] * grad[touched[i]]
            if rule.kind == SLIDE_ADAGRAD:
                mine = slide_adagrad(table, row, <float>own_square, rule, &own)
            if rule.kind == SLIDE_MEASURE:
                square += own_square
            else:
                key = slide_row_key(groups.rows[g], rule.step)
                for i in range(n):
                    slide_step_column(table, row, touched[i], grad[touched[i]], mine, key)
            square += slide_step_header(row, bias, rule)
        else:
            square += KERNELS.step_gradients(table, groups.rows + g, 1, grad, &bias, rule)
        for i in range(n):
            grad[touched[i]] = 0.0
    slide_restore_mode(mode)
    return square
