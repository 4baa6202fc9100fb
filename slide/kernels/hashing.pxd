from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t


cdef extern from "hash.h" nogil:
    const int SLIDE_LANES

    ctypedef struct slide_code_shape:
        int32_t k
        int32_t l
        uint32_t radix
        int32_t bucket_bits
        uint64_t total
        int32_t total_bits

    ctypedef struct slide_hash_kernels:
        void (*load)(const float *const *, int64_t, int64_t, float *) noexcept nogil
        void (*hadamard)(const float *, int64_t, const float *, float *, const slide_code_shape *,
                         uint32_t *) noexcept nogil
        void (*sparse_signs)(const float *, const int32_t *, const int64_t *, const slide_code_shape *,
                             uint32_t *) noexcept nogil
        void (*column_signs)(const float *, const int32_t *, int64_t, const int64_t *, const int32_t *, float *,
                             const slide_code_shape *, uint32_t *) noexcept nogil
        void (*hide_zeros)(float *, int64_t) noexcept nogil
        void (*keep_top)(float *, int64_t, int32_t) noexcept nogil
        void (*winners)(const float *, const int32_t *, const int32_t *, int64_t, int64_t, uint32_t *) noexcept nogil
        void (*first_members)(const float *, const int32_t *, const int32_t *, int64_t, int64_t,
                              uint32_t *) noexcept nogil
        void (*combine)(const uint32_t *, uint64_t, const slide_code_shape *, uint32_t *) noexcept nogil

    slide_hash_kernels slide_hash_for(int level)

    int64_t slide_compact(const int64_t *, int64_t, const int32_t *, const float *, int64_t, uint64_t *, int32_t *,
                          int32_t *, float *) noexcept nogil
    void slide_forget(const int32_t *, int64_t, uint64_t *, int32_t *) noexcept nogil
    void slide_scatter(const int64_t *, int64_t, const int32_t *, const float *, int64_t, float *) noexcept nogil
    uint64_t slide_key(uint64_t, uint64_t, uint64_t) noexcept nogil
