"""The optimizer on touched rows: a row's gradient and its step in one visit.

Only rows that a batch touches are read or written. A skipped row falls behind dense Adam, where its moments would
decay, its momentum would move the weights, and weight decay would shrink them. A rule says how far the row catches up:
not at all, in its moments' decay with its next step, or entirely before it is next read (`catch_up`).
"""

cimport cython
from cython.parallel cimport prange
from libc.math cimport log, pow, sqrt
from libc.stdint cimport int64_t
from libc.string cimport memset

from slide.kernels.catch_up cimport Owed
from slide.kernels.grouping cimport _MOST_PARTS, PairGroups
from slide.kernels.parallel cimport threads_for
from slide.kernels.rows cimport (
    KERNELS,
    SLIDE_ADAGRAD,
    SLIDE_ADAM,
    SLIDE_MEASURE,
    SLIDE_SGD,
    RowTable,
    slide_groups,
)
from slide.kernels.sparse cimport SampleGradient

from slide.kernels.grouping import check_grouped
from slide.kernels.rows import check_writable


@cython.final
cdef class StepRule:
    """One step of one optimizer; made anew for each batch by ``sgd``, ``adam``, ``adagrad`` or ``measure``.

    Attributes
    ----------
    owed : Owed or None
        The steps that rows catch up on before they are read for this step; None if rows may be read as they are.
    squared_norm : float
        The sum of the squares of all gradients that the rule of ``measure`` has seen; 0 for other rules.
    """

    @property
    def moments(self):
        """How many moment vectors a parameter needs: 2 for Adam, 0 for the others."""
        return 2 if self.rule.kind == SLIDE_ADAM else 0

    @property
    def accumulates(self):
        """Whether a row accumulates the squares of its gradients, as it does for Adagrad."""
        return self.rule.kind == SLIDE_ADAGRAD

    @property
    def whole_rows(self):
        """Whether a step also changes the columns of a row in which the gradient is zero."""
        return self.owed is not None or self.rule.decays != 0 or self.rule.decay != 0.0

    cdef void measured(self, double square):
        self.squared_norm += square


def sgd(double lr, int step, *, double weight_decay=0.0, Owed owed=None):
    """Return the rule ``w -= lr * (g + weight_decay * w)``; biases do not decay.

    Parameters
    ----------
    lr : float
        Learning rate.
    step : int
        1 for the first batch; rows remember the last step that touched them.
    """
    if step < 1:
        raise ValueError(f"step counts from 1, got {step}")
    cdef StepRule rule = StepRule()
    rule.rule.kind = SLIDE_SGD
    rule.rule.step = step
    rule.rule.rate = lr
    rule.rule.decay = lr * weight_decay
    rule.owed = owed
    return rule


def adam(double lr, double beta1, double beta2, double eps, int step, *, double weight_decay=0.0,
         bint decay_moments=False, Owed owed=None):
    """Return Adam's rule for one step (Kingma and Ba, ICLR 2015), as applied to the rows the step touches.

    Parameters
    ----------
    step : int
        1 for the first batch: the exponent of the bias corrections.
    weight_decay : float
        Decoupled (Loshchilov and Hutter, ICLR 2019): weights are multiplied by ``1 - lr * weight_decay``, biases not.
    decay_moments : bool
        The moments of a row that was skipped decay for the skipped steps as well.
    """
    if step < 1:
        raise ValueError(f"step counts from 1, got {step}")
    cdef StepRule rule = StepRule()
    rule.rule.kind = SLIDE_ADAM
    rule.rule.step = step
    rule.rule.rate = lr / (1.0 - pow(beta1, step))
    rule.rule.beta1, rule.rule.beta2 = beta1, beta2
    rule.rule.gain1, rule.rule.gain2 = 1.0 - beta1, 1.0 - beta2
    rule.rule.eps = eps
    rule.rule.root_scale = 1.0 / sqrt(1.0 - pow(beta2, step))
    rule.rule.decay = lr * weight_decay
    rule.rule.decays = decay_moments
    rule.rule.log_beta1, rule.rule.log_beta2 = log(beta1), log(beta2)
    rule.owed = owed
    return rule


