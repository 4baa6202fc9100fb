"""Sketches: a table's rows in few dimensions of seven bits each, which a search scans in place of the rows."""

cimport cython
from libc.math cimport fabsf
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memset

from slide.kernels.memory cimport HugeBuffer
from slide.kernels.rows cimport SLIDE_LANES


@cython.final
cdef class Sketch:
    """Approximations of a table's rows in few dimensions, seven bits each.

    Parameters
    ----------
    vectors : float32 array [n_rows, dim]
        Vectors that stand for the rows.
    bias : float32 array [n_rows]

    Attributes
    ----------
    n_rows, dim : int
    nbytes : int
        Bytes of memory.

    Raises
    ------
    ValueError
        Shapes do not fit, or there are no rows or dimensions.
    """

    def __cinit__(self, const float[:, ::1] vectors, const float[::1] bias):
        cdef int64_t n = vectors.shape[0], dim = vectors.shape[1], row, j
        if n < 1 or dim < 1 or bias.shape[0] != n:
            raise ValueError(f"expected vectors of one row and dimension or more and as many biases, got [{n}, {dim}] "
                             f"and {bias.shape[0]}")
        cdef int64_t padded = (n + SLIDE_LANES - 1) // SLIDE_LANES * SLIDE_LANES, dp = (dim + 3) // 4 * 4
        self.buffer = HugeBuffer(padded * (dp + 8), name="sketch")
        cdef float *scale = <float *>self.buffer.data
        cdef float *biases = scale + padded
        cdef uint8_t *codes = <uint8_t *>(biases + padded)
        cdef float top
        cdef int code
        memset(codes, SLIDE_SKETCH_CENTRE, padded * dp)
        for row in range(n):
            top = 0.0
            for j in range(dim):
                top = max(top, fabsf(vectors[row, j]))
            scale[row] = top / (SLIDE_SKETCH_CENTRE - 1)
            biases[row] = bias[row]
            if scale[row] > 0:
                for j in range(dim):
                    code = code_of(vectors[row, j] / scale[row], SLIDE_SKETCH_CENTRE - 1)
                    codes[row // SLIDE_LANES * SLIDE_LANES * dp + j // 4 * 4 * SLIDE_LANES + row % SLIDE_LANES * 4
                          + j % 4] = <uint8_t>(SLIDE_SKETCH_CENTRE + code)
        self.n_rows, self.dim = n, dim
        self.sketch = slide_sketch(codes, scale, biases, n, dp)

    @property
    def nbytes(self):
        return self.buffer.nbytes
