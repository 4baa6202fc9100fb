/* Which instruction set the row kernels use, chosen once per process.
 *
 * Every row kernel is written once, on 16-lane vectors, in a `*_impl.h` file. Its `*.h` includes that file once per
 * level below with another target attribute, and dispatches by a table. A binary built for the baseline therefore
 * runs everywhere and still uses AVX-512 where it exists; unlike `target_clones` this works alike in gcc and clang,
 * keeps the helpers inlined, and lets the tests run each level on one machine.
 *
 * SLIDE_ISA=baseline|avx2|avx512 lowers the choice; asking for more than the processor has is ignored.
 */
#ifndef SLIDE_ISA_H
#define SLIDE_ISA_H

#include <stdlib.h>
#include <string.h>

enum { SLIDE_ISA_BASELINE = 0, SLIDE_ISA_AVX2 = 1, SLIDE_ISA_AVX512 = 2 };

#if defined(__x86_64__) || defined(__i386__)
#define SLIDE_X86 1
#define SLIDE_TARGET_AVX2 __attribute__((target("avx2,fma,bmi,bmi2,popcnt")))
#define SLIDE_TARGET_AVX512 \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi,bmi2,popcnt")))
#else
#define SLIDE_X86 0
#endif

static inline int slide_isa_supported(void) {
#if SLIDE_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return SLIDE_ISA_AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
        return SLIDE_ISA_AVX2;
#endif
    return SLIDE_ISA_BASELINE;
}

static inline int slide_isa_level(void) {
    int level = slide_isa_supported();
    const char *asked = getenv("SLIDE_ISA");
    if (asked != NULL) {
        if (strcmp(asked, "baseline") == 0) level = SLIDE_ISA_BASELINE;
        else if (strcmp(asked, "avx2") == 0 && level > SLIDE_ISA_AVX2) level = SLIDE_ISA_AVX2;
    }
    return level;
}

/* DISPATCH(level, name) is the variant of `name` for that level. */
#if SLIDE_X86
#define SLIDE_DISPATCH(level, name) \
    ((level) == SLIDE_ISA_AVX512 ? name##_avx512 : (level) == SLIDE_ISA_AVX2 ? name##_avx2 : name##_baseline)
#else
#define SLIDE_DISPATCH(level, name) name##_baseline
#endif

#endif
