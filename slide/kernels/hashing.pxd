from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t


cdef extern from "hash.h" nogil:
    const int SLIDE_LANES

    ctypedef struct slide_code_shape:
        int32_t k
        int32_t l
        int32_t width
        int32_t bucket_bits

    ctypedef struct slide_hash_kernels:
        void (*load)(const float *const *, int64_t, int64_t, float *) noexcept nogil
        void (*hadamard)(const float *, int64_t, const float *, float *, const slide_code_shape *,
                         uint32_t *) noexcept nogil
        void (*sparse_signs)(const float *, const int32_t *, const int64_t *, const slide_code_shape *,
                             uint32_t *) noexcept nogil
        void (*dwta)(const float *, const int32_t *, int64_t, uint64_t, uint32_t *, const slide_code_shape *,
                     uint32_t *) noexcept nogil

    slide_hash_kernels slide_hash_for(int level)
