"""Losses whose neurons are in several places, each with a part of every sample's active set.

``softmax_terms`` and ``softmax_gradients`` do what ``losses.softmax_cross_entropy`` does, with an exchange of a few
numbers a sample between them. One-vs-all losses are sums of their parts, which ``losses.logistic_cross_entropy`` makes;
only whose logit is the largest takes a word from every place.
"""

from cython.parallel cimport prange, threadid
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t

from slide.kernels.losses cimport (
    ActiveSets,
    logit_at,
    make_scratch,
    restore_weights,
    sample_weights,
    scratch_slot,
    smoothed_sums,
    view_sets,
)
from slide.kernels.memory cimport Scratch
from slide.kernels.parallel cimport threads_for
from slide.kernels.rows cimport KERNELS

# What `softmax_terms` writes of a sample.
cdef enum:
    _TOP
    _BEST
    _TOTAL
    _WANTED
    _MASS
    _ALL
    _STANDS_FOR
    _N_TERMS

TERMS = _N_TERMS
"""Numbers that ``softmax_terms`` writes of each sample."""


def softmax_terms(
    float[:, ::1] shared,
    int64_t n_shared,
    float[::1] own,
    const int64_t[::1] begin,
    const int64_t[::1] end,
    const int64_t[::1] label_ptr,
    const int32_t[::1] label_place,
    const float[::1] target,
    double[:, ::1] terms,
    int num_threads,
    *,
    float smoothing=0.0,
    const float[::1] weight=None,
    certain=None,
):
    """Write what the samples' softmax losses need of these neurons, where others are elsewhere.

    The logits become their exponentials, each sample's largest one's 1, which is what ``softmax_gradients`` takes.

    Parameters
    ----------
    terms : float64 array [samples, TERMS]
        Written: the largest logit, that of a label, the sum of the exponentials of all less the largest, the sum of
        the labels' logits times their targets, that of the targets and, with `smoothing`, the sum of all logits and how
        many neurons they stand for. Of no neurons, or labels, the largest is minus infinity.
    shared, n_shared, own, begin, end, label_ptr, label_place, target, num_threads, smoothing, weight, certain
        As of ``losses.softmax_cross_entropy``.

    Raises
    ------
    ValueError
        As of ``losses.softmax_cross_entropy``.
    """
    cdef int64_t samples = terms.shape[0], s
    cdef ActiveSets sets
    if smoothing == 0:
        weight = None
    if terms.shape[1] != _N_TERMS:
        raise ValueError(f"terms must have {_N_TERMS} columns, got {terms.shape[1]}")
    view_sets(&sets, shared, n_shared, own, begin, end, label_ptr, label_place, target, smoothing,
              weight, certain, samples, samples)
    if samples == 0:
        return
    cdef int64_t slot = scratch_slot(&sets, 0)
    cdef int threads = threads_for(num_threads, samples * n_shared + end[samples - 1] - begin[0], 1 << 18)
    cdef Scratch scratch = make_scratch(&sets, threads, slot)
    cdef float *work = <float *>scratch.data
    for s in prange(samples, nogil=True, num_threads=threads, schedule="static"):
        _terms_of_one(&sets, s, smoothing, work + threadid() * slot, &terms[s, 0])


def softmax_gradients(
    float[:, ::1] shared,
    int64_t n_shared,
    float[::1] own,
    const int64_t[::1] begin,
    const int64_t[::1] end,
    const int64_t[::1] label_ptr,
    const int32_t[::1] label_place,
    const float[::1] target,
    const float[::1] factor,
    const float[::1] share,
    float scale,
    int num_threads,
    *,
    float smoothing=0.0,
    const float[::1] weight=None,
    certain=None,
):
    """Turn what ``softmax_terms`` left in place of the logits into the gradients of the loss, in place.

    Parameters
    ----------
    factor : float32 array [samples]
        What a sample's exponentials are multiplied by: `scale` times the sum of its targets, over the sum of the
        exponentials of all neurons less the largest logit here.
    share : float32 array [samples]
        With `smoothing`: what is taken from each neuron for every one that it stands for.
    shared, n_shared, own, begin, end, label_ptr, label_place, target, scale, num_threads, smoothing, weight, certain
        As of ``losses.softmax_cross_entropy``.

    Raises
    ------
    ValueError
        As of ``losses.softmax_cross_entropy``.
    """
    cdef int64_t samples = factor.shape[0], s
    cdef ActiveSets sets
    if smoothing == 0:
        weight = None
    view_sets(&sets, shared, n_shared, own, begin, end, label_ptr, label_place, target, smoothing,
              weight, certain, samples, share.shape[0])
    if samples == 0:
        return
    cdef int64_t slot = scratch_slot(&sets, 0)
    cdef int threads = threads_for(num_threads, samples * n_shared + end[samples - 1] - begin[0], 1 << 18)
    cdef Scratch scratch = make_scratch(&sets, threads, slot)
    cdef float *work = <float *>scratch.data
    for s in prange(samples, nogil=True, num_threads=threads, schedule="static"):
        _gradients_of_one(&sets, s, smoothing, scale, factor[s], share[s], work + threadid() * slot)


