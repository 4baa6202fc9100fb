"""Losses over an active set, with multi-label targets: softmax and one-vs-all logistic; the logQ correction of logits.

A sample's active set is the first columns of the batch's shared logits, which every sample has, then a run of its own.
A neuron that is certain to be active stands for itself; one that was drawn with probability q stands for 1 / q neurons
like it, which is its weight below (inverse propensity weighting; Horvitz and Thompson, JASA 1952).
"""

cimport cython
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
    _SURE = -100   # a logit whose softplus is 0 in float32


def remove_offsets(float[:, ::1] shared, const float[::1] offsets, const int64_t[::1] begin, const int64_t[::1] end,
                   const int32_t[::1] places, int threads):
    """Subtract ``offsets[p]`` from ``shared[s, p]`` for every p in ``places[begin[s]:end[s]]``.

    The logQ correction raises the logit of a neuron that stands for others like it; a neuron that is certain to be in
    a sample's active set stands for itself alone.

    Parameters
    ----------
    shared : float32 array [samples, >= n]
    offsets : float32 array [n]
    begin, end : int64 arrays [samples]
    places : int32 array [end[-1] or more]

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
    threads = threads_for(threads, places.shape[0], 1 << 18)
    for s in prange(samples, nogil=True, num_threads=threads, schedule="static"):
        for i in range(begin[s], end[s]):
            if 0 <= places[i] < n:
                shared[s, places[i]] -= offsets[places[i]]
            else:
                bad += 1
    if bad:
        raise ValueError(f"places must lie in 0..{n - 1}")


@cython.final
cdef class ActiveSets:
    """A batch's active sets, which every loss takes: the samples' logits, their labels' places and targets.

    Sample s's active set is the first `n_shared` columns of ``shared[s]``, which every sample has, then
    ``own[begin[s]:end[s]]``. Make one for each batch. The arrays are kept, not copied, and are checked here alone:
    afterwards nothing but the logits may change. One thread at a time may call a loss with it, because the losses
    overwrite its logits and have their scratch in it.

    Parameters
    ----------
    shared : float32 array [samples, >= n_shared]
        Logits of the neurons that all samples share. A softmax wants them logQ-corrected, but for the certain ones; a
        logistic loss wants them as they are, since `weight` corrects it.
    n_shared : int
        How many columns of `shared` count.
    own : float32 array [end[-1] or more]
        Logits of the neurons that samples have on their own.
    begin, end : int64 arrays [samples]
        Where each sample's run of `own` is.
    label_ptr : int64 array [samples + 1]
    label_place : int32 array [label_ptr[-1] or more]
        The place of each label of sample s in its active set: below `n_shared` a column of ``shared[s]``, otherwise
        ``own[begin[s] + place - n_shared]``.
    target : float32 array, as long as `label_place`
        Each label's target, 0 or more: for a softmax usually 1 / |labels|, for a logistic loss what the label's own
        term is multiplied by.
    smoothing : float
        From 0 to below 1: the share of its targets that a softmax takes from a sample's labels; for a logistic loss,
        twice what is added to the answer no and taken from yes.
    weight : float32 array [n_shared] or [0], optional
        How many neurons each shared one stands for; by default 1. A softmax without smoothing does not use it. With
        1 / q the expected logistic loss over the draws is that over all neurons.
    certain : (int32 array, int64 array [samples], int64 array [samples]), optional
        Flat places, begin and end: for sample s the shared neurons at ``flat[begin[s]:end[s]]`` have weight 1.

    Raises
    ------
    ValueError
        Shapes do not fit, a place is outside its active set, a weight is not positive, or `smoothing` is out of range.
    """

    def __cinit__(
        self,
        float[:, ::1] shared,
        int64_t n_shared,
        float[::1] own,
        const int64_t[::1] begin,
        const int64_t[::1] end,
        const int64_t[::1] label_ptr,
        const int32_t[::1] label_place,
        const float[::1] target,
        *,
        float smoothing=0.0,
        const float[::1] weight=None,
        certain=None,
    ):
        cdef int64_t samples = begin.shape[0], most_labels, row = 0
        self.shared, self.own, self.begin, self.end = shared, own, begin, end
        self.label_ptr, self.label_place, self.target = label_ptr, label_place, target
        cdef SampleSets *p = &self.pointers
        p.samples, p.n_shared, p.stride, p.smoothing = samples, n_shared, shared.shape[1], smoothing
        most_labels = self._check_sets()
        p.logits = samples * n_shared + end[samples - 1] - begin[0] if samples else 0
        p.shared = &shared[0, 0] if n_shared and samples else NULL
        p.own = &own[0] if own.shape[0] else NULL
        p.begin = &begin[0] if samples else NULL
        p.end = &end[0] if samples else NULL
        p.label_ptr = &label_ptr[0]
        p.label_place = &label_place[0] if label_place.shape[0] else NULL
        p.target = &target[0] if target.shape[0] else NULL
        p.weight_sum = n_shared
        if weight is not None and weight.shape[0] and samples:
            self._set_weights(weight, certain)
            row = n_shared
        p.slot = (row + most_labels + _LINE) // _LINE * _LINE

    cdef int64_t _check_sets(self) except -1:
        """Check all but the weights; return the most labels that a sample has."""
        cdef int64_t samples = self.pointers.samples, n_shared = self.pointers.n_shared, most = 0, s, i, size
        cdef const int64_t[::1] begin = self.begin, end = self.end, label_ptr = self.label_ptr
        cdef const int32_t[::1] label_place = self.label_place
        if end.shape[0] != samples:
            raise ValueError(f"begin and end must have an entry for each sample, got {samples} and {end.shape[0]}")
        if label_ptr.shape[0] < samples + 1 or label_ptr[0] != 0 or label_ptr[samples] > label_place.shape[0]:
            raise ValueError("label_ptr must rise from 0 to at most the number of label places")
        if self.target.shape[0] != label_place.shape[0]:
            raise ValueError(f"{label_place.shape[0]} label places need as many targets, got {self.target.shape[0]}")
        if n_shared and (self.shared.shape[0] < samples or self.shared.shape[1] < n_shared):
            raise ValueError(
                f"shared must be [{samples}, {n_shared} or more], got [{self.shared.shape[0]}, {self.shared.shape[1]}]"
            )
        if not 0 <= self.pointers.smoothing < 1:
            raise ValueError(f"smoothing must be from 0 to below 1, got {self.pointers.smoothing}")
        for s in range(samples):
            if not 0 <= begin[s] <= end[s] <= self.own.shape[0]:
                raise ValueError(f"sample {s}'s run {begin[s]}..{end[s]} is outside 0..{self.own.shape[0]}")
            size = n_shared + end[s] - begin[s]
            if label_ptr[s + 1] < label_ptr[s]:
                raise ValueError(f"label_ptr falls after sample {s}")
            most = max(most, label_ptr[s + 1] - label_ptr[s])
            for i in range(label_ptr[s], label_ptr[s + 1]):
                if not 0 <= label_place[i] < size:
                    raise ValueError(f"sample {s} has a label at place {label_place[i]} of an active set of {size}")
        return most

    cdef int _set_weights(self, const float[::1] weight, certain) except -1:
        """Check and keep the weights, and who is certain."""
        cdef SampleSets *p = &self.pointers
        cdef const int32_t[::1] places
        cdef const int64_t[::1] first, last
        cdef int64_t s, i
        cdef double w
        if weight.shape[0] != p.n_shared:
            raise ValueError(f"weight must be empty or have {p.n_shared} entries, got {weight.shape[0]}")
        self.weight = weight
        p.weight = &weight[0]
        p.weight_sum = 0.0
        for i in range(p.n_shared):
            w = weight[i]
            if not w > 0:
                raise ValueError(f"weights must be positive, got {w} at {i}")
            p.weight_sum += w
            p.offset_sum += w * log(w)
        if certain is None:
            return 0
        places, first, last = certain
        if first.shape[0] != p.samples or last.shape[0] != p.samples:
            raise ValueError(f"certain must have the runs of {p.samples} samples")
        for s in range(p.samples):
            if not 0 <= first[s] <= last[s] <= places.shape[0]:
                raise ValueError(f"sample {s}'s certain run {first[s]}..{last[s]} is outside 0..{places.shape[0]}")
            for i in range(first[s], last[s]):
                if not 0 <= places[i] < p.n_shared:
                    raise ValueError(f"sample {s} has a certain neuron at place {places[i]} of {p.n_shared}")
        self.certain, self.certain_begin, self.certain_end = places, first, last
        p.certain_begin, p.certain_end = &first[0], &last[0]
        p.certain = &places[0] if places.shape[0] else NULL
        return 0

    cdef int prepare(self, int threads, int64_t grain) except -1:
        """Return how many of `threads` a loss shall use, and have scratch for them, the weights copied into it."""
        cdef SampleSets *p = &self.pointers
        cdef int64_t thread
        threads = threads_for(threads, p.logits, grain)
        if self.slots < threads:
            self.scratch = Scratch(threads * p.slot * <int64_t>sizeof(float))
            self.slots = threads
            p.work = <float *>self.scratch.data
            if p.weight != NULL:
                for thread in range(threads):
                    memcpy(p.work + thread * p.slot, p.weight, p.n_shared * sizeof(float))
        return threads


def softmax_cross_entropy(ActiveSets sets not None, float scale, float[::1] loss, float[::1] hit, int threads):
    """Turn a batch's logits into its losses and, in place, into the gradients of the loss with respect to them.

    Each sample is normalised over its active set. Its loss is ``-sum_j target_j log p_j`` over its labels, and its
    gradient ``sum(target) * p - target``. The largest logit is subtracted first, so any finite logits are safe; a NaN
    or plus infinity among them makes the loss NaN, minus infinity rules a neuron out (and makes the loss infinite if it
    is a label, or with smoothing). A sample without labels has loss 0 and gradient 0.

    What smoothing takes from the labels' targets is spread over the active set in proportion to the neurons' weights,
    which estimates spreading it evenly over all neurons there are. There the loss counts a drawn neuron's own logit:
    less the logarithm of its weight, by which the logQ correction has raised it.

    Parameters
    ----------
    sets : ActiveSets
        Its logits are overwritten.
    scale : float
        The gradients' factor, usually 1 / samples.
    loss : float32 array [samples]
        Written: the cross-entropy in nats.
    hit : float32 array [samples]
        Written: 1 where no active neuron's logit is above the best label's, else 0.

    Raises
    ------
    ValueError
        `loss` or `hit` does not have an entry for each sample.
    """
    cdef const SampleSets *p = &sets.pointers
    cdef int64_t s
    _check_losses(p, loss, hit)
    threads = sets.prepare(threads, 1 << 18)
    for s in prange(p.samples, nogil=True, num_threads=threads, schedule="static"):
        _softmax_one(p, s, scale, p.work + threadid() * p.slot, &loss[s], &hit[s])


def logistic_cross_entropy(
    ActiveSets sets not None,
    float scale,
    float[::1] loss,
    float[::1] hit,
    int threads,
    *,
    const uint8_t[::1] labelled=None,
):
    """Turn a batch's logits into its one-vs-all losses and, in place, into the gradients with respect to them.

    Every active neuron answers yes or no by itself. Sample s's loss is the sum over its labels of ``target *
    softplus(-logit)`` and over all others of ``weight * softplus(logit)``; with smoothing the answers are ``1 -
    smoothing / 2`` and ``smoothing / 2`` in place of yes and no. Any finite logits are safe; one that is not finite
    makes the loss infinite or NaN. A sample without labels has loss 0 and gradient 0.

    Parameters
    ----------
    sets, scale, loss, hit
        As for ``softmax_cross_entropy``.
    labelled : uint8 array [samples], optional
        Nonzero for samples that have labels on any rank; by default, labels in `label_ptr`.

    Raises
    ------
    ValueError
        `loss`, `hit` or `labelled` does not have an entry for each sample.
    """
    cdef const SampleSets *p = &sets.pointers
    cdef const uint8_t *any_labels = NULL
    cdef int64_t s
    _check_losses(p, loss, hit)
    if labelled is not None:
        if labelled.shape[0] != p.samples:
            raise ValueError(f"labelled must have {p.samples} entries, got {labelled.shape[0]}")
        if p.samples:
            any_labels = &labelled[0]
    threads = sets.prepare(threads, 1 << 16)
    for s in prange(p.samples, nogil=True, num_threads=threads, schedule="static"):
        _logistic_one(p, s, any_labels, scale, p.work + threadid() * p.slot, &loss[s], &hit[s])


cdef int _check_losses(const SampleSets *sets, const float[::1] loss, const float[::1] hit) except -1:
    if loss.shape[0] != sets.samples or hit.shape[0] != sets.samples:
        raise ValueError(
            f"loss and hit must have {sets.samples} entries each, got {loss.shape[0]} and {hit.shape[0]}"
        )
    return 0


cdef float *sample_weights(const SampleSets *sets, int64_t s, float *work) noexcept nogil:
    """Turn the thread's copy of the weights into this sample's; return NULL where all are 1."""
    cdef int64_t i
    if sets.weight == NULL:
        return NULL
    if sets.certain_begin != NULL:
        for i in range(sets.certain_begin[s], sets.certain_end[s]):
            work[sets.certain[i]] = 1.0
    return work


cdef void restore_weights(const SampleSets *sets, int64_t s, float *work) noexcept nogil:
    cdef int64_t i
    if sets.weight != NULL and sets.certain_begin != NULL:
        for i in range(sets.certain_begin[s], sets.certain_end[s]):
            work[sets.certain[i]] = sets.weight[sets.certain[i]]


cdef void _softmax_one(const SampleSets *sets, int64_t s, float scale, float *work, float *loss,
                       float *hit) noexcept nogil:
    cdef int64_t n_shared = sets.n_shared, n_own = sets.end[s] - sets.begin[s], i
    cdef int64_t first = sets.label_ptr[s], n_labels = sets.label_ptr[s + 1] - first
    cdef float *shared = sets.shared + s * sets.stride
    cdef float *own = sets.own + sets.begin[s]
    cdef const int32_t *place = sets.label_place + first
    cdef const float *target = sets.target + first
    cdef float smoothing = sets.smoothing, top, total, best, x, share
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


cdef void smoothed_sums(const SampleSets *sets, int64_t s, const float *shared, const float *own, const float *weight,
                        double *all_logits, double *stands_for) noexcept nogil:
    """Sum up a sample's logits, each times the number of neurons that it stands for; and sum up these numbers."""
    cdef int64_t n_own = sets.end[s] - sets.begin[s], i
    cdef double w
    all_logits[0] = _weighted_sum(shared, weight, sets.n_shared) + _weighted_sum(own, NULL, n_own) - sets.offset_sum
    stands_for[0] = sets.weight_sum + n_own
    if weight != NULL and sets.certain_begin != NULL:
        for i in range(sets.certain_begin[s], sets.certain_end[s]):
            w = sets.weight[sets.certain[i]]
            all_logits[0] += w * log(w)
            stands_for[0] += 1.0 - w


