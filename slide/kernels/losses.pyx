"""Losses over an active set, with multi-label targets: softmax and one-vs-all logistic; the logQ correction of logits.

A sample's active set is the first columns of the batch's shared logits, which every sample has, then a run of its own.
A neuron that is active for certain stands for itself; one that merely was drawn stands for 1 / q neurons like it, with
q its probability of being drawn: its weight below (inverse propensity weighting; Horvitz and Thompson, JASA 1952).
"""

from cython.parallel cimport prange, threadid
from libc.math cimport INFINITY, exp, fabs, log, log1p
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.string cimport memcpy

from slide.kernels.memory cimport Scratch
from slide.kernels.parallel cimport threads_for
from slide.kernels.rows cimport KERNELS

cdef enum:
    _BLOCK = 4096  # logits added up in float32; the sums of blocks are added up in float64
    _LINE = 16     # floats of a cache line
    _SURE = -100   # a logit of which softplus is nothing in float32


def remove_offsets(float[:, ::1] shared, const float[::1] offsets, const int64_t[::1] begin, const int64_t[::1] end,
                   const int32_t[::1] places, int num_threads):
    """Subtract ``offsets[p]`` from ``shared[s, p]`` for every p in ``places[begin[s]:end[s]]``.

    The logQ correction raises the logit of a neuron that stands for others like it; one that is in a sample's active
    set for certain stands for itself alone.

    Parameters
    ----------
    shared : float32 array [samples, >= n]
    offsets : float32 array [n]
    begin, end : int64 arrays [samples]
    places : int32 array
    num_threads : int

    Raises
    ------
    ValueError
        Shapes do not fit, or a place is out of range.
    """
    cdef int64_t samples = begin.shape[0], n = offsets.shape[0], s, i
    cdef int bad = 0
    if end.shape[0] != samples or shared.shape[0] < samples or shared.shape[1] < n:
        raise ValueError(f"shared must be [{samples}, {n}] or larger and end have {samples} entries")
    for s in range(samples):
        if not 0 <= begin[s] <= end[s] <= places.shape[0]:
            raise ValueError(f"sample {s}'s run {begin[s]}..{end[s]} is outside 0..{places.shape[0]}")
    cdef int threads = threads_for(num_threads, places.shape[0], 1 << 18)
    for s in prange(samples, nogil=True, num_threads=threads, schedule="static"):
        for i in range(begin[s], end[s]):
            if 0 <= places[i] < n:
                shared[s, places[i]] -= offsets[places[i]]
            else:
                bad += 1
    if bad:
        raise ValueError(f"places must lie in 0..{n - 1}")


