"""Dense products against a row table: candidates that the whole batch shares.

The products are our own with AVX-512 and BLAS's otherwise. BLAS is called through SciPy from inside our own parallel
loops; the caller limits it to one thread around them. Blocks have fixed sizes, so that results do not depend on the
number of threads.
"""

from cython.parallel cimport prange, threadid
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy, memset
from scipy.linalg.cython_blas cimport sgemm

from slide.kernels.catch_up cimport Owed
from slide.kernels.memory cimport Scratch
from slide.kernels.optim cimport StepRule
from slide.kernels.parallel cimport slide_isa_level, threads_for
from slide.kernels.rows cimport (
    KERNELS,
    SLIDE_BIAS,
    RowTable,
    slide_owed,
    slide_rule,
    slide_table,
)
from slide.kernels.sparse cimport SampleGradient

from slide.kernels.catch_up import check_owed
from slide.kernels.optim import check_moments

cdef extern from "product.h" nogil:
    enum: SLIDE_PANEL

    ctypedef struct slide_product:
        const float *a
        const float *b
        float *out
        int64_t rows
        int64_t common
        int64_t columns
        int64_t a_row
        int64_t a_column
        int64_t b_row
        int64_t out_row
        const float *start
        int adds

    ctypedef void (*slide_multiplier)(const slide_product *) noexcept nogil
    ctypedef void (*slide_transposer)(const float *, int64_t, int64_t, int64_t, float *) noexcept nogil
    slide_multiplier slide_multiplier_for(int level)
    slide_transposer slide_transposer_for(int level)

cdef slide_multiplier MULTIPLY = slide_multiplier_for(slide_isa_level())
cdef slide_transposer TRANSPOSE = slide_transposer_for(slide_isa_level())

cdef enum:
    _CHUNK = 128           # shared rows of one product
    _SHARED_PARTS = 32     # tasks the shared rows are cut into, at most
    _SAMPLES = 64          # samples of one product
    _PACKED = 32           # chunks of rows in memory at a time for such products


cdef _check_shared(RowTable table, const int32_t[::1] ids, const float[:, ::1] hidden, const float[:, ::1] logits,
                   bint ascending=False):
    cdef int64_t n = ids.shape[0], i
    cdef int32_t low = ids[0] if n else 0
    cdef int32_t high = low
    if hidden.shape[1] != table.padded_dim:
        raise ValueError(f"hidden must have {table.padded_dim} columns, got {hidden.shape[1]}")
    if n and (logits.shape[0] < hidden.shape[0] or logits.shape[1] < n):
        raise ValueError(
            f"logits must be [{hidden.shape[0]}, {n}] or larger, got [{logits.shape[0]}, {logits.shape[1]}]"
        )
    for i in range(n):
        low = min(low, ids[i])
        high = max(high, ids[i])
        if ascending and i and ids[i] <= ids[i - 1]:
            raise ValueError(f"ids must ascend where rows catch up, got {ids[i]} after {ids[i - 1]}")
    if low < 0 or high >= table.n_rows:
        raise ValueError(f"ids must lie in 0..{table.n_rows - 1}, got {low}..{high}")


