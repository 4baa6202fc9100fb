/* The row kernels for every instruction set, and the choice among them. For one module to compile and all to use: it is
 * most of the package's code.
 */
#ifndef SLIDE_ROW_KERNELS_H
#define SLIDE_ROW_KERNELS_H

#include "isa.h"
#include "rows.h"

#define ROWS_FN(name) name##_baseline
#define ROWS_TARGET
#include "rows_impl.h"
#include "hogwild_impl.h"
#undef ROWS_FN
#undef ROWS_TARGET

#if SLIDE_X86
#define ROWS_FN(name) name##_avx2
#define ROWS_TARGET SLIDE_TARGET_AVX2
#include "rows_impl.h"
#include "hogwild_impl.h"
#undef ROWS_FN
#undef ROWS_TARGET

#define ROWS_FN(name) name##_avx512
#define ROWS_TARGET SLIDE_TARGET_AVX512
#include "rows_impl.h"
#include "hogwild_impl.h"
#undef ROWS_FN
#undef ROWS_TARGET
#endif

static inline slide_row_kernels slide_rows_for(int level) {
    slide_row_kernels k;
    (void)level;
    k.spmm = SLIDE_DISPATCH(level, slide_spmm);
    k.sddmm = SLIDE_DISPATCH(level, slide_sddmm);
    k.step_groups = SLIDE_DISPATCH(level, slide_step_groups);
    k.group_gradients = SLIDE_DISPATCH(level, slide_group_gradients);
    k.step_gradients = SLIDE_DISPATCH(level, slide_step_gradients);
    k.step_vector = SLIDE_DISPATCH(level, slide_step_vector);
    k.catch_up = SLIDE_DISPATCH(level, slide_catch_up);
    k.widen = SLIDE_DISPATCH(level, slide_widen_rows);
    k.sum_parts = SLIDE_DISPATCH(level, slide_sum_parts);
    k.exp_sum = SLIDE_DISPATCH(level, slide_exp_sum);
    k.max = SLIDE_DISPATCH(level, slide_max);
    k.scale = SLIDE_DISPATCH(level, slide_scale);
    k.weighted_sum = SLIDE_DISPATCH(level, slide_weighted_sum);
    k.scale_less = SLIDE_DISPATCH(level, slide_scale_less);
    k.logistic = SLIDE_DISPATCH(level, slide_logistic);
    k.above = SLIDE_DISPATCH(level, slide_above);
    k.score_rows = SLIDE_DISPATCH(level, slide_score_rows);
    k.add_gradients = SLIDE_DISPATCH(level, slide_add_gradients);
    return k;
}

#endif
