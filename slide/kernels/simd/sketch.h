/* Sketches: rows of few dimensions in seven bits each, scored against samples by integer products.
 *
 * Codes of SLIDE_LANES rows are interleaved by fours of dimensions, [block][four][row][4], so that one vector holds
 * four dimensions of sixteen rows. A row's codes are 0..127 for -64..63, a sample's -127..127: then no pair of products
 * overflows 16 bits, and every instruction set comes to the same integers.
 */
#ifndef SLIDE_SKETCH_H
#define SLIDE_SKETCH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "isa.h"
#include "vec.h"

#define SLIDE_SKETCH_CENTRE 64

/* `bias` and `scale` have an entry for each row; all arrays are whole blocks. */
typedef struct {
    const uint8_t *codes;
    const float *scale, *bias;
    int64_t n_rows;
    int64_t dp; /* dimensions, a multiple of 4 */
} slide_sketch;

/* Sample s has the codes codes[s * dp ...], in units of scale[s]; start[s] takes back its products with the rows'
 * centre. */
typedef struct {
    const int8_t *codes;
    const float *scale;
    const int32_t *start;
} slide_sketch_queries;

/* A tile of blocks of rows and samples, some score of which is above its sample's bar: bit i of above[block][sample]
 * says whether row i's is. */
typedef struct {
    float score[2][8][SLIDE_LANES];
    uint16_t above[2][8];
    int64_t first;
    int blocks; /* 0: there is no such tile */
} slide_sketch_tile;

static inline int32_t slide_sketch_start(const int8_t *query, int64_t dp) {
    int32_t sum = 0;
    for (int64_t j = 0; j < dp; j++) sum += query[j];
    return -SLIDE_SKETCH_CENTRE * sum;
}

/* out[s * ld + i] = scale[i] * q.scale[s] * (row i's codes, centred) . (sample s's) + bias[i], for the rows of blocks
 * first..last and samples begin..end; i counts from the first block's first row, s from begin. */
static void slide_sketch_scores_baseline(const slide_sketch *t, int64_t first, int64_t last,
                                         const slide_sketch_queries *q, int64_t begin, int64_t end, float *out,
                                         int64_t ld) {
    for (int64_t b = first; b < last; b++) {
        const uint8_t *codes = t->codes + b * SLIDE_LANES * t->dp;
        const vf scale = VF_LOAD(t->scale + b * SLIDE_LANES), bias = VF_LOAD(t->bias + b * SLIDE_LANES);
        for (int64_t s = begin; s < end; s++) {
            const int8_t *query = q->codes + s * t->dp;
            vi sum = (vi){0} + q->start[s];
            int32_t lane[SLIDE_LANES];
            memcpy(lane, &sum, sizeof lane);
            for (int64_t j = 0; j < t->dp; j += 4)
                for (int i = 0; i < SLIDE_LANES; i++)
                    for (int c = 0; c < 4; c++) lane[i] += codes[j * SLIDE_LANES + 4 * i + c] * query[j + c];
            memcpy(&sum, lane, sizeof lane);
            VF_STORE(out + (s - begin) * ld + (b - first) * SLIDE_LANES,
                     __builtin_convertvector(sum, vf) * (scale * VF_SET(q->scale[s])) + bias);
        }
    }
}

#if SLIDE_X86
#include <immintrin.h>

#define SLIDE_TARGET_VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")))

SLIDE_INLINE int32_t slide_sketch_four(const int8_t *query) {
    int32_t four;
    memcpy(&four, query, sizeof four);
    return four;
}

SLIDE_TARGET_AVX2 static void slide_sketch_scores_avx2(const slide_sketch *t, int64_t first, int64_t last,
                                                       const slide_sketch_queries *q, int64_t begin, int64_t end,
                                                       float *out, int64_t ld) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (int64_t b = first; b < last; b++) {
        const uint8_t *codes = t->codes + b * SLIDE_LANES * t->dp;
        for (int64_t s = begin; s < end; s++) {
            const int8_t *query = q->codes + s * t->dp;
            __m256i low = _mm256_set1_epi32(q->start[s]), high = low;
            for (int64_t j = 0; j < t->dp; j += 4) {
                const __m256i four = _mm256_set1_epi32(slide_sketch_four(query + j));
                const __m256i *row = (const __m256i *)(codes + j * SLIDE_LANES);
                const __m256i a = _mm256_maddubs_epi16(_mm256_loadu_si256(row), four);
                const __m256i c = _mm256_maddubs_epi16(_mm256_loadu_si256(row + 1), four);
                low = _mm256_add_epi32(low, _mm256_madd_epi16(a, ones));
                high = _mm256_add_epi32(high, _mm256_madd_epi16(c, ones));
            }
            const __m256i sums[2] = {low, high};
            for (int half = 0; half < 2; half++) {
                const int64_t i = b * SLIDE_LANES + 8 * half;
                const __m256 unit = _mm256_mul_ps(_mm256_loadu_ps(t->scale + i), _mm256_set1_ps(q->scale[s]));
                _mm256_storeu_ps(
                    out + (s - begin) * ld + i - first * SLIDE_LANES,
                    _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[half]), unit, _mm256_loadu_ps(t->bias + i)));
            }
        }
    }
}

