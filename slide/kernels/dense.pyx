"""Dense products against a row table: candidates that the whole batch shares, and exact top-k over all rows.

The products are BLAS's, called through SciPy from inside our own parallel loops; the caller limits BLAS to one thread
around them. Blocks have fixed sizes, so that results do not depend on the number of threads.
"""

from cython.parallel cimport prange, threadid
from libc.math cimport INFINITY, exp, log
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy, memset
from scipy.linalg.cython_blas cimport sgemm

import numpy as np

from slide.kernels.memory cimport HugeBuffer
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
from slide.kernels.topk cimport insert_best

from slide.kernels.optim import check_moments

cdef enum:
    _CHUNK = 128           # shared rows of one product
    _SHARED_PARTS = 32     # tasks the shared rows are cut into, at most
    _SAMPLE_BLOCK = 128    # samples and labels of one product of the top-k search
    _LABEL_BLOCK = 512
    _SEARCH_TASKS = 16     # tasks a top-k search is cut into, at least, if it has the label blocks

ctypedef struct _LogSum:   # of exponentials: exp(top) * sum
    double top
    double sum


cdef _check_shared(RowTable table, const int32_t[::1] ids, const float[:, ::1] hidden, const float[:, ::1] logits):
    cdef int64_t n = ids.shape[0]
    if hidden.shape[1] != table.padded_dim:
        raise ValueError(f"hidden must have {table.padded_dim} columns, got {hidden.shape[1]}")
    if n and (logits.shape[0] < hidden.shape[0] or logits.shape[1] < n):
        raise ValueError(
            f"logits must be [{hidden.shape[0]}, {n}] or larger, got [{logits.shape[0]}, {logits.shape[1]}]"
        )
    if n and (np.min(ids) < 0 or np.max(ids) >= table.n_rows):
        raise ValueError(f"ids must lie in 0..{table.n_rows - 1}, got {np.min(ids)}..{np.max(ids)}")


