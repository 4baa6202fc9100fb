cdef extern from "isa.h" nogil:
    int slide_isa_level()


cdef int threads_for(int threads, long long work, long long grain) noexcept nogil