/* sum += products of four codes each. In assembly, since GCC 12 copies the sum before and after the intrinsic. */
SLIDE_TARGET_VNNI SLIDE_INLINE __m512i slide_sketch_add(__m512i sum, __m512i row, __m512i four) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(row), "v"(four));
    return sum;
}

/* Two blocks of rows at most and eight samples at most, whose sums stay in registers until some are above a sample's
 * bar. */
SLIDE_TARGET_VNNI SLIDE_INLINE int slide_sketch_few(const slide_sketch *t, int64_t b, const slide_sketch_queries *q,
                                                    int64_t s, const float *bar, slide_sketch_tile *found,
                                                    const int blocks, const int samples) {
    const uint8_t *codes = t->codes + b * SLIDE_LANES * t->dp;
    const int8_t *query = q->codes + s * t->dp;
    const int64_t block = SLIDE_LANES * t->dp;
    __m512i sum[2][8];
    _Pragma("GCC unroll 8") for (int i = 0; i < samples; i++)
        _Pragma("GCC unroll 2") for (int r = 0; r < blocks; r++) sum[r][i] = _mm512_set1_epi32(q->start[s + i]);
    for (int64_t j = 0; j < t->dp; j += 4) {
        __m512i row[2];
        _Pragma("GCC unroll 2") for (int r = 0; r < blocks; r++)
            row[r] = _mm512_loadu_si512(codes + r * block + j * SLIDE_LANES);
        _Pragma("GCC unroll 8") for (int i = 0; i < samples; i++) {
            const __m512i four = _mm512_set1_epi32(slide_sketch_four(query + i * t->dp + j));
            _Pragma("GCC unroll 2") for (int r = 0; r < blocks; r++)
                sum[r][i] = slide_sketch_add(sum[r][i], row[r], four);
        }
    }
    int any = 0;
    _Pragma("GCC unroll 2") for (int r = 0; r < blocks; r++) {
        const __m512 scale = _mm512_loadu_ps(t->scale + (b + r) * SLIDE_LANES);
        const __m512 bias = _mm512_loadu_ps(t->bias + (b + r) * SLIDE_LANES);
        _Pragma("GCC unroll 8") for (int i = 0; i < samples; i++) {
            const __m512 unit = _mm512_mul_ps(scale, _mm512_set1_ps(q->scale[s + i]));
            const __m512 score = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][i]), unit, bias);
            const __mmask16 above = _mm512_cmp_ps_mask(score, _mm512_set1_ps(bar[i]), _CMP_GT_OQ);
            found->above[r][i] = above;
            any |= above;
            sum[r][i] = _mm512_castps_si512(score);
        }
    }
    if (any == 0) return 0;
    found->first = b;
    found->blocks = blocks;
    _Pragma("GCC unroll 2") for (int r = 0; r < blocks; r++)
        _Pragma("GCC unroll 8") for (int i = 0; i < samples; i++)
            _mm512_storeu_ps(found->score[r][i], _mm512_castsi512_ps(sum[r][i]));
    return 1;
}

SLIDE_TARGET_VNNI SLIDE_INLINE void slide_sketch_until(const slide_sketch *t, int64_t first, int64_t last,
                                                       const slide_sketch_queries *q, int64_t s, const float *bar,
                                                       slide_sketch_tile *found, const int samples) {
    int64_t b = first;
    for (; b + 2 <= last; b += 2)
        if (slide_sketch_few(t, b, q, s, bar, found, 2, samples)) return;
    for (; b < last; b++)
        if (slide_sketch_few(t, b, q, s, bar, found, 1, samples)) return;
    found->blocks = 0;
}

SLIDE_TARGET_VNNI static void slide_sketch_scan_vnni(const slide_sketch *t, int64_t first, int64_t last,
                                                     const slide_sketch_queries *q, int64_t s, int samples,
                                                     const float *bar, slide_sketch_tile *found) {
    if (samples == 8) slide_sketch_until(t, first, last, q, s, bar, found, 8);
    else slide_sketch_until(t, first, last, q, s, bar, found, 1);
}
#endif

typedef void (*slide_sketch_scorer)(const slide_sketch *, int64_t, int64_t, const slide_sketch_queries *, int64_t,
                                    int64_t, float *, int64_t);

static inline slide_sketch_scorer slide_sketch_scorer_for(int level) {
    (void)level;
#if SLIDE_X86
    if (level >= SLIDE_ISA_AVX2) return slide_sketch_scores_avx2;
#endif
    return slide_sketch_scores_baseline;
}

/* Score the rows of blocks first..last against one sample or eight until a score is above its sample's bar. */
typedef void (*slide_sketch_scanner)(const slide_sketch *, int64_t, int64_t, const slide_sketch_queries *, int64_t, int,
                                     const float *, slide_sketch_tile *);

/* NULL where the processor has no instruction for it. */
static inline slide_sketch_scanner slide_sketch_scanner_for(int level) {
    (void)level;
#if SLIDE_X86
    if (level >= SLIDE_ISA_AVX512 && __builtin_cpu_supports("avx512vnni")) return slide_sketch_scan_vnni;
#endif
    return NULL;
}

#endif
