"""Touching, gathering, scattering and streaming rows: what page size does to memory, and nothing else.

The loops are those of `slide.hugepages.bench`: one thread, no prefetching, a float32 addition for each float read, so
that what differs between two buffers of different pages is the translation of their addresses.
"""

from libc.stdint cimport int64_t


def touch(unsigned char[::1] memory, int64_t stride=4096):
    """Write a byte of every page, in order, as first use does.

    Parameters
    ----------
    stride : int
        Bytes from one write to the next.

    Raises
    ------
    ValueError
        The stride is not positive.
    """
    cdef int64_t i, n = memory.shape[0]
    if stride < 1:
        raise ValueError(f"stride must be 1 or more, got {stride}")
    with nogil:
        i = 0
        while i < n:
            memory[i] = 1
            i += stride


cdef _check(const float[:, ::1] rows, const int64_t[::1] order, int64_t width):
    if width != rows.shape[1]:
        raise ValueError(f"rows of {rows.shape[1]} need a vector of as many, got {width}")
    cdef int64_t i
    for i in range(order.shape[0]):
        if not 0 <= order[i] < rows.shape[0]:
            raise ValueError(f"order[{i}] is {order[i]}, there are {rows.shape[0]} rows")


def gather(const float[:, ::1] rows, const int64_t[::1] order, float[::1] out):
    """Add the rows that `order` names, in its order, to `out`.

    Parameters
    ----------
    rows : float32 array [n, dim]
    order : int64 array [any]
    out : float32 array [dim]

    Raises
    ------
    ValueError
        Shapes do not fit, or there is no such row.
    """
    _check(rows, order, out.shape[0])
    cdef int64_t i, j, dim = out.shape[0]
    cdef const float *row
    cdef float *sums
    if order.shape[0] == 0 or dim == 0:
        return
    sums = &out[0]
    with nogil:
        for i in range(order.shape[0]):
            row = &rows[0, 0] + order[i] * dim
            for j in range(dim):
                sums[j] += row[j]


def scatter(float[:, ::1] rows, const int64_t[::1] order, const float[::1] values):
    """Add `values` to the rows that `order` names, in its order.

    Parameters
    ----------
    rows : float32 array [n, dim]
    order : int64 array [any]
    values : float32 array [dim]

    Raises
    ------
    ValueError
        As for ``gather``.
    """
    _check(rows, order, values.shape[0])
    cdef int64_t i, j, dim = values.shape[0]
    cdef float *row
    cdef const float *added
    if order.shape[0] == 0 or dim == 0:
        return
    added = &values[0]
    with nogil:
        for i in range(order.shape[0]):
            row = &rows[0, 0] + order[i] * dim
            for j in range(dim):
                row[j] += added[j]


def stream(const float[:, ::1] rows, float[::1] out):
    """Add all rows, in order, to `out`.

    Parameters
    ----------
    rows : float32 array [n, dim]
    out : float32 array [dim]

    Raises
    ------
    ValueError
        Shapes do not fit.
    """
    if out.shape[0] != rows.shape[1]:
        raise ValueError(f"out must have {rows.shape[1]} places, got {out.shape[0]}")
    cdef int64_t i, j, dim = out.shape[0]
    cdef const float *row
    cdef float *sums
    if rows.shape[0] == 0 or dim == 0:
        return
    sums = &out[0]
    with nogil:
        for i in range(rows.shape[0]):
            row = &rows[0, 0] + i * dim
            for j in range(dim):
                sums[j] += row[j]
