"""Training without locks: samples in parallel, each adding to the gradients of its rows as they stand.

SLIDE itself trains so, after Hogwild! (Niu et al., NIPS 2011). `sparse` and `optim` group a batch's pairs by row, so
that one thread makes a row's gradient. Here each thread takes samples and adds to the gradients of whatever rows they
have; these gradients are in a table of their own. Two threads that add to one row at the same moment may lose one of
the two terms. The rest is the same: the forward pass and the samples' gradient read the weights before the step, one
thread steps each row that the batch touched, once, and a single thread loses nothing.

Those additions (`slide_add_gradients` in ``simd/hogwild_impl.h``) are the package's only data race. The stamps of
touched rows are shared as well, but atomic; everything else is one thread's own until a loop has ended.
"""

from cython.parallel cimport prange
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memset

import numpy as np

from slide.kernels.optim cimport StepRule
from slide.kernels.parallel cimport threads_for
from slide.kernels.rows cimport (
    KERNELS,
    SLIDE_BF16,
    SLIDE_BIAS,
    SLIDE_HEADER,
    RowTable,
    slide_rule,
    slide_table,
)
from slide.kernels.sparse cimport SampleGradient

from slide.kernels.optim import check_moments

cdef extern from "hogwild.h" nogil:
    int slide_first_touch(int32_t *stamp, int32_t now)

cdef extern from "rows.h" nogil:
    float *slide_row(const slide_table *t, int64_t row)
    void slide_prefetch_row(const slide_table *t, int64_t row, int64_t floats)

cdef enum:
    _ROWS_A_TASK = 64

# A batch's pairs, sample by sample.
cdef struct Pairs:
    const int32_t *ids
    const int64_t *begin
    const int64_t *end
    int64_t n_samples
    int64_t n_pairs


cdef Pairs _pairs(const int32_t[::1] ids, const int64_t[::1] begin, const int64_t[::1] end, int64_t n_rows) except *:
    """Check the pairs and return them as pointers."""
    cdef Pairs pairs
    cdef int64_t n = begin.shape[0], s, i, last = 0
    cdef int32_t highest = -1, lowest = 0
    if end.shape[0] != n:
        raise ValueError(f"begin and end must have the same length, got {n} and {end.shape[0]}")
    pairs.n_pairs = 0
    for s in range(n):
        if begin[s] < last or end[s] < begin[s] or end[s] > ids.shape[0]:
            raise ValueError(f"sample {s}'s run {begin[s]}..{end[s]} is out of order or range")
        last = end[s]
        pairs.n_pairs += end[s] - begin[s]
        for i in range(begin[s], end[s]):
            highest = max(highest, ids[i])
            lowest = min(lowest, ids[i])
    if lowest < 0 or highest >= n_rows:
        raise ValueError(f"row ids must lie in 0..{n_rows - 1}, got {lowest if lowest < 0 else highest}")
    pairs.ids = &ids[0] if ids.shape[0] else NULL
    pairs.begin = &begin[0] if n else NULL
    pairs.end = &end[0] if n else NULL
    pairs.n_samples = n
    return pairs


def _check_slots(RowTable table, const float[:, ::1] hidden, n_samples, slots, n_ids):
    """Raise ValueError unless the rows are float32, and the samples' vectors and `slots` entries fit the pairs."""
    if table.table.format == SLIDE_BF16:
        raise ValueError("rows must have float32 weights, these are bfloat16")
    if hidden.shape[1] != table.padded_dim or hidden.shape[0] < n_samples:
        raise ValueError(
            f"hidden must be [{n_samples} or more, {table.padded_dim}], got [{hidden.shape[0]}, {hidden.shape[1]}]"
        )
    if slots < n_ids:
        raise ValueError(f"{n_ids} ids need as many slots, got {slots}")


