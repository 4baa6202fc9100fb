"""HugeBuffer: the one owner of large memory.

Parameter tables, hash tables and batch scratch all live in one of these; no other kernel allocates. The memory is an
anonymous mapping aligned to 2 MiB and advised for transparent hugepages. Where the kernel does not give hugepages the
buffer works all the same, and says so.
"""

cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES
from libc.errno cimport errno
from libc.stdint cimport int64_t, uintptr_t
from libc.string cimport strerror

import numpy as np

cdef extern from "<sys/mman.h>" nogil:
    """
    #ifndef MAP_ANONYMOUS
    #define MAP_ANONYMOUS MAP_ANON
    #endif
    #ifndef MAP_NORESERVE
    #define MAP_NORESERVE 0
    #endif
    #ifdef MADV_HUGEPAGE
    #define SLIDE_HAS_THP 1
    #else
    #define SLIDE_HAS_THP 0
    #define MADV_HUGEPAGE 0
    #endif
    """
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, int64_t offset)
    int munmap(void *addr, size_t length)
    int madvise(void *addr, size_t length, int advice)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MADV_HUGEPAGE, SLIDE_HAS_THP
    void *MAP_FAILED

HUGEPAGE = 2 << 20
"""Size and alignment of a transparent hugepage, in bytes."""

cdef enum:
    _HUGEPAGE = 2 << 20
    _PAGE = 4096


@cython.final
cdef class HugeBuffer:
    """Zeroed memory of its own, aligned to 2 MiB and advised for hugepages.

    Supports the buffer protocol (one dimension of bytes, writable); ``array`` gives a typed view. Views keep the buffer
    alive, and it is unmapped when the last one goes. Reading and writing from several threads is as safe as for any
    array.

    Parameters
    ----------
    nbytes : int
        Size in bytes, 0 or more.
    name : str
        What it holds, for memory reports.
    hugepages : bool
        Ask the kernel for hugepages. Buffers under 2 MiB never do.

    Attributes
    ----------
    advice : str
        ``"madvise"`` when the kernel took the advice, ``"off"`` when it was not asked, ``"refused: <reason>"`` or
        ``"unsupported"`` otherwise. What really became huge is ``hugepage_bytes()``.

    Raises
    ------
    ValueError
        `nbytes` is negative.
    MemoryError
        The system has no such memory to give; the message has the size and the reason.
    """

    def __cinit__(self, nbytes, *, name="", hugepages=True):
        cdef size_t head, want
        cdef char *raw
        self.data = NULL
        self.mapping = NULL
        self.name = name
        if nbytes < 0:
            raise ValueError(f"buffer {name!r}: nbytes must be 0 or more, got {nbytes}")
        if nbytes > 1 << 47:  # the user half of a 48-bit address space
            raise MemoryError(f"buffer {name!r}: {nbytes} bytes is more than an address space holds")
        self.nbytes = nbytes
        large = self.nbytes >= _HUGEPAGE
        want = (max(self.nbytes, 1) + _PAGE - 1) // _PAGE * _PAGE
        if large:
            want = (self.nbytes + _HUGEPAGE - 1) // _HUGEPAGE * _HUGEPAGE
        cdef size_t total = want + (_HUGEPAGE if large else 0)
        raw = <char *>mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if raw == <char *>MAP_FAILED:
            raise MemoryError(
                f"buffer {name!r}: the system refused {self.nbytes:,} bytes "
                f"({strerror(errno).decode(errors='replace')})"
            )
        if large:
            head = (_HUGEPAGE - <uintptr_t>raw % _HUGEPAGE) % _HUGEPAGE
            if head:
                munmap(raw, head)
            if _HUGEPAGE - head:
                munmap(raw + head + want, _HUGEPAGE - head)
            raw += head
        self.mapping = raw
        self.mapped = want
        self.data = raw
        if not (large and hugepages):
            self.advice = "off"
        elif not SLIDE_HAS_THP:
            self.advice = "unsupported"
        elif madvise(raw, want, MADV_HUGEPAGE) != 0:
            self.advice = f"refused: {strerror(errno).decode(errors='replace')}"
        else:
            self.advice = "madvise"

    def __dealloc__(self):
        if self.mapping != NULL:
            munmap(self.mapping, self.mapped)

    def __getbuffer__(self, Py_buffer *view, int flags):
        self.shape[0] = self.nbytes
        self.strides[0] = 1
        view.buf = self.data
        view.obj = self
        view.len = self.nbytes
        view.itemsize = 1
        view.readonly = 0
        view.ndim = 1
        view.format = NULL
        if flags & PyBUF_FORMAT:
            view.format = b"B"
        view.shape = self.shape if flags & PyBUF_ND else NULL
        view.strides = self.strides if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
        view.suboffsets = NULL
        view.internal = NULL

    def __len__(self):
        return self.nbytes

    def __repr__(self):
        return f"HugeBuffer(name={self.name!r}, nbytes={self.nbytes}, advice={self.advice!r})"

    @property
    def address(self):
        """Address of the first byte."""
        return <uintptr_t>self.data

    def array(self, shape, dtype):
        """Return the buffer's first bytes as a writable C-contiguous array that keeps the buffer alive.

        Parameters
        ----------
        shape : tuple of int
        dtype : dtype

        Raises
        ------
        ValueError
            The array would be larger than the buffer.
        """
        dtype = np.dtype(dtype)
        count = 1
        for extent in shape:
            count *= int(extent)
        if count * dtype.itemsize > self.nbytes:
            raise ValueError(f"{self!r} is too small for an array of shape {tuple(shape)} and dtype {dtype}")
        if count == 0:
            return np.empty(shape, dtype)
        return np.frombuffer(self, dtype=dtype, count=count).reshape(shape)

    def hugepage_bytes(self):
        """Return how many of the buffer's bytes are in hugepages now, or None where the system does not tell.

        Reads ``/proc/self/smaps``: milliseconds, not for loops. Neighbouring mappings may be merged by the kernel, in
        which case the figure is this buffer's share by size.
        """
        cdef uintptr_t begin = <uintptr_t>self.data, end = begin + self.mapped
        try:
            with open("/proc/self/smaps") as smaps:
                lines = smaps.read().splitlines()
        except OSError:
            return None
        total = 0.0
        share = 0.0
        for line in lines:
            first = line.split(None, 1)[0]
            if not first.endswith(":"):
                low, high = (int(part, 16) for part in first.split("-"))
                overlap = max(0, min(high, int(end)) - max(low, int(begin)))
                share = overlap / (high - low)
            elif share and first == "AnonHugePages:":
                total += share * int(line.split()[1]) * 1024
        return int(total)