def shared_logits(RowTable table, const int32_t[::1] ids, const float[::1] offsets, const float[:, ::1] hidden,
                  float[:, ::1] out, int threads, Owed owed=None):
    """Score rows against every sample: ``out[:, :n] = hidden @ table.weights[ids].T + table.bias[ids] + offsets``.

    Parameters
    ----------
    ids : int32 array [n]
    offsets : float32 array [n] or [0]
        Added to the logits, such as the logQ correction of sampled rows; empty for none.
    hidden : float32 array [samples, padded_dim]
    out : float32 array [>= samples, >= n]
        Written.
    owed : Owed, optional
        Rows that are behind catch up before they are read; `ids` must then ascend.

    Raises
    ------
    ValueError
        Shapes do not fit, an id is out of range, or `ids` do not ascend where rows catch up.
    """
    _check_shared(table, ids, hidden, out, owed is not None)
    if owed is not None:
        check_owed(table, owed)
    cdef int64_t n = ids.shape[0], samples = hidden.shape[0], c
    if offsets.shape[0] not in (0, n):
        raise ValueError(f"offsets must be empty or have {n} entries, got {offsets.shape[0]}")
    if n == 0 or samples == 0:
        return
    cdef int64_t chunks = (n + _CHUNK - 1) // _CHUNK, slot = (_CHUNK + SLIDE_PANEL) * (table.padded_dim + 1)
    threads = threads_for(threads, n * samples * table.padded_dim, 1 << 21)
    cdef Scratch scratch = Scratch(threads * slot * 4)
    cdef float *work = <float *>scratch.data
    cdef const int32_t *id_ = &ids[0]
    cdef const float *h = &hidden[0, 0]
    cdef const float *offset = &offsets[0] if offsets.shape[0] else NULL
    cdef float *logits = &out[0, 0]
    cdef const slide_owed *missed = NULL if owed is None else &owed.owed
    cdef int64_t ld = out.shape[1]
    for c in prange(chunks, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
        _score_chunk(&table.table, id_ + c * _CHUNK, <const float *>NULL if offset == NULL else offset + c * _CHUNK,
                     min(n - c * _CHUNK, _CHUNK), missed, h, samples, work + threadid() * slot, logits + c * _CHUNK, ld)


cdef void _score_chunk(const slide_table *table, const int32_t *ids, const float *offset, int64_t n,
                       const slide_owed *owed, const float *hidden, int64_t samples, float *packed, float *out,
                       int64_t ld) noexcept nogil:
    cdef int m = <int>n, count = <int>samples, k = <int>table.dp, ldc = <int>ld
    cdef float one = 1.0
    cdef int64_t s, i
    cdef float *start = packed + _CHUNK * table.dp if MULTIPLY != NULL else out
    cdef float *panel = start + _CHUNK + SLIDE_PANEL
    cdef slide_product product
    if owed != NULL:
        KERNELS.catch_up(table, ids, 0, n, owed)
    KERNELS.widen(table, ids, 0, n, packed)
    for i in range(n):
        start[i] = table.base[ids[i] * table.stride + SLIDE_BIAS]
        if offset != NULL:
            start[i] += offset[i]
    if MULTIPLY != NULL:
        i = 0
        while i < n:
            TRANSPOSE(packed + i * table.dp, min(n - i, SLIDE_PANEL), table.dp, table.dp, panel)
            product = slide_product(hidden, panel, out + i, samples, table.dp, min(n - i, SLIDE_PANEL), table.dp, 1,
                                    SLIDE_PANEL, ld, start + i, 0)
            MULTIPLY(&product)
            i = i + SLIDE_PANEL
        return
    for s in range(1, samples):
        memcpy(out + s * ld, out, n * sizeof(float))
    sgemm(b"T", b"N", &m, &count, &k, &one, packed, &k, <float *>hidden, &k, &one, out, &ldc)


def shared_step(RowTable table, const int32_t[::1] ids, const float[:, ::1] deltas, const float[:, ::1] hidden,
                SampleGradient gradient, StepRule rule, int threads):
    """Step the rows `ids`, each for ``deltas[:, i] @ hidden``, and add ``deltas @ weights`` to the samples' gradient.

    Parameters
    ----------
    ids : int32 array [n]
        Without repetition.
    deltas : float32 array [>= samples, >= n]
        Gradients with respect to the logits of ``shared_logits``.
    hidden : float32 array [samples, padded_dim]

    Raises
    ------
    ValueError
        Shapes do not fit, or an id is out of range.
    """
    _check_shared(table, ids, hidden, deltas)
    check_moments(table, rule)
    if gradient.dim != table.padded_dim or gradient.n_samples < hidden.shape[0]:
        raise ValueError(f"gradient is for {gradient.n_samples} samples of {gradient.dim}, not for this batch")
    cdef int64_t n = ids.shape[0], samples = hidden.shape[0], p
    if n == 0 or samples == 0:
        return
    cdef int64_t chunks = (n + _CHUNK - 1) // _CHUNK
    cdef int64_t parts = min(chunks, _SHARED_PARTS), part_floats = gradient.n_samples * gradient.dim
    cdef int64_t slot = 2 * _CHUNK * table.padded_dim + _CHUNK
    threads = threads_for(threads, n * samples * table.padded_dim, 1 << 21)
    cdef Scratch scratch = Scratch(threads * slot * 4)
    cdef float *work = <float *>scratch.data
    cdef float *dhidden = gradient.add_parts(parts)
    cdef const int32_t *id_ = &ids[0]
    cdef const float *delta = &deltas[0, 0]
    cdef const float *h = &hidden[0, 0]
    cdef int64_t ld = deltas.shape[1]
    cdef double square[_SHARED_PARTS]
    for p in prange(parts, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
        square[p] = _step_part(&table.table, id_, n, p * chunks // parts, (p + 1) * chunks // parts, delta, ld, h,
                               samples, work + threadid() * slot, dhidden + p * part_floats, part_floats, &rule.rule)
    for p in range(parts):
        rule.measured(square[p])


cdef double _step_part(const slide_table *table, const int32_t *ids, int64_t n, int64_t first, int64_t last,
                       const float *deltas, int64_t ld, const float *hidden, int64_t samples, float *work,
                       float *dhidden, int64_t part_floats, const slide_rule *rule) noexcept nogil:
    """Step the rows of some chunks; return the squares of their gradients if the rule measures those."""
    cdef float *packed = work
    cdef float *grad = work + _CHUNK * table.dp
    cdef float *grad_bias = grad + _CHUNK * table.dp
    cdef const float *delta
    cdef double square = 0.0
    cdef int64_t c, rows
    memset(dhidden, 0, part_floats * sizeof(float))
    for c in range(first, last):
        rows = min(n - c * _CHUNK, _CHUNK)
        delta = deltas + c * _CHUNK
        KERNELS.widen(table, ids + c * _CHUNK, 0, rows, packed)
        _sample_block(delta, ld, packed, table.dp, rows, samples, True, dhidden)
        _row_chunk(delta, ld, hidden, samples, table.dp, rows, grad, grad_bias)
        square += KERNELS.step_gradients(table, ids + c * _CHUNK, rows, grad, grad_bias, rule)
    return square


def shared_gradients(RowTable table, const int32_t[::1] ids, const float[:, ::1] deltas, const float[:, ::1] hidden,
                     float[:, ::1] to_hidden, float[:, ::1] out, float[::1] bias_out, int threads):
    """Write what ``shared_step`` would step the rows `ids` by, and the samples' gradient, and step nothing.

    Parameters
    ----------
    ids : int32 array [n]
    deltas : float32 array [>= samples, >= n]
        Gradients with respect to the logits of ``shared_logits``.
    hidden : float32 array [samples, padded_dim]
    to_hidden : float32 array [samples, padded_dim] or None
        Written: ``deltas @ weights``. None if nobody asks for it.
    out : float32 array [>= n, padded_dim] or None
        Written: a row ``deltas[:, i] @ hidden`` for each of `ids`.
    bias_out : float32 array [>= n] or None
        Written: the sums of `deltas` over the samples. None with `out`.

    Raises
    ------
    ValueError
        Shapes do not fit, or an id is out of range.
    """
    _check_shared(table, ids, hidden, deltas)
    cdef int64_t n = ids.shape[0], samples = hidden.shape[0], dp = table.padded_dim, ld = deltas.shape[1]
    cdef int64_t chunks = (n + _CHUNK - 1) // _CHUNK, blocks = (samples + _SAMPLES - 1) // _SAMPLES
    cdef int64_t c, b, first, room, here
    if to_hidden is not None and (to_hidden.shape[0] != samples or to_hidden.shape[1] != dp):
        raise ValueError(f"to_hidden must be [{samples}, {dp}], got [{to_hidden.shape[0]}, {to_hidden.shape[1]}]")
    if (out is None) != (bias_out is None):
        raise ValueError("out and bias_out come together")
    if out is not None and (out.shape[0] < n or out.shape[1] != dp or bias_out.shape[0] < n):
        raise ValueError(
            f"out must be [{n} or more, {dp}] and bias_out as long, "
            f"got [{out.shape[0]}, {out.shape[1]}] and {bias_out.shape[0]}"
        )
    if samples == 0 or n == 0:
        if to_hidden is not None and samples:
            memset(&to_hidden[0, 0], 0, samples * dp * sizeof(float))
        if out is not None and n:
            memset(&out[0, 0], 0, n * dp * sizeof(float))
            memset(&bias_out[0], 0, n * sizeof(float))
        return
    threads = threads_for(threads, n * samples * dp, 1 << 21)
    cdef const int32_t *id_ = &ids[0]
    cdef const float *delta = &deltas[0, 0]
    cdef const float *h = &hidden[0, 0]
    cdef float *to
    cdef float *bias
    cdef float *packed
    cdef Scratch scratch
    if out is not None:
        to, bias = &out[0, 0], &bias_out[0]
        for c in prange(chunks, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
            _row_chunk(delta + c * _CHUNK, ld, h, samples, dp, min(n - c * _CHUNK, _CHUNK), to + c * _CHUNK * dp,
                       bias + c * _CHUNK)
    if to_hidden is None:
        return
    # Rows are packed once for all samples, and samples then take turns: no sample's sum is cut into parts.
    room = min(chunks, _PACKED)
    scratch = Scratch(room * _CHUNK * dp * 4)
    packed, to = <float *>scratch.data, &to_hidden[0, 0]
    for first in range(0, chunks, room):
        here = min(chunks - first, room)
        for c in prange(here, nogil=True, num_threads=threads, schedule="static"):
            KERNELS.widen(&table.table, id_ + (first + c) * _CHUNK, 0, min(n - (first + c) * _CHUNK, _CHUNK),
                          packed + c * _CHUNK * dp)
        for b in prange(blocks, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
            _sample_block(delta + b * _SAMPLES * ld + first * _CHUNK, ld, packed, dp,
                          min(n - first * _CHUNK, here * _CHUNK), min(samples - b * _SAMPLES, _SAMPLES), first > 0,
                          to + b * _SAMPLES * dp)


cdef void _row_chunk(const float *deltas, int64_t ld, const float *hidden, int64_t samples, int64_t dp, int64_t n,
                     float *out, float *bias) noexcept nogil:
    """Write ``deltas.T @ hidden`` for a chunk of rows, and the sums of the deltas."""
    cdef int rows = <int>n, count = <int>samples, k = <int>dp, ldb = <int>ld
    cdef float one = 1.0, zero = 0.0
    cdef int64_t s, i
    cdef slide_product product
    if MULTIPLY != NULL:
        product = slide_product(deltas, hidden, out, n, samples, dp, 1, ld, dp, dp, NULL, 0)
        MULTIPLY(&product)
    else:
        sgemm(b"N", b"T", &k, &rows, &count, &one, <float *>hidden, &k, <float *>deltas, &ldb, &zero, out, &k)
    memset(bias, 0, n * sizeof(float))
    for s in range(samples):
        for i in range(n):
            bias[i] += deltas[s * ld + i]


cdef void _sample_block(const float *deltas, int64_t ld, const float *packed, int64_t dp, int64_t n, int64_t samples,
                        bint adds, float *out) noexcept nogil:
    """Write ``deltas @ packed`` for a block of samples, or add it to what is there."""
    cdef int rows = <int>n, count = <int>samples, k = <int>dp, ldb = <int>ld
    cdef float one = 1.0, keep = 1.0 if adds else 0.0
    cdef slide_product product
    if MULTIPLY != NULL:
        product = slide_product(deltas, packed, out, samples, n, dp, ld, 1, dp, dp, NULL, adds)
        MULTIPLY(&product)
    else:
        sgemm(b"N", b"N", &k, &count, &rows, &one, <float *>packed, &k, <float *>deltas, &ldb, &keep, out, &k)
