/* The row kernels themselves; included by rows.h once per instruction set. Vectors H are [samples, dp], unit stride
 * along dp. All loops over a row run in panels of at most PANEL vectors, which stay in registers.
 *
 * A kernel `x` that a format makes a difference to is `x_as` with the format as a constant; `x` chooses. */

#define PANEL 8

/* Columns column..column + 16 of a part of a row, whichever type it has. */
ROWS_TARGET SLIDE_INLINE vf ROWS_FN(load)(const float *part, int64_t column, const int narrow) {
    if (!narrow) return VF_LOAD(part + column);
    const vh half = *(const vh *)((const uint16_t *)part + column);
    return (vf)(__builtin_convertvector(half, vu) << 16);
}

ROWS_TARGET SLIDE_INLINE void ROWS_FN(store)(float *part, int64_t column, vf x, vu noise, const int narrow) {
    if (narrow) *(vh *)((uint16_t *)part + column) = __builtin_convertvector(((vu)x + noise) >> 16, vh);
    else VF_STORE(part + column, x);
}

/* The noise of sixteen columns; see bf16.h. */
ROWS_TARGET SLIDE_INLINE vu ROWS_FN(noise)(uint32_t key, int64_t column) {
    vu x = (vu){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} + (key + (uint32_t)column);
    SLIDE_SCRAMBLE(x);
    return x;
}

/* Lane sums by a fixed tree, so that the sum is the same wherever the vector came from. */
ROWS_TARGET SLIDE_INLINE float ROWS_FN(reduce)(vf x) {
    x += VF_ROTATE(x, 8);
    x += VF_ROTATE(x, 4);
    x += VF_ROTATE(x, 2);
    x += VF_ROTATE(x, 1);
    return x[0];
}

ROWS_TARGET SLIDE_INLINE float ROWS_FN(square)(const float *x, int64_t n) {
    vf sum = VF_SET(0);
    for (int64_t i = 0; i < n; i += SLIDE_LANES) sum += VF_LOAD(x + i) * VF_LOAD(x + i);
    return ROWS_FN(reduce)(sum);
}

/* exp(x) for x <= 0 to about 2 ulp; below -87 the result is a tiny normal number, never a denormal. NaN stays NaN.
 * Range reduction and the minimax polynomial's degree follow Cephes' expf (Moshier). */
ROWS_TARGET SLIDE_INLINE vf ROWS_FN(exp_nonpositive)(vf x) {
    const vf low = VF_SET(-87.0f);
    x = VF_SELECT(x < low, low, x);
    vf t = x * VF_SET(1.44269504088896341f);
    vi n = __builtin_convertvector(t - VF_SET(0.5f), vi); /* x <= 0, so truncation rounds to nearest */
    vf f = __builtin_convertvector(n, vf);
    vf r = x - f * VF_SET(0.693359375f) - f * VF_SET(-2.12194440e-4f);
    vf p = VF_SET(1.9875691500e-4f);
    p = p * r + VF_SET(1.3981999507e-3f);
    p = p * r + VF_SET(8.3334519073e-3f);
    p = p * r + VF_SET(4.1665795894e-2f);
    p = p * r + VF_SET(1.6666665459e-1f);
    p = p * r + VF_SET(5.0000001201e-1f);
    p = p * r * r + r + VF_SET(1.0f);
    return p * (vf)((n + 127) << 23);
}

/* log(1 + e) for 0 <= e <= 1 to about 2 ulp, however small e is: 2 artanh(e / (2 + e)), whose series in (e / (2 + e))^2
 * <= 1/9 is cut off where its terms fall below a float's precision. NaN stays NaN. */
ROWS_TARGET SLIDE_INLINE vf ROWS_FN(log1p_unit)(vf e) {
    vf s = e / (e + VF_SET(2.0f)), square = s * s;
    vf p = VF_SET(1.0f / 15);
    p = p * square + VF_SET(1.0f / 13);
    p = p * square + VF_SET(1.0f / 11);
    p = p * square + VF_SET(1.0f / 9);
    p = p * square + VF_SET(1.0f / 7);
    p = p * square + VF_SET(1.0f / 5);
    p = p * square + VF_SET(1.0f / 3);
    return VF_SET(2.0f) * (s + s * square * p);
}

/* --- SpMM: out[0:dp] += sum_i value[i] * w[index[i]] --------------------------------------------------------- */

