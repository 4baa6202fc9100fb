"""Top-k search over the rows of a table: among all of them, exactly or by their sketches, and among candidates.

Scores stay in registers with AVX-512, and are compared there. Without it, and where their exponentials are summed, they
are products by BLAS, called through SciPy from inside our own parallel loops; the caller limits BLAS to one thread
around them. Results do not depend on the number of threads: products have the same operands on any number, and the best
of a set are the same in any order.
"""

from cython.parallel cimport prange, threadid
from libc.math cimport INFINITY, exp, fabsf, log, sqrt
from libc.stdint cimport int8_t, int32_t, int64_t, uint64_t
from libc.string cimport memcpy, memset
from scipy.linalg.cython_blas cimport sgemm

import numpy as np

from slide.kernels.best cimport BestK, best_add, best_finish, best_restart, best_room, best_start, best_takes
from slide.kernels.memory cimport HugeBuffer, Scratch
from slide.kernels.parallel cimport slide_isa_level, threads_for
from slide.kernels.rows cimport (
    KERNELS,
    SLIDE_BF16,
    SLIDE_BIAS,
    SLIDE_HEADER,
    SLIDE_LANES,
    RowTable,
    slide_groups,
    slide_table,
)
from slide.kernels.sketch cimport (
    Sketch,
    code_of,
    slide_sketch,
    slide_sketch_queries,
    slide_sketch_scanner,
    slide_sketch_scanner_for,
    slide_sketch_scorer,
    slide_sketch_scorer_for,
    slide_sketch_start,
    slide_sketch_tile,
)

cdef extern from "score.h" nogil:
    enum: SLIDE_SCORE_ROWS
    enum: SLIDE_SCORE_SAMPLES

    ctypedef struct slide_score_rows:
        const float *w
        const float *bias
        int64_t stride
        int64_t bias_stride
        int64_t dp

    ctypedef struct slide_score_tile:
        float score[6][64]
        uint64_t above[6]
        int64_t first
        int rows

    ctypedef void (*slide_scorer)(const slide_score_rows *, int64_t, int64_t, const float *, int, const float *,
                                  slide_score_tile *) noexcept nogil
    slide_scorer slide_scorer_for(int level)

cdef extern from *:
    int __builtin_ctzll(unsigned long long x) nogil

cdef slide_scorer SCORER = slide_scorer_for(slide_isa_level())
cdef slide_sketch_scanner SKETCH_SCANNER = slide_sketch_scanner_for(slide_isa_level())
cdef slide_sketch_scorer SKETCH_SCORES = slide_sketch_scorer_for(slide_isa_level())

cdef enum:
    _SAMPLE_BLOCK = 128    # samples and rows of one product
    _ROW_BLOCK = 512
    _FEW = 3               # so few samples are quicker scored row by row: BLAS would copy the rows first
    _SCAN_SAMPLES = 256    # samples that read a row while it is in the caches, and rows they read in turns
    _SCAN_ROWS = 192
    _SKETCH_PART = 32      # rows of every block that foretell a bar
    _TASKS = 16            # tasks a search among all rows is cut into, at least, if it has the row blocks

ctypedef struct _LogSum:   # a sum of exponentials: exp(top) * sum
    double top
    double sum

ctypedef struct _Exclusions:
    const int64_t *ptr     # NULL: none
    const int32_t *ids

ctypedef struct _Source:   # the rows that are searched and the samples: either the first two or the next two
    const slide_table *table
    const float *hidden
    const slide_sketch *sketch
    const slide_sketch_queries *queries
    int64_t n_rows
    int64_t dp


cdef class _Counting:
    """Groups that make a pair with one sample of each of up to _ROW_BLOCK rows, pair i of row i."""

    cdef HugeBuffer buffer
    cdef slide_groups groups

    def __cinit__(self):
        cdef int64_t i
        self.buffer = HugeBuffer((_ROW_BLOCK + 1) * 8 + 2 * _ROW_BLOCK * 4, name="search")
        cdef int64_t *ptr = <int64_t *>self.buffer.data
        cdef int32_t *sample = <int32_t *>(ptr + _ROW_BLOCK + 1)
        cdef int32_t *slot = sample + _ROW_BLOCK
        memset(sample, 0, _ROW_BLOCK * sizeof(int32_t))
        for i in range(_ROW_BLOCK):
            ptr[i] = i
            slot[i] = <int32_t>i
        ptr[_ROW_BLOCK] = _ROW_BLOCK
        self.groups = slide_groups(NULL, ptr, sample, slot)

