from slide.kernels.rows cimport slide_rule


cdef class StepRule:
    cdef slide_rule rule
