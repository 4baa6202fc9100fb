"""Rows that skipped steps are behind; how they catch up.

Rows catch up right before they are read: in the kernel that reads each once (``sparse.sddmm``,
``dense.shared_logits``), or in a visit of their own (``catch_up``).
"""

cimport cython
from cython.parallel cimport prange
from libc.math cimport log, sqrt
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memmove

from slide.kernels.parallel cimport threads_for
from slide.kernels.rows cimport KERNELS, RowTable

from slide.kernels.rows import check_writable

cdef enum:
    _ROWS_A_TASK = 64


@cython.final
cdef class Owed:
    """The steps that a network's rows may be behind by; `slide.rows.optimizer` says what the arrays mean.

    Parameters
    ----------
    step : int
        Rows catch up to the end of this step.
    first : int
        No row was behind at the end of this step: a row that was not stepped since is behind from there on. The arrays
        have an entry for every step since.
    log_keep : float64 array [>= step - first + 1] or [0]
        Sums of the logarithms of the weight decay's factors up to the end of each step; empty without weight decay.
    decay : tuple of float or None
        beta1 and beta2 where moments decay.
    motion : tuple or None
        Where momentum moves weights: the float32 arrays steps [>= step - first, 3] and nodes [>= step - first, 8], the
        int window, the int replay_until, and eps.

    Raises
    ------
    ValueError
        An array is too short, or there is motion without decay.
    """

    def __cinit__(self, int step, int first, const double[::1] log_keep, decay, motion):
        cdef int64_t n = <int64_t>step - first
        cdef const float[:, ::1] steps
        cdef const float[:, ::1] nodes
        if first < 0 or n < 0:
            raise ValueError(f"steps count from 0 on, got {first} to {step}")
        if motion is not None and decay is None:
            raise ValueError("momentum that moves weights decays")
        self.owed.step = step
        self.owed.first = first
        if log_keep.shape[0]:
            if log_keep.shape[0] <= n:
                raise ValueError(f"log_keep must have {n + 1} entries, got {log_keep.shape[0]}")
            self.owed.log_keep = &log_keep[0]
        if decay is not None:
            self.owed.decays = 1
            self.owed.beta1, self.owed.root_beta2 = decay[0], sqrt(decay[1])
            self.owed.log_beta1, self.owed.log_beta2 = log(decay[0]), log(decay[1])
        if motion is not None:
            steps, nodes, self.owed.window, self.owed.replay_until, self.owed.eps = motion
            if steps.shape[1] != 3 or nodes.shape[1] != 8 or steps.shape[0] < n or nodes.shape[0] < n:
                raise ValueError(f"steps must be [{n}, 3] and nodes [{n}, 8], or longer")
            if n:
                self.owed.steps = &steps[0, 0]
                self.owed.nodes = &nodes[0, 0]
        # The arrays live as long as their pointers do.
        self.arrays = log_keep, motion


