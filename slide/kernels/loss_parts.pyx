"""Losses whose neurons are in several shards, each with a part of every sample's active set.

``softmax_terms`` and ``softmax_gradients`` together do what ``losses.softmax_cross_entropy`` does; between them the
shards exchange a few numbers for each sample. One-vs-all losses are sums of parts, and
``losses.logistic_cross_entropy`` computes each part; the shards exchange only their ``largest_logits``, to find hits.
"""

from cython.parallel cimport prange, threadid
from libc.math cimport INFINITY
from libc.stdint cimport int64_t

from slide.kernels.losses cimport (
    ActiveSets,
    SampleSets,
    logit_at,
    restore_weights,
    sample_weights,
    smoothed_sums,
)
from slide.kernels.rows cimport KERNELS

# What `softmax_terms` writes for a sample.
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
"""Numbers that ``softmax_terms`` writes for each sample."""


def softmax_terms(ActiveSets sets not None, double[:, ::1] terms, int threads):
    """Write what the samples' softmax losses need from this shard's neurons.

    Each logit x becomes ``exp(x - largest)``, which ``softmax_gradients`` takes.

    Parameters
    ----------
    sets : ActiveSets
        Its logits are overwritten.
    terms : float64 array [samples, TERMS]
        Written: the largest logit; the largest of a label; the sum of ``exp(x - largest)`` over all logits; the sum of
        the labels' logits times their targets; the sum of the targets; and, with smoothing, the sum of all logits and
        the number of neurons that they stand for. The largest of no logits is minus infinity.

    Raises
    ------
    ValueError
        `terms` has another shape.
    """
    cdef const SampleSets *p = &sets.pointers
    cdef int64_t s
    if terms.shape[0] != p.samples or terms.shape[1] != _N_TERMS:
        raise ValueError(f"terms must be [{p.samples}, {_N_TERMS}], got [{terms.shape[0]}, {terms.shape[1]}]")
    threads = sets.prepare(threads, 1 << 18)
    for s in prange(p.samples, nogil=True, num_threads=threads, schedule="static"):
        _terms_of_one(p, s, p.work + threadid() * p.slot, &terms[s, 0])


def softmax_gradients(ActiveSets sets not None, const float[::1] factor, const float[::1] share, float scale,
                      int threads):
    """Turn what ``softmax_terms`` left in place of the logits into the gradients of the loss, in place.

    Parameters
    ----------
    sets : ActiveSets
        What ``softmax_terms`` was given.
    factor : float32 array [samples]
        Multiplies a sample's exponentials: `scale` times the sum of its targets, divided by the sum of
        ``exp(x - largest here)`` over the logits of all shards.
    share : float32 array [samples]
        With smoothing, subtracted from each neuron's gradient for every neuron that it stands for.
    scale : float
        The gradients' factor, usually 1 / samples.

    Raises
    ------
    ValueError
        `factor` or `share` does not have an entry for each sample.
    """
    cdef const SampleSets *p = &sets.pointers
    cdef int64_t s
    if factor.shape[0] != p.samples or share.shape[0] != p.samples:
        raise ValueError(
            f"factor and share must have {p.samples} entries each, got {factor.shape[0]} and {share.shape[0]}"
        )
    threads = sets.prepare(threads, 1 << 18)
    for s in prange(p.samples, nogil=True, num_threads=threads, schedule="static"):
        _gradients_of_one(p, s, factor[s], share[s], scale, p.work + threadid() * p.slot)


def largest_logits(ActiveSets sets not None, double[:, ::1] out):
    """Write each sample's largest logit and that of a label, minus infinity where there is none.

    Parameters
    ----------
    out : float64 array [samples, 2]
        Written.

    Raises
    ------
    ValueError
        `out` has another shape.
    """
    cdef const SampleSets *p = &sets.pointers
    cdef int64_t s, i
    cdef float *shared
    cdef float *own
    cdef float best
    if out.shape[0] != p.samples or out.shape[1] != 2:
        raise ValueError(f"out must be [{p.samples}, 2], got [{out.shape[0]}, {out.shape[1]}]")
    for s in range(p.samples):
        shared, own, best = p.shared + s * p.stride, p.own + p.begin[s], -INFINITY
        for i in range(p.label_ptr[s], p.label_ptr[s + 1]):
            best = max(best, logit_at(shared, p.n_shared, own, p.label_place[i])[0])
        out[s, 0] = KERNELS.max(own, p.end[s] - p.begin[s], KERNELS.max(shared, p.n_shared, best))
        out[s, 1] = best


cdef void _terms_of_one(const SampleSets *sets, int64_t s, float *work, double *terms) noexcept nogil:
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
    if sets.smoothing > 0:
        weight = sample_weights(sets, s, work)
        smoothed_sums(sets, s, shared, own, weight, &terms[_ALL], &terms[_STANDS_FOR])
        restore_weights(sets, s, work)
    terms[_TOTAL] = KERNELS.exp_sum(shared, n_shared, <float>terms[_TOP])
    terms[_TOTAL] += KERNELS.exp_sum(own, n_own, <float>terms[_TOP])


cdef void _gradients_of_one(const SampleSets *sets, int64_t s, float factor, float share, float scale,
                            float *work) noexcept nogil:
    cdef int64_t n_shared = sets.n_shared, n_own = sets.end[s] - sets.begin[s], i
    cdef float *shared = sets.shared + s * sets.stride
    cdef float *own = sets.own + sets.begin[s]
    cdef float *weight
    if sets.smoothing > 0:
        weight = sample_weights(sets, s, work)
        KERNELS.scale_less(shared, weight, n_shared, factor, share)
        KERNELS.scale_less(own, NULL, n_own, factor, share)
        restore_weights(sets, s, work)
    else:
        KERNELS.scale(shared, n_shared, factor)
        KERNELS.scale(own, n_own, factor)
    for i in range(sets.label_ptr[s], sets.label_ptr[s + 1]):
        logit_at(shared, n_shared, own, sets.label_place[i])[0] -= scale * (1.0 - sets.smoothing) * sets.target[i]
