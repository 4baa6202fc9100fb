"""C types of the arrays the kernels read and write; ``dtypes.py`` beside it has the matching NumPy dtypes."""

from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t

ctypedef float value_t      # weights, activations, data values
ctypedef int32_t index_t    # row, feature, label and sample ids
ctypedef int64_t offset_t   # CSR row offsets and every byte or element offset
ctypedef uint32_t code_t    # bucket indices