def largest_logits(float[:, ::1] shared, int64_t n_shared, float[::1] own, const int64_t[::1] begin,
                   const int64_t[::1] end, const int64_t[::1] label_ptr, const int32_t[::1] label_place,
                   const float[::1] target, double[:, ::1] out):
    """Write each sample's largest logit and that of a label, minus infinity where there is none: `out` [samples, 2].

    Parameters
    ----------
    shared, n_shared, own, begin, end, label_ptr, label_place, target
        As of ``losses.softmax_cross_entropy``.
    out : float64 array [samples, 2]

    Raises
    ------
    ValueError
        As of ``losses.softmax_cross_entropy``.
    """
    cdef int64_t samples = out.shape[0], s, i
    cdef ActiveSets sets
    cdef float best
    if out.shape[1] != 2:
        raise ValueError(f"out must have 2 columns, got {out.shape[1]}")
    view_sets(&sets, shared, n_shared, own, begin, end, label_ptr, label_place, target, 0.0, None, None, samples,
              samples)
    for s in range(samples):
        best = -INFINITY
        for i in range(label_ptr[s], label_ptr[s + 1]):
            best = max(best, logit_at(sets.shared + s * sets.stride, n_shared, sets.own + begin[s], label_place[i])[0])
        out[s, 0] = KERNELS.max(sets.own + begin[s], end[s] - begin[s],
                                KERNELS.max(sets.shared + s * sets.stride, n_shared, best))
        out[s, 1] = best


cdef void _terms_of_one(const ActiveSets *sets, int64_t s, float smoothing, float *work, double *terms) noexcept nogil:
    cdef int64_t n_shared = sets.n_shared, n_own = sets.end[s] - sets.begin[s], i
    cdef float *shared = sets.shared + s * sets.stride
    cdef float *own = sets.own + sets.begin[s]
    cdef float best = -INFINITY, x
    cdef float *weight
    terms[_WANTED] = terms[_MASS] = terms[_ALL] = terms[_STANDS_FOR] = 0.0
    for i in range(sets.label_ptr[s], sets.label_ptr[s + 1]):
        x = logit_at(shared, n_shared, own, sets.label_place[i])[0]
        terms[_MASS] += sets.target[i]
        terms[_WANTED] += sets.target[i] * <double>x
        if x > best:
            best = x
    terms[_BEST] = best
    terms[_TOP] = KERNELS.max(own, n_own, KERNELS.max(shared, n_shared, best))
    if smoothing > 0:
        weight = sample_weights(sets, s, work)
        smoothed_sums(sets, s, shared, own, weight, &terms[_ALL], &terms[_STANDS_FOR])
        restore_weights(sets, s, work)
    terms[_TOTAL] = KERNELS.exp_sum(shared, n_shared, <float>terms[_TOP])
    terms[_TOTAL] += KERNELS.exp_sum(own, n_own, <float>terms[_TOP])


cdef void _gradients_of_one(const ActiveSets *sets, int64_t s, float smoothing, float scale, float factor, float share,
                            float *work) noexcept nogil:
    cdef int64_t n_shared = sets.n_shared, n_own = sets.end[s] - sets.begin[s], i
    cdef float *shared = sets.shared + s * sets.stride
    cdef float *own = sets.own + sets.begin[s]
    cdef float *weight
    if smoothing > 0:
        weight = sample_weights(sets, s, work)
        KERNELS.scale_less(shared, weight, n_shared, factor, share)
        KERNELS.scale_less(own, NULL, n_own, factor, share)
        restore_weights(sets, s, work)
    else:
        KERNELS.scale(shared, n_shared, factor)
        KERNELS.scale(own, n_own, factor)
    for i in range(sets.label_ptr[s], sets.label_ptr[s + 1]):
        logit_at(shared, n_shared, own, sets.label_place[i])[0] -= scale * (1.0 - smoothing) * sets.target[i]