ROWS_TARGET SLIDE_INLINE void ROWS_FN(spmm_panel)(const slide_table *t, const int32_t *index, const float *value,
                                                  int64_t n, int64_t column, float *out, const int width,
                                                  const int format) {
    const int narrow = SLIDE_NARROW_WEIGHTS(format), lines = narrow ? (width + 1) / 2 : width;
    vf sum[PANEL];
    _Pragma("GCC unroll 8") for (int j = 0; j < width; j++) sum[j] = VF_LOAD(out + column + j * SLIDE_LANES);
    for (int64_t i = 0; i < n; i++) {
        if (i + 4 < n) {
            const float *ahead = slide_row(t, index[i + 4]) + SLIDE_HEADER + (narrow ? column / 2 : column);
            for (int j = 0; j < lines; j++) __builtin_prefetch(ahead + j * 16);
        }
        const float *w = slide_row(t, index[i]) + SLIDE_HEADER;
        const vf x = VF_SET(value[i]);
        _Pragma("GCC unroll 8") for (int j = 0; j < width; j++)
            sum[j] += x * ROWS_FN(load)(w, column + j * SLIDE_LANES, narrow);
    }
    _Pragma("GCC unroll 8") for (int j = 0; j < width; j++) VF_STORE(out + column + j * SLIDE_LANES, sum[j]);
}

ROWS_TARGET SLIDE_INLINE void ROWS_FN(spmm_as)(const slide_table *t, const int32_t *index, const float *value,
                                               int64_t n, float *out, const int format) {
    int64_t column = 0;
    for (; column + PANEL * SLIDE_LANES <= t->dp; column += PANEL * SLIDE_LANES)
        ROWS_FN(spmm_panel)(t, index, value, n, column, out, PANEL, format);
    for (; column < t->dp; column += SLIDE_LANES)
        ROWS_FN(spmm_panel)(t, index, value, n, column, out, 1, format);
}

ROWS_TARGET static void ROWS_FN(slide_spmm)(const slide_table *t, const int32_t *index, const float *value, int64_t n,
                                            float *out) {
    if (SLIDE_NARROW_WEIGHTS(t->format)) ROWS_FN(spmm_as)(t, index, value, n, out, SLIDE_BF16);
    else ROWS_FN(spmm_as)(t, index, value, n, out, SLIDE_FP32);
}

/* --- SDDMM: out[slot] = w[row] . H[sample] + bias[row], groups first..last ------------------------------------- */

ROWS_TARGET SLIDE_INLINE void ROWS_FN(sddmm_group)(const float *w, const slide_groups *g, int64_t i, int64_t end,
                                                   float bias, int64_t dp, const float *hidden, float *out,
                                                   const int width, const int format) {
    const int narrow = SLIDE_NARROW_WEIGHTS(format);
    vf row[PANEL];
    _Pragma("GCC unroll 8") for (int j = 0; j < width; j++) row[j] = ROWS_FN(load)(w, j * SLIDE_LANES, narrow);
    for (; i < end; i++) {
        const float *h = hidden + g->sample[i] * dp;
        vf even = row[0] * VF_LOAD(h), odd = VF_SET(0);
        _Pragma("GCC unroll 8") for (int j = 1; j < width; j++) {
            if (j % 2) odd += row[j] * VF_LOAD(h + j * SLIDE_LANES);
            else even += row[j] * VF_LOAD(h + j * SLIDE_LANES);
        }
        for (int64_t column = width * SLIDE_LANES; column < dp; column += SLIDE_LANES)
            even += ROWS_FN(load)(w, column, narrow) * VF_LOAD(h + column);
        out[g->slot[i]] = ROWS_FN(reduce)(even + odd) + bias;
    }
}

ROWS_TARGET SLIDE_INLINE void ROWS_FN(sddmm_as)(const slide_table *t, const slide_groups *g, int64_t first,
                                                int64_t last, const float *hidden, float *out, const int format) {
    for (int64_t k = first; k < last; k++) {
        if (k + 3 < last) slide_prefetch_row(t, g->rows[k + 3], t->m);
        const float *row = slide_row(t, g->rows[k]);
        const float *w = row + SLIDE_HEADER;
        if (t->dp >= PANEL * SLIDE_LANES)
            ROWS_FN(sddmm_group)(w, g, g->ptr[k], g->ptr[k + 1], row[SLIDE_BIAS], t->dp, hidden, out, PANEL, format);
        else
            ROWS_FN(sddmm_group)(w, g, g->ptr[k], g->ptr[k + 1], row[SLIDE_BIAS], t->dp, hidden, out, 1, format);
    }
}

ROWS_TARGET static void ROWS_FN(slide_sddmm)(const slide_table *t, const slide_groups *g, int64_t first, int64_t last,
                                             const float *hidden, float *out) {
    if (SLIDE_NARROW_WEIGHTS(t->format)) ROWS_FN(sddmm_as)(t, g, first, last, hidden, out, SLIDE_BF16);
    else ROWS_FN(sddmm_as)(t, g, first, last, hidden, out, SLIDE_FP32);
}

/* --- Weights as float32, for matrix products: rows ids[begin..end], or rows begin..end where ids is NULL ---------- */

