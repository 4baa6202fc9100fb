from libc.stdint cimport int32_t, int64_t, uint64_t

from slide.kernels.memory cimport HugeBuffer
from slide.kernels.rows cimport slide_groups


cdef enum:
    _MOST_PARTS = 32


cdef class PairGroups:
    cdef HugeBuffer buffer
    cdef readonly int64_t capacity
    cdef readonly int64_t n_samples
    cdef readonly int64_t n_pairs
    cdef readonly int64_t n_groups
    cdef readonly int64_t n_parts
    cdef int32_t *group_row
    cdef int64_t *group_ptr
    cdef int32_t *pair_sample
    cdef int32_t *pair_slot
    cdef int32_t *slot_sample
    cdef uint64_t *keys
    cdef uint64_t *keys_to
    cdef int64_t *part_ptr
    cdef int64_t *bucket_ptr
    cdef int64_t *bucket_groups
    cdef int32_t *counts
    cdef int64_t highest_slot
    cdef int64_t highest_row
    cdef slide_groups view(self) noexcept nogil
    cdef void _sort(self, int64_t n_rows) noexcept nogil
    cdef void _gather(self, int64_t n_buckets) noexcept nogil
    cdef void _cut(self) noexcept nogil