def softmax_cross_entropy(
    float[:, ::1] shared,
    int64_t n_shared,
    float[::1] own,
    const int64_t[::1] begin,
    const int64_t[::1] end,
    const int64_t[::1] label_ptr,
    const int32_t[::1] label_place,
    const float[::1] target,
    float scale,
    float[::1] loss,
    float[::1] hit,
    int num_threads,
    *,
    float smoothing=0.0,
    const float[::1] weight=None,
    certain=None,
):
    """Turn a batch's logits into its losses and, in place, into the gradients of the loss with respect to them.

    Sample s is normalised over its active set: the first `n_shared` columns of ``shared[s]``, which every sample has,
    then ``own[begin[s]:end[s]]``. Its loss is ``-sum_j target_j log p_j`` over its labels, and its gradient
    ``sum(target) * p - target``. The largest logit is subtracted first, so any finite logits are safe; a NaN or plus
    infinity among them makes the loss NaN, minus infinity rules a neuron out (and makes the loss infinite if it is a
    label, or with smoothing). A sample without labels has loss 0 and gradient 0.

    With `smoothing` that share of the target is taken from the labels and spread over the active set in proportion to
    the neurons' weights, which estimates spreading it evenly over all neurons there are. There the loss counts a drawn
    neuron's own logit: less the logarithm of its weight, by which the logQ correction has raised it.

    Parameters
    ----------
    shared : float32 array [samples, >= n_shared]
        LogQ-corrected, but for the neurons that are certain.
    n_shared : int
    own : float32 array
    begin, end : int64 arrays [samples]
    label_ptr : int64 array [samples + 1]
    label_place : int32 array
        Where each label of sample s stands in its active set: below `n_shared` a column of ``shared[s]``, otherwise
        ``own[begin[s] + place - n_shared]``.
    target : float32 array, as long as `label_place`
        Each label's target, 0 or more; usually 1 / |labels|.
    scale : float
        The gradients' factor, usually 1 / samples.
    loss : float32 array [samples]
        Written: the cross-entropy in nats.
    hit : float32 array [samples]
        Written: 1 where no active neuron's logit is above the best label's, else 0.
    num_threads : int
    smoothing : float
        From 0 to below 1.
    weight : float32 array [n_shared] or [0], optional
        How many neurons each shared one stands for; by default 1. Without smoothing it is not used.
    certain : (int32 array, int64 array [samples], int64 array [samples]), optional
        Flat places, begin and end: for sample s the shared neurons at ``flat[begin[s]:end[s]]`` have weight 1.

    Raises
    ------
    ValueError
        Shapes do not fit, a place is outside its active set, or `smoothing` is out of range.
    """
    cdef int64_t samples = loss.shape[0], s
    cdef ActiveSets sets
    if smoothing == 0:
        weight = None
    view_sets(&sets, shared, n_shared, own, begin, end, label_ptr, label_place, target, smoothing,
              weight, certain, samples, hit.shape[0])
    if samples == 0:
        return
    cdef int64_t slot = scratch_slot(&sets, 0)
    cdef int threads = threads_for(num_threads, samples * n_shared + end[samples - 1] - begin[0], 1 << 18)
    cdef Scratch scratch = make_scratch(&sets, threads, slot)
    cdef float *work = <float *>scratch.data
    for s in prange(samples, nogil=True, num_threads=threads, schedule="static"):
        _softmax_one(&sets, s, smoothing, scale, work + threadid() * slot, &loss[s], &hit[s])


def logistic_cross_entropy(
    float[:, ::1] shared,
    int64_t n_shared,
    float[::1] own,
    const int64_t[::1] begin,
    const int64_t[::1] end,
    const int64_t[::1] label_ptr,
    const int32_t[::1] label_place,
    const float[::1] target,
    float scale,
    float[::1] loss,
    float[::1] hit,
    int num_threads,
    *,
    float smoothing=0.0,
    const float[::1] weight=None,
    certain=None,
    const uint8_t[::1] labelled=None,
):
    """Turn a batch's logits into its one-vs-all losses and, in place, into the gradients with respect to them.

    Every active neuron answers yes or no by itself. Sample s's loss is the sum over its labels of ``target *
    softplus(-logit)`` and over all others of ``weight * softplus(logit)``; with `smoothing` the answers are ``1 -
    smoothing / 2`` and ``smoothing / 2`` in place of yes and no. Any finite logits are safe; one that is not finite
    makes the loss infinite or NaN. A sample without labels has loss 0 and gradient 0.

    Parameters
    ----------
    shared : float32 array [samples, >= n_shared]
        Not corrected: `weight` does that.
    target : float32 array, as long as `label_place`
        What each label's own term is multiplied by, 0 or more.
    weight : float32 array [n_shared] or [0], optional
        How many neurons each shared one stands for; by default 1. With 1 / q the expected loss over the draws is that
        over all neurons.
    n_shared, own, begin, end, label_ptr, label_place, scale, loss, hit, num_threads, smoothing, certain
        As of ``softmax_cross_entropy``.
    labelled : uint8 array [samples], optional
        Not zero for samples that have labels here or, where other neurons are elsewhere, there; by default those here.

    Raises
    ------
    ValueError
        As of ``softmax_cross_entropy``.
    """
    cdef int64_t samples = loss.shape[0], most = 0, s
    cdef ActiveSets sets
    if labelled is not None and labelled.shape[0] != samples:
        raise ValueError(f"labelled must have {samples} entries, got {labelled.shape[0]}")
    view_sets(&sets, shared, n_shared, own, begin, end, label_ptr, label_place, target, smoothing,
              weight, certain, samples, hit.shape[0])
    if samples == 0:
        return
    for s in range(samples):
        most = max(most, label_ptr[s + 1] - label_ptr[s])
    if labelled is not None:
        sets.labelled = &labelled[0]
    cdef int64_t slot = scratch_slot(&sets, most)
    cdef int threads = threads_for(num_threads, samples * n_shared + end[samples - 1] - begin[0], 1 << 16)
    cdef Scratch scratch = make_scratch(&sets, threads, slot)
    cdef float *work = <float *>scratch.data
    for s in prange(samples, nogil=True, num_threads=threads, schedule="static"):
        _logistic_one(&sets, s, smoothing, scale, work + threadid() * slot, &loss[s], &hit[s])


