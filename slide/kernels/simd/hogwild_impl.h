/* Row kernels of training without locks: one sample at a time, with the rows that it reads, which are float32. Included
 * by row_kernels.h once per instruction set. h is one sample's vector, [dp]. */

/* out[i] = w[ids[i]] . h + bias[ids[i]] */
ROWS_TARGET static void ROWS_FN(slide_score_rows)(const slide_table *t, const int32_t *ids, int64_t n, const float *h,
                                                  float *out) {
    for (int64_t i = 0; i < n; i++) {
        if (i + 3 < n) slide_prefetch_row(t, ids[i + 3], SLIDE_HEADER + t->dp);
        const float *row = slide_row(t, ids[i]);
        const float *w = row + SLIDE_HEADER;
        vf even = VF_SET(0), odd = VF_SET(0);
        int64_t column = 0;
        for (; column + 2 * SLIDE_LANES <= t->dp; column += 2 * SLIDE_LANES) {
            even += VF_LOAD(w + column) * VF_LOAD(h + column);
            odd += VF_LOAD(w + column + SLIDE_LANES) * VF_LOAD(h + column + SLIDE_LANES);
        }
        if (column < t->dp) even += VF_LOAD(w + column) * VF_LOAD(h + column);
        out[i] = ROWS_FN(reduce)(even + odd) + row[SLIDE_BIAS];
    }
}

/* sums[ids[i]] += coef[i] * h and, with biases, their sums += coef[i].
 *
 * This is a data race on purpose: several threads add to one row with plain loads and stores, and where two do so at
 * the same time one of their terms may be lost, lane by lane. Nothing else can be lost: the sums are aligned floats,
 * each written whole, and nobody reads them for another purpose before the threads have met at the end of the loop over
 * samples. */
ROWS_TARGET static void ROWS_FN(slide_add_gradients)(const slide_table *sums, const int32_t *ids, int64_t n,
                                                     const float *coef, const float *h, int32_t biased) {
    for (int64_t i = 0; i < n; i++) {
        if (i + 3 < n) slide_prefetch_row(sums, ids[i + 3], SLIDE_HEADER + sums->dp);
        float *row = slide_row(sums, ids[i]);
        float *g = row + SLIDE_HEADER;
        const vf c = VF_SET(coef[i]);
        for (int64_t column = 0; column < sums->dp; column += SLIDE_LANES)
            VF_STORE(g + column, VF_LOAD(g + column) + c * VF_LOAD(h + column));
        if (biased) row[SLIDE_BIAS] += coef[i];
    }
}
