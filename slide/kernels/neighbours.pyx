"""Exact nearest neighbours among sparse vectors, and the best of what they vote for.

The vectors are kept transposed, a list of (sample, value) for each feature, ascending by sample. A query adds the lists
of its features, each times its value, into an array of scores over the samples. It goes through the samples block by
block, with a cursor in every list: the scores of a block stay in the cache, where the additions, the clearing and the
search for the best find them.
"""

cimport cython
from cython.parallel cimport prange, threadid
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memset

import numpy as np

from slide.kernels.best cimport BestK, best_above, best_add, best_finish, best_room, best_start, best_takes
from slide.kernels.memory cimport Scratch
from slide.kernels.parallel cimport threads_for
from slide.kernels.rows cimport KERNELS

cdef extern from *:
    """
    #include <stdint.h>

    /* Add x times a feature's list, from entry c up to sample `last` or entry `end`, to `scores`, which begin at sample
     * `first`; return the entry behind the last one added. A function of its own keeps all it uses in registers. */
    static __attribute__((noinline)) int64_t slide_add_list(const int32_t *samples, const float *values, int64_t c,
                                                            int64_t end, int64_t first, int64_t last, float x,
                                                            float *scores) {
        for (; c < end && samples[c] < last; c++) scores[samples[c] - first] += x * values[c];
        return c;
    }
    """
    int64_t slide_add_list(const int32_t *samples, const float *values, int64_t c, int64_t end, int64_t first,
                           int64_t last, float x, float *scores) nogil

cdef enum:
    _POINT_BLOCK = 1 << 16  # samples whose scores are worked on at a time: 256 KiB, for the second-level cache


@cython.final
cdef class Postings:
    """Sparse vectors of samples, transposed: the samples that have a feature, and its values.

    Parameters
    ----------
    feature_ptr : int64 array [features + 1]
    points : int32 array [entries]
        The samples that have feature f, ascending, are ``points[feature_ptr[f]:feature_ptr[f + 1]]``.
    values : float32 array [entries]
        Parallel to `points`.
    n_points : int
        The number of samples.

    Attributes
    ----------
    n_points, n_features : int

    Raises
    ------
    ValueError
        The arrays do not fit each other, a sample is out of range, or a list is not ascending without repetition.
    """

    cdef const int64_t[::1] feature_ptr
    cdef const int32_t[::1] points
    cdef const float[::1] values
    cdef readonly int64_t n_points
    cdef readonly int64_t n_features

    def __cinit__(self, const int64_t[::1] feature_ptr, const int32_t[::1] points, const float[::1] values,
                  int64_t n_points):
        if feature_ptr.shape[0] < 1 or not 0 <= n_points < 2**31:
            raise ValueError(
                f"expected an offset or more and fewer than 2**31 samples, got {feature_ptr.shape[0]} and {n_points}"
            )
        cdef int64_t f, i, last = -1, n = feature_ptr.shape[0] - 1
        _check_ptr("feature_ptr", feature_ptr, points.shape[0], values.shape[0])
        for f in range(n):
            last = -1
            for i in range(feature_ptr[f], feature_ptr[f + 1]):
                if not last < points[i] < n_points:
                    raise ValueError(
                        f"the samples of feature {f} must rise within 0..{n_points - 1}, got {points[i]} after {last}"
                    )
                last = points[i]
        self.feature_ptr, self.points, self.values = feature_ptr, points, values
        self.n_points, self.n_features = n_points, n


cdef _check_ptr(name, const int64_t[::1] ptr, int64_t ids, int64_t values):
    cdef int64_t last = ptr[ptr.shape[0] - 1]
    if ptr[0] != 0 or last > ids or last > values or np.any(np.diff(ptr) < 0):
        raise ValueError(f"{name} must rise from 0 to at most the number of ids and values")