ROWS_TARGET static void ROWS_FN(slide_widen_rows)(const slide_table *t, const int32_t *ids, int64_t begin, int64_t end,
                                                  float *out) {
    for (int64_t k = begin; k < end; k++, out += t->dp) {
        if (ids != NULL && k + 3 < end) slide_prefetch_row(t, ids[k + 3], t->m);
        const float *w = slide_row(t, ids == NULL ? k : ids[k]) + SLIDE_HEADER;
        if (SLIDE_NARROW_WEIGHTS(t->format))
            for (int64_t column = 0; column < t->dp; column += SLIDE_LANES)
                VF_STORE(out + column, ROWS_FN(load)(w, column, 1));
        else
            memcpy(out, w, t->dp * sizeof(float));
    }
}

/* --- The optimizer's step ---------------------------------------------------------------------------------------- */

ROWS_TARGET SLIDE_INLINE vf ROWS_FN(root)(vf x) {
    float lane[SLIDE_LANES];
    memcpy(lane, &x, sizeof lane);
    for (int i = 0; i < SLIDE_LANES; i++) lane[i] = __builtin_sqrtf(lane[i]);
    memcpy(&x, lane, sizeof lane);
    return x;
}

/* The rule for one row: moments that decay for skipped steps do so with this step. */
ROWS_TARGET SLIDE_INLINE const slide_rule *ROWS_FN(rule_of)(const float *row, const slide_rule *rule, slide_rule *own) {
    if (!rule->decays) return rule;
    int64_t steps = (int64_t)rule->step - slide_last_step(row);
    if (steps <= 1) return rule;
    *own = *rule;
    own->beta1 = slide_decay(rule->log_beta1, steps);
    own->beta2 = slide_decay(rule->log_beta2, steps);
    return own;
}

/* Columns column..column + 16 of the parts w, m, v take the step for their gradient g. */
ROWS_TARGET SLIDE_INLINE void ROWS_FN(step_lanes)(float *w, float *m, float *v, int64_t column, vf g,
                                                  const slide_rule *rule, uint32_t key, const int format) {
    const int narrow_w = SLIDE_NARROW_WEIGHTS(format), narrow_m = SLIDE_NARROW_MOMENTS(format);
    const vf old = ROWS_FN(load)(w, column, narrow_w);
    const vu noise = narrow_m ? ROWS_FN(noise)(key, column) : (vu){0};
    if (rule->kind == SLIDE_ADAM) {
        vf first = VF_SET(rule->beta1) * ROWS_FN(load)(m, column, narrow_m) + VF_SET(rule->gain1) * g;
        vf second = VF_SET(rule->beta2) * ROWS_FN(load)(v, column, narrow_m) + VF_SET(rule->gain2) * g * g;
        ROWS_FN(store)(m, column, first, SLIDE_NOISE_M(noise), narrow_m);
        ROWS_FN(store)(v, column, second, SLIDE_NOISE_V(noise), narrow_m);
        vf root = ROWS_FN(root)(second) * VF_SET(rule->root_scale) + VF_SET(rule->eps);
        vf moved = old - VF_SET(rule->decay) * old - VF_SET(rule->rate) * first / root;
        ROWS_FN(store)(w, column, moved, SLIDE_NOISE_W(noise), narrow_w);
    } else {
        vf moved = old - VF_SET(rule->decay) * old - VF_SET(rule->rate) * g;
        ROWS_FN(store)(w, column, moved, SLIDE_NOISE_W(noise), narrow_w);
    }
}

/* One visit to some columns of a row: their gradient, their share of the samples' gradient (with the weights before the
 * step), the step. Returns the gradient's square, for a rule that measures it and takes no step. */
ROWS_TARGET SLIDE_INLINE float ROWS_FN(visit_panel)(const slide_table *t, float *row, int64_t column,
                                                    const slide_groups *g, int64_t begin, int64_t end,
                                                    const float *coef, const float *hidden, float *dhidden,
                                                    const slide_rule *rule, uint32_t key, const int width,
                                                    const int format) {
    float *w = row + SLIDE_HEADER;
    vf weight[PANEL], grad[PANEL];
    _Pragma("GCC unroll 8") for (int j = 0; j < width; j++) {
        weight[j] = ROWS_FN(load)(w, column + j * SLIDE_LANES, SLIDE_NARROW_WEIGHTS(format));
        grad[j] = VF_SET(0);
    }
    for (int64_t i = begin; i < end; i++) {
        const float *h = hidden + g->sample[i] * t->dp + column;
        const vf c = VF_SET(coef[g->slot[i]]);
        _Pragma("GCC unroll 8") for (int j = 0; j < width; j++) grad[j] += c * VF_LOAD(h + j * SLIDE_LANES);
        if (dhidden != NULL) {
            float *d = dhidden + g->sample[i] * t->dp + column;
            _Pragma("GCC unroll 8") for (int j = 0; j < width; j++)
                VF_STORE(d + j * SLIDE_LANES, VF_LOAD(d + j * SLIDE_LANES) + c * weight[j]);
        }
    }
    if (rule->kind == SLIDE_MEASURE) {
        vf square = VF_SET(0);
        _Pragma("GCC unroll 8") for (int j = 0; j < width; j++) square += grad[j] * grad[j];
        return ROWS_FN(reduce)(square);
    }
    _Pragma("GCC unroll 8") for (int j = 0; j < width; j++)
        ROWS_FN(step_lanes)(w, row + t->m, row + t->v, column + j * SLIDE_LANES, grad[j], rule, key, format);
    return 0.0f;
}

