"""The active sets of a batch: the neurons that all its samples share, and the places of labels in the sets."""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

cdef extern from "rng.h" nogil:
    uint64_t slide_mix(uint64_t x)
    uint64_t slide_key(uint64_t seed, uint64_t a, uint64_t b)
    uint32_t slide_below(uint64_t r, uint32_t n)

# Keeps these draws apart from others with the same (seed, iteration).
cdef uint64_t STREAM = 0x7461696C64726177

cdef enum:
    _RADIX_BITS = 11
    _RADIX = 1 << 11


def draw_uniform(int32_t[::1] out, int64_t n_rows, uint64_t seed, uint64_t iteration):
    """Draw rows with replacement, all equally probable; draw i is a function of (seed, iteration, i) alone.

    Parameters
    ----------
    out : int32 array [draws]
        Written.
    n_rows : int
        Rows to draw from, 1 to 2^31 - 1.

    Raises
    ------
    ValueError
        `n_rows` is out of range.
    """
    cdef uint64_t key = slide_key(seed ^ STREAM, iteration, 0)
    cdef int64_t i
    if not 1 <= n_rows < 1 << 31:
        raise ValueError(f"n_rows must lie in 1..2**31 - 1, got {n_rows}")
    for i in range(out.shape[0]):
        out[i] = <int32_t>slide_below(slide_mix(key + <uint64_t>i), <uint32_t>n_rows)


def sorted_unique(int32_t[::1] ids, int32_t[::1] scratch, int64_t n_rows):
    """Sort ids in place, each once, and return how many there are.

    Parameters
    ----------
    ids : int32 array [n]
        The distinct ids come first; the rest is undefined.
    scratch : int32 array [at least n]
    n_rows : int
        All ids are below it.

    Raises
    ------
    ValueError
        An id is out of range, or `scratch` is too small.
    """
    cdef int64_t n = ids.shape[0], i, kept = 0
    if scratch.shape[0] < n:
        raise ValueError(f"scratch must have {n} entries, got {scratch.shape[0]}")
    for i in range(n):
        if not 0 <= ids[i] < n_rows:
            raise ValueError(f"ids must lie in 0..{n_rows - 1}, got {ids[i]}")
    if n == 0:
        return 0
    cdef int32_t *id_ = &ids[0]
    _sort(id_, &scratch[0], n, n_rows)
    for i in range(n):
        if i == 0 or id_[i] != id_[kept - 1]:
            id_[kept] = id_[i]
            kept += 1
    return kept


cdef void _sort(int32_t *ids, int32_t *to, int64_t n, int64_t n_rows) noexcept nogil:
    """Radix sort; `to` is as long."""
    cdef int32_t count[_RADIX]
    cdef int32_t total, here
    cdef int64_t i, c
    cdef int32_t *begin = ids
    cdef int32_t *swap
    cdef int shift = 0
    while n_rows > (<int64_t>1 << shift):
        memset(count, 0, sizeof(count))
        for i in range(n):
            count[(ids[i] >> shift) & (_RADIX - 1)] += 1
        total = 0
        for i in range(_RADIX):
            here = count[i]
            count[i] = total
            total += here
        for i in range(n):
            c = (ids[i] >> shift) & (_RADIX - 1)
            to[count[c]] = ids[i]
            count[c] += 1
        swap = ids
        ids = to
        to = swap
        shift += _RADIX_BITS
    if ids != begin:
        memcpy(begin, ids, n * sizeof(int32_t))


def label_places(const int32_t[::1] shared, const int64_t[::1] label_ptr, const int32_t[::1] labels,
                 int32_t[::1] out):
    """Find where labels stand in their samples' active sets: the shared neurons first, then a sample's own.

    Labels that are not shared come first among their sample's own neurons, in the order of `labels`.

    Parameters
    ----------
    shared : int32 array [n]
        Ascending.
    label_ptr : int64 array [samples + 1]
    labels : int32 array [label_ptr[-1]]
        Sample s has the labels ``labels[label_ptr[s]:label_ptr[s + 1]]``.
    out : int32 array, as long as `labels`
        Written.

    Raises
    ------
    ValueError
        Shapes do not fit.
    """
    cdef int64_t samples = label_ptr.shape[0] - 1, n = shared.shape[0], s, i, low, high, middle, own
    if samples < 0 or label_ptr[0] != 0 or label_ptr[samples] != labels.shape[0] or out.shape[0] != labels.shape[0]:
        raise ValueError(f"label_ptr must rise from 0 to {labels.shape[0]}, the number of labels and places")
    for s in range(samples):
        if label_ptr[s + 1] < label_ptr[s]:
            raise ValueError(f"label_ptr falls after sample {s}")
    with nogil:
        for s in range(samples):
            own = n
            for i in range(label_ptr[s], label_ptr[s + 1]):
                low, high = 0, n
                while low < high:
                    middle = (low + high) // 2
                    if shared[middle] < labels[i]:
                        low = middle + 1
                    else:
                        high = middle
                if low < n and shared[low] == labels[i]:
                    out[i] = <int32_t>low
                else:
                    out[i] = <int32_t>own
                    own += 1
