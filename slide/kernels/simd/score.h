/* Scores of rows against samples, compared with each sample's bar in registers: what an exact top-k search needs.
 *
 * A search rarely wants a score, so none is stored before one is wanted: a matrix product by BLAS writes all, copies
 * its operands into an order of its own first, and has them read again. Samples lie in lanes: `hidden` is
 * [dimension][SLIDE_SCORE_SAMPLES], and a vector of it meets one weight of a row.
 */
#ifndef SLIDE_SCORE_H
#define SLIDE_SCORE_H

#include <stddef.h>
#include <stdint.h>

#include "isa.h"
#include "vec.h"

enum { SLIDE_SCORE_SAMPLES = 64, SLIDE_SCORE_ROWS = 6 };

/* Row r's weights are w + r * stride, its bias is bias[r * bias_stride]. */
typedef struct {
    const float *w, *bias;
    int64_t stride, bias_stride, dp;
} slide_score_rows;

/* A tile of rows, some score of which is above its sample's bar: bit s of above[row] says whether sample s' is. */
typedef struct {
    float score[SLIDE_SCORE_ROWS][SLIDE_SCORE_SAMPLES];
    uint64_t above[SLIDE_SCORE_ROWS];
    int64_t first;
    int rows; /* 0: there is no such tile */
} slide_score_tile;

/* Score rows from `first` to `last` until a score is above its sample's bar. Only the first `vectors` * 16 samples
 * count. */
typedef void (*slide_scorer)(const slide_score_rows *rows, int64_t first, int64_t last, const float *hidden,
                             int vectors, const float *bar, slide_score_tile *found);

#if SLIDE_X86
#include <immintrin.h>

SLIDE_TARGET_AVX512 SLIDE_INLINE int slide_score_few(const slide_score_rows *t, int64_t row, const float *hidden,
                                                     const float *bar, slide_score_tile *found, const int rows,
                                                     const int vectors) {
    __m512 sum[SLIDE_SCORE_ROWS][4];
    const float *w = t->w + row * t->stride;
    _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) {
        const __m512 bias = _mm512_set1_ps(t->bias[(row + r) * t->bias_stride]);
        _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++) sum[r][v] = bias;
    }
    _Pragma("GCC unroll 4") for (int64_t j = 0; j < t->dp; j++) {
        __m512 h[4];
        _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++)
            h[v] = _mm512_load_ps(hidden + j * SLIDE_SCORE_SAMPLES + 16 * v);
        _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) {
            const __m512 weight = _mm512_set1_ps(w[r * t->stride + j]);
            _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++)
                sum[r][v] = _mm512_fmadd_ps(weight, h[v], sum[r][v]);
        }
    }
    unsigned any = 0;
    _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++) {
        const __m512 bars = _mm512_loadu_ps(bar + 16 * v);
        _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) any |= _mm512_cmp_ps_mask(sum[r][v], bars, _CMP_GT_OQ);
    }
    if (any == 0) return 0;
    found->first = row;
    found->rows = rows;
    _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) {
        uint64_t above = 0;
        _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++) {
            const __mmask16 mask = _mm512_cmp_ps_mask(sum[r][v], _mm512_loadu_ps(bar + 16 * v), _CMP_GT_OQ);
            above |= (uint64_t)mask << (16 * v);
            _mm512_storeu_ps(found->score[r] + 16 * v, sum[r][v]);
        }
        found->above[r] = above;
    }
    return 1;
}

SLIDE_TARGET_AVX512 SLIDE_INLINE void slide_score_until(const slide_score_rows *t, int64_t first, int64_t last,
                                                        const float *hidden, const float *bar, slide_score_tile *found,
                                                        const int vectors) {
    int64_t row = first;
    for (; row + SLIDE_SCORE_ROWS <= last; row += SLIDE_SCORE_ROWS) {
        /* Rows are further apart than a processor looks ahead by itself. */
        const char *ahead = (const char *)(t->w + (row + 2 * SLIDE_SCORE_ROWS) * t->stride);
        if (row + 3 * SLIDE_SCORE_ROWS <= last)
            for (int r = 0; r < SLIDE_SCORE_ROWS; r++)
                for (int64_t b = 0; b < 4 * t->dp; b += 64) __builtin_prefetch(ahead + r * 4 * t->stride + b, 0, 2);
        if (slide_score_few(t, row, hidden, bar, found, SLIDE_SCORE_ROWS, vectors)) return;
    }
    for (; row < last; row++)
        if (slide_score_few(t, row, hidden, bar, found, 1, vectors)) return;
    found->rows = 0;
}

SLIDE_TARGET_AVX512 static void slide_score_avx512(const slide_score_rows *rows, int64_t first, int64_t last,
                                                   const float *hidden, int vectors, const float *bar,
                                                   slide_score_tile *found) {
    switch (vectors) {
    case 1:
        slide_score_until(rows, first, last, hidden, bar, found, 1);
        break;
    case 2:
        slide_score_until(rows, first, last, hidden, bar, found, 2);
        break;
    case 3:
        slide_score_until(rows, first, last, hidden, bar, found, 3);
        break;
    default:
        slide_score_until(rows, first, last, hidden, bar, found, 4);
    }
}
#endif

/* NULL where the instruction set has too few registers for it to be worth while. */
static inline slide_scorer slide_scorer_for(int level) {
    (void)level;
#if SLIDE_X86
    if (level >= SLIDE_ISA_AVX512) return slide_score_avx512;
#endif
    return NULL;
}

#endif
