/* Row kernels: arithmetic on the rows of a parameter table.
 *
 * A row is  [header | w | m | v]; the header has SLIDE_HEADER floats, every other part `dp` numbers (the dimension
 * rounded up to SLIDE_LANES, the padding always zero), float32 or bfloat16 as the table's format says, and parts the
 * optimizer does not need are absent. Every part begins on a multiple of 64 bytes. The header keeps the bias beside its
 * weights, in the same page: [bias, bias_m, bias_v, last step (int32 bits), accumulator, unused...].
 */
#ifndef SLIDE_ROWS_H
#define SLIDE_ROWS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "bf16.h"
#include "flush.h"
#include "rng.h"
#include "vec.h"

#define SLIDE_HEADER 16
enum { SLIDE_BIAS = 0, SLIDE_BIAS_M = 1, SLIDE_BIAS_V = 2, SLIDE_LAST_STEP = 3, SLIDE_ACCUMULATOR = 4 };

/* The parts of a row that are bfloat16. Kernels take the format as a constant, so that each has loops of its own. */
enum { SLIDE_FP32 = 0, SLIDE_BF16_MOMENTS = 1, SLIDE_BF16 = 2 };
#define SLIDE_NARROW_WEIGHTS(format) ((format) == SLIDE_BF16)
#define SLIDE_NARROW_MOMENTS(format) ((format) != SLIDE_FP32)

enum { SLIDE_SGD = 0, SLIDE_ADAM = 1, SLIDE_MEASURE = 2, SLIDE_ADAGRAD = 3 };

/* One optimizer step: numbers that are the same for every row are worked out beforehand. */
typedef struct {
    int32_t kind;
    int32_t step;       /* 1 for the first batch */
    float rate;         /* SGD, Adagrad: learning rate. Adam: learning rate / (1 - beta1^step) */
    float beta1, beta2; /* Adam: what is kept of the moments */
    float gain1, gain2; /* Adam: 1 - beta1, 1 - beta2 */
    float eps;          /* Adam, Adagrad */
    float root_scale;   /* Adam: 1 / sqrt(1 - beta2^step) */
    float decay;        /* learning rate * weight decay: the share that weights lose; 1 minus it would lose digits */
    int32_t decays;     /* Adam: whether a row's moments decay for the steps that skipped it */
    double log_beta1, log_beta2;
} slide_rule;

/* The steps that rows catch up on, up to the end of `step`. Arrays have an entry for each step since `first`, at which
 * no row was behind. */
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
    int64_t dim;
    int64_t dp;     /* padded dimension, a multiple of SLIDE_LANES */
    int64_t m, v;   /* where the moments begin, in floats from the beginning of a row; the weights end at m */
    int32_t format;
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

/* Random bits are a function of the row, the step that its weights reach with this visit, and the column. */
SLIDE_INLINE uint32_t slide_row_key(int64_t row, int32_t step) {
    return (uint32_t)(slide_mix(((uint64_t)(uint32_t)step << 32) | (uint64_t)row) >> 32);
}

/* The weight of one column. */
SLIDE_INLINE float slide_weight(const slide_table *t, const float *row, int64_t column) {
    const float *w = row + SLIDE_HEADER;
    return SLIDE_NARROW_WEIGHTS(t->format) ? slide_widen(((const uint16_t *)w)[column]) : w[column];
}

/* The bias, and the row's last step; the square of the bias' gradient from a rule that measures. */
SLIDE_INLINE float slide_step_header(float *row, float g, const slide_rule *rule) {
    if (rule->kind == SLIDE_MEASURE) return g * g;
    if (rule->kind == SLIDE_ADAM) {
        float m = rule->beta1 * row[SLIDE_BIAS_M] + rule->gain1 * g;
        float v = rule->beta2 * row[SLIDE_BIAS_V] + rule->gain2 * g * g;
        row[SLIDE_BIAS_M] = m;
        row[SLIDE_BIAS_V] = v;
        row[SLIDE_BIAS] -= rule->rate * m / (__builtin_sqrtf(v) * rule->root_scale + rule->eps);
    } else if (rule->kind == SLIDE_ADAGRAD) {
        row[SLIDE_BIAS_V] += g * g;
        row[SLIDE_BIAS] -= rule->rate * g / (__builtin_sqrtf(row[SLIDE_BIAS_V]) + rule->eps);
    } else {
        row[SLIDE_BIAS] -= rule->rate * g;
    }
    memcpy(row + SLIDE_LAST_STEP, &rule->step, sizeof rule->step);
    return 0.0f;
}