def catch_up(RowTable table, const int32_t[::1] ids, Owed owed, int threads):
    """Let rows catch up: afterwards they are as if every step up to the one of `owed` had reached them.

    Rows that are not behind stay as they are. With `ids` None all rows catch up, which settles the table.

    Parameters
    ----------
    ids : int32 array [n] or None
        Ascending, without repetition; None for all rows.

    Raises
    ------
    ValueError
        Ids are out of range or order, or the table does not keep the moments that decay.
    """
    check_owed(table, owed)
    cdef int64_t n = table.n_rows if ids is None else ids.shape[0], i, p
    cdef const int32_t *id_ = NULL
    if ids is not None:
        for i in range(n):
            if not (0 if i == 0 else <int64_t>ids[i - 1] + 1) <= ids[i] < table.n_rows:
                raise ValueError(f"ids must ascend within 0..{table.n_rows - 1}, got {ids[i]} as number {i}")
        if n == 0:
            return
        id_ = &ids[0]
    cdef int64_t tasks = (n + _ROWS_A_TASK - 1) // _ROWS_A_TASK
    threads = threads_for(threads, n * table.padded_dim, 1 << 16)
    for p in prange(tasks, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
        KERNELS.catch_up(&table.table, id_, p * _ROWS_A_TASK, min((p + 1) * _ROWS_A_TASK, n), &owed.owed)


def add_step(double[::1] first_root, double[:, :, ::1] measures, const double[::1] fading, const double[::1] narrowing,
             double rate, double root, double decay, double root_beta2, float[:, ::1] nodes):
    """Add a step to the measures of how far rows are behind, one for each step that may have been their last.

    ``slide.rows.optimizer`` says what is measured and why two nodes sum it up.

    Parameters
    ----------
    first_root : float64 array [window]
        ``root`` of the first step that rows last stepped at each step of the window skipped, the newest last; moved on
        by one.
    measures : float64 array [4, 1 or 2, window]
        Moments 0 to 3 for weights and, where weights decay and biases do not, for biases; moved on by one, and the
        step added.
    fading, narrowing : float64 arrays [window]
        What is left of the moments m, and of the root of v, after the steps of the window.
    rate, root, decay, root_beta2 : float
        The step's, as in ``slide.rows.optimizer``.
    nodes : float32 array [at most window, 8]
        Written: two nodes, (a1, b1, a2, b2) for weights, then for biases, for the newest steps of the window.

    Raises
    ------
    ValueError
        Shapes do not fit.
    """
    cdef int64_t window = first_root.shape[0], kinds = measures.shape[1], n = nodes.shape[0], i, kind, k, c
    if (measures.shape[0] != 4 or kinds not in (1, 2) or measures.shape[2] != window or fading.shape[0] != window
            or narrowing.shape[0] != window):
        raise ValueError(f"measures must be [4, 1 or 2, {window}], fading and narrowing [{window}]")
    if nodes.shape[1] != 8 or n > window:
        raise ValueError(f"nodes must be [at most {window}, 8], got [{n}, {nodes.shape[1]}]")
    if n == 0:
        return
    cdef double a, b
    cdef double moment[4]
    cdef double *line = &first_root[0]
    memmove(line, line + 1, (window - 1) * sizeof(double))
    line[window - 1] = root
    for k in range(4):
        for kind in range(kinds):
            line = &measures[k, kind, 0]
            memmove(line, line + 1, (window - 1) * sizeof(double))
            line[window - 1] = 0.0
    for i in range(n):
        c = window - n + i
        a = rate * fading[c]
        b = root * narrowing[c] / first_root[c] - 1.0
        for kind in range(kinds):
            for k in range(4):
                moment[k] = measures[k, kind, c]
                if kind == 0:
                    moment[k] *= 1.0 - decay
            moment[0] += a
            moment[1] += a * b
            moment[2] += a * b * b
            moment[3] += a * b * b * b
            for k in range(4):
                measures[k, kind, c] = moment[k]
            _two_nodes(moment, first_root[c] * root_beta2, &nodes[i, 4 * kind])
        if kinds == 1:
            for k in range(4):
                nodes[i, 4 + k] = nodes[i, k]


cdef void _two_nodes(const double *moments, double unit, float *out) noexcept nogil:
    """Write the Gauss quadrature of a measure with moments 0 to 3 about 1, in units of b."""
    cdef double total = moments[0], mass = total if total > 0 else 1.0
    cdef double mean = moments[1] / mass, second = moments[2] / mass, third = moments[3] / mass
    cdef double variance = max(second - mean * mean, 0.0), skew = 0.0, distance, share
    # Otherwise the measure is a single term, or several in one place but for rounding.
    if variance > 1e-12 * mean * mean:
        skew = (third - 3 * mean * second + 2 * mean * mean * mean) / variance
    distance = sqrt(skew * skew + 4 * variance)
    share = (distance + skew) / (2 * distance) if distance > 0 else 0.0
    out[0] = <float>(total * share)
    out[1] = <float>(unit * (1.0 + max(mean + (skew - distance) / 2, -1.0)))
    out[2] = <float>(total * (1.0 - share))
    out[3] = <float>(unit * (1.0 + max(mean + (skew + distance) / 2, -1.0)))


def check_owed(RowTable table, Owed owed):
    """Raise ValueError unless the table may be written to and keeps the moments that decay."""
    check_writable(table)
    if owed.owed.decays and table.moments < 2:
        raise ValueError(f"moments decay, but the table keeps {table.moments} of two")