ROWS_TARGET SLIDE_INLINE double ROWS_FN(visit)(const slide_table *t, float *row, const slide_groups *g, int64_t begin,
                                               int64_t end, const float *coef, const float *hidden, float *dhidden,
                                               const slide_rule *rule, uint32_t key, const int format) {
    double square = 0.0;
    int64_t column = 0;
    for (; column + PANEL * SLIDE_LANES <= t->dp; column += PANEL * SLIDE_LANES)
        square += ROWS_FN(visit_panel)(t, row, column, g, begin, end, coef, hidden, dhidden, rule, key, PANEL, format);
    for (; column < t->dp; column += SLIDE_LANES)
        square += ROWS_FN(visit_panel)(t, row, column, g, begin, end, coef, hidden, dhidden, rule, key, 1, format);
    return square;
}

ROWS_TARGET SLIDE_INLINE double ROWS_FN(step_groups_as)(const slide_table *t, const slide_groups *g, int64_t first,
                                                        int64_t last, const float *coef, const float *hidden,
                                                        float *dhidden, const slide_rule *rule, const int format) {
    static const slide_rule measure = {.kind = SLIDE_MEASURE};
    double square = 0.0;
    slide_rule own;
    for (int64_t k = first; k < last; k++) {
        if (k + 2 < last) slide_prefetch_row(t, g->rows[k + 2], t->stride);
        float *row = slide_row(t, g->rows[k]);
        const uint32_t key = format == SLIDE_FP32 ? 0 : slide_row_key(g->rows[k], rule->step);
        const slide_rule *mine = ROWS_FN(rule_of)(row, rule, &own);
        int64_t begin = g->ptr[k], end = g->ptr[k + 1];
        if (rule->kind == SLIDE_ADAGRAD) {
            /* The rate depends on all columns' gradients: they are worked out twice, rather than stored. */
            float own_square = (float)ROWS_FN(visit)(t, row, g, begin, end, coef, hidden, NULL, &measure, 0, format);
            mine = slide_adagrad(t, row, own_square, rule, &own);
        }
        square += ROWS_FN(visit)(t, row, g, begin, end, coef, hidden, dhidden, mine, key, format);
        float bias_gradient = 0.0f;
        for (int64_t i = begin; t->biased && i < end; i++) bias_gradient += coef[g->slot[i]];
        square += slide_step_header(row, bias_gradient, rule->kind == SLIDE_ADAGRAD ? rule : mine);
    }
    return square;
}

ROWS_TARGET static double ROWS_FN(slide_step_groups)(const slide_table *t, const slide_groups *g, int64_t first,
                                                     int64_t last, const float *coef, const float *hidden,
                                                     float *dhidden, const slide_rule *rule) {
    const slide_fp_mode mode = slide_flush_denormals();
    double square;
    switch (t->format) {
    case SLIDE_BF16:
        square = ROWS_FN(step_groups_as)(t, g, first, last, coef, hidden, dhidden, rule, SLIDE_BF16);
        break;
    case SLIDE_BF16_MOMENTS:
        square = ROWS_FN(step_groups_as)(t, g, first, last, coef, hidden, dhidden, rule, SLIDE_BF16_MOMENTS);
        break;
    default:
        square = ROWS_FN(step_groups_as)(t, g, first, last, coef, hidden, dhidden, rule, SLIDE_FP32);
    }
    slide_restore_mode(mode);
    return square;
}

/* The gradient that step_groups would step a row by, for groups first..last: out[k] = sum of coef[slot] * H[sample],
 * to the same bits, and out_bias[k] the sum of the coefficients. */
ROWS_TARGET SLIDE_INLINE void ROWS_FN(gradient_panel)(const slide_groups *g, int64_t begin, int64_t end,
                                                      const float *coef, const float *hidden, int64_t dp, float *out,
                                                      const int width) {
    vf grad[PANEL];
    _Pragma("GCC unroll 8") for (int j = 0; j < width; j++) grad[j] = VF_SET(0);
    for (int64_t i = begin; i < end; i++) {
        const float *h = hidden + g->sample[i] * dp;
        const vf c = VF_SET(coef[g->slot[i]]);
        _Pragma("GCC unroll 8") for (int j = 0; j < width; j++) grad[j] += c * VF_LOAD(h + j * SLIDE_LANES);
    }
    _Pragma("GCC unroll 8") for (int j = 0; j < width; j++) VF_STORE(out + j * SLIDE_LANES, grad[j]);
}

