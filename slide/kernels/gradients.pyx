"""Rows' gradients as arrays, and the step by gradients that come as arrays.

`optim` makes a row's gradient and steps the row in one visit. Here the two are apart, for callers that do something in
between: send gradients to other processes and add up what comes back, or give them to an optimizer that is not ours.
"""

from cython.parallel cimport prange
from libc.stdint cimport int32_t, int64_t

from slide.kernels.grouping cimport PairGroups
from slide.kernels.optim cimport StepRule
from slide.kernels.parallel cimport threads_for
from slide.kernels.rows cimport KERNELS, RowTable, slide_groups

from slide.kernels.optim import check_moments

cdef enum:
    _ROWS_A_TASK = 64
    _MOST_TASKS = 64


def row_gradients(PairGroups groups, const float[::1] coefficients, const float[:, ::1] hidden, float[:, ::1] out,
                  float[::1] bias_out, int threads):
    """Write every grouped row's gradient, the sum over its pairs of ``coefficient * hidden[sample]``.

    These are, to the bit, the gradients that ``optim.step_groups`` steps by.

    Parameters
    ----------
    coefficients : float32 array [slots]
        Read at the pairs' slots.
    hidden : float32 array [samples, padded_dim]
        `padded_dim` is a multiple of 16.
    out : float32 array [groups.n_groups or more, padded_dim]
        Written: a row for each of ``groups.rows``, in their order.
    bias_out : float32 array [groups.n_groups or more]
        Written: the sums of the coefficients, the gradients of the rows' biases.

    Raises
    ------
    ValueError
        Shapes do not fit.
    """
    cdef int64_t n = groups.n_groups, dp = hidden.shape[1], p
    if dp % 16 or hidden.shape[0] < groups.n_samples:
        raise ValueError(
            f"hidden must be [{groups.n_samples} or more, a multiple of 16], got [{hidden.shape[0]}, {dp}]"
        )
    if out.shape[0] < n or out.shape[1] != dp or bias_out.shape[0] < n:
        raise ValueError(
            f"out must be [{n} or more, {dp}] and bias_out as long, "
            f"got [{out.shape[0]}, {out.shape[1]}] and {bias_out.shape[0]}"
        )
    if groups.n_pairs == 0 or dp == 0:
        return
    if groups.highest_slot >= coefficients.shape[0]:
        raise ValueError(f"pairs reach slot {groups.highest_slot}, but there are {coefficients.shape[0]} coefficients")
    cdef slide_groups view = groups.view()
    cdef const float *coef = &coefficients[0]
    cdef const float *h = &hidden[0, 0]
    cdef float *to = &out[0, 0]
    cdef float *bias = &bias_out[0]
    threads = threads_for(threads, groups.n_pairs * dp, 1 << 18)
    for p in prange(groups.n_parts, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
        KERNELS.group_gradients(&view, groups.part_ptr[p], groups.part_ptr[p + 1], coef, h, dp, to, bias)


def step_rows(RowTable table, const int32_t[::1] rows, const float[:, ::1] gradients, const float[::1] bias_gradients,
              StepRule rule, int threads):
    """Step rows by given gradients, each once.

    Parameters
    ----------
    rows : int32 array [n]
        Ascending, without repetition, and not behind (`slide.kernels.catch_up`).
    gradients : float32 array [n or more, padded_dim]
        Zero in the columns past ``table.dim``.
    bias_gradients : float32 array [n or more]
        Read if the table has biases.

    Raises
    ------
    ValueError
        Shapes do not fit, rows are out of order or range, or the table lacks the moments that the rule needs.
    """
    cdef int64_t n = rows.shape[0], dp = table.padded_dim, k, p, first
    check_moments(table, rule)
    if gradients.shape[0] < n or gradients.shape[1] != dp or bias_gradients.shape[0] < n:
        raise ValueError(
            f"gradients must be [{n} or more, {dp}] and bias_gradients as long, "
            f"got [{gradients.shape[0]}, {gradients.shape[1]}] and {bias_gradients.shape[0]}"
        )
    for k in range(n):
        if not (0 if k == 0 else <int64_t>rows[k - 1] + 1) <= rows[k] < table.n_rows:
            raise ValueError(f"rows must ascend within 0..{table.n_rows - 1}, got {rows[k]} as number {k}")
    if n == 0:
        return
    cdef const int32_t *row = &rows[0]
    cdef const float *grad = &gradients[0, 0]
    cdef const float *bias = &bias_gradients[0]
    # Each task's squares are summed in order, so that the norm is the same at any number of threads.
    cdef int64_t size = max(<int64_t>_ROWS_A_TASK, (n + _MOST_TASKS - 1) // _MOST_TASKS)
    cdef int64_t tasks = (n + size - 1) // size
    cdef double square[_MOST_TASKS]
    threads = threads_for(threads, n * dp, 1 << 16)
    for p in prange(tasks, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
        first = p * size
        square[p] = KERNELS.step_gradients(&table.table, row + first, min(size, n - first), grad + first * dp,
                                           bias + first, &rule.rule)
    for p in range(tasks):
        rule.measured(square[p])
