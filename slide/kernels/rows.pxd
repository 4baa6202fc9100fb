from libc.stdint cimport int32_t, int64_t, uint32_t

cdef extern from "rows.h" nogil:
    const int SLIDE_LANES, SLIDE_HEADER, SLIDE_BIAS, SLIDE_BIAS_M, SLIDE_BIAS_V, SLIDE_LAST_STEP, SLIDE_ACCUMULATOR
    const int SLIDE_FP32, SLIDE_BF16_MOMENTS, SLIDE_BF16
    const int SLIDE_SGD, SLIDE_ADAM, SLIDE_MEASURE, SLIDE_ADAGRAD

    ctypedef struct slide_rule:
        int32_t kind
        int32_t step
        float rate
        float beta1
        float beta2
        float gain1
        float gain2
        float eps
        float root_scale
        float decay
        int32_t decays
        double log_beta1
        double log_beta2

    ctypedef struct slide_owed:
        int32_t step
        int32_t first
        int32_t window
        int32_t replay_until
        int32_t decays
        float beta1
        float root_beta2
        float eps
        double log_beta1
        double log_beta2
        const float *steps
        const float *nodes
        const double *log_keep

    ctypedef struct slide_table:
        float *base
        int64_t n_rows
        int64_t stride
        int64_t dim
        int64_t dp
        int64_t m
        int64_t v
        int32_t format
        int32_t biased

    ctypedef struct slide_groups:
        const int32_t *rows
        const int64_t *ptr
        const int32_t *sample
        const int32_t *slot

    ctypedef struct slide_row_kernels:
        void (*spmm)(const slide_table *, const int32_t *, const float *, int64_t, float *) noexcept nogil
        void (*sddmm)(const slide_table *, const slide_groups *, int64_t, int64_t, const float *,
                      float *) noexcept nogil
        double (*step_groups)(const slide_table *, const slide_groups *, int64_t, int64_t, const float *,
                              const float *, float *, const slide_rule *) noexcept nogil
        void (*group_gradients)(const slide_groups *, int64_t, int64_t, const float *, const float *, int64_t, float *,
                                float *) noexcept nogil
        double (*step_gradients)(const slide_table *, const int32_t *, int64_t, const float *, const float *,
                                 const slide_rule *) noexcept nogil
        double (*step_vector)(float *, float *, float *, const float *, int64_t, const slide_rule *) noexcept nogil
        void (*catch_up)(const slide_table *, const int32_t *, int64_t, int64_t, const slide_owed *) noexcept nogil
        void (*widen)(const slide_table *, const int32_t *, int64_t, int64_t, float *) noexcept nogil
        void (*sum_parts)(const float *, int64_t, int64_t, const float *, float *, int64_t) noexcept nogil
        float (*exp_sum)(float *, int64_t, float) noexcept nogil
        float (*max)(const float *, int64_t, float) noexcept nogil
        void (*scale)(float *, int64_t, float) noexcept nogil
        float (*weighted_sum)(const float *, const float *, int64_t) noexcept nogil
        void (*scale_less)(float *, const float *, int64_t, float, float) noexcept nogil
        float (*logistic)(float *, const float *, int64_t, float, float) noexcept nogil
        int64_t (*above)(const float *, int64_t, int64_t, float) noexcept nogil
        void (*score_rows)(const slide_table *, const int32_t *, int64_t, const float *, float *) noexcept nogil
        void (*add_gradients)(const slide_table *, const int32_t *, int64_t, const float *, const float *,
                              int32_t) noexcept nogil

    int32_t slide_last_step(const float *row)
    float slide_decay(double log_beta, int64_t n)
    uint32_t slide_row_key(int64_t row, int32_t step)
    float slide_weight(const slide_table *t, const float *row, int64_t column)
    float slide_step_header(float *row, float g, const slide_rule *rule)
    const slide_rule *slide_adagrad(const slide_table *t, float *row, float square, const slide_rule *rule,
                                    slide_rule *own)
    void slide_step_column(const slide_table *t, float *row, int64_t column, float g, const slide_rule *rule,
                           uint32_t key)


cdef slide_row_kernels KERNELS


cdef class RowTable:
    cdef slide_table table
    cdef readonly object buffer
    cdef readonly bint read_only
    cdef readonly int64_t n_rows
    cdef readonly int64_t dim
    cdef readonly int64_t padded_dim
    cdef readonly int moments
    cdef readonly bint accumulates
    cdef readonly str precision