cdef void _logistic_one(const SampleSets *sets, int64_t s, const uint8_t *labelled, float scale, float *work,
                        float *loss, float *hit) noexcept nogil:
    cdef int64_t n_shared = sets.n_shared, n_own = sets.end[s] - sets.begin[s], i
    cdef int64_t first = sets.label_ptr[s], n_labels = sets.label_ptr[s + 1] - first
    cdef float *shared = sets.shared + s * sets.stride
    cdef float *own = sets.own + sets.begin[s]
    cdef const int32_t *place = sets.label_place + first
    cdef const float *target = sets.target + first
    cdef float *logits = work + (0 if sets.weight == NULL else n_shared)
    cdef float smoothing = sets.smoothing, no = 0.5 * smoothing, best
    cdef double yes = 1.0 - 0.5 * smoothing, total, x
    cdef float *weight
    if n_labels == 0 and (labelled == NULL or not labelled[s]):
        _no_labels(shared, n_shared, own, n_own, loss, hit)
        return
    best = -INFINITY
    for i in range(n_labels):
        logits[i] = logit_at(shared, n_shared, own, place[i])[0]
        if logits[i] > best:
            best = logits[i]
    hit[0] = best >= KERNELS.max(own, n_own, KERNELS.max(shared, n_shared, best))
    # Labels go through the pass over the negatives with weight 0, or, where there are no weights, as sure negatives,
    # which add nothing but -no * _SURE; they are put right after it.
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