ROWS_TARGET static void ROWS_FN(slide_group_gradients)(const slide_groups *g, int64_t first, int64_t last,
                                                       const float *coef, const float *hidden, int64_t dp, float *out,
                                                       float *out_bias) {
    for (int64_t k = first; k < last; k++) {
        const int64_t begin = g->ptr[k], end = g->ptr[k + 1];
        float *row = out + k * dp;
        int64_t column = 0;
        for (; column + PANEL * SLIDE_LANES <= dp; column += PANEL * SLIDE_LANES)
            ROWS_FN(gradient_panel)(g, begin, end, coef, hidden + column, dp, row + column, PANEL);
        for (; column < dp; column += SLIDE_LANES)
            ROWS_FN(gradient_panel)(g, begin, end, coef, hidden + column, dp, row + column, 1);
        float bias = 0.0f;
        for (int64_t i = begin; i < end; i++) bias += coef[g->slot[i]];
        out_bias[k] = bias;
    }
}

/* Rows ids[0..n] take the step for the gradients grad[n, dp] and grad_bias[n] worked out by a matrix product. */
ROWS_TARGET SLIDE_INLINE double ROWS_FN(step_gradients_as)(const slide_table *t, const int32_t *ids, int64_t n,
                                                           const float *grad, const float *grad_bias,
                                                           const slide_rule *rule, const int format) {
    double square = 0.0;
    slide_rule own;
    for (int64_t k = 0; k < n; k++) {
        if (k + 2 < n) slide_prefetch_row(t, ids[k + 2], t->stride);
        float *row = slide_row(t, ids[k]);
        const uint32_t key = format == SLIDE_FP32 ? 0 : slide_row_key(ids[k], rule->step);
        const slide_rule *mine = ROWS_FN(rule_of)(row, rule, &own);
        if (rule->kind == SLIDE_ADAGRAD)
            mine = slide_adagrad(t, row, ROWS_FN(square)(grad + k * t->dp, t->dp), rule, &own);
        if (rule->kind == SLIDE_MEASURE)
            square += ROWS_FN(square)(grad + k * t->dp, t->dp);
        else
            for (int64_t column = 0; column < t->dp; column += SLIDE_LANES)
                ROWS_FN(step_lanes)(row + SLIDE_HEADER, row + t->m, row + t->v, column,
                                    VF_LOAD(grad + k * t->dp + column), mine, key, format);
        square += slide_step_header(row, t->biased ? grad_bias[k] : 0.0f, rule->kind == SLIDE_ADAGRAD ? rule : mine);
    }
    return square;
}

ROWS_TARGET static double ROWS_FN(slide_step_gradients)(const slide_table *t, const int32_t *ids, int64_t n,
                                                        const float *grad, const float *grad_bias,
                                                        const slide_rule *rule) {
    const slide_fp_mode mode = slide_flush_denormals();
    double square;
    switch (t->format) {
    case SLIDE_BF16:
        square = ROWS_FN(step_gradients_as)(t, ids, n, grad, grad_bias, rule, SLIDE_BF16);
        break;
    case SLIDE_BF16_MOMENTS:
        square = ROWS_FN(step_gradients_as)(t, ids, n, grad, grad_bias, rule, SLIDE_BF16_MOMENTS);
        break;
    default:
        square = ROWS_FN(step_gradients_as)(t, ids, n, grad, grad_bias, rule, SLIDE_FP32);
    }
    slide_restore_mode(mode);
    return square;
}

/* A vector of n biases, n a multiple of SLIDE_LANES: stepped at every step, and never decayed. With Adagrad v is what
 * each has accumulated. */
ROWS_TARGET static double ROWS_FN(slide_step_vector)(float *w, float *m, float *v, const float *grad, int64_t n,
                                                     const slide_rule *rule) {
    if (rule->kind == SLIDE_MEASURE) return ROWS_FN(square)(grad, n);
    const slide_fp_mode mode = slide_flush_denormals();
    slide_rule own = *rule;
    own.decay = 0.0f;
    for (int64_t i = 0; i < n; i += SLIDE_LANES) {
        const vf g = VF_LOAD(grad + i);
        if (rule->kind == SLIDE_ADAGRAD) {
            const vf sum = VF_LOAD(v + i) + g * g;
            VF_STORE(v + i, sum);
            VF_STORE(w + i, VF_LOAD(w + i) - VF_SET(rule->rate) * g / (ROWS_FN(root)(sum) + VF_SET(rule->eps)));
        } else {
            ROWS_FN(step_lanes)(w, m, v, i, g, &own, 0, SLIDE_FP32);
        }
    }
    slide_restore_mode(mode);
    return 0.0;
}