cdef _Counting COUNTING = _Counting()


cdef inline void _score_singly(const slide_table *table, const int32_t *rows, int64_t n, const float *hidden,
                               const slide_groups *counting, float *out) noexcept nogil:
    """Score up to _ROW_BLOCK rows against one sample."""
    cdef slide_groups groups = counting[0]
    groups.rows = rows
    KERNELS.sddmm(table, &groups, 0, n, hidden, out)


cdef inline void _score_jointly(const slide_table *table, int64_t first, int64_t n, const float *hidden,
                                int64_t samples, float *wide, float *out) noexcept nogil:
    """Score up to _ROW_BLOCK consecutive rows against a block of samples.

    Float32 rows are BLAS's operand as they lie, bfloat16 rows once they are widened.
    """
    cdef int m = <int>n, count = <int>samples, k = <int>table.dp, lda = <int>table.stride, ldc = _ROW_BLOCK
    cdef const float *base = table.base + first * table.stride
    cdef const float *weights = base + SLIDE_HEADER
    cdef float one = 1.0
    cdef int64_t i, s
    if table.format == SLIDE_BF16:
        KERNELS.widen(table, NULL, first, first + n, wide)
        weights, lda = wide, k
    for i in range(n):
        out[i] = base[i * table.stride + SLIDE_BIAS]
    for s in range(1, samples):
        memcpy(out + s * _ROW_BLOCK, out, n * sizeof(float))
    sgemm(b"T", b"N", &m, &count, &k, &one, <float *>weights, &lda, <float *>hidden, &k, &one, out, &ldc)


cdef void _score_block(const _Source *source, const int32_t *rows, int64_t n, int64_t first, int64_t last,
                       const slide_groups *counting, float *wide, float *out) noexcept nogil:
    """Score up to _ROW_BLOCK consecutive rows against the samples first..last, a line of `out` for each."""
    cdef int64_t s
    if source.sketch != NULL:
        SKETCH_SCORES(source.sketch, rows[0] // SLIDE_LANES, (rows[0] + n + SLIDE_LANES - 1) // SLIDE_LANES,
                      source.queries, first, last, out, _ROW_BLOCK)
    elif last - first <= _FEW:
        for s in range(first, last):
            _score_singly(source.table, rows, n, source.hidden + s * source.dp, counting,
                          out + (s - first) * _ROW_BLOCK)
    else:
        _score_jointly(source.table, rows[0], n, source.hidden + first * source.dp, last - first, wide, out)


cdef inline bint _excluded(const _Exclusions *exclusions, int64_t sample, int32_t row) noexcept nogil:
    cdef int64_t low, high, middle
    if exclusions.ptr == NULL:
        return False
    low = exclusions.ptr[sample]
    high = exclusions.ptr[sample + 1]
    while low < high:
        middle = (low + high) // 2
        if exclusions.ids[middle] < row:
            low = middle + 1
        else:
            high = middle
    return low < exclusions.ptr[sample + 1] and exclusions.ids[low] == row


cdef inline void _offer(BestK *best, const float *scores, const int32_t *rows, int64_t n,
                        const _Exclusions *exclusions, int64_t sample) noexcept nogil:
    """Offer n scored rows to a sample's buffer, which takes few once the bar is high."""
    cdef int64_t i = KERNELS.above(scores, 0, n, best.scan), end
    while i < n:
        end = min(i + 16, n)
        while i < end:
            if best_takes(best, scores[i], rows[i]) and not _excluded(exclusions, sample, rows[i]):
                best_add(best, scores[i], rows[i])
            i = i + 1
        i = KERNELS.above(scores, i, n, best.scan)


cdef _Exclusions _checked_exclusions(const int64_t[::1] ptr, const int32_t[::1] ids, int64_t n) except *:
    cdef int64_t i, j
    if ptr.shape[0] not in (0, n + 1):
        raise ValueError(f"exclude_ptr must be empty or have {n + 1} entries, got {ptr.shape[0]}")
    if ptr.shape[0] == 0:
        return _Exclusions(NULL, NULL)
    if ptr[0] != 0 or ptr[n] > ids.shape[0] or np.any(np.diff(ptr) < 0):
        raise ValueError("exclude_ptr must rise from 0 to at most the number of excluded ids")
    for i in range(n):
        for j in range(ptr[i] + 1, ptr[i + 1]):
            if ids[j] < ids[j - 1]:
                raise ValueError(f"sample {i}'s excluded ids are not ascending")
    cdef const int32_t *first = &ids[0] if ids.shape[0] else NULL
    return _Exclusions(&ptr[0], first)


