/* Sixteen float lanes, and the few operations the row kernels need on them.
 *
 * Compiler vector extensions: one zmm register, two ymm or four xmm, whatever the enclosing function's target has.
 * The helpers are macros or always-inlined so that they take that target.
 */
#ifndef SLIDE_VEC_H
#define SLIDE_VEC_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define SLIDE_LANES 16
#define SLIDE_INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t vu __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t vh __attribute__((vector_size(32), aligned(2), may_alias));

#define VF_LOAD(p) (*(const vf *)(p))
#define VF_STORE(p, x) (*(vf *)(p) = (x))
#define VF_SET(x) ((vf){0} + (float)(x))
#define VF_SELECT(mask, a, b) ((vf)(((vi)(a) & (mask)) | ((vi)(b) & ~(mask))))
#define VI_SELECT(mask, a, b) (((a) & (mask)) | ((b) & ~(mask)))

/* Lane i of the result is lane (i + n) % 16 of x. */
#define SLIDE_LANE(i, n) (((i) + (n)) % 16)
#define SLIDE_ROTATED(n)                                                                                      \
    SLIDE_LANE(0, n), SLIDE_LANE(1, n), SLIDE_LANE(2, n), SLIDE_LANE(3, n), SLIDE_LANE(4, n),                  \
        SLIDE_LANE(5, n), SLIDE_LANE(6, n), SLIDE_LANE(7, n), SLIDE_LANE(8, n), SLIDE_LANE(9, n),              \
        SLIDE_LANE(10, n), SLIDE_LANE(11, n), SLIDE_LANE(12, n), SLIDE_LANE(13, n), SLIDE_LANE(14, n),         \
        SLIDE_LANE(15, n)
#if defined(__clang__) || __GNUC__ >= 12
#define VF_ROTATE(x, n) __builtin_shufflevector((x), (x), SLIDE_ROTATED(n))
#else
#define VF_ROTATE(x, n) __builtin_shuffle((x), (vi){SLIDE_ROTATED(n)})
#endif

#ifdef SLIDE_DEBUG
#define SLIDE_CHECK(condition)                                                          \
    do {                                                                                \
        if (!(condition)) {                                                             \
            fprintf(stderr, "slide: %s:%d: %s\n", __FILE__, __LINE__, #condition);      \
            abort();                                                                    \
        }                                                                               \
    } while (0)
#else
#define SLIDE_CHECK(condition) ((void)0)
#endif

#endif
