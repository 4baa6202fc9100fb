from slide.kernels.rows cimport slide_owed, slide_rule


cdef class Owed:
    cdef slide_owed owed
    cdef object arrays


cdef class StepRule:
    cdef slide_rule rule
    cdef readonly Owed owed
    cdef readonly double squared_norm
    cdef void measured(self, double square)
