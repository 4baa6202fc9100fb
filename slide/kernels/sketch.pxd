from libc.math cimport fabsf, rintf
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint16_t

from slide.kernels.memory cimport HugeBuffer

cdef extern from "sketch.h" nogil:
    const int SLIDE_SKETCH_CENTRE

    ctypedef struct slide_sketch:
        const uint8_t *codes
        const float *scale
        const float *bias
        int64_t n_rows
        int64_t dp

    ctypedef struct slide_sketch_queries:
        const int8_t *codes
        const float *scale
        const int32_t *start
    int32_t slide_sketch_start(const int8_t *query, int64_t dp)

    ctypedef void (*slide_sketch_scorer)(const slide_sketch *, int64_t, int64_t, const slide_sketch_queries *, int64_t,
                                         int64_t, float *, int64_t) noexcept nogil
    slide_sketch_scorer slide_sketch_scorer_for(int level)

    ctypedef struct slide_sketch_tile:
        float score[2][8][16]
        uint16_t above[2][8]
        int64_t first
        int blocks

    ctypedef void (*slide_sketch_scanner)(const slide_sketch *, int64_t, int64_t, const slide_sketch_queries *, int64_t,
                                          int, const float *, slide_sketch_tile *) noexcept nogil
    slide_sketch_scanner slide_sketch_scanner_for(int level)


cdef inline int code_of(float x, int most) noexcept nogil:
    """Round to the nearest integer; return 0 if that is beyond `most`, as where a scale has too few digits or is 0."""
    return <int>rintf(x) if fabsf(x) < most + <float>0.5 else 0


cdef class Sketch:
    cdef slide_sketch sketch
    cdef HugeBuffer buffer
    cdef readonly int64_t n_rows
    cdef readonly int64_t dim
