"""The few best of many scores, as the searches keep them."""

from libc.stdint cimport int32_t, int64_t


cdef inline void insert_best(int32_t *ids, float *scores, int64_t k, int32_t id_, float score) noexcept nogil:
    """Put a score above the last one in its place; equal scores stay in order of arrival, which is by id."""
    cdef int64_t i = k - 1
    while i > 0 and score > scores[i - 1]:
        scores[i] = scores[i - 1]
        ids[i] = ids[i - 1]
        i -= 1
    scores[i] = score
    ids[i] = id_
