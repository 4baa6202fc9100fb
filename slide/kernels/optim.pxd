from slide.kernels.catch_up cimport Owed
from slide.kernels.rows cimport slide_rule


cdef class StepRule:
    cdef slide_rule rule
    cdef readonly Owed owed
    cdef readonly double squared_norm
    cdef void measured(self, double square)