cdef int view_sets(ActiveSets *sets, float[:, ::1] shared, int64_t n_shared, float[::1] own,
                   const int64_t[::1] begin, const int64_t[::1] end, const int64_t[::1] label_ptr,
                   const int32_t[::1] label_place, const float[::1] target, float smoothing,
                   const float[::1] weight, certain, int64_t samples, int64_t hits) except -1:
    """Check what the losses have in common, and look into it."""
    cdef int64_t s, i, size
    cdef const int32_t[::1] places
    cdef const int64_t[::1] first, last
    cdef double w
    if hits != samples or begin.shape[0] < samples or end.shape[0] < samples:
        raise ValueError(f"begin, end and hit must fit {samples} samples")
    if label_ptr.shape[0] < samples + 1 or label_ptr[0] != 0 or label_ptr[samples] > label_place.shape[0]:
        raise ValueError("label_ptr must rise from 0 to at most the number of label places")
    if target.shape[0] != label_place.shape[0]:
        raise ValueError(f"{label_place.shape[0]} label places need as many targets, got {target.shape[0]}")
    if n_shared and (shared.shape[0] < samples or shared.shape[1] < n_shared):
        raise ValueError(f"shared must be [{samples}, {n_shared} or more], got [{shared.shape[0]}, {shared.shape[1]}]")
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be from 0 to below 1, got {smoothing}")
    for s in range(samples):
        if not 0 <= begin[s] <= end[s] <= own.shape[0]:
            raise ValueError(f"sample {s}'s run {begin[s]}..{end[s]} is outside 0..{own.shape[0]}")
        size = n_shared + end[s] - begin[s]
        if label_ptr[s + 1] < label_ptr[s]:
            raise ValueError(f"label_ptr falls after sample {s}")
        for i in range(label_ptr[s], label_ptr[s + 1]):
            if not 0 <= label_place[i] < size:
                raise ValueError(f"sample {s} has a label at place {label_place[i]} of an active set of {size}")
    sets.shared = &shared[0, 0] if n_shared and samples else NULL
    sets.n_shared = n_shared
    sets.stride = shared.shape[1]
    sets.own = &own[0] if own.shape[0] else NULL
    sets.begin = &begin[0] if samples else NULL
    sets.end = &end[0] if samples else NULL
    sets.label_ptr = &label_ptr[0]
    sets.label_place = &label_place[0] if label_place.shape[0] else NULL
    sets.target = &target[0] if target.shape[0] else NULL
    sets.weight = NULL
    sets.certain_begin = sets.certain_end = NULL
    sets.certain = NULL
    sets.weight_sum = n_shared
    sets.offset_sum = 0.0
    sets.labelled = NULL
    if weight is None or weight.shape[0] == 0 or samples == 0:
        return 0
    if weight.shape[0] != n_shared:
        raise ValueError(f"weight must be empty or have {n_shared} entries, got {weight.shape[0]}")
    sets.weight = &weight[0]
    sets.weight_sum = 0.0
    for i in range(n_shared):
        w = weight[i]
        if not w > 0:
            raise ValueError(f"weights must be positive, got {w} at {i}")
        sets.weight_sum += w
        sets.offset_sum += w * log(w)
    if certain is None:
        return 0
    places, first, last = certain
    if first.shape[0] != samples or last.shape[0] != samples:
        raise ValueError(f"certain must have the runs of {samples} samples")
    for s in range(samples):
        if not 0 <= first[s] <= last[s] <= places.shape[0]:
            raise ValueError(f"sample {s}'s certain run {first[s]}..{last[s]} is outside 0..{places.shape[0]}")
        for i in range(first[s], last[s]):
            if not 0 <= places[i] < n_shared:
                raise ValueError(f"sample {s} has a certain neuron at place {places[i]} of {n_shared}")
    sets.certain_begin = &first[0]
    sets.certain_end = &last[0]
    sets.certain = &places[0] if places.shape[0] else NULL
    return 0


