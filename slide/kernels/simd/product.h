/* Small matrix products whose operands lie in the caches as they are, and the transposition that brings rows there.
 *
 * BLAS copies both operands of every product into an order of its own, which for products of a hundred rows is a third
 * of the work. Here the right operand and the result are read and written in vectors along their rows, and one number
 * of the left at a time. Sums are in the order of the common dimension.
 */
#ifndef SLIDE_PRODUCT_H
#define SLIDE_PRODUCT_H

#include <stddef.h>
#include <stdint.h>

#include "isa.h"
#include "vec.h"

/* a[i, j] is at a[i * a_row + j * a_column], b[j, c] at b[j * b_row + c], out[i, c] at out[i * out_row + c]. */
typedef struct {
    const float *a, *b;
    float *out;
    int64_t rows, common, columns;
    int64_t a_row, a_column, b_row, out_row;
    const float *start; /* out[i, :] = start + a[i, :] b, or with NULL */
    int adds;           /* out[i, :] += a[i, :] b if `adds`, else = */
} slide_product;

typedef void (*slide_multiplier)(const slide_product *p);

/* out[j * 64 + i] = rows[i * stride + j] for i below n, at most 64, and j below dp, a multiple of 16; up to the next
 * multiple of 16 above n out has zeros. */
typedef void (*slide_transposer)(const float *rows, int64_t n, int64_t stride, int64_t dp, float *out);

enum { SLIDE_PANEL = 64, SLIDE_PRODUCT_ROWS = 6 };

#if SLIDE_X86
#include <immintrin.h>

SLIDE_TARGET_AVX512 SLIDE_INLINE void slide_product_tile(const slide_product *p, int64_t i, int64_t c, int64_t j,
                                                         int64_t end, __mmask16 last, const int rows,
                                                         const int vectors) {
    __m512 sum[SLIDE_PRODUCT_ROWS][4];
    float *out = p->out + i * p->out_row + c;
    _Pragma("GCC unroll 6") for (int r = 0; r < rows; r++) _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++) {
        const __mmask16 mask = v == vectors - 1 ? last : (__mmask16)0xFFFF;
        if (j > 0 || p->adds) sum[r][v] = _mm512_maskz_loadu_ps(mask, out + r * p->out_row + 16 * v);
        else if (p->start != NULL) sum[r][v] = _mm512_maskz_loadu_ps(mask, p->start + c + 16 * v);
        else sum[r][v] = _mm512_setzero_ps();
    }
    const float *a = p->a + i * p->a_row + j * p->a_column, *b = p->b + j * p->b_row + c;
    _Pragma("GCC unroll 2") for (; j < end; j++, a += p->a_column, b += p->b_row) {
        __m512 row[4];
        _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++)
            row[v] = v == vectors - 1 ? _mm512_maskz_loadu_ps(last, b + 16 * v) : _mm512_loadu_ps(b + 16 * v);
        _Pragma("GCC unroll 6") for (int r = 0; r < rows; r++) {
            const __m512 one = _mm512_set1_ps(a[r * p->a_row]);
            _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++)
                sum[r][v] = _mm512_fmadd_ps(one, row[v], sum[r][v]);
        }
    }
    _Pragma("GCC unroll 6") for (int r = 0; r < rows; r++) _Pragma("GCC unroll 4") for (int v = 0; v < vectors; v++)
        _mm512_mask_storeu_ps(out + r * p->out_row + 16 * v, v == vectors - 1 ? last : (__mmask16)0xFFFF, sum[r][v]);
}

SLIDE_TARGET_AVX512 SLIDE_INLINE void slide_product_panel(const slide_product *p, int64_t c, int64_t j, int64_t end,
                                                          __mmask16 last, const int vectors) {
    int64_t i = 0;
    for (; i + 6 <= p->rows; i += 6) slide_product_tile(p, i, c, j, end, last, 6, vectors);
    for (; i + 2 <= p->rows; i += 2) slide_product_tile(p, i, c, j, end, last, 2, vectors);
    if (i < p->rows) slide_product_tile(p, i, c, j, end, last, 1, vectors);
}

