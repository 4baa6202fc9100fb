/* Hash kernels: sixteen vectors at a time, one per lane.
 *
 * A block is [d, 16]: coordinate c of vector j stands at block[c * 16 + j]. Every family is then plain vector
 * arithmetic over whole coordinates, with no shuffles, whatever the dimension.
 */
#ifndef SLIDE_HASH_H
#define SLIDE_HASH_H

#include <stdint.h>
#include <string.h>

#include "isa.h"
#include "rng.h"
#include "vec.h"

#define SLIDE_EMPTY 0xFFFFFFFFu
#define SLIDE_MAX_BORROWS 128

/* K codes below `radix` are the digits of one number below total = radix^K; `total_bits` is its binary logarithm where
 * it is a power of two, else -1. The bucket index keeps bucket_bits of it, at most log2(total). */
typedef struct {
    int32_t k, l;
    uint32_t radix;
    int32_t bucket_bits;
    uint64_t total;
    int32_t total_bits;
} slide_code_shape;

/* A prime near 2^32 over the golden ratio (Knuth); it shares no factor with any radix, so that multiplying by it
 * modulo radix^K loses nothing. */
#define SLIDE_MULTIPLIER 0x9E3779B1u

/* The bin to which an empty one turns at each attempt, the same for every vector: first by a universal hash, and should
 * that fail, one bin after another. */
static inline int64_t slide_lender(int64_t bin, int64_t attempt, int64_t n_bins, uint64_t seed) {
    if (attempt > SLIDE_MAX_BORROWS) return (bin + attempt - SLIDE_MAX_BORROWS) % n_bins;
    return slide_below(slide_key(seed, (uint64_t)bin, (uint64_t)attempt), (uint32_t)n_bins);
}

/* Sixteen sparse rows as one block of those coordinates alone that any of them has, ascending, behind a first
 * coordinate that is zero for all: place[c] is where coordinate c went, 0 if nowhere. The cost is that of the
 * entries, whatever the dimension. place and marks, one bit a coordinate, come in zero and are left so by
 * slide_forget. Returns the coordinates of the block. */
static int64_t slide_compact(const int64_t *indptr, int64_t rows, const int32_t *indices, const float *values,
                             int64_t dim, uint64_t *marks, int32_t *place, int32_t *coordinates, float *block) {
    int64_t n = 1;
    for (int64_t i = indptr[0]; i < indptr[rows]; i++) marks[indices[i] >> 6] |= 1ull << (indices[i] & 63);
    memset(block, 0, SLIDE_LANES * sizeof(float));
    for (int64_t word = 0; word < (dim + 63) / 64; word++)
        for (uint64_t rest = marks[word]; rest != 0; rest &= rest - 1) {
            int32_t c = (int32_t)(word * 64 + __builtin_ctzll(rest));
            memset(block + n * SLIDE_LANES, 0, SLIDE_LANES * sizeof(float));
            coordinates[n] = c;
            place[c] = (int32_t)n++;
        }
    for (int64_t j = 0; j < rows; j++)
        for (int64_t i = indptr[j]; i < indptr[j + 1]; i++)
            block[(int64_t)place[indices[i]] * SLIDE_LANES + j] += values[i];
    return n;
}

static void slide_forget(const int32_t *coordinates, int64_t n, uint64_t *marks, int32_t *place) {
    for (int64_t i = 1; i < n; i++) {
        marks[coordinates[i] >> 6] = 0;
        place[coordinates[i]] = 0;
    }
}

/* Sixteen sparse rows as a block of all n coordinates. */
static void slide_scatter(const int64_t *indptr, int64_t rows, const int32_t *indices, const float *values, int64_t n,
                          float *block) {
    memset(block, 0, (size_t)n * SLIDE_LANES * sizeof(float));
    for (int64_t j = 0; j < rows; j++)
        for (int64_t i = indptr[j]; i < indptr[j + 1]; i++) block[(int64_t)indices[i] * SLIDE_LANES + j] += values[i];
}

#define HASH_FN(name) name##_baseline
#define HASH_TARGET
#include "hash_impl.h"
#undef HASH_FN
#undef HASH_TARGET

#if SLIDE_X86
#define HASH_FN(name) name##_avx2
#define HASH_TARGET SLIDE_TARGET_AVX2
#include "hash_impl.h"
#undef HASH_FN
#undef HASH_TARGET

#define HASH_FN(name) name##_avx512
#define HASH_TARGET SLIDE_TARGET_AVX512
#include "hash_impl.h"
#undef HASH_FN
#undef HASH_TARGET
#endif

typedef struct {
    void (*load)(const float *const *, int64_t, int64_t, float *);
    void (*hadamard)(const float *, int64_t, const float *, float *, const slide_code_shape *, uint32_t *);
    void (*sparse_signs)(const float *, const int32_t *, const int64_t *, const slide_code_shape *, uint32_t *);
    void (*column_signs)(const float *, const int32_t *, int64_t, const int64_t *, const int32_t *, float *,
                         const slide_code_shape *, uint32_t *);
    void (*hide_zeros)(float *, int64_t);
    void (*keep_top)(float *, int64_t, int32_t);
    void (*winners)(const float *, const int32_t *, const int32_t *, int64_t, int64_t, uint32_t *);
    void (*first_members)(const float *, const int32_t *, const int32_t *, int64_t, int64_t, uint32_t *);
    void (*combine)(const uint32_t *, uint64_t, const slide_code_shape *, uint32_t *);
} slide_hash_kernels;

static inline slide_hash_kernels slide_hash_for(int level) {
    slide_hash_kernels k;
    (void)level;
    k.load = SLIDE_DISPATCH(level, slide_load_block);
    k.hadamard = SLIDE_DISPATCH(level, slide_hadamard);
    k.sparse_signs = SLIDE_DISPATCH(level, slide_sparse_signs);
    k.column_signs = SLIDE_DISPATCH(level, slide_column_signs);
    k.hide_zeros = SLIDE_DISPATCH(level, slide_hide_zeros);
    k.keep_top = SLIDE_DISPATCH(level, slide_keep_top);
    k.winners = SLIDE_DISPATCH(level, slide_winners);
    k.first_members = SLIDE_DISPATCH(level, slide_first_members);
    k.combine = SLIDE_DISPATCH(level, slide_combine);
    return k;
}

#endif
