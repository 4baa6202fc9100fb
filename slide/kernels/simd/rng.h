/* Stateless randomness: a value is a function of its keys, so results never depend on the thread schedule.
 * The finaliser is splitmix64's (Steele, Lea and Flood, OOPSLA 2014).
 */
#ifndef SLIDE_RNG_H
#define SLIDE_RNG_H

#include <stdint.h>

static inline uint64_t slide_mix(uint64_t x) {
    x += 0x9E3779B97F4A7C15ULL;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
    return x ^ (x >> 31);
}

static inline uint64_t slide_key(uint64_t seed, uint64_t a, uint64_t b) {
    return slide_mix(slide_mix(slide_mix(seed) ^ a) ^ b);
}

/* Uniform integer below n (n < 2^32) from the high half of r. */
static inline uint32_t slide_below(uint64_t r, uint32_t n) { return (uint32_t)(((r >> 32) * n) >> 32); }

#endif