/* A panel of columns at a time, and of the common dimension as much as lies in the nearest cache with it. */
SLIDE_TARGET_AVX512 static void slide_multiply_avx512(const slide_product *p) {
    for (int64_t c = 0; c < p->columns; c += SLIDE_PANEL) {
        const int64_t width = p->columns - c < SLIDE_PANEL ? p->columns - c : SLIDE_PANEL;
        const __mmask16 last = (__mmask16)(0xFFFFu >> ((16 - width % 16) % 16));
        const int64_t most = p->b_row == SLIDE_PANEL ? 128 : 64;
        for (int64_t j = 0; j == 0 || j < p->common; j += most) {
            const int64_t end = p->common - j < most ? p->common : j + most;
            switch ((width + 15) / 16) {
            case 1:
                slide_product_panel(p, c, j, end, last, 1);
                break;
            case 2:
                slide_product_panel(p, c, j, end, last, 2);
                break;
            case 3:
                slide_product_panel(p, c, j, end, last, 3);
                break;
            default:
                slide_product_panel(p, c, j, end, last, 4);
            }
        }
    }
}

SLIDE_TARGET_AVX512 static void slide_transpose_avx512(const float *rows, int64_t n, int64_t stride, int64_t dp,
                                                       float *out) {
    for (int64_t i = 0; i < n; i += 16)
        for (int64_t j = 0; j < dp; j += 16) {
            __m512 r[16], t[16];
            _Pragma("GCC unroll 16") for (int k = 0; k < 16; k++)
                r[k] = i + k < n ? _mm512_loadu_ps(rows + (i + k) * stride + j) : _mm512_setzero_ps();
            _Pragma("GCC unroll 8") for (int k = 0; k < 16; k += 2) {
                t[k] = _mm512_unpacklo_ps(r[k], r[k + 1]);
                t[k + 1] = _mm512_unpackhi_ps(r[k], r[k + 1]);
            }
            _Pragma("GCC unroll 4") for (int k = 0; k < 16; k += 4) {
                r[k] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[k]), _mm512_castps_pd(t[k + 2])));
                r[k + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[k]), _mm512_castps_pd(t[k + 2])));
                r[k + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[k + 1]), _mm512_castps_pd(t[k + 3])));
                r[k + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[k + 1]), _mm512_castps_pd(t[k + 3])));
            }
            float *to = out + j * SLIDE_PANEL + i;
            _Pragma("GCC unroll 4") for (int k = 0; k < 4; k++) {
                const __m512 even = _mm512_shuffle_f32x4(r[k], r[k + 4], 0x88);
                const __m512 even8 = _mm512_shuffle_f32x4(r[k + 8], r[k + 12], 0x88);
                const __m512 odd = _mm512_shuffle_f32x4(r[k], r[k + 4], 0xDD);
                const __m512 odd8 = _mm512_shuffle_f32x4(r[k + 8], r[k + 12], 0xDD);
                _mm512_storeu_ps(to + k * SLIDE_PANEL, _mm512_shuffle_f32x4(even, even8, 0x88));
                _mm512_storeu_ps(to + (k + 8) * SLIDE_PANEL, _mm512_shuffle_f32x4(even, even8, 0xDD));
                _mm512_storeu_ps(to + (k + 4) * SLIDE_PANEL, _mm512_shuffle_f32x4(odd, odd8, 0x88));
                _mm512_storeu_ps(to + (k + 12) * SLIDE_PANEL, _mm512_shuffle_f32x4(odd, odd8, 0xDD));
            }
        }
}
#endif

/* NULL where the instruction set has too few registers: BLAS is then as good. */
static inline slide_multiplier slide_multiplier_for(int level) {
    (void)level;
#if SLIDE_X86
    if (level >= SLIDE_ISA_AVX512) return slide_multiply_avx512;
#endif
    return NULL;
}

static inline slide_transposer slide_transposer_for(int level) {
    (void)level;
#if SLIDE_X86
    if (level >= SLIDE_ISA_AVX512) return slide_transpose_avx512;
#endif
    return NULL;
}

#endif