/* --- Catching up on skipped steps -------------------------------------------------------------------------------- */

/* Return w as the momenta m and v of step `from` move it by the end of step `to`, each step taken by itself. */
ROWS_TARGET SLIDE_INLINE vf ROWS_FN(replay)(vf w, vf m, vf v, int64_t from, int64_t to, const slide_owed *owed,
                                            const int decay) {
    const vf root = ROWS_FN(root)(v);
    int64_t end = to - from < owed->window ? to : from + owed->window;
    float first = 1.0f, second = 1.0f;
    for (int64_t i = from; i < end; i++) {
        const float *step = owed->steps + 3 * (i - owed->first);
        first *= owed->beta1;
        second *= owed->root_beta2;
        if (decay) w -= VF_SET(step[2]) * w;
        w -= VF_SET(step[0] * first) * m / (VF_SET(step[1] * second) * root + VF_SET(owed->eps));
    }
    return w;
}

/* Return how far they move it, all steps at once. */
ROWS_TARGET SLIDE_INLINE vf ROWS_FN(pull)(vf m, vf v, const float *node, float eps) {
    const vf root = ROWS_FN(root)(v);
    return m * (VF_SET(node[0]) / (VF_SET(node[1]) * root + VF_SET(eps)) +
                VF_SET(node[2]) / (VF_SET(node[3]) * root + VF_SET(eps)));
}

/* A row last stepped at `from` catches up to the end of step `to`. */
ROWS_TARGET SLIDE_INLINE void ROWS_FN(catch_up_row)(const slide_table *t, float *row, int64_t from, int64_t to,
                                                    const slide_owed *owed, const int replay, uint32_t key,
                                                    const int format) {
    const int narrow_w = SLIDE_NARROW_WEIGHTS(format), narrow_m = SLIDE_NARROW_MOMENTS(format);
    const double *log_keep = owed->log_keep;
    float lost = 0.0f, late = 0.0f; /* by decay over all steps, and over those that the momentum does not reach */
    if (log_keep != NULL) {
        lost = (float)-expm1(log_keep[to - owed->first] - log_keep[from - owed->first]);
        if (to - from > owed->window)
            late = (float)-expm1(log_keep[to - owed->first] - log_keep[from + owed->window - owed->first]);
    }
    const float *node = owed->nodes == NULL ? NULL : owed->nodes + 8 * (from - owed->first);
    float first = slide_decay(owed->log_beta1, to - from), second = slide_decay(owed->log_beta2, to - from);
    float *w_part = row + SLIDE_HEADER, *m_part = row + t->m, *v_part = row + t->v;
    for (int64_t column = 0; column < t->dp; column += SLIDE_LANES) {
        const vu noise = narrow_m ? ROWS_FN(noise)(key, column) : (vu){0};
        const vf w = ROWS_FN(load)(w_part, column, narrow_w), kept = w - VF_SET(lost) * w;
        if (!owed->decays) {
            ROWS_FN(store)(w_part, column, kept, SLIDE_NOISE_W(noise), narrow_w);
            continue;
        }
        const vf m = ROWS_FN(load)(m_part, column, narrow_m), v = ROWS_FN(load)(v_part, column, narrow_m);
        vf moved;
        if (owed->steps == NULL) {
            moved = kept;
        } else if (replay) {
            moved = ROWS_FN(replay)(w, m, v, from, to, owed, 1);
            moved = moved - VF_SET(late) * moved;
        } else {
            moved = kept - VF_SET(1.0f - late) * ROWS_FN(pull)(m, v, node, owed->eps);
        }
        ROWS_FN(store)(w_part, column, moved, SLIDE_NOISE_W(noise), narrow_w);
        ROWS_FN(store)(m_part, column, VF_SET(first) * m, SLIDE_NOISE_M(noise), narrow_m);
        ROWS_FN(store)(v_part, column, VF_SET(second) * v, SLIDE_NOISE_V(noise), narrow_m);
    }
    if (owed->decays) {
        const vf w = VF_SET(row[SLIDE_BIAS]), m = VF_SET(row[SLIDE_BIAS_M]), v = VF_SET(row[SLIDE_BIAS_V]);
        if (owed->steps != NULL && replay)
            row[SLIDE_BIAS] = ROWS_FN(replay)(w, m, v, from, to, owed, 0)[0];
        else if (owed->steps != NULL)
            row[SLIDE_BIAS] -= ROWS_FN(pull)(m, v, node + 4, owed->eps)[0];
        row[SLIDE_BIAS_M] *= first;
        row[SLIDE_BIAS_V] *= second;
    }
}

