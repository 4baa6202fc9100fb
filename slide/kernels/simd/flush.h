/* Flushes denormal numbers, those too near zero for a full significand, to zero.
 *
 * A momentum that only fades ends among them, where it stays for hundreds of steps, and arithmetic on them takes a
 * processor a hundred times as long. None of them can matter beside the weights. The mode is the thread's own: kernels
 * set it when they begin and leave their caller's as it was.
 */
#ifndef SLIDE_FLUSH_H
#define SLIDE_FLUSH_H

#include <stdint.h>

#if defined(__x86_64__) || defined(__i386__)
#include <xmmintrin.h>

typedef unsigned slide_fp_mode;

static inline slide_fp_mode slide_flush_denormals(void) {
    const slide_fp_mode mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040); /* results and operands */
    __asm__ volatile("" ::: "memory");
    return mode;
}

static inline void slide_restore_mode(slide_fp_mode mode) {
    __asm__ volatile("" ::: "memory");
    _mm_setcsr(mode);
}
#elif defined(__aarch64__)
typedef uint64_t slide_fp_mode;

static inline slide_fp_mode slide_flush_denormals(void) {
    slide_fp_mode mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode)::"memory");
    __asm__ volatile("msr fpcr, %0" ::"r"(mode | (1ULL << 24)) : "memory");
    return mode;
}

static inline void slide_restore_mode(slide_fp_mode mode) { __asm__ volatile("msr fpcr, %0" ::"r"(mode) : "memory"); }
#else
typedef int slide_fp_mode;

static inline slide_fp_mode slide_flush_denormals(void) { return 0; }

static inline void slide_restore_mode(slide_fp_mode mode) { (void)mode; }
#endif

#endif