def touched_rows(const int32_t[::1] ids, const int64_t[::1] begin, const int64_t[::1] end, int32_t[::1] stamps,
                 int32_t stamp, int32_t[::1] out, int threads):
    """Find the distinct rows of a batch's pairs: those of ``ids[begin[s]:end[s]]`` of every sample s.

    Parameters
    ----------
    ids : int32 array [slots]
    begin, end : int64 arrays [samples]
        Runs of `ids` that do not overlap and rise with the sample.
    stamps : int32 array [n_rows]
        Kept from batch to batch; the touched rows' become `stamp`.
    stamp : int
        A stamp that no row has yet.
    out : int32 array, as long as `ids`
        Written: the rows come first, ascending; the rest is undefined.

    Returns
    -------
    int
        The number of rows. The rows and their order do not depend on the threads.

    Raises
    ------
    ValueError
        Shapes do not fit, runs are not in order, or an id is out of range.
    """
    cdef Pairs pairs = _pairs(ids, begin, end, stamps.shape[0])
    cdef int64_t s, i, n = 0
    if out.shape[0] < ids.shape[0]:
        raise ValueError(f"out must have room for {ids.shape[0]} rows, got {out.shape[0]}")
    if pairs.n_pairs == 0:
        return 0
    cdef int32_t *row = &out[0]
    cdef int32_t *marks = &stamps[0]
    threads = threads_for(threads, pairs.n_pairs, 1 << 14)
    # Each sample lists the rows that it was first to touch where its pairs are; chance decides which sample is first.
    for s in prange(pairs.n_samples, nogil=True, num_threads=threads, schedule="static"):
        for i in range(pairs.begin[s], pairs.end[s]):
            row[i] = pairs.ids[i] if slide_first_touch(marks + pairs.ids[i], stamp) else -1
    for s in range(pairs.n_samples):
        for i in range(pairs.begin[s], pairs.end[s]):
            if row[i] >= 0:
                row[n] = row[i]
                n += 1
    np.asarray(out)[:n].sort()
    return n


