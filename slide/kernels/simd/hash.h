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

/* K codes of `width` bits side by side are one code of L. It is the bucket index where it fits `bucket_bits`; a wider
 * one is mixed down (Fibonacci hashing), so that every index bit depends on every code. */
typedef struct {
    int32_t k, l;
    int32_t width;
    int32_t bucket_bits;
} slide_code_shape;

/* WTA bins that are empty (all their coordinates zero) take the code of another bin, found by a hash of (bin,
 * attempt) that is the same for every vector: Chen and Shrivastava, Densified Winner Take All, UAI 2018. */
static inline uint32_t slide_borrow(const uint32_t *code, int64_t n_bins, int64_t bin, uint64_t seed) {
    for (int attempt = 1; attempt <= SLIDE_MAX_BORROWS; attempt++) {
        int64_t other = slide_below(slide_key(seed, (uint64_t)bin, (uint64_t)attempt), (uint32_t)n_bins);
        if (code[other * SLIDE_LANES] != SLIDE_EMPTY) return code[other * SLIDE_LANES];
    }
    for (int64_t step = 1; step < n_bins; step++) {
        int64_t other = (bin + step) % n_bins;
        if (code[other * SLIDE_LANES] != SLIDE_EMPTY) return code[other * SLIDE_LANES];
    }
    return 0; /* the zero vector */
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
    void (*dwta)(const float *, const int32_t *, int64_t, uint64_t, uint32_t *, const slide_code_shape *, uint32_t *);
} slide_hash_kernels;

static inline slide_hash_kernels slide_hash_for(int level) {
    slide_hash_kernels k;
    (void)level;
    k.load = SLIDE_DISPATCH(level, slide_load_block);
    k.hadamard = SLIDE_DISPATCH(level, slide_hadamard);
    k.sparse_signs = SLIDE_DISPATCH(level, slide_sparse_signs);
    k.dwta = SLIDE_DISPATCH(level, slide_dwta);
    return k;
}

#endif