cdef _check_shapes(const float[:, ::1] hidden, int64_t dim, int32_t[:, ::1] out_ids, float[:, ::1] out_scores):
    cdef int64_t n = hidden.shape[0], k = out_ids.shape[1]
    if hidden.shape[1] != dim or out_ids.shape[0] != n or out_scores.shape[0] != n or out_scores.shape[1] != k:
        raise ValueError(f"hidden must be [samples, {dim}], out_ids and out_scores [samples, k]")


cdef void _merge(const BestK *parts, int64_t distance, int64_t n_parts, uint64_t *keys, int64_t k, int32_t *ids,
                 float *scores) noexcept nogil:
    """Write the best of several buffers of one sample."""
    cdef BestK best
    cdef int64_t p
    best_start(&best, keys, k)
    for p in range(n_parts):
        memcpy(keys + best.count, parts[p * distance].keys, parts[p * distance].count * sizeof(uint64_t))
        best.count += parts[p * distance].count
    best_finish(&best, ids, scores)


def exact_topk(RowTable table, const float[:, ::1] hidden, const int64_t[::1] exclude_ptr,
               const int32_t[::1] exclude_ids, int32_t[:, ::1] out_ids, float[:, ::1] out_scores, int threads,
               float[::1] log_partition=None):
    """Find each sample's k best rows among all, block by block: no [samples, rows] array exists at any time.

    Equal scores are ordered by id. Where fewer than k rows may be chosen, the rest of `out_ids` is -1 and of
    `out_scores` minus infinity.

    Parameters
    ----------
    hidden : float32 array [samples, padded_dim]
    exclude_ptr : int64 array [samples + 1] or [0]
    exclude_ids : int32 array [exclude_ptr[-1] or more]
        Sample s must not get the ids ``exclude_ids[exclude_ptr[s]:exclude_ptr[s + 1]]``, which ascend; ids past the
        last row are ignored. An empty `exclude_ptr` excludes nothing.
    out_ids : int32 array [samples, k]
        Written, best first.
    out_scores : float32 array [samples, k]
        Written: ``hidden . weights + bias``.
    log_partition : float32 array [samples], optional
        Written: the logarithm of the sum of the exponentials of all rows' scores, excluded ones too. Subtracted from a
        score it gives the logarithm of its softmax.

    Raises
    ------
    ValueError
        Shapes do not fit, or excluded ids are not in order.
    """
    cdef int64_t n = hidden.shape[0]
    _check_shapes(hidden, table.padded_dim, out_ids, out_scores)
    if log_partition is not None and log_partition.shape[0] != n:
        raise ValueError(f"log_partition must have {n} entries, got {log_partition.shape[0]}")
    cdef _Exclusions exclusions = _checked_exclusions(exclude_ptr, exclude_ids, n)
    if n == 0 or (out_ids.shape[1] == 0 and log_partition is None):
        return
    cdef _Source source = _Source(&table.table, &hidden[0, 0], NULL, NULL, table.n_rows, table.padded_dim)
    _search_all(&source, &exclusions, out_ids, out_scores, log_partition, threads)


