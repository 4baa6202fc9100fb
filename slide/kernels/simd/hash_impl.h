/* The hash kernels themselves; included by hash.h once per instruction set. `out` is [l, 16]: bucket indices. */

/* Sixteen vectors of d floats, from anywhere, into a block of n >= d coordinates; the rest is zero. */
HASH_TARGET static void HASH_FN(slide_load_block)(const float *const *rows, int64_t d, int64_t n, float *block) {
    for (int64_t c = 0; c < d; c++)
        for (int j = 0; j < SLIDE_LANES; j++) block[c * SLIDE_LANES + j] = rows[j][c];
    memset(block + d * SLIDE_LANES, 0, (size_t)(n - d) * SLIDE_LANES * sizeof(float));
}

/* A table's code to its bucket. Codes that are equally likely fall into equally full buckets: for a power of two the
 * mixing is a bijection whose upper bits are kept, each of which depends on every hash code; otherwise the products
 * modulo `total`, all distinct, are cut into 2^bucket_bits ranges. */
HASH_TARGET SLIDE_INLINE void HASH_FN(store_bucket)(vu code, const slide_code_shape *shape, uint32_t *out) {
    if (shape->total_bits == shape->bucket_bits) {
        *(vu *)out = code;
    } else if (shape->total_bits > 0) {
        uint32_t mask = (uint32_t)(shape->total - 1);
        code = (code * SLIDE_MULTIPLIER) & mask;
        code ^= code >> ((shape->total_bits + 1) / 2);
        code = (code * SLIDE_MULTIPLIER) & mask;
        *(vu *)out = code >> (shape->total_bits - shape->bucket_bits);
    } else {
        for (int j = 0; j < SLIDE_LANES; j++) {
            uint64_t mixed = (uint64_t)code[j] * SLIDE_MULTIPLIER % shape->total;
            out[j] = (uint32_t)((mixed << shape->bucket_bits) / shape->total);
        }
    }
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

/* Does what slide_sparse_signs does, for n coordinates of which the first is padding: coordinate c has the entries
 * terms[ptr[c]..ptr[c+1]], 2f for a function f that adds it, 2f + 1 for one that subtracts it. sums is scratch for
 * [k * l, 16]. */
HASH_TARGET static void HASH_FN(slide_column_signs)(const float *block, const int32_t *coordinates, int64_t n,
                                                    const int64_t *ptr, const int32_t *terms, float *sums,
                                                    const slide_code_shape *shape, uint32_t *out) {
    memset(sums, 0, (size_t)shape->k * shape->l * SLIDE_LANES * sizeof(float));
    for (int64_t c = 1; c < n; c++) {
        vf x[2] = {VF_LOAD(block + c * SLIDE_LANES), -VF_LOAD(block + c * SLIDE_LANES)};
        for (int64_t i = ptr[coordinates[c]]; i < ptr[coordinates[c] + 1]; i++) {
            float *sum = sums + (int64_t)(terms[i] >> 1) * SLIDE_LANES;
            VF_STORE(sum, VF_LOAD(sum) + x[terms[i] & 1]);
        }
    }
    for (int64_t table = 0; table < shape->l; table++) {
        vu code = {0};
        for (int bit = 0; bit < shape->k; bit++, sums += SLIDE_LANES) {
            vi positive = VF_LOAD(sums) > VF_SET(0);
            code = (code << 1) | ((vu)positive & 1u);
        }
        HASH_FN(store_bucket)(code, shape, out + table * SLIDE_LANES);
    }
}

/* Zeros become minus infinity, which wins no bin. */
HASH_TARGET static void HASH_FN(slide_hide_zeros)(float *block, int64_t n) {
    for (int64_t c = 0; c < n; c++) {
        vf x = VF_LOAD(block + c * SLIDE_LANES);
        VF_STORE(block + c * SLIDE_LANES, VF_SELECT(x == VF_SET(0), VF_SET(-__builtin_inff()), x));
    }
}

/* Each vector becomes its set, all bits for a member and none for the rest: the `top` largest of its non-zero
 * coordinates, lower ones first among equals, or all where there are no more. The smallest member is found by bisection
 * on the floats' order-preserving integer keys. */
HASH_TARGET static void HASH_FN(slide_keep_top)(float *block, int64_t n, int32_t top) {
    const vi lowest = (vi){0} + INT32_MIN, wanted = (vi){0} + top;
    vi *keys = (vi *)block;
    vi count = {0};
    for (int64_t c = 0; c < n; c++) {
        vi bits = keys[c], there = VF_LOAD(block + c * SLIDE_LANES) != VF_SET(0);
        keys[c] = VI_SELECT(there, bits ^ ((bits >> 31) & INT32_MAX), lowest);
        count -= there;
    }
    const vi few = count <= wanted;
    vi settled = few;
    vu least = {0};
    for (int bit = 31; bit >= 0; bit--) {
        int settled_lanes = 0;
        for (int j = 0; j < SLIDE_LANES; j++) settled_lanes -= settled[j];
        if (settled_lanes == SLIDE_LANES) break;
        vu trial = least | (1u << bit);
        vi limit = (vi)trial ^ lowest;
        count = (vi){0};
        for (int64_t c = 0; c < n; c++) count -= keys[c] >= limit;
        vi enough = (count >= wanted) & ~settled;
        least = VI_SELECT((vu)enough, trial, least);
        settled |= enough & (count == wanted);
    }
    const vi limit = VI_SELECT(few, lowest + 1, (vi)least ^ lowest);
    vi room = wanted;
    for (int64_t c = 0; c < n; c++) room += keys[c] > limit;
    for (int64_t c = 0; c < n; c++) {
        vi equal = (keys[c] == limit) & (room > 0);
        room += equal;
        keys[c] = equal | (keys[c] > limit);
    }
}

/* Bin f holds the coordinates index[f * bin_size ...]; its code is the label of the largest, the first of equals.
 * codes is [bins, 16]. */
HASH_TARGET static void HASH_FN(slide_winners)(const float *block, const int32_t *index, const int32_t *labels,
                                               int64_t bins, int64_t bin_size, uint32_t *codes) {
    for (int64_t bin = 0; bin < bins; bin++, index += bin_size, labels += bin_size) {
        vf best = VF_SET(-__builtin_inff());
        vi code = (vi){0} + (int32_t)SLIDE_EMPTY;
        for (int64_t i = 0; i < bin_size; i++) {
            vf x = VF_LOAD(block + (int64_t)index[i] * SLIDE_LANES);
            vi take = x > best;
            best = VF_SELECT(take, x, best);
            code = VI_SELECT(take, (vi){0} + labels[i], code);
        }
        *(vi *)(codes + bin * SLIDE_LANES) = code;
    }
}

/* Does what slide_winners does, for the first coordinate of a bin that is a member of the set. */
HASH_TARGET static void HASH_FN(slide_first_members)(const float *block, const int32_t *index, const int32_t *labels,
                                                     int64_t bins, int64_t bin_size, uint32_t *codes) {
    for (int64_t bin = 0; bin < bins; bin++, index += bin_size, labels += bin_size) {
        vi code = (vi){0} + (int32_t)SLIDE_EMPTY;
        for (int64_t i = bin_size - 1; i >= 0; i--) {
            vi member = *(const vi *)(block + (int64_t)index[i] * SLIDE_LANES);
            code = VI_SELECT(member, (vi){0} + labels[i], code);
        }
        *(vi *)(codes + bin * SLIDE_LANES) = code;
    }
}

HASH_TARGET SLIDE_INLINE int HASH_FN(any)(vi mask) {
    int any = 0;
    for (int j = 0; j < SLIDE_LANES; j++) any |= mask[j];
    return any;
}

/* Codes [k * l, 16] to bucket indices. An empty bin takes the code of another bin of the same vector: optimal
 * densification (Shrivastava, ICML 2017; for WTA, Chen and Shrivastava, UAI 2018). A vector all of whose bins are empty
 * has code 0 in each. */
HASH_TARGET static void HASH_FN(slide_combine)(const uint32_t *codes, uint64_t seed, const slide_code_shape *shape,
                                               uint32_t *out) {
    const vi none = (vi){0} + (int32_t)SLIDE_EMPTY;
    int64_t bins = (int64_t)shape->k * shape->l;
    vi all_empty = ~(vi){0};
    for (int64_t bin = 0; bin < bins; bin++) all_empty &= *(const vi *)(codes + bin * SLIDE_LANES) == none;
    for (int64_t table = 0; table < shape->l; table++) {
        vu code = {0};
        for (int64_t bin = table * shape->k; bin < (table + 1) * shape->k; bin++) {
            vi part = *(const vi *)(codes + bin * SLIDE_LANES) & ~all_empty;
            for (int64_t attempt = 1; HASH_FN(any)(part == none); attempt++) {
                int64_t lender = slide_lender(bin, attempt, bins, seed);
                part = VI_SELECT(part == none, *(const vi *)(codes + lender * SLIDE_LANES), part);
            }
            code = code * shape->radix + (vu)part;
        }
        HASH_FN(store_bucket)(code, shape, out + table * SLIDE_LANES);
    }
}
