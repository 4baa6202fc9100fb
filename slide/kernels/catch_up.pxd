from slide.kernels.rows cimport slide_owed


cdef class Owed:
    cdef slide_owed owed
    cdef object arrays