def shared_logits(RowTable table, const int32_t[::1] ids, const float[::1] offsets, const float[:, ::1] hidden,
                  float[:, ::1] out, int num_threads):
    """Score rows against every sample: ``out[:, :n] = hidden @ table.weights[ids].T + table.bias[ids] + offsets``.

    Parameters
    ----------
    table : RowTable
    ids : int32 array [n]
    offsets : float32 array [n] or [0]
        Added to the logits, such as the logQ correction of sampled rows; empty for none.
    hidden : float32 array [samples, padded_dim]
    out : float32 array [>= samples, >= n]
        Written.
    num_threads : int

    Raises
    ------
    ValueError
        Shapes do not fit, or an id is out of range.
    """
    _check_shared(table, ids, hidden, out)
    cdef int64_t n = ids.shape[0], samples = hidden.shape[0], c
    if offsets.shape[0] not in (0, n):
        raise ValueError(f"offsets must be empty or have {n} entries, got {offsets.shape[0]}")
    if n == 0 or samples == 0:
        return
    cdef int64_t chunks = (n + _CHUNK - 1) // _CHUNK, slot = _CHUNK * table.padded_dim
    cdef int threads = threads_for(num_threads, n * samples * table.padded_dim, 1 << 21)
    cdef HugeBuffer scratch = HugeBuffer(threads * slot * 4, name="shared rows")
    cdef float *work = <float *>scratch.data
    cdef const int32_t *id_ = &ids[0]
    cdef const float *h = &hidden[0, 0]
    cdef const float *offset = &offsets[0] if offsets.shape[0] else NULL
    cdef float *logits = &out[0, 0]
    cdef int64_t ld = out.shape[1]
    for c in prange(chunks, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
        _score_chunk(&table.table, id_ + c * _CHUNK, <const float *>NULL if offset == NULL else offset + c * _CHUNK,
                     min(n - c * _CHUNK, _CHUNK), h, samples, work + threadid() * slot, logits + c * _CHUNK, ld)


cdef void _score_chunk(const slide_table *table, const int32_t *ids, const float *offset, int64_t n,
                       const float *hidden, int64_t samples, float *packed, float *out, int64_t ld) noexcept nogil:
    cdef int m = <int>n, count = <int>samples, k = <int>table.dp, ldc = <int>ld
    cdef float one = 1.0
    cdef int64_t s, i
    KERNELS.widen(table, ids, 0, n, packed)
    for i in range(n):
        out[i] = table.base[ids[i] * table.stride + SLIDE_BIAS]
        if offset != NULL:
            out[i] += offset[i]
    for s in range(1, samples):
        memcpy(out + s * ld, out, n * sizeof(float))
    sgemm(b"T", b"N", &m, &count, &k, &one, packed, &k, <float *>hidden, &k, &one, out, &ldc)


def shared_step(RowTable table, const int32_t[::1] ids, const float[:, ::1] deltas, const float[:, ::1] hidden,
                SampleGradient gradient, StepRule rule, int num_threads):
    """Step the rows `ids`, each for ``deltas[:, i] @ hidden``, and add ``deltas @ weights`` to the samples' gradient.

    Parameters
    ----------
    table : RowTable
    ids : int32 array [n]
        Without repetition.
    deltas : float32 array [>= samples, >= n]
        Gradients with respect to the logits of ``shared_logits``.
    hidden : float32 array [samples, padded_dim]
    gradient : SampleGradient
    rule : StepRule
    num_threads : int

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
    cdef int threads = threads_for(num_threads, n * samples * table.padded_dim, 1 << 21)
    cdef HugeBuffer scratch = HugeBuffer(threads * slot * 4, name="shared rows")
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
    cdef int rows, count = <int>samples, k = <int>table.dp, ldb = <int>ld
    cdef float one = 1.0, zero = 0.0
    cdef double square = 0.0
    cdef int64_t c, s, i
    memset(dhidden, 0, part_floats * sizeof(float))
    for c in range(first, last):
        rows = <int>min(n - c * _CHUNK, _CHUNK)
        delta = deltas + c * _CHUNK
        KERNELS.widen(table, ids + c * _CHUNK, 0, rows, packed)
        sgemm(b"N", b"N", &k, &count, &rows, &one, packed, &k, <float *>delta, &ldb, &one, dhidden, &k)
        sgemm(b"N", b"T", &k, &rows, &count, &one, <float *>hidden, &k, <float *>delta, &ldb, &zero, grad, &k)
        memset(grad_bias, 0, rows * sizeof(float))
        for s in range(samples):
            for i in range(rows):
                grad_bias[i] += delta[s * ld + i]
        square += KERNELS.step_gradients(table, ids + c * _CHUNK, rows, grad, grad_bias, rule)
    return square


def exact_topk(RowTable table, const float[:, ::1] hidden, const int64_t[::1] exclude_ptr,
               const int32_t[::1] exclude_ids, int32_t[:, ::1] out_ids, float[:, ::1] out_scores, int num_threads,
               float[::1] log_partition=None):
    """Find each sample's k best rows among all, block by block: no [samples, rows] array exists at any time.

    Equal scores are ordered by id. Where fewer than k rows may be chosen the rest of `out_ids` is -1 and of
    `out_scores` minus infinity.

    Parameters
    ----------
    table : RowTable
    hidden : float32 array [samples, padded_dim]
    exclude_ptr : int64 array [samples + 1] or [0]
    exclude_ids : int32 array
        Ids that must not be chosen for sample s, ascending, are ``exclude_ids[exclude_ptr[s]:exclude_ptr[s + 1]]``;
        those past the last row are ignored. An empty `exclude_ptr` excludes nothing.
    out_ids : int32 array [samples, k]
        Written, best first.
    out_scores : float32 array [samples, k]
        Written: ``hidden . weights + bias``.
    num_threads : int
    log_partition : float32 array [samples], optional
        Written: the logarithm of the sum of the exponentials of all rows' scores, excluded ones too; a score less this
        is the logarithm of its softmax.

    Raises
    ------
    ValueError
        Shapes do not fit, or excluded ids are not in order.
    """
    cdef int64_t n = hidden.shape[0], k = out_ids.shape[1], dp = table.padded_dim, i, j
    if hidden.shape[1] != dp or out_ids.shape[0] != n or out_scores.shape[0] != n or out_scores.shape[1] != k:
        raise ValueError(f"hidden must be [samples, {dp}], out_ids and out_scores [samples, k]")
    if log_partition is not None and log_partition.shape[0] != n:
        raise ValueError(f"log_partition must have {n} entries, got {log_partition.shape[0]}")
    if exclude_ptr.shape[0] not in (0, n + 1):
        raise ValueError(f"exclude_ptr must be empty or have {n + 1} entries, got {exclude_ptr.shape[0]}")
    if exclude_ptr.shape[0]:
        if exclude_ptr[0] != 0 or exclude_ptr[n] > exclude_ids.shape[0] or np.any(np.diff(exclude_ptr) < 0):
            raise ValueError("exclude_ptr must rise from 0 to at most the number of excluded ids")
        for i in range(n):
            for j in range(exclude_ptr[i] + 1, exclude_ptr[i + 1]):
                if exclude_ids[j] < exclude_ids[j - 1]:
                    raise ValueError(f"sample {i}'s excluded ids are not ascending")
    cdef bint with_sums = log_partition is not None
    if n == 0 or (k == 0 and not with_sums):
        return
    cdef int64_t sample_blocks = (n + _SAMPLE_BLOCK - 1) // _SAMPLE_BLOCK
    cdef int64_t label_blocks = (table.n_rows + _LABEL_BLOCK - 1) // _LABEL_BLOCK
    # Few samples: the labels are cut as well. The cut follows from the sizes alone, never from the thread count.
    cdef int64_t segments = min(label_blocks, (_SEARCH_TASKS + sample_blocks - 1) // sample_blocks)
    cdef int64_t tasks = sample_blocks * segments, t
    # Behind the logits of a slot there is a block for one sample's exponentials, and one for weights to be widened.
    cdef int64_t slot = (_SAMPLE_BLOCK + 1 + (dp if table.table.format == SLIDE_BF16 else 0)) * _LABEL_BLOCK
    cdef int threads = threads_for(num_threads, n * table.n_rows * dp, 1 << 21)
    cdef HugeBuffer scratch = HugeBuffer(threads * slot * 4, name="top-k logits")
    cdef HugeBuffer best = HugeBuffer(segments * n * k * 8, name="top-k segments")
    cdef float *work = <float *>scratch.data
    cdef float *scores = <float *>best.data
    cdef int32_t *ids = <int32_t *>(scores + segments * n * k)
    cdef HugeBuffer partial = HugeBuffer(segments * n * sizeof(_LogSum) if with_sums else 0, name="top-k sums")
    cdef _LogSum *sums = <_LogSum *>partial.data if with_sums else NULL
    cdef _LogSum total
    cdef const float *h = &hidden[0, 0]
    cdef const int64_t *skip_ptr = &exclude_ptr[0] if exclude_ptr.shape[0] else NULL
    cdef const int32_t *skip = &exclude_ids[0] if exclude_ids.shape[0] else NULL
    for t in prange(tasks, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
        _search(&table.table, h, (t // segments) * _SAMPLE_BLOCK, min((t // segments + 1) * _SAMPLE_BLOCK, n),
                (t % segments) * label_blocks // segments, (t % segments + 1) * label_blocks // segments,
                skip_ptr, skip, k, work + threadid() * slot, ids + (t % segments) * n * k,
                scores + (t % segments) * n * k, <_LogSum *>NULL if sums == NULL else sums + (t % segments) * n)
    for i in range(n):
        if sums != NULL:
            total = sums[i]
            for j in range(1, segments):
                _add_sum(&total, sums[j * n + i].top, sums[j * n + i].sum)
            log_partition[i] = <float>(total.top + log(total.sum))
        if k == 0:
            continue
        _merge(ids + i * k, scores + i * k, n * k, segments, k, &out_ids[i, 0], &out_scores[i, 0])


cdef void _search(const slide_table *table, const float *hidden, int64_t first, int64_t last, int64_t first_block,
                  int64_t last_block, const int64_t *skip_ptr, const int32_t *skip, int64_t k, float *logits,
                  int32_t *ids, float *scores, _LogSum *sums) noexcept nogil:
    """Top k of samples first..last among the rows of some label blocks, and the sums of the rows' exponentials."""
    cdef int rows, count = <int>(last - first), dp = <int>table.dp, lda = <int>table.stride, ldc = _LABEL_BLOCK
    cdef float one = 1.0, bar, top
    cdef int64_t block, row, s, i, low, high
    cdef const float *base
    cdef const float *weights
    cdef float *line
    cdef float *copy = logits + _SAMPLE_BLOCK * _LABEL_BLOCK
    cdef float *wide = copy + _LABEL_BLOCK
    if table.format == SLIDE_BF16:
        lda = dp
    for i in range(first * k, last * k):
        ids[i] = -1
        scores[i] = -INFINITY
    if sums != NULL:
        for s in range(first, last):
            sums[s] = _LogSum(-INFINITY, 0.0)
    for block in range(first_block, last_block):
        row = block * _LABEL_BLOCK
        rows = <int>min(table.n_rows - row, _LABEL_BLOCK)
        base = table.base + row * table.stride
        for i in range(rows):
            logits[i] = base[i * table.stride + SLIDE_BIAS]
        for s in range(1, count):
            memcpy(logits + s * _LABEL_BLOCK, logits, rows * sizeof(float))
        weights = base + SLIDE_HEADER
        if table.format == SLIDE_BF16:
            KERNELS.widen(table, NULL, row, row + rows, wide)
            weights = wide
        sgemm(b"T", b"N", &rows, &count, &dp, &one, <float *>weights, &lda,
              <float *>hidden + first * table.dp, &dp, &one, logits, &ldc)
        for s in range(first, last):
            line = logits + (s - first) * _LABEL_BLOCK
            if sums != NULL:
                memcpy(copy, line, rows * sizeof(float))
                top = KERNELS.max(copy, rows, -INFINITY)
                _add_sum(&sums[s], top, KERNELS.exp_sum(copy, rows, top))
            if k == 0:
                continue
            if skip_ptr != NULL:
                low = _lower_bound(skip, skip_ptr[s], skip_ptr[s + 1], row)
                high = skip_ptr[s + 1]
                while low < high and skip[low] < row + rows:
                    line[skip[low] - row] = -INFINITY
                    low = low + 1
            bar = scores[s * k + k - 1]
            i = KERNELS.above(line, 0, rows, bar)
            while i < rows:
                insert_best(ids + s * k, scores + s * k, k, <int32_t>(row + i), line[i])
                i = KERNELS.above(line, i + 1, rows, scores[s * k + k - 1])


cdef void _merge(const int32_t *ids, const float *scores, int64_t distance, int64_t segments, int64_t k,
                 int32_t *out_ids, float *out_scores) noexcept nogil:
    cdef int64_t g, i
    memcpy(out_ids, ids, k * sizeof(int32_t))
    memcpy(out_scores, scores, k * sizeof(float))
    for g in range(1, segments):
        for i in range(k):
            if not scores[g * distance + i] > out_scores[k - 1]:
                break
            insert_best(out_ids, out_scores, k, ids[g * distance + i], scores[g * distance + i])


cdef inline void _add_sum(_LogSum *total, double top, double value) noexcept nogil:
    if top > total.top:
        total.sum = total.sum * exp(total.top - top) + value
        total.top = top
    else:
        total.sum += value * exp(top - total.top)


cdef int64_t _lower_bound(const int32_t *ids, int64_t low, int64_t high, int64_t value) noexcept nogil:
    cdef int64_t middle
    while low < high:
        middle = (low + high) // 2
        if ids[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low