cdef int64_t scratch_slot(const ActiveSets *sets, int64_t labels) noexcept:
    """Floats of a thread's scratch: a copy of the weights where there are any, then its labels' logits."""
    return (_row(sets) + labels + _LINE) // _LINE * _LINE


cdef inline int64_t _row(const ActiveSets *sets) noexcept nogil:
    return 0 if sets.weight == NULL else sets.n_shared


cdef Scratch make_scratch(const ActiveSets *sets, int threads, int64_t slot):
    """Scratch for all threads, the weights copied into it."""
    cdef Scratch scratch = Scratch(threads * slot * 4)
    cdef float *work = <float *>scratch.data
    cdef int64_t thread
    if sets.weight != NULL:
        for thread in range(threads):
            memcpy(work + thread * slot, sets.weight, sets.n_shared * sizeof(float))
    return scratch


cdef float *sample_weights(const ActiveSets *sets, int64_t s, float *work) noexcept nogil:
    """Make the thread's copy of the weights this sample's; NULL where all are 1."""
    cdef int64_t i
    if sets.weight == NULL:
        return NULL
    if sets.certain_begin != NULL:
        for i in range(sets.certain_begin[s], sets.certain_end[s]):
            work[sets.certain[i]] = 1.0
    return work


cdef void restore_weights(const ActiveSets *sets, int64_t s, float *work) noexcept nogil:
    cdef int64_t i
    if sets.weight != NULL and sets.certain_begin != NULL:
        for i in range(sets.certain_begin[s], sets.certain_end[s]):
            work[sets.certain[i]] = sets.weight[sets.certain[i]]


cdef void _softmax_one(const ActiveSets *sets, int64_t s, float smoothing, float scale, float *work, float *loss,
                       float *hit) noexcept nogil:
    cdef int64_t n_shared = sets.n_shared, n_own = sets.end[s] - sets.begin[s], i
    cdef int64_t first = sets.label_ptr[s], n_labels = sets.label_ptr[s + 1] - first
    cdef float *shared = sets.shared + s * sets.stride
    cdef float *own = sets.own + sets.begin[s]
    cdef const int32_t *place = sets.label_place + first
    cdef const float *target = sets.target + first
    cdef float top, total, best, x, share
    cdef double wanted = 0.0, mass = 0.0, all_logits, stands_for
    cdef float *at
    cdef float *weight
    if n_labels == 0:
        _no_labels(shared, n_shared, own, n_own, loss, hit)
        return
    best = logit_at(shared, n_shared, own, place[0])[0]
    for i in range(n_labels):
        x = logit_at(shared, n_shared, own, place[i])[0]
        mass += target[i]
        wanted += target[i] * <double>x
        if x > best:
            best = x
    top = KERNELS.max(own, n_own, KERNELS.max(shared, n_shared, best))
    hit[0] = best >= top
    wanted *= 1.0 - smoothing
    share = 0.0
    weight = NULL
    if smoothing > 0:
        weight = sample_weights(sets, s, work)
        smoothed_sums(sets, s, shared, own, weight, &all_logits, &stands_for)
        wanted += smoothing * mass * all_logits / stands_for
        share = <float>(scale * smoothing * mass / stands_for)
    total = KERNELS.exp_sum(shared, n_shared, top) + KERNELS.exp_sum(own, n_own, top)
    loss[0] = <float>(mass * (log(total) + top) - wanted)
    if smoothing > 0:
        KERNELS.scale_less(shared, weight, n_shared, <float>(scale * mass / total), share)
        KERNELS.scale_less(own, NULL, n_own, <float>(scale * mass / total), share)
        restore_weights(sets, s, work)
    else:
        KERNELS.scale(shared, n_shared, <float>(scale * mass / total))
        KERNELS.scale(own, n_own, <float>(scale * mass / total))
    for i in range(n_labels):
        at = logit_at(shared, n_shared, own, place[i])
        at[0] -= scale * (1.0 - smoothing) * target[i]