def adagrad(double lr, double eps, int step, *, double weight_decay=0.0, Owed owed=None):
    """Return row-wise Adagrad's rule for one step (Duchi, Hazan and Singer, JMLR 2011, with one accumulator a row).

    A row's accumulator grows by the mean of its gradient's squares, and the row moves by ``lr * g / (sqrt(accumulator)
    + eps)``; its bias has an accumulator of its own. A row that a step does not touch misses nothing.

    Parameters
    ----------
    step : int
        1 for the first batch; rows remember the last step that touched them.
    weight_decay : float
        Decoupled: weights are multiplied by ``1 - lr * weight_decay``, biases not.
    """
    if step < 1:
        raise ValueError(f"step counts from 1, got {step}")
    cdef StepRule rule = StepRule()
    rule.rule.kind = SLIDE_ADAGRAD
    rule.rule.step = step
    rule.rule.rate = lr
    rule.rule.eps = eps
    rule.rule.decay = lr * weight_decay
    rule.owed = owed
    return rule


def measure():
    """Return a rule that takes no step and adds up the squares of the gradients, in its ``squared_norm``."""
    cdef StepRule rule = StepRule()
    rule.rule.kind = SLIDE_MEASURE
    return rule


def check_moments(RowTable table, StepRule rule):
    """Raise ValueError unless the table may be written to and keeps the moments, or squares, that the rule needs."""
    check_writable(table)
    if table.moments < rule.moments:
        raise ValueError(f"the rule needs {rule.moments} moments a weight, the table keeps {table.moments}")
    if rule.accumulates and not table.accumulates:
        raise ValueError("the rule needs the squares of each row's gradients, the table does not accumulate them")


def step_groups(RowTable table, PairGroups groups, const float[::1] coefficients, const float[:, ::1] hidden,
                SampleGradient gradient, StepRule rule, int threads):
    """Step every grouped row, once, for ``g[row] = sum over its pairs of coefficient * hidden[sample]``.

    The bias, if the table has any, steps for the sum of the coefficients. With `gradient`, ``coefficient * w[row]`` of
    the weights before the step is added to each pair's sample: the transposed SpMM, in the same visit.

    Parameters
    ----------
    coefficients : float32 array [slots]
        Read at the pairs' slots.
    hidden : float32 array [samples, padded_dim]
    gradient : SampleGradient or None

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
    cdef double square[_MOST_PARTS]
    threads = threads_for(threads, (groups.n_pairs + groups.n_groups) * table.padded_dim, 1 << 18)
    for p in prange(groups.n_parts, nogil=True, num_threads=threads, schedule="dynamic", chunksize=1):
        if dhidden != NULL:
            memset(dhidden + p * part_floats, 0, part_floats * sizeof(float))
        square[p] = KERNELS.step_groups(&table.table, &view, groups.part_ptr[p], groups.part_ptr[p + 1], coef, h,
                                        NULL if dhidden == NULL else dhidden + p * part_floats, &rule.rule)
    for p in range(groups.n_parts):
        rule.measured(square[p])


def step_vector(float[::1] w, float[::1] m, float[::1] v, const float[::1] grad, StepRule rule):
    """Step a vector of biases, which every step reaches; they do not decay.

    Parameters
    ----------
    w, grad : float32 arrays [n], n a multiple of 16
    m, v : float32 arrays [n] or [0]
        The moments; empty where the rule keeps none. Adagrad has v alone, which each bias accumulates.

    Raises
    ------
    ValueError
        Shapes do not fit.
    """
    cdef int64_t n = w.shape[0]
    cdef bint reads_m = rule.moments > 0, reads_v = reads_m or rule.accumulates
    if n % 16 or grad.shape[0] != n or (reads_m and m.shape[0] < n) or (reads_v and v.shape[0] < n):
        raise ValueError(f"w, grad and moments must have the same length, a multiple of 16; w has {n}")
    if n == 0:
        return
    rule.measured(
        KERNELS.step_vector(&w[0], &m[0] if reads_m else NULL, &v[0] if reads_v else NULL, &grad[0], n, &rule.rule)
    )
