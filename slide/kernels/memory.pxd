from libc.stdint cimport int64_t


cdef class HugeBuffer:
    cdef void *data
    cdef readonly size_t mapped
    cdef size_t guard
    cdef readonly int64_t nbytes
    cdef readonly str name
    cdef readonly str advice
    cdef readonly bint interleaved
    cdef Py_ssize_t shape[1]
    cdef Py_ssize_t strides[1]
    cdef _map(self, bint large)
    cdef _advise(self, bint required)
    cdef _place(self, interleave)


cdef class Scratch:
    cdef void *data
    cdef HugeBuffer buffer
