/* Row kernels: arithmetic on the rows of a parameter table.
 *
 * A row is  [header | w | m | v]  in floats; the header has SLIDE_HEADER of them, every other part `dp` (the dimension
 * rounded up to SLIDE_LANES, the padding always zero), and parts the optimiser does not need are absent. The header
 * keeps the bias beside its weights, in the same page: [bias, bias_m, bias_v, last step (int32 bits), unused...].
 */
#ifndef SLIDE_ROWS_H
#define SLIDE_ROWS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "isa.h"
#include "vec.h"

#define SLIDE_HEADER 16
enum { SLIDE_BIAS = 0, SLIDE_BIAS_M = 1, SLIDE_BIAS_V = 2, SLIDE_LAST_STEP = 3 };

enum { SLIDE_SGD = 0, SLIDE_ADAM = 1, SLIDE_MEASURE = 2 };

/* One optimiser step, with what is the same for every row worked out beforehand. */
typedef struct {
    int32_t kind;
    int32_t step;       /* 1 for the first batch */
    float rate;         /* SGD: learning rate. Adam: learning rate / (1 - beta1^step) */
    float beta1, beta2; /* Adam: what is kept of the moments */
    float gain1, gain2; /* Adam: 1 - beta1, 1 - beta2 */
    float eps;          /* Adam */
    float root_scale;   /* Adam: 1 / sqrt(1 - beta2^step) */
    float decay;        /* learning rate * weight decay: the share that weights lose; 1 minus it would lose digits */
    int32_t decays;     /* Adam: whether a row's moments decay for the steps that skipped it */
    double log_beta1, log_beta2;
} slide_rule;

/* What rows owe for the steps that skipped them, up to the end of `step`. Arrays have an entry for each step since
 * `first`, at which no row owed anything. */
typedef struct {
    int32_t step, first;
    int32_t window;         /* a momentum moves weights for so many steps; what is left of it then is nothing */
    int32_t replay_until;   /* momenta are replayed step by step up to this step, summed up by two nodes later */
    int32_t decays;         /* whether moments decay */
    float beta1, root_beta2, eps;
    double log_beta1, log_beta2;
    const float *steps;     /* (rate, root_scale, decay) of step first + 1 + i; NULL: momenta move nothing */
    const float *nodes;     /* (a1, b1, a2, b2) for weights, then for biases, of rows last stepped at first + i */
    const double *log_keep; /* sum of log(1 - decay) from `first` to first + i; NULL: weights do not decay */
} slide_owed;

/* A table as the row kernels see it. */
typedef struct {
    float *base;
    int64_t n_rows;
    int64_t stride; /* floats from one row to the next */
    int64_t dp;     /* padded dimension, a multiple of SLIDE_LANES */
    int32_t biased; /* whether the rows have biases; if not, those in the headers stay zero */
} slide_table;

/* Pairs (sample, row) grouped by row: group g is row rows[g] and the pairs ptr[g]..ptr[g+1]; pair i is sample
 * sample[i], its coefficient (or its logit) stands at slot[i]. */
typedef struct {
    const int32_t *rows;
    const int64_t *ptr;
    const int32_t *sample;
    const int32_t *slot;
} slide_groups;

SLIDE_INLINE float *slide_row(const slide_table *t, int64_t row) {
    SLIDE_CHECK(row >= 0 && row < t->n_rows);
    return t->base + row * t->stride;
}

SLIDE_INLINE void slide_prefetch_row(const slide_table *t, int64_t row, int64_t floats) {
    const float *p = t->base + row * t->stride;
    for (int64_t i = 0; i < floats; i += 16) __builtin_prefetch(p + i, 1, 2);
}

/* beta^n; zero where it is too small for a float32 to notice, so that no moment decays into denormals. */
SLIDE_INLINE float slide_decay(double log_beta, int64_t n) {
    return log_beta * n < -69.0 ? 0.0f : (float)exp(log_beta * n);
}

SLIDE_INLINE int32_t slide_last_step(const float *row) {
    int32_t step;
    memcpy(&step, row + SLIDE_LAST_STEP, sizeof step);
    return step;
}

#define ROWS_FN(name) name##_baseline
#define ROWS_TARGET
#include "rows_impl.h"
#undef ROWS_FN
#undef ROWS_TARGET

#if SLIDE_X86
#define ROWS_FN(name) name##_avx2
#define ROWS_TARGET SLIDE_TARGET_AVX2
#include "rows_impl.h"
#undef ROWS_FN
#undef ROWS_TARGET

#define ROWS_FN(name) name##_avx512
#define ROWS_TARGET SLIDE_TARGET_AVX512
#include "rows_impl.h"
#undef ROWS_FN
#undef ROWS_TARGET
#endif

typedef struct {
    void (*spmm)(const slide_table *, const int32_t *, const float *, int64_t, float *);
    void (*sddmm)(const slide_table *, const slide_groups *, int64_t, int64_t, const float *, float *);
    double (*step_groups)(const slide_table *, const slide_groups *, int64_t, int64_t, const float *, const float *,
                          float *, const slide_rule *);
    double (*step_gradients)(const slide_table *, const int32_t *, int64_t, const float *, const float *,
                             const slide_rule *);
    double (*step_vector)(float *, float *, float *, const float *, int64_t, const slide_rule *);
    void (*catch_up)(const slide_table *, const int32_t *, int64_t, int64_t, const slide_owed *);
    void (*sum_parts)(const float *, int64_t, int64_t, const float *, float *, int64_t);
    float (*exp_sum)(float *, int64_t, float);
    float (*max)(const float *, int64_t, float);
    void (*scale)(float *, int64_t, float);
    float (*weighted_sum)(const float *, const float *, int64_t);
    void (*scale_less)(float *, const float *, int64_t, float, float);
    float (*logistic)(float *, const float *, int64_t, float, float);
    int64_t (*above)(const float *, int64_t, int64_t, float);
} slide_row_kernels;

static inline slide_row_kernels slide_rows_for(int level) {
    slide_row_kernels k;
    (void)level;
    k.spmm = SLIDE_DISPATCH(level, slide_spmm);
    k.sddmm = SLIDE_DISPATCH(level, slide_sddmm);
    k.step_groups = SLIDE_DISPATCH(level, slide_step_groups);
    k.step_gradients = SLIDE_DISPATCH(level, slide_step_gradients);
    k.step_vector = SLIDE_DISPATCH(level, slide_step_vector);
    k.catch_up = SLIDE_DISPATCH(level, slide_catch_up);
    k.sum_parts = SLIDE_DISPATCH(level, slide_sum_parts);
    k.exp_sum = SLIDE_DISPATCH(level, slide_exp_sum);
    k.max = SLIDE_DISPATCH(level, slide_max);
    k.scale = SLIDE_DISPATCH(level, slide_scale);
    k.weighted_sum = SLIDE_DISPATCH(level, slide_weighted_sum);
    k.scale_less = SLIDE_DISPATCH(level, slide_scale_less);
    k.logistic = SLIDE_DISPATCH(level, slide_logistic);
    k.above = SLIDE_DISPATCH(level, slide_above);
    return k;
}

#endif