ROWS_TARGET SLIDE_INLINE void ROWS_FN(catch_up_as)(const slide_table *t, const int32_t *ids, int64_t begin, int64_t end,
                                                   const slide_owed *owed, const int format) {
    for (int64_t k = begin; k < end; k++) {
        if (ids != NULL && k + 2 < end) slide_prefetch_row(t, ids[k + 2], t->stride);
        const int64_t id = ids == NULL ? k : ids[k];
        float *row = slide_row(t, id);
        int64_t from = slide_last_step(row);
        /* A row that was never stepped has no momentum. */
        if (from >= owed->step || (from == 0 && owed->log_keep == NULL)) continue;
        if (from < owed->first) from = owed->first;
        if (from < owed->replay_until) {
            int64_t to = owed->step < owed->replay_until ? owed->step : owed->replay_until;
            ROWS_FN(catch_up_row)(t, row, from, to, owed, 1, slide_row_key(id, (int32_t)to), format);
            from = to;
        }
        if (from < owed->step)
            ROWS_FN(catch_up_row)(t, row, from, owed->step, owed, 0, slide_row_key(id, owed->step), format);
        memcpy(row + SLIDE_LAST_STEP, &owed->step, sizeof owed->step);
    }
}

/* Rows ids[begin..end], or rows begin..end where ids is NULL, catch up. */
ROWS_TARGET static void ROWS_FN(slide_catch_up)(const slide_table *t, const int32_t *ids, int64_t begin, int64_t end,
                                                const slide_owed *owed) {
    const slide_fp_mode mode = slide_flush_denormals();
    switch (t->format) {
    case SLIDE_BF16:
        ROWS_FN(catch_up_as)(t, ids, begin, end, owed, SLIDE_BF16);
        break;
    case SLIDE_BF16_MOMENTS:
        ROWS_FN(catch_up_as)(t, ids, begin, end, owed, SLIDE_BF16_MOMENTS);
        break;
    default:
        ROWS_FN(catch_up_as)(t, ids, begin, end, owed, SLIDE_FP32);
    }
    slide_restore_mode(mode);
}

/* --- Per-sample vectors ------------------------------------------------------------------------------------------ */

/* out[0:n] = sum over parts of part[p * distance + 0:n], zero where the ReLU's output `active` (if any) is zero. */
ROWS_TARGET static void ROWS_FN(slide_sum_parts)(const float *part, int64_t n_parts, int64_t distance,
                                                 const float *active, float *out, int64_t n) {
    for (int64_t i = 0; i < n; i += SLIDE_LANES) {
        vf sum = VF_SET(0);
        for (int64_t p = 0; p < n_parts; p++) sum += VF_LOAD(part + p * distance + i);
        if (active != NULL) sum = VF_SELECT(VF_LOAD(active + i) > VF_SET(0), sum, VF_SET(0));
        VF_STORE(out + i, sum);
    }
}

/* x[i] = exp(x[i] - top), returning their sum; top is at least every x. */
ROWS_TARGET static float ROWS_FN(slide_exp_sum)(float *x, int64_t n, float top) {
    const slide_fp_mode mode = slide_flush_denormals();
    vf sum = VF_SET(0);
    int64_t i = 0;
    for (; i + SLIDE_LANES <= n; i += SLIDE_LANES) {
        vf e = ROWS_FN(exp_nonpositive)(VF_LOAD(x + i) - VF_SET(top));
        VF_STORE(x + i, e);
        sum += e;
    }
    if (i < n) {
        float tail[SLIDE_LANES];
        for (int j = 0; j < SLIDE_LANES; j++) tail[j] = j < n - i ? x[i + j] - top : 0.0f;
        VF_STORE(tail, ROWS_FN(exp_nonpositive)(VF_LOAD(tail)));
        for (int j = 0; j < n - i; j++) x[i + j] = tail[j];
        for (int j = (int)(n - i); j < SLIDE_LANES; j++) tail[j] = 0.0f;
        sum += VF_LOAD(tail);
    }
    slide_restore_mode(mode);
    return ROWS_FN(reduce)(sum);
}

ROWS_TARGET static float ROWS_FN(slide_max)(const float *x, int64_t n, float start) {
    vf top = VF_SET(start);
    int64_t i = 0;
    for (; i + SLIDE_LANES <= n; i += SLIDE_LANES) {
        vf y = VF_LOAD(x + i);
        top = VF_SELECT(y > top, y, top);
    }
    float best = start;
    for (int j = 0; j < SLIDE_LANES; j++)
        if (top[j] > best) best = top[j];
    for (; i < n; i++)
        if (x[i] > best) best = x[i];
    return best;
}

ROWS_TARGET static void ROWS_FN(slide_scale)(float *x, int64_t n, float factor) {
    int64_t i = 0;
    for (; i + SLIDE_LANES <= n; i += SLIDE_LANES) VF_STORE(x + i, VF_LOAD(x + i) * VF_SET(factor));
    for (; i < n; i++) x[i] *= factor;
}

