"""Softmax cross-entropy over an active set, with multi-label targets, and the logQ correction of sampled logits."""

from cython.parallel cimport prange
from libc.math cimport log
from libc.stdint cimport int32_t, int64_t

from slide.kernels.parallel cimport slide_isa_level, threads_for
from slide.kernels.rows cimport slide_row_kernels, slide_rows_for

cdef slide_row_kernels KERNELS = slide_rows_for(slide_isa_level())


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
    float scale,
    float[::1] loss,
    float[::1] hit,
    int num_threads,
):
    """Turn a batch's logits into its losses and, in place, into the gradients of the loss with respect to them.

    Sample s is normalised over its active set: the first `n_shared` columns of ``shared[s]``, which every sample has,
    then ``own[begin[s]:end[s]]``. Each of its labels has target 1 / |labels|. The largest logit is subtracted first, so
    any finite logits are safe; a NaN or plus infinity among them makes the loss NaN, minus infinity rules a neuron out
    (and makes the loss infinite if it is a label). A sample without labels has loss 0
    and gradient 0.

    Parameters
    ----------
    shared : float32 array [samples, >= n_shared]
    n_shared : int
    own : float32 array
    begin, end : int64 arrays [samples]
    label_ptr : int64 array [samples + 1]
    label_place : int32 array
        Where each label of sample s stands in its active set: below `n_shared` a column of ``shared[s]``, otherwise
        ``own[begin[s] + place - n_shared]``.
    scale : float
        The gradients' factor, usually 1 / samples.
    loss : float32 array [samples]
        Written: the cross-entropy in nats.
    hit : float32 array [samples]
        Written: 1 where no active neuron's logit is above the best label's, else 0.
    num_threads : int

    Raises
    ------
    ValueError
        Shapes do not fit, or a label's place is outside its active set.
    """
    cdef int64_t samples = loss.shape[0], s, i, size
    if hit.shape[0] != samples or begin.shape[0] < samples or end.shape[0] < samples:
        raise ValueError(f"begin, end and hit must fit {samples} samples")
    if label_ptr.shape[0] < samples + 1 or label_ptr[0] != 0 or label_ptr[samples] > label_place.shape[0]:
        raise ValueError("label_ptr must rise from 0 to at most the number of label places")
    if n_shared and (shared.shape[0] < samples or shared.shape[1] < n_shared):
        raise ValueError(f"shared must be [{samples}, {n_shared} or more], got [{shared.shape[0]}, {shared.shape[1]}]")
    for s in range(samples):
        if not 0 <= begin[s] <= end[s] <= own.shape[0]:
            raise ValueError(f"sample {s}'s run {begin[s]}..{end[s]} is outside 0..{own.shape[0]}")
        size = n_shared + end[s] - begin[s]
        if label_ptr[s + 1] < label_ptr[s]:
            raise ValueError(f"label_ptr falls after sample {s}")
        for i in range(label_ptr[s], label_ptr[s + 1]):
            if not 0 <= label_place[i] < size:
                raise ValueError(f"sample {s} has a label at place {label_place[i]} of an active set of {size}")
    if samples == 0:
        return
    cdef int64_t stride = shared.shape[1]
    cdef float *common = &shared[0, 0] if n_shared else NULL
    cdef float *mine = &own[0] if own.shape[0] else NULL
    cdef const int32_t *place = &label_place[0] if label_place.shape[0] else NULL
    cdef int threads = threads_for(num_threads, samples * n_shared + end[samples - 1] - begin[0], 1 << 18)
    for s in prange(samples, nogil=True, num_threads=threads, schedule="static"):
        _one(common + s * stride, n_shared, mine + begin[s], end[s] - begin[s], place + label_ptr[s],
             label_ptr[s + 1] - label_ptr[s], scale, &loss[s], &hit[s])


cdef void _one(float *shared, int64_t n_shared, float *own, int64_t n_own, const int32_t *place, int64_t n_labels,
               float scale, float *loss, float *hit) noexcept nogil:
    cdef int64_t i
    cdef float top, total, best, x
    cdef double labels = 0.0
    cdef float *at
    if n_labels == 0:
        loss[0] = 0.0
        hit[0] = 0.0
        KERNELS.scale(shared, n_shared, 0.0)
        KERNELS.scale(own, n_own, 0.0)
        return
    best = shared[place[0]] if place[0] < n_shared else own[place[0] - n_shared]
    for i in range(n_labels):
        x = shared[place[i]] if place[i] < n_shared else own[place[i] - n_shared]
        labels += x
        if x > best:
            best = x
    top = KERNELS.max(own, n_own, KERNELS.max(shared, n_shared, best))
    hit[0] = best >= top
    total = KERNELS.exp_sum(shared, n_shared, top) + KERNELS.exp_sum(own, n_own, top)
    loss[0] = <float>(log(total) + top - labels / n_labels)
    KERNELS.scale(shared, n_shared, scale / total)
    KERNELS.scale(own, n_own, scale / total)
    for i in range(n_labels):
        at = &shared[place[i]] if place[i] < n_shared else &own[place[i] - n_shared]
        at[0] -= scale / n_labels
