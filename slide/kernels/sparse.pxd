from libc.stdint cimport int64_t

from slide.kernels.memory cimport HugeBuffer


cdef class SampleGradient:
    cdef HugeBuffer buffer
    cdef float *data
    cdef readonly int64_t n_samples
    cdef readonly int64_t dim
    cdef readonly int64_t n_parts
    cdef float *add_parts(self, int64_t count) except NULL