/* Weights i..i + 16; all are 1 where there are none. */
ROWS_TARGET SLIDE_INLINE vf ROWS_FN(weights_at)(const float *weight, int64_t i) {
    vf w = VF_SET(1);
    if (weight != NULL) w = VF_LOAD(weight + i);
    return w;
}

ROWS_TARGET static float ROWS_FN(slide_weighted_sum)(const float *x, const float *weight, int64_t n) {
    vf sum = VF_SET(0);
    int64_t i = 0;
    for (; i + SLIDE_LANES <= n; i += SLIDE_LANES)
        sum += VF_LOAD(x + i) * ROWS_FN(weights_at)(weight, i);
    float total = ROWS_FN(reduce)(sum);
    for (; i < n; i++) total += x[i] * (weight == NULL ? 1.0f : weight[i]);
    return total;
}

/* x[i] = factor * x[i] - share * weight[i] */
ROWS_TARGET static void ROWS_FN(slide_scale_less)(float *x, const float *weight, int64_t n, float factor,
                                                  float share) {
    const slide_fp_mode mode = slide_flush_denormals();
    int64_t i = 0;
    for (; i + SLIDE_LANES <= n; i += SLIDE_LANES) {
        vf w = ROWS_FN(weights_at)(weight, i);
        VF_STORE(x + i, VF_LOAD(x + i) * VF_SET(factor) - VF_SET(share) * w);
    }
    for (; i < n; i++) x[i] = x[i] * factor - share * (weight == NULL ? 1.0f : weight[i]);
    slide_restore_mode(mode);
}

/* Logits to the gradients of the logistic loss for the answer `target`, times scale; adds the losses to sum. */
ROWS_TARGET SLIDE_INLINE vf ROWS_FN(logistic_lanes)(vf x, vf weight, float target, float scale, vf *sum) {
    vf e = ROWS_FN(exp_nonpositive)((vf)((vi)x | INT32_MIN)); /* exp(-|x|) */
    vf inverse = VF_SET(1) / (e + VF_SET(1));
    vf sigmoid = VF_SELECT(x >= VF_SET(0), inverse, e * inverse);
    *sum += weight * (VF_SELECT(x > VF_SET(0), x, VF_SET(0)) + ROWS_FN(log1p_unit)(e) - VF_SET(target) * x);
    return VF_SET(scale) * weight * (sigmoid - VF_SET(target));
}

/* x[i] = scale * weight[i] * (sigmoid(x[i]) - target), returning the sum of weight[i] * (softplus(x[i]) - target *
 * x[i]): the cross-entropy of a yes with probability sigmoid(x[i]) where the answer is yes to a degree of `target`. */
ROWS_TARGET static float ROWS_FN(slide_logistic)(float *x, const float *weight, int64_t n, float target,
                                                 float scale) {
    const slide_fp_mode mode = slide_flush_denormals();
    vf sum = VF_SET(0);
    int64_t i = 0;
    for (; i + SLIDE_LANES <= n; i += SLIDE_LANES) {
        vf w = ROWS_FN(weights_at)(weight, i);
        VF_STORE(x + i, ROWS_FN(logistic_lanes)(VF_LOAD(x + i), w, target, scale, &sum));
    }
    if (i < n) {
        float tail[SLIDE_LANES], tail_weight[SLIDE_LANES];
        for (int j = 0; j < SLIDE_LANES; j++) {
            tail[j] = j < n - i ? x[i + j] : 0.0f;
            tail_weight[j] = j >= n - i ? 0.0f : weight == NULL ? 1.0f : weight[i + j];
        }
        VF_STORE(tail, ROWS_FN(logistic_lanes)(VF_LOAD(tail), VF_LOAD(tail_weight), target, scale, &sum));
        for (int j = 0; j < n - i; j++) x[i + j] = tail[j];
    }
    slide_restore_mode(mode);
    return ROWS_FN(reduce)(sum);
}

/* The first i in begin..n with x[i] > bar, or n: the scan of a top-k selection, which rarely finds one. */
ROWS_TARGET static int64_t ROWS_FN(slide_above)(const float *x, int64_t begin, int64_t n, float bar) {
    int64_t i = begin;
    for (; i + 4 * SLIDE_LANES <= n; i += 4 * SLIDE_LANES) {
        vi any = (VF_LOAD(x + i) > VF_SET(bar)) | (VF_LOAD(x + i + 16) > VF_SET(bar)) |
                 (VF_LOAD(x + i + 32) > VF_SET(bar)) | (VF_LOAD(x + i + 48) > VF_SET(bar));
        int64_t word[8];
        memcpy(word, &any, sizeof word);
        if (word[0] | word[1] | word[2] | word[3] | word[4] | word[5] | word[6] | word[7]) break;
    }
    for (; i < n; i++)
        if (x[i] > bar) return i;
    return n;
}

#undef PANEL
