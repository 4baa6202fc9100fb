/* Row kernels of training without locks: one sample at a time, with the rows that it reads. */
#ifndef SLIDE_HOGWILD_H
#define SLIDE_HOGWILD_H

#include "rows.h"

/* Whether this call is the first, of all threads', to put `now` on the stamp. */
static inline int slide_first_touch(int32_t *stamp, int32_t now) {
    return __atomic_load_n(stamp, __ATOMIC_RELAXED) != now && __atomic_exchange_n(stamp, now, __ATOMIC_RELAXED) != now;
}

#define ROWS_FN(name) name##_baseline
#define ROWS_TARGET
#include "hogwild_impl.h"
#undef ROWS_FN
#undef ROWS_TARGET

#if SLIDE_X86
#define ROWS_FN(name) name##_avx2
#define ROWS_TARGET SLIDE_TARGET_AVX2
#include "hogwild_impl.h"
#undef ROWS_FN
#undef ROWS_TARGET

#define ROWS_FN(name) name##_avx512
#define ROWS_TARGET SLIDE_TARGET_AVX512
#include "hogwild_impl.h"
#undef ROWS_FN
#undef ROWS_TARGET
#endif

typedef struct {
    void (*score_rows)(const slide_table *, const int32_t *, int64_t, const float *, float *);
    void (*add_gradients)(const slide_table *, const int32_t *, int64_t, const float *, const float *, int32_t);
} slide_hogwild_kernels;

static inline slide_hogwild_kernels slide_hogwild_for(int level) {
    slide_hogwild_kernels k;
    (void)level;
    k.score_rows = SLIDE_DISPATCH(level, slide_score_rows);
    k.add_gradients = SLIDE_DISPATCH(level, slide_add_gradients);
    return k;
}

#endif