cdef _search_all(const _Source *source, const _Exclusions *exclusions, int32_t[:, ::1] out_ids,
                 float[:, ::1] out_scores, float[::1] log_partition, int threads):
    cdef int64_t n = out_ids.shape[0], k = out_ids.shape[1], i, j, t, block, place
    cdef bint with_sums = log_partition is not None
    cdef bint scans = SCORER != NULL and source.table != NULL and n > _FEW and not with_sums
    cdef int64_t width = _SCAN_SAMPLES if scans else _SAMPLE_BLOCK, height = _SCAN_ROWS if scans else _ROW_BLOCK
    cdef int64_t sample_blocks = (n + width - 1) // width
    cdef int64_t row_blocks = (source.n_rows + height - 1) // height
    # Rows are cut as well where samples are few. The cut follows from the sizes alone, never from the thread count.
    cdef int64_t segments = min(row_blocks, (_TASKS + sample_blocks - 1) // sample_blocks)
    cdef bint widens = source.table != NULL and source.table.format == SLIDE_BF16
    # A slot has room for the rows that are widened after its logits.
    cdef int64_t tasks = sample_blocks * segments, slot = (width + (source.dp if widens else 0)) * height
    if scans:
        slot = width * (source.dp + 1) + (source.dp * height if widens else 0)
    threads = threads_for(threads, n * source.n_rows * source.dp, 1 << 21)
    cdef Scratch scratch = Scratch(threads * slot * 4)
    # Where no rows are cut, a block of samples is one task's, and finished at its end.
    cdef int64_t held = segments * n if segments > 1 else threads * width
    cdef Scratch buffers = Scratch(held * best_room(k) * 8)
    cdef Scratch heads = Scratch(held * sizeof(BestK))
    cdef Scratch merged = Scratch(threads * segments * best_room(k) * 8 if segments > 1 else 0)
    cdef Scratch partial = Scratch(segments * n * sizeof(_LogSum) if with_sums else 0)
    cdef float *work = <float *>scratch.data
    cdef uint64_t *keys = <uint64_t *>buffers.data
    cdef uint64_t *merging = <uint64_t *>merged.data
    cdef BestK *best = <BestK *>heads.data
    cdef _LogSum *sums = <_LogSum *>partial.data if with_sums else NULL
    cdef _LogSum total
    cdef const slide_groups *counting = &COUNTING.groups
    cdef int32_t *ids = &out_ids[0, 0] if k else NULL
    cdef float *scores = &out_scores[0, 0] if k else NULL
    for t in prange(tasks, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
        block = t // segments
        place = (t % segments) * n + block * width if segments > 1 else threadid() * width
        if scans:
            _scan_task(source, block * width, min((block + 1) * width, n), (t % segments) * row_blocks // segments,
                       (t % segments + 1) * row_blocks // segments, exclusions, k, work + threadid() * slot,
                       best + place, keys + place * best_room(k))
        elif source.sketch != NULL and SKETCH_SCANNER != NULL:
            _sketch_task(source, block * width, min((block + 1) * width, n), (t % segments) * row_blocks // segments,
                         (t % segments + 1) * row_blocks // segments, exclusions, k, best + place,
                         keys + place * best_room(k))
        else:
            _search_task(source, block * width, min((block + 1) * width, n), (t % segments) * row_blocks // segments,
                         (t % segments + 1) * row_blocks // segments, exclusions, counting, k,
                         work + threadid() * slot, best + place, keys + place * best_room(k),
                         <_LogSum *>NULL if sums == NULL else sums + (t % segments) * n)
        if segments == 1 and k > 0:
            _finish_block(best + place, block * width, min((block + 1) * width, n), k, ids, scores)
    if segments > 1 and k > 0:
        for i in prange(n, nogil=True, num_threads=threads, schedule="static"):
            _merge(best + i, n, segments, merging + threadid() * segments * best_room(k), k, ids + i * k,
                   scores + i * k)
    if sums != NULL:
        for i in range(n):
            total = sums[i]
            for j in range(1, segments):
                _add_sum(&total, sums[j * n + i].top, sums[j * n + i].sum)
            log_partition[i] = <float>(total.top + log(total.sum))


cdef void _search_task(const _Source *source, int64_t first, int64_t last, int64_t first_block, int64_t last_block,
                       const _Exclusions *exclusions, const slide_groups *counting, int64_t k, float *logits,
                       BestK *best, uint64_t *keys, _LogSum *sums) noexcept nogil:
    """Offer the rows of some blocks to samples first..last, and sum up the rows' exponentials."""
    cdef int32_t rows[_ROW_BLOCK]
    cdef int64_t block, n, s, i
    cdef float *line
    cdef float top
    for s in range(first, last):
        if k > 0:
            best_start(&best[s - first], keys + (s - first) * best_room(k), k)
        if sums != NULL:
            sums[s] = _LogSum(-INFINITY, 0.0)
    for block in range(first_block, last_block):
        n = min(source.n_rows - block * _ROW_BLOCK, _ROW_BLOCK)
        for i in range(n):
            rows[i] = <int32_t>(block * _ROW_BLOCK + i)
        _score_block(source, rows, n, first, last, counting, logits + _SAMPLE_BLOCK * _ROW_BLOCK, logits)
        for s in range(first, last):
            line = logits + (s - first) * _ROW_BLOCK
            if k > 0:
                _offer(&best[s - first], line, rows, n, exclusions, s)
            if sums != NULL:
                top = KERNELS.max(line, n, -INFINITY)
                _add_sum(&sums[s], top, KERNELS.exp_sum(line, n, top))


cdef void _sketch_task(const _Source *source, int64_t first, int64_t last, int64_t first_block, int64_t last_block,
                       const _Exclusions *exclusions, int64_t k, BestK *best, uint64_t *keys) noexcept nogil:
    """Offer the rows of some blocks to samples first..last by their sketch.

    Before a bar has risen, thousands of rows are among the best k so far, and each is kept and sorted out again. So a
    part of the rows is scanned first, which foretells the bar, or one a little below it. A sample whose bar proves too
    high is searched once more.
    """
    cdef int64_t n = last - first, s, block, rows
    cdef int64_t few = k * _SKETCH_PART // _ROW_BLOCK + <int64_t>(4 * sqrt(<double>k * _SKETCH_PART / _ROW_BLOCK)) + 4
    cdef bint foretells = few < k and (last_block - first_block) * _SKETCH_PART >= 4 * few
    for s in range(n):
        best_start(&best[s], keys + s * best_room(k), few if foretells else k)
    if foretells:
        for block in range(first_block, last_block):
            rows = min(source.n_rows - block * _ROW_BLOCK, _SKETCH_PART)
            _scan_sketch(source, block, rows, first, last, exclusions, best)
        for s in range(n):
            best_restart(&best[s], k)
    for block in range(first_block, last_block):
        rows = min(source.n_rows - block * _ROW_BLOCK, _ROW_BLOCK)
        _scan_sketch(source, block, rows, first, last, exclusions, best)
    if not foretells:
        return
    for s in range(n):
        if best[s].count < k:
            best_start(&best[s], keys + s * best_room(k), k)
            for block in range(first_block, last_block):
                rows = min(source.n_rows - block * _ROW_BLOCK, _ROW_BLOCK)
                _scan_sketch(source, block, rows, first + s, first + s + 1, exclusions, best + s)


cdef void _scan_sketch(const _Source *source, int64_t block, int64_t n, int64_t first, int64_t last,
                       const _Exclusions *exclusions, BestK *best) noexcept nogil:
    """Offer a block of n rows to samples first..last by their sketch; store only scores that may count."""
    cdef slide_sketch_tile tile
    cdef float bars[8]
    cdef int64_t s = first, lanes = _ROW_BLOCK // SLIDE_LANES, b, r, end, row
    cdef int samples, i, lane
    cdef unsigned int above
    while s < last:
        samples = 8 if last - s >= 8 else 1
        for i in range(samples):
            bars[i] = best[s - first + i].scan
        b = block * lanes
        end = b + (n + SLIDE_LANES - 1) // SLIDE_LANES
        while True:
            SKETCH_SCANNER(source.sketch, b, end, source.queries, s, samples, bars, &tile)
            if tile.blocks == 0:
                break
            for r in range(tile.blocks):
                for i in range(samples):
                    above = tile.above[r][i]
                    while above:
                        lane = __builtin_ctzll(above)
                        above = above & (above - 1)
                        row = (tile.first + r) * SLIDE_LANES + lane
                        # The last block is filled up with what is no row.
                        if row < source.n_rows and best_takes(&best[s - first + i], tile.score[r][i][lane],
                                                              <int32_t>row) \
                                and not _excluded(exclusions, s + i, <int32_t>row):
                            best_add(&best[s - first + i], tile.score[r][i][lane], <int32_t>row)
                            bars[i] = best[s - first + i].scan
            b = tile.first + tile.blocks
        s = s + samples


cdef void _scan_task(const _Source *source, int64_t first, int64_t last, int64_t first_block, int64_t last_block,
                     const _Exclusions *exclusions, int64_t k, float *work, BestK *best,
                     uint64_t *keys) noexcept nogil:
    """Offer the rows of some blocks to samples first..last; store only scores that may count."""
    cdef const slide_table *table = source.table
    cdef int64_t n = last - first, groups = (n + SLIDE_SCORE_SAMPLES - 1) // SLIDE_SCORE_SAMPLES, s, g, j, block
    cdef int64_t group_floats = table.dp * SLIDE_SCORE_SAMPLES, begin, end, row
    cdef float *bars = work + groups * group_floats
    cdef float *wide = bars + _SCAN_SAMPLES
    cdef const float *h
    cdef slide_score_rows rows
    cdef slide_score_tile tile
    # Samples are in lanes; lanes without a sample have a bar that nothing is above.
    memset(work, 0, groups * group_floats * sizeof(float))
    for s in range(groups * SLIDE_SCORE_SAMPLES):
        bars[s] = INFINITY
    for s in range(n):
        best_start(&best[s], keys + s * best_room(k), k)
        bars[s] = best[s].scan
        h = source.hidden + (first + s) * table.dp
        for j in range(table.dp):
            work[s // SLIDE_SCORE_SAMPLES * group_floats + j * SLIDE_SCORE_SAMPLES + s % SLIDE_SCORE_SAMPLES] = h[j]
    rows.dp = table.dp
    rows.bias_stride = table.stride
    for block in range(first_block, last_block):
        begin = block * _SCAN_ROWS
        end = min(source.n_rows, begin + _SCAN_ROWS)
        rows.bias = table.base + begin * table.stride + SLIDE_BIAS
        rows.w = table.base + begin * table.stride + SLIDE_HEADER
        rows.stride = table.stride
        if table.format == SLIDE_BF16:
            KERNELS.widen(table, NULL, begin, end, wide)
            rows.w = wide
            rows.stride = table.dp
        for g in range(groups):
            row = 0
            while True:
                SCORER(&rows, row, end - begin, work + g * group_floats,
                       <int>((min(n - g * SLIDE_SCORE_SAMPLES, SLIDE_SCORE_SAMPLES) + SLIDE_LANES - 1) // SLIDE_LANES),
                       bars + g * SLIDE_SCORE_SAMPLES, &tile)
                if tile.rows == 0:
                    break
                _offer_tile(&tile, begin, exclusions, first + g * SLIDE_SCORE_SAMPLES, best + g * SLIDE_SCORE_SAMPLES,
                            bars + g * SLIDE_SCORE_SAMPLES)
                row = tile.first + tile.rows


cdef void _offer_tile(const slide_score_tile *tile, int64_t begin, const _Exclusions *exclusions, int64_t sample,
                      BestK *best, float *bars) noexcept nogil:
    cdef uint64_t above
    cdef int32_t row
    cdef int r, s
    for r in range(tile.rows):
        row = <int32_t>(begin + tile.first + r)
        above = tile.above[r]
        while above:
            s = __builtin_ctzll(above)
            above = above & (above - 1)
            if best_takes(&best[s], tile.score[r][s], row) and not _excluded(exclusions, sample + s, row):
                best_add(&best[s], tile.score[r][s], row)
                bars[s] = best[s].scan


cdef void _finish_block(BestK *best, int64_t first, int64_t last, int64_t k, int32_t *ids,
                        float *scores) noexcept nogil:
    cdef int64_t s
    for s in range(first, last):
        best_finish(&best[s - first], ids + s * k, scores + s * k)


cdef inline void _add_sum(_LogSum *total, double top, double value) noexcept nogil:
    if top > total.top:
        total.sum = total.sum * exp(total.top - top) + value
        total.top = top
    else:
        total.sum += value * exp(top - total.top)


def sketch_topk(Sketch sketch, const float[:, ::1] queries, const int64_t[::1] exclude_ptr,
                const int32_t[::1] exclude_ids, int32_t[:, ::1] out_ids, float[:, ::1] out_scores, int threads):
    """Find each sample's k best rows by a sketch of them; the rows themselves should score these again.

    Parameters
    ----------
    queries : float32 array [samples, dim]
        Samples in the dimensions of the sketch; rounded to eight bits each.
    exclude_ptr, exclude_ids, out_ids
        As for ``exact_topk``.
    out_scores : float32 array [samples, k]
        Written: approximations of ``queries . vectors + bias``.

    Raises
    ------
    ValueError
        Shapes do not fit, or excluded ids are not in order.
    """
    cdef int64_t n = queries.shape[0], dp = sketch.sketch.dp, s, j
    _check_shapes(queries, sketch.dim, out_ids, out_scores)
    cdef _Exclusions exclusions = _checked_exclusions(exclude_ptr, exclude_ids, n)
    if n == 0 or out_ids.shape[1] == 0:
        return
    cdef Scratch rounded = Scratch(n * (dp + 8))
    cdef float *scale = <float *>rounded.data
    cdef int32_t *start = <int32_t *>(scale + n)
    cdef int8_t *codes = <int8_t *>(start + n)
    cdef float top
    memset(codes, 0, n * dp)
    for s in range(n):
        top = 0.0
        for j in range(sketch.dim):
            top = max(top, fabsf(queries[s, j]))
        scale[s] = top / 127
        if scale[s] > 0:
            for j in range(sketch.dim):
                codes[s * dp + j] = <int8_t>code_of(queries[s, j] / scale[s], 127)
        start[s] = slide_sketch_start(codes + s * dp, dp)
    cdef slide_sketch_queries all_queries = slide_sketch_queries(codes, scale, start)
    cdef _Source source = _Source(NULL, NULL, &sketch.sketch, &all_queries, sketch.n_rows, dp)
    _search_all(&source, &exclusions, out_ids, out_scores, None, threads)


def candidates_topk(RowTable table, const float[:, ::1] hidden, const int32_t[:, ::1] candidates,
                    const int64_t[::1] counts, const int64_t[::1] exclude_ptr, const int32_t[::1] exclude_ids,
                    int32_t[:, ::1] out_ids, float[:, ::1] out_scores, int threads):
    """Find each sample's k best rows among its own candidates.

    Parameters
    ----------
    hidden : float32 array [samples, padded_dim]
    candidates : int32 array [samples, any]
        Sample s has the first ``counts[s]`` of its row, without repetition.
    counts : int64 array [samples]
    exclude_ptr, exclude_ids, out_ids, out_scores
        As for ``exact_topk``.

    Raises
    ------
    ValueError
        Shapes do not fit, a candidate is out of range, or excluded ids are not in order.
    """
    cdef int64_t n = hidden.shape[0], k = out_ids.shape[1], dp = table.padded_dim, width = candidates.shape[1]
    cdef int64_t s, i, most = 0, total = 0
    _check_shapes(hidden, dp, out_ids, out_scores)
    cdef _Exclusions exclusions = _checked_exclusions(exclude_ptr, exclude_ids, n)
    if candidates.shape[0] != n or counts.shape[0] != n:
        raise ValueError(f"candidates and counts must have {n} rows, got {candidates.shape[0]} and {counts.shape[0]}")
    for s in range(n):
        if not 0 <= counts[s] <= width:
            raise ValueError(f"counts must lie in 0..{width}, got {counts[s]}")
        for i in range(counts[s]):
            if not 0 <= candidates[s, i] < table.n_rows:
                raise ValueError(f"candidates must lie in 0..{table.n_rows - 1}, got {candidates[s, i]}")
        total += counts[s]
        most = max(most, counts[s])
    if n == 0 or k == 0:
        return
    threads = threads_for(threads, total * dp, 1 << 18)
    cdef Scratch scratch = Scratch(threads * _ROW_BLOCK * 4)
    cdef Scratch buffers = Scratch(threads * best_room(k) * 8)
    cdef uint64_t *keys = <uint64_t *>buffers.data
    cdef float *work = <float *>scratch.data
    cdef const int32_t *ids = &candidates[0, 0] if width else NULL
    cdef const float *h = &hidden[0, 0]
    cdef const slide_groups *counting = &COUNTING.groups
    for s in prange(n, nogil=True, num_threads=threads, schedule="dynamic", chunksize=8):
        _search_candidates(&table.table, h + s * dp, ids + s * width, counts[s], &exclusions, s, counting, k,
                           work + threadid() * _ROW_BLOCK, keys + threadid() * best_room(k), &out_ids[s, 0],
                           &out_scores[s, 0])


cdef void _search_candidates(const slide_table *table, const float *hidden, const int32_t *rows, int64_t n_rows,
                             const _Exclusions *exclusions, int64_t sample, const slide_groups *counting, int64_t k,
                             float *line, uint64_t *keys, int32_t *ids, float *scores) noexcept nogil:
    cdef BestK best
    cdef int64_t r = 0, n
    best_start(&best, keys, k)
    while r < n_rows:
        n = min(n_rows - r, _ROW_BLOCK)
        _score_singly(table, rows + r, n, hidden, counting, line)
        _offer(&best, line, rows + r, n, exclusions, sample)
        r = r + n
    best_finish(&best, ids, scores)
