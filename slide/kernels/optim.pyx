"""The optimiser on touched rows: a row's gradient and its step in one visit.

Only rows that a batch touches are read or written; a row that is skipped keeps its moments as they are (the "lazy" Adam
of sparse embeddings), and its bias correction follows the global step.
"""

cimport cython
from cython.parallel cimport prange
from libc.math cimport pow, sqrt
from libc.stdint cimport int64_t
from libc.string cimport memset

from slide.kernels.parallel cimport slide_isa_level, threads_for
from slide.kernels.rows cimport SLIDE_ADAM, SLIDE_SGD, RowTable, slide_groups, slide_row_kernels, slide_rows_for
from slide.kernels.sparse cimport PairGroups, SampleGradient

from slide.kernels.sparse import check_grouped

cdef slide_row_kernels KERNELS = slide_rows_for(slide_isa_level())


@cython.final
cdef class StepRule:
    """One step of one optimiser; made anew for each batch by ``sgd`` or ``adam``."""

    @property
    def moments(self):
        """How many moment vectors a parameter needs: 0 for SGD, 2 for Adam."""
        return 2 if self.rule.kind == SLIDE_ADAM else 0


def sgd(double lr, int step):
    """Return the rule ``w -= lr * g``.

    Parameters
    ----------
    lr : float
    step : int
        1 for the first batch; rows remember the last step that touched them.
    """
    if step < 1:
        raise ValueError(f"step counts from 1, got {step}")
    cdef StepRule rule = StepRule()
    rule.rule.kind = SLIDE_SGD
    rule.rule.step = step
    rule.rule.rate = lr
    return rule


def adam(double lr, double beta1, double beta2, double eps, int step):
    """Return Adam's rule for one step (Kingma and Ba, ICLR 2015), as applied to the rows the step touches.

    Parameters
    ----------
    lr, beta1, beta2, eps : float
    step : int
        1 for the first batch: the exponent of the bias corrections.
    """
    if step < 1:
        raise ValueError(f"step counts from 1, got {step}")
    cdef StepRule rule = StepRule()
    rule.rule.kind = SLIDE_ADAM
    rule.rule.step = step
    rule.rule.rate = lr / (1.0 - pow(beta1, step))
    rule.rule.beta1 = beta1
    rule.rule.beta2 = beta2
    rule.rule.eps = eps
    rule.rule.root_scale = 1.0 / sqrt(1.0 - pow(beta2, step))
    return rule


def check_moments(RowTable table, StepRule rule):
    """Raise ValueError unless the table keeps the moments the rule needs."""
    if table.moments < rule.moments:
        raise ValueError(f"the rule needs {rule.moments} moments a weight, the table keeps {table.moments}")


def step_groups(RowTable table, PairGroups groups, const float[::1] coefficients, const float[:, ::1] hidden,
                SampleGradient gradient, StepRule rule, int num_threads):
    """Step every grouped row, once, for ``g[row] = sum over its pairs of coefficient * hidden[sample]``.

    The bias steps for the sum of the coefficients. With `gradient`, ``coefficient * w[row]`` of the weights before
    the step is added to each pair's sample: the transposed SpMM, in the same visit.

    Parameters
    ----------
    table : RowTable
    groups : PairGroups
    coefficients : float32 array
        Read at the pairs' slots.
    hidden : float32 array [samples, padded_dim]
    gradient : SampleGradient or None
    rule : StepRule
    num_threads : int

    Raises
    ------
    ValueError
        Shapes do not fit.
    """
    check_grouped(table, groups, hidden, coefficients.shape[0])
    check_moments(table, rule)
    cdef int64_t part_floats = 0
    cdef float *dhidden = NULL
    if gradient is not None:
        if gradient.dim != table.padded_dim or gradient.n_samples < groups.n_samples:
            raise ValueError(f"gradient is for {gradient.n_samples} samples of {gradient.dim}, not for this batch")
        part_floats = gradient.n_samples * gradient.dim
        dhidden = gradient.add_parts(groups.n_parts)
    if groups.n_pairs == 0:
        return
    cdef slide_groups view = groups.view()
    cdef const float *h = &hidden[0, 0]
    cdef const float *coef = &coefficients[0]
    cdef int64_t p
    cdef int threads = threads_for(num_threads, (groups.n_pairs + groups.n_groups) * table.padded_dim, 1 << 18)
    for p in prange(groups.n_parts, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
        if dhidden != NULL:
            memset(dhidden + p * part_floats, 0, part_floats * sizeof(float))
        KERNELS.step_groups(&table.table, &view, groups.part_ptr[p], groups.part_ptr[p + 1], coef, h,
                            NULL if dhidden == NULL else dhidden + p * part_floats, &rule.rule)


def step_vector(float[::1] w, float[::1] m, float[::1] v, const float[::1] grad, StepRule rule):
    """Step a dense parameter vector.

    Parameters
    ----------
    w, grad : float32 arrays [n], n a multiple of 16
    m, v : float32 arrays [n] or [0]
        The moments; empty where the rule keeps none.
    rule : StepRule

    Raises
    ------
    ValueError
        Shapes do not fit.
    """
    cdef int64_t n = w.shape[0], kept = n if rule.moments else 0
    if n % 16 or grad.shape[0] != n or m.shape[0] < kept or v.shape[0] < kept:
        raise ValueError(f"w, grad and moments must have the same length, a multiple of 16; w has {n}")
    if n == 0:
        return
    KERNELS.step_vector(&w[0], &m[0] if kept else NULL, &v[0] if kept else NULL, &grad[0], n, &rule.rule)
