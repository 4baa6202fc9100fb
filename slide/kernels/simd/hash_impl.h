/* The hash kernels themselves; included by hash.h once per instruction set. `out` is [l, 16]: bucket indices. */

/* Sixteen vectors of d floats, from anywhere, into a block of n >= d coordinates; the rest is zero. */
HASH_TARGET static void HASH_FN(slide_load_block)(const float *const *rows, int64_t d, int64_t n, float *block) {
    for (int64_t c = 0; c < d; c++)
        for (int j = 0; j < SLIDE_LANES; j++) block[c * SLIDE_LANES + j] = rows[j][c];
    memset(block + d * SLIDE_LANES, 0, (size_t)(n - d) * SLIDE_LANES * sizeof(float));
}

HASH_TARGET SLIDE_INLINE void HASH_FN(store_bucket)(vu code, const slide_code_shape *shape, uint32_t *out) {
    if (shape->k * shape->width > shape->bucket_bits) code = (code * 0x9E3779B1u) >> (32 - shape->bucket_bits);
    *(vu *)out = code;
}

/* In place on block[n][16], n a power of two: the unnormalised fast Walsh-Hadamard transform. */
HASH_TARGET SLIDE_INLINE void HASH_FN(fwht)(float *block, int64_t n) {
    for (int64_t half = 1; half < n; half *= 2)
        for (int64_t i = 0; i < n; i += 2 * half)
            for (int64_t j = i; j < i + half; j++) {
                vf a = VF_LOAD(block + j * SLIDE_LANES), b = VF_LOAD(block + (j + half) * SLIDE_LANES);
                VF_STORE(block + j * SLIDE_LANES, a + b);
                VF_STORE(block + (j + half) * SLIDE_LANES, a - b);
            }
}

/* SimHash by rotations: n signs of projections at a time are the signs of H D3 H D2 H D1 x, with D random signs
 * (Andoni et al., NeurIPS 2015). signs is [rotation][3][n] of +1 and -1; work is [n, 16]. */
HASH_TARGET static void HASH_FN(slide_hadamard)(const float *block, int64_t n, const float *signs, float *work,
                                                const slide_code_shape *shape, uint32_t *out) {
    int64_t wanted = (int64_t)shape->k * shape->l, table = 0;
    int bit = 0;
    vu code = {0};
    for (int64_t first = 0; first < wanted; first += n, signs += 3 * n) {
        for (int round = 0; round < 3; round++) {
            const float *from = round == 0 ? block : work;
            for (int64_t c = 0; c < n; c++)
                VF_STORE(work + c * SLIDE_LANES, VF_LOAD(from + c * SLIDE_LANES) * VF_SET(signs[round * n + c]));
            HASH_FN(fwht)(work, n);
        }
        for (int64_t c = 0; c < n && first + c < wanted; c++) {
            vi positive = VF_LOAD(work + c * SLIDE_LANES) > VF_SET(0);
            code = (code << 1) | ((vu)positive & 1u);
            if (++bit == shape->k) {
                HASH_FN(store_bucket)(code, shape, out + table * SLIDE_LANES);
                table++;
                bit = 0;
                code = (vu){0};
            }
        }
    }
}

/* SimHash by sparse random signs: function f adds the coordinates index[ptr[2f]..ptr[2f+1]] and subtracts
 * index[ptr[2f+1]..ptr[2f+2]] (Achlioptas 2003; density 1/3 in the SLIDE paper). */
HASH_TARGET static void HASH_FN(slide_sparse_signs)(const float *block, const int32_t *index, const int64_t *ptr,
                                                    const slide_code_shape *shape, uint32_t *out) {
    for (int64_t table = 0; table < shape->l; table++) {
        vu code = {0};
        for (int bit = 0; bit < shape->k; bit++, ptr += 2) {
            vf sum = VF_SET(0);
            for (int64_t i = ptr[0]; i < ptr[1]; i++) sum += VF_LOAD(block + index[i] * SLIDE_LANES);
            for (int64_t i = ptr[1]; i < ptr[2]; i++) sum -= VF_LOAD(block + index[i] * SLIDE_LANES);
            vi positive = sum > VF_SET(0);
            code = (code << 1) | ((vu)positive & 1u);
        }
        HASH_FN(store_bucket)(code, shape, out + table * SLIDE_LANES);
    }
}

/* DWTA: bin f holds the coordinates index[f * bin_size ...]; its code is the place of the largest non-zero one.
 * codes is scratch for [k * l, 16]. */
HASH_TARGET static void HASH_FN(slide_dwta)(const float *block, const int32_t *index, int64_t bin_size, uint64_t seed,
                                            uint32_t *codes, const slide_code_shape *shape, uint32_t *out) {
    int64_t n_bins = (int64_t)shape->k * shape->l;
    vi any_empty = {0};
    for (int64_t bin = 0; bin < n_bins; bin++) {
        vf best = VF_SET(0);
        vi code = (vi){0} + (int32_t)SLIDE_EMPTY;
        for (int64_t i = 0; i < bin_size; i++) {
            vf x = VF_LOAD(block + index[bin * bin_size + i] * SLIDE_LANES);
            vi take = (x != VF_SET(0)) & ((x > best) | (code == (int32_t)SLIDE_EMPTY));
            best = VF_SELECT(take, x, best);
            code = VI_SELECT(take, (vi){0} + (int32_t)i, code);
        }
        any_empty |= code == (int32_t)SLIDE_EMPTY;
        *(vi *)(codes + bin * SLIDE_LANES) = code;
    }
    int borrow = 0;
    for (int j = 0; j < SLIDE_LANES; j++) borrow |= any_empty[j];
    for (int64_t table = 0; table < shape->l; table++) {
        vu code = {0};
        for (int64_t bin = table * shape->k; bin < (table + 1) * shape->k; bin++) {
            vu part = *(vu *)(codes + bin * SLIDE_LANES);
            if (borrow)
                for (int j = 0; j < SLIDE_LANES; j++)
                    if (part[j] == SLIDE_EMPTY) part[j] = slide_borrow(codes + j, n_bins, bin, seed);
            code = (code << shape->width) | (part & ((1u << shape->width) - 1u));
        }
        HASH_FN(store_bucket)(code, shape, out + table * SLIDE_LANES);
    }
}
