/* bfloat16: the upper half of a float32, so that reading it is a shift.
 *
 * Training rounds what it writes at random, up with a probability of the share that rounding down would cut off: the
 * result is right on average. Rounding to nearest would lose every step smaller than half of a weight's last digit (it
 * has eight), and a second moment that moves by a thousandth at a time would not move at all.
 *
 * The random bits are a hash of a key and the column, 32 for each: the weight takes the upper sixteen, its moments
 * others. Numbers that are bfloat16 already stay what they are, and so do infinities and NaNs, but for NaNs of all
 * ones, which no arithmetic makes.
 */
#ifndef SLIDE_BF16_H
#define SLIDE_BF16_H

#include <stdint.h>
#include <string.h>

#include "vec.h"

#define SLIDE_NOISE_W(bits) ((bits) >> 16)
#define SLIDE_NOISE_M(bits) (((bits) >> 8) & 0xFFFF)
#define SLIDE_NOISE_V(bits) ((bits) & 0xFFFF)

/* The finaliser with the least bias of its form that Wellons' hash-prospector found ("lowbias32"). */
#define SLIDE_SCRAMBLE(x)                        \
    do {                                         \
        (x) = ((x) ^ ((x) >> 16)) * 0x7FEB352Du; \
        (x) = ((x) ^ ((x) >> 15)) * 0x846CA68Bu; \
        (x) ^= (x) >> 16;                        \
    } while (0)

SLIDE_INLINE uint32_t slide_noise(uint32_t key, uint32_t column) {
    uint32_t x = key + column;
    SLIDE_SCRAMBLE(x);
    return x;
}

SLIDE_INLINE float slide_widen(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Up if the digits that are cut off and sixteen random bits carry. */
SLIDE_INLINE uint16_t slide_narrow(float x, uint32_t noise) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + noise) >> 16);
}

/* To nearest, ties to even. */
SLIDE_INLINE uint16_t slide_narrow_nearest(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x) return (uint16_t)(bits >> 16) | 0x40;
    return (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

/* One number of a part of a row. */
SLIDE_INLINE float slide_part_at(const float *part, int64_t column, const int narrow) {
    return narrow ? slide_widen(((const uint16_t *)part)[column]) : part[column];
}

SLIDE_INLINE void slide_part_set(float *part, int64_t column, float x, uint32_t noise, const int narrow) {
    if (narrow) ((uint16_t *)part)[column] = slide_narrow(x, noise);
    else part[column] = x;
}

#endif