def sddmm(RowTable table, const int32_t[::1] ids, const int64_t[::1] begin, const int64_t[::1] end,
          const float[:, ::1] hidden, float[::1] out, int threads):
    """SDDMM, sample by sample: ``out[i] = weights[ids[i]] . hidden[s] + bias[ids[i]]`` for i in ``begin[s]..end[s]``.

    Parameters
    ----------
    ids, begin, end : arrays
        The pairs, as in ``touched_rows``.
    hidden : float32 array [samples, padded_dim]
    out : float32 array, as long as `ids`
        Written at the pairs' slots alone.

    Raises
    ------
    ValueError
        As for ``touched_rows``.
    """
    cdef Pairs pairs = _pairs(ids, begin, end, table.n_rows)
    _check_slots(table, hidden, pairs.n_samples, out.shape[0], ids.shape[0])
    if pairs.n_pairs == 0:
        return
    cdef const float *h = &hidden[0, 0]
    cdef float *logits = &out[0]
    cdef int64_t s, dp = table.padded_dim
    threads = threads_for(threads, pairs.n_pairs * dp, 1 << 18)
    for s in prange(pairs.n_samples, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
        KERNELS.score_rows(&table.table, pairs.ids + pairs.begin[s], pairs.end[s] - pairs.begin[s], h + s * dp,
                           logits + pairs.begin[s])


def step_rows(RowTable table, RowTable sums, const int32_t[::1] rows, const int32_t[::1] ids, const int64_t[::1] begin,
              const int64_t[::1] end, const float[::1] coefficients, const float[:, ::1] hidden,
              SampleGradient gradient, StepRule rule, int threads):
    """Add every pair's ``coefficient * hidden[sample]`` to its row's gradient, without locks; then step the rows.

    The additions of several threads race, and a term may be lost where two threads add to one row at the same moment.
    The steps follow in a loop of their own, in which each row is one thread's.

    The bias, if the table has any, steps for the sum of the coefficients. With `gradient`, ``coefficient * w[row]`` of
    the weights before the step is added to each pair's sample, which is one thread's alone.

    Parameters
    ----------
    sums : RowTable
        The gradients, zero before and after: a table of the same shape, without moments.
    rows : int32 array [n]
        The rows to step: those of all pairs, ascending, as ``touched_rows`` finds them.
    ids, begin, end : arrays
        The pairs, as in ``touched_rows``.
    coefficients : float32 array, as long as `ids`
        Read at the pairs' slots.
    hidden : float32 array [samples, padded_dim]
    gradient : SampleGradient or None

    Raises
    ------
    ValueError
        As for ``touched_rows``, or the rows or one of the tables are not what is expected.
    """
    cdef Pairs pairs = _pairs(ids, begin, end, table.n_rows)
    cdef int64_t n = rows.shape[0], dp = table.padded_dim, k, s, p, count, first
    cdef float *dhidden = NULL
    cdef float *dsample
    cdef double square = 0.0
    _check_slots(table, hidden, pairs.n_samples, coefficients.shape[0], ids.shape[0])
    check_moments(table, rule)
    if sums.n_rows != table.n_rows or sums.padded_dim != dp or sums.moments or sums.table.format == SLIDE_BF16:
        raise ValueError(
            f"sums must be a float32 table of {table.n_rows} rows of {dp} without moments, "
            f"got {sums.n_rows} of {sums.padded_dim} with {sums.moments}, {sums.precision}"
        )
    for k in range(n):
        if not (0 if k == 0 else <int64_t>rows[k - 1] + 1) <= rows[k] < table.n_rows:
            raise ValueError(f"rows must ascend within 0..{table.n_rows - 1}, got {rows[k]} as number {k}")
    if gradient is not None:
        if gradient.dim != dp or gradient.n_samples < pairs.n_samples:
            raise ValueError(f"gradient is for {gradient.n_samples} samples of {gradient.dim}, not for this batch")
        dhidden = gradient.add_parts(1)
        memset(dhidden, 0, gradient.n_samples * dp * sizeof(float))
    if pairs.n_pairs == 0 or n == 0:
        return
    cdef const float *h = &hidden[0, 0]
    cdef const float *coef = &coefficients[0]
    cdef const int32_t *row = &rows[0]
    cdef int used = threads_for(threads, pairs.n_pairs * dp, 1 << 18)
    for s in prange(pairs.n_samples, nogil=True, num_threads=used, schedule="dynamic", chunksize=1):
        first = pairs.begin[s]
        count = pairs.end[s] - first
        KERNELS.add_gradients(&sums.table, pairs.ids + first, count, coef + first, h + s * dp, table.table.biased)
        if dhidden != NULL:
            dsample = dhidden + s * dp
            KERNELS.spmm(&table.table, pairs.ids + first, coef + first, count, dsample)
    cdef int64_t tasks = (n + _ROWS_A_TASK - 1) // _ROWS_A_TASK
    used = threads_for(threads, n * dp, 1 << 16)
    for p in prange(tasks, nogil=True, num_threads=used, schedule="dynamic", chunksize=1):
        square += _step(&table.table, &sums.table, row, p * _ROWS_A_TASK, min((p + 1) * _ROWS_A_TASK, n), &rule.rule)
    rule.measured(square)


cdef double _step(const slide_table *table, const slide_table *sums, const int32_t *rows, int64_t first, int64_t last,
                  const slide_rule *rule) noexcept nogil:
    """Step some rows by their gradients and set these to zero; return their squares if the rule measures them."""
    cdef double square = 0.0
    cdef float *g
    cdef int64_t k
    for k in range(first, last):
        if k + 2 < last:
            slide_prefetch_row(table, rows[k + 2], table.stride)
            slide_prefetch_row(sums, rows[k + 2], sums.stride)
        g = slide_row(sums, rows[k])
        square += KERNELS.step_gradients(table, rows + k, 1, g + SLIDE_HEADER, g + SLIDE_BIAS, rule)
        memset(g + SLIDE_HEADER, 0, sums.dp * sizeof(float))
        g[SLIDE_BIAS] = 0.0
    return square