/* Adagrad for one row, whose gradient has that square: an SGD step at a rate of the row's own. */
SLIDE_INLINE const slide_rule *slide_adagrad(const slide_table *t, float *row, float square, const slide_rule *rule,
                                             slide_rule *own) {
    row[SLIDE_ACCUMULATOR] += square / (float)t->dim;
    *own = *rule;
    own->kind = SLIDE_SGD;
    own->rate = rule->rate / (__builtin_sqrtf(row[SLIDE_ACCUMULATOR]) + rule->eps);
    return own;
}

/* The step of one column, by a rule (SGD or Adam) that leaves columns without a gradient alone. */
SLIDE_INLINE void slide_step_column(const slide_table *t, float *row, int64_t column, float g, const slide_rule *rule,
                                    uint32_t key) {
    const int narrow_w = SLIDE_NARROW_WEIGHTS(t->format), narrow_m = SLIDE_NARROW_MOMENTS(t->format);
    const uint32_t noise = narrow_m ? slide_noise(key, (uint32_t)column) : 0;
    float w = slide_weight(t, row, column);
    if (rule->kind == SLIDE_ADAM) {
        float m = rule->beta1 * slide_part_at(row + t->m, column, narrow_m) + rule->gain1 * g;
        float v = rule->beta2 * slide_part_at(row + t->v, column, narrow_m) + rule->gain2 * g * g;
        slide_part_set(row + t->m, column, m, SLIDE_NOISE_M(noise), narrow_m);
        slide_part_set(row + t->v, column, v, SLIDE_NOISE_V(noise), narrow_m);
        w -= rule->rate * m / (__builtin_sqrtf(v) * rule->root_scale + rule->eps);
    } else {
        w -= rule->rate * g;
    }
    slide_part_set(row + SLIDE_HEADER, column, w, SLIDE_NOISE_W(noise), narrow_w);
}

/* Compiled once, in row_kernels.h. */
typedef struct {
    void (*spmm)(const slide_table *, const int32_t *, const float *, int64_t, float *);
    void (*sddmm)(const slide_table *, const slide_groups *, int64_t, int64_t, const float *, float *);
    double (*step_groups)(const slide_table *, const slide_groups *, int64_t, int64_t, const float *, const float *,
                          float *, const slide_rule *);
    void (*group_gradients)(const slide_groups *, int64_t, int64_t, const float *, const float *, int64_t, float *,
                            float *);
    double (*step_gradients)(const slide_table *, const int32_t *, int64_t, const float *, const float *,
                             const slide_rule *);
    double (*step_vector)(float *, float *, float *, const float *, int64_t, const slide_rule *);
    void (*catch_up)(const slide_table *, const int32_t *, int64_t, int64_t, const slide_owed *);
    void (*widen)(const slide_table *, const int32_t *, int64_t, int64_t, float *);
    void (*sum_parts)(const float *, int64_t, int64_t, const float *, float *, int64_t);
    float (*exp_sum)(float *, int64_t, float);
    float (*max)(const float *, int64_t, float);
    void (*scale)(float *, int64_t, float);
    float (*weighted_sum)(const float *, const float *, int64_t);
    void (*scale_less)(float *, const float *, int64_t, float, float);
    float (*logistic)(float *, const float *, int64_t, float, float);
    int64_t (*above)(const float *, int64_t, int64_t, float);
    void (*score_rows)(const slide_table *, const int32_t *, int64_t, const float *, float *);
    void (*add_gradients)(const slide_table *, const int32_t *, int64_t, const float *, const float *, int32_t);
} slide_row_kernels;

#endif
