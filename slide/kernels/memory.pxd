from libc.stdint cimport int64_t


cdef class HugeBuffer:
    cdef void *data
    cdef void *mapping
    cdef size_t mapped
    cdef readonly int64_t nbytes
    cdef readonly str name
    cdef readonly str advice
    cdef Py_ssize_t shape[1]
    cdef Py_ssize_t strides[1]