def nearest(Postings postings, const int64_t[::1] indptr, const int32_t[::1] indices, const float[::1] values,
            int32_t[:, ::1] out_ids, float[:, ::1] out_scores, int threads):
    """Find for every query the k samples of largest inner product with it, exactly.

    Equal products are ordered by id. Samples whose product is not above zero are no neighbours: the rest of `out_ids`
    is then -1 and of `out_scores` zero.

    Parameters
    ----------
    postings : Postings
        The samples' vectors; of unit length, if products are to be cosines.
    indptr : int64 array [queries + 1]
    indices : int32 array [entries]
        Query q has the features ``indices[indptr[q]:indptr[q + 1]]``; products are summed in their order.
    values : float32 array [entries]
        Parallel to `indices`.
    out_ids : int32 array [queries, k]
        Written, nearest first.
    out_scores : float32 array [queries, k]
        Written: the products.

    Raises
    ------
    ValueError
        Shapes do not fit, or a feature is out of range.
    """
    cdef int64_t n = out_ids.shape[0], k = out_ids.shape[1], q, i, most = 0, work = 0
    if indptr.shape[0] != n + 1 or out_scores.shape[0] != n or out_scores.shape[1] != k:
        raise ValueError(f"indptr must have {n + 1} entries and out_scores be [{n}, {k}]")
    _check_ptr("indptr", indptr, indices.shape[0], values.shape[0])
    for q in range(n):
        most = max(most, indptr[q + 1] - indptr[q])
        for i in range(indptr[q], indptr[q + 1]):
            if not 0 <= indices[i] < postings.n_features:
                raise ValueError(f"features must lie in 0..{postings.n_features - 1}, got {indices[i]}")
            work += postings.feature_ptr[indices[i] + 1] - postings.feature_ptr[indices[i]]
    if n == 0 or k == 0:
        return
    cdef const int64_t *ptr = &postings.feature_ptr[0]
    cdef const int32_t *points = &postings.points[0] if postings.points.shape[0] else NULL
    cdef const float *weights = &postings.values[0] if postings.points.shape[0] else NULL
    cdef const int32_t *feature = &indices[0] if indices.shape[0] else NULL
    cdef const float *value = &values[0] if indices.shape[0] else NULL
    cdef int64_t n_points = postings.n_points
    # Slots are whole cache lines, and a line lies between two threads' slots.
    cdef int64_t block = (min(n_points, _POINT_BLOCK) + 15) // 16 * 16
    cdef int64_t slot = (block + 2 * best_room(k) + 2 * most + 31) // 16 * 16
    threads = threads_for(threads, work + n * n_points // 16, 1 << 14)
    cdef Scratch scratch = Scratch(threads * slot * 4)
    cdef float *room = <float *>scratch.data
    for q in prange(n, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
        _search(ptr, points, weights, n_points, <const int32_t *>NULL if feature == NULL else feature + indptr[q],
                <const float *>NULL if value == NULL else value + indptr[q], indptr[q + 1] - indptr[q],
                room + threadid() * slot, block, k, &out_ids[q, 0], &out_scores[q, 0])


cdef void _search(const int64_t *ptr, const int32_t *points, const float *weights, int64_t n_points,
                  const int32_t *feature, const float *value, int64_t length, float *line, int64_t size, int64_t k,
                  int32_t *ids, float *scores) noexcept nogil:
    """Find one query's nearest samples; `line` has room for a block of `size` scores, the best and the cursors."""
    cdef uint64_t *keys = <uint64_t *>(line + size)
    cdef int64_t *cursor = <int64_t *>(keys + best_room(k))
    cdef int64_t block, first, count, i, c, touched
    cdef BestK best
    best_start(&best, keys, k)
    best_above(&best, 0.0)
    for i in range(length):
        cursor[i] = ptr[feature[i]]
    for block in range((n_points + _POINT_BLOCK - 1) // _POINT_BLOCK):
        first = block * _POINT_BLOCK
        count = min(n_points - first, _POINT_BLOCK)
        memset(line, 0, count * sizeof(float))
        touched = 0
        for i in range(length):
            c = slide_add_list(points, weights, cursor[i], ptr[feature[i] + 1], first, first + count, value[i], line)
            touched += c - cursor[i]
            cursor[i] = c
        if touched == 0:
            continue
        i = KERNELS.above(line, 0, count, best.scan)
        while i < count:
            if best_takes(&best, line[i], <int32_t>(first + i)):
                best_add(&best, line[i], <int32_t>(first + i))
            i = KERNELS.above(line, i + 1, count, best.scan)
    best_finish(&best, ids, scores)
    for i in range(best.count, k):
        scores[i] = 0.0


def best_of_rows(const int64_t[::1] indptr, const int32_t[::1] ids, const double[::1] scores,
                 const int32_t[:, ::1] more_ids, const double[:, ::1] more_scores, int32_t[:, ::1] out_ids,
                 double[:, ::1] out_scores):
    """Find the k best entries of each row of a CSR matrix, and of further entries that count unless the row has them.

    Equal scores are ordered by id. Where a row has fewer than k entries, the rest of `out_ids` is -1 and of
    `out_scores` zero.

    Parameters
    ----------
    indptr : int64 array [rows + 1]
    ids : int32 array [entries]
        Ascending within a row, without repetition.
    scores : float64 array [entries]
        Parallel to `ids`.
    more_ids : int32 array [rows, any]
        Further ids; -1 for none.
    more_scores : float64 array [rows, any]
        Parallel to `more_ids`.
    out_ids : int32 array [rows, k]
        Written, best first.
    out_scores : float64 array [rows, k]
        Written.

    Raises
    ------
    ValueError
        Shapes do not fit.
    """
    cdef int64_t n = out_ids.shape[0], k = out_ids.shape[1], extra = more_ids.shape[1], r, i, low, high, middle
    if (indptr.shape[0] != n + 1 or out_scores.shape[0] != n or out_scores.shape[1] != k or more_ids.shape[0] != n
            or more_scores.shape[0] != n or more_scores.shape[1] != extra):
        raise ValueError(f"indptr must have {n + 1} entries, out_scores be [{n}, {k}] and the others have {n} rows")
    _check_ptr("indptr", indptr, ids.shape[0], scores.shape[0])
    if n == 0 or k == 0:
        return
    with nogil:
        for r in range(n):
            for i in range(k):
                out_ids[r, i] = -1
                out_scores[r, i] = -INFINITY
            for i in range(indptr[r], indptr[r + 1]):
                _insert(&out_ids[r, 0], &out_scores[r, 0], k, ids[i], scores[i])
            for i in range(extra):
                low = indptr[r]
                high = indptr[r + 1]
                while low < high:
                    middle = (low + high) // 2
                    if ids[middle] < more_ids[r, i]:
                        low = middle + 1
                    else:
                        high = middle
                if more_ids[r, i] >= 0 and (low == indptr[r + 1] or ids[low] != more_ids[r, i]):
                    _insert(&out_ids[r, 0], &out_scores[r, 0], k, more_ids[r, i], more_scores[r, i])
            for i in range(k):
                if out_ids[r, i] < 0:
                    out_scores[r, i] = 0.0


cdef void _insert(int32_t *ids, double *scores, int64_t k, int32_t id_, double score) noexcept nogil:
    """Put an entry, whatever the order of arrival, in its place by score and then id, if it is among the best."""
    cdef int64_t i = k
    while i > 0 and (score > scores[i - 1] or (score == scores[i - 1] and id_ < ids[i - 1])):
        if i < k:
            scores[i] = scores[i - 1]
            ids[i] = ids[i - 1]
        i -= 1
    if i < k:
        scores[i] = score
        ids[i] = id_