cdef void smoothed_sums(const ActiveSets *sets, int64_t s, const float *shared, const float *own, const float *weight,
                        double *all_logits, double *stands_for) noexcept nogil:
    """The sum of a sample's logits, each as often as its neuron stands for others, and how many these are."""
    cdef int64_t n_own = sets.end[s] - sets.begin[s], i
    cdef double w
    all_logits[0] = _weighted_sum(shared, weight, sets.n_shared) + _weighted_sum(own, NULL, n_own) - sets.offset_sum
    stands_for[0] = sets.weight_sum + n_own
    if weight != NULL and sets.certain_begin != NULL:
        for i in range(sets.certain_begin[s], sets.certain_end[s]):
            w = sets.weight[sets.certain[i]]
            all_logits[0] += w * log(w)
            stands_for[0] += 1.0 - w


cdef void _logistic_one(const ActiveSets *sets, int64_t s, float smoothing, float scale, float *work, float *loss,
                        float *hit) noexcept nogil:
    cdef int64_t n_shared = sets.n_shared, n_own = sets.end[s] - sets.begin[s], i
    cdef int64_t first = sets.label_ptr[s], n_labels = sets.label_ptr[s + 1] - first
    cdef float *shared = sets.shared + s * sets.stride
    cdef float *own = sets.own + sets.begin[s]
    cdef const int32_t *place = sets.label_place + first
    cdef const float *target = sets.target + first
    cdef float *logits = work + _row(sets)
    cdef float no = 0.5 * smoothing, best
    cdef double yes = 1.0 - 0.5 * smoothing, total, x
    cdef float *weight
    if n_labels == 0 and (sets.labelled == NULL or not sets.labelled[s]):
        _no_labels(shared, n_shared, own, n_own, loss, hit)
        return
    best = -INFINITY
    for i in range(n_labels):
        logits[i] = logit_at(shared, n_shared, own, place[i])[0]
        if logits[i] > best:
            best = logits[i]
    hit[0] = best >= KERNELS.max(own, n_own, KERNELS.max(shared, n_shared, best))
    # Labels go through the pass over the negatives with weight 0, or where there are no weights as sure ones, which
    # costs nothing but -no * _SURE; they are put right after it.
    weight = sample_weights(sets, s, work)
    for i in range(n_labels):
        logit_at(shared, n_shared, own, place[i])[0] = _SURE
        if weight != NULL and place[i] < n_shared:
            weight[place[i]] = 0.0
    total = _logistic(shared, weight, n_shared, no, scale) + _logistic(own, NULL, n_own, no, scale)
    for i in range(n_labels):
        x = logits[i]
        if weight != NULL and place[i] < n_shared:
            weight[place[i]] = sets.weight[place[i]]
        else:
            total += no * _SURE
        total += target[i] * ((x if x > 0 else 0.0) + log1p(exp(-fabs(x))) - yes * x)
        # sigmoid(x) - yes, without the loss of digits where both are near 1.
        logit_at(shared, n_shared, own, place[i])[0] = <float>(scale * target[i] * (no - 1.0 / (1.0 + exp(x))))
    restore_weights(sets, s, work)
    loss[0] = <float>total


cdef void _no_labels(float *shared, int64_t n_shared, float *own, int64_t n_own, float *loss,
                     float *hit) noexcept nogil:
    loss[0] = 0.0
    hit[0] = 0.0
    KERNELS.scale(shared, n_shared, 0.0)
    KERNELS.scale(own, n_own, 0.0)


cdef double _weighted_sum(const float *x, const float *weight, int64_t n) noexcept nogil:
    cdef double total = 0.0
    cdef int64_t i = 0
    while i < n:
        total += KERNELS.weighted_sum(x + i, <const float *>NULL if weight == NULL else weight + i, min(n - i, _BLOCK))
        i += _BLOCK
    return total


cdef double _logistic(float *x, const float *weight, int64_t n, float target, float scale) noexcept nogil:
    cdef double total = 0.0
    cdef int64_t i = 0
    while i < n:
        total += KERNELS.logistic(x + i, <const float *>NULL if weight == NULL else weight + i, min(n - i, _BLOCK),
                                  target, scale)
        i += _BLOCK
    return total
