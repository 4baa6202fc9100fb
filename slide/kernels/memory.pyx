"""HugeBuffer: the one owner of large memory.

Parameter tables, hash tables and what a batch needs are all in one of these. No other kernel allocates: memory that a
call needs only while it runs is `Scratch`, which calls hand on to each other. The memory is an anonymous mapping
aligned to 2 MiB and advised for transparent hugepages, or on request taken from the system's pool of reserved ones.
Where the kernel does not give hugepages the buffer works all the same, and says so. Nothing is ever locked in memory,
and nothing touched: the thread that first writes to a page decides where it is placed.
"""

import os

cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES
from libc.errno cimport errno
from libc.stdint cimport int64_t, uintptr_t
from libc.string cimport memset, strerror

import numpy as np

cdef extern from *:
    """
    #include <stddef.h>
    #include <sys/mman.h>
    #include <unistd.h>
    #ifndef MAP_ANONYMOUS
    #define MAP_ANONYMOUS MAP_ANON
    #endif
    #ifdef MADV_HUGEPAGE
    #define SLIDE_HAS_THP 1
    #else
    #define SLIDE_HAS_THP 0
    #define MADV_HUGEPAGE 0
    #define MADV_NOHUGEPAGE 0
    #endif
    /* Whether scratch that nobody clears is filled with what gives a wrong reader away. */
    #ifdef SLIDE_DEBUG
    #define SLIDE_FILLS_SCRATCH 1
    #else
    #define SLIDE_FILLS_SCRATCH 0
    #endif
    #ifdef __linux__
    #include <sys/prctl.h>
    #include <sys/syscall.h>
    #endif
    /* AddressSanitizer knows where malloc's blocks end, not where mappings do: it is told. */
    #ifdef __SANITIZE_ADDRESS__
    #include <sanitizer/asan_interface.h>
    #else
    #define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
    #define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
    #endif

    /* From the pool of reserved 2 MiB pages, all of them at once: a page missing later would be a signal, not an
     * error. */
    static void *slide_map_hugetlb(size_t length) {
    #if defined(__linux__) && defined(MAP_HUGETLB)
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | (21 << 26); /* 21 bits of address within a page */
        return mmap(NULL, length, PROT_READ | PROT_WRITE, flags, -1, 0);
    #else
        (void)length;
        return MAP_FAILED;
    #endif
    }

    /* The name that smaps then shows, where the kernel keeps names. */
    static void slide_name(void *data, size_t length, const char *name) {
    #ifdef __linux__
        prctl(0x53564d41 /* PR_SET_VMA */, 0UL /* PR_SET_VMA_ANON_NAME */, data, length, name);
    #else
        (void)data, (void)length, (void)name;
    #endif
    }

    static int slide_interleave(void *data, size_t length, unsigned long nodes) {
    #if defined(__linux__) && defined(SYS_mbind)
        return syscall(SYS_mbind, data, length, 3 /* MPOL_INTERLEAVE */, &nodes, 8 * sizeof nodes, 0) == 0;
    #else
        (void)data, (void)length, (void)nodes;
        return 0;
    #endif
    }
    """
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, int64_t offset) nogil
    int munmap(void *addr, size_t length) nogil
    int madvise(void *addr, size_t length, int advice) nogil
    int mprotect(void *addr, size_t length, int prot) nogil
    long sysconf(int name) nogil
    int PROT_NONE, PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, SLIDE_HAS_THP, SLIDE_FILLS_SCRATCH, _SC_PAGESIZE
    int MADV_HUGEPAGE, MADV_NOHUGEPAGE
    void *MAP_FAILED
    void *slide_map_hugetlb(size_t length) nogil
    void slide_name(void *data, size_t length, const char *name) nogil
    bint slide_interleave(void *data, size_t length, unsigned long nodes) nogil
    void ASAN_POISON_MEMORY_REGION(void *address, size_t size) nogil
    void ASAN_UNPOISON_MEMORY_REGION(void *address, size_t size) nogil

HUGEPAGE = 2 << 20
"""Size and alignment of a transparent hugepage, in bytes."""

MODES = ("auto", "off", "require", "hugetlb")
"""Values of a buffer's `hugepages`; True and False stand for the first two."""

cdef enum:
    _HUGEPAGE = 2 << 20

cdef size_t _PAGE = sysconf(_SC_PAGESIZE)

# `slide hugepages run` sets it for the command that it watches, to learn the names of its buffers.
_LOG = os.environ.get("SLIDE_BUFFER_LOG")


def memory_nodes(root="/"):
    """Return the NUMA nodes that have memory, a tuple of int; empty where the system does not tell.

    Parameters
    ----------
    root : str
        Root of the tree that has ``sys``.
    """
    try:
        with open(os.path.join(root, "sys/devices/system/node/has_memory")) as file:
            ranges = [part.partition("-") for part in file.read().strip().split(",") if part]
        return tuple(node for first, _, last in ranges for node in range(int(first), int(last or first) + 1))
    except (OSError, ValueError):
        return ()


_NODES = memory_nodes()


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
        The name in memory reports. Where the kernel keeps names, ``/proc/PID/smaps`` shows it too.
    hugepages : bool or str
        ``"auto"`` or True: ask the kernel for transparent hugepages. ``"off"`` or False: have 4 KiB pages.
        ``"require"``: refuse to exist if the kernel does not take the advice. ``"hugetlb"``: take reserved 2 MiB pages
        if the pool has enough left, else as ``"auto"``. Buffers under 2 MiB never ask.
    interleave : bool
        Spread the pages over all NUMA nodes that have memory: for rows that every thread visits at random. Without it,
        and where there is one node, a page is placed by the thread that first touches it.

    Attributes
    ----------
    advice : str
        ``"madvise"`` when the kernel took the advice, ``"hugetlb"`` when the pages are reserved ones, ``"off"`` when
        none were asked for, ``"refused: <reason>"`` or ``"unsupported"`` otherwise. What really became huge is in
        `slide.system.buffers.Buffers.report`.
    mapped : int
        Bytes of address space: `nbytes` rounded up to whole pages.
    interleaved : bool
        Whether the pages are spread over NUMA nodes.

    Raises
    ------
    ValueError
        `nbytes` is negative, or `hugepages` is none of these.
    MemoryError
        The system has no such memory to give, or no required hugepages; the message has the size and the reason.
    """

    def __cinit__(self, nbytes, *, name="", hugepages=True, interleave=False):
        cdef char *raw
        self.data = NULL
        self.name = name
        self.interleaved = False
        mode = {True: "auto", False: "off"}.get(hugepages, hugepages)
        if mode not in MODES:
            raise ValueError(f"buffer {name!r}: hugepages must be a bool or one of {MODES}, got {hugepages!r}")
        if nbytes < 0:
            raise ValueError(f"buffer {name!r}: nbytes must be 0 or more, got {nbytes}")
        if nbytes > 1 << 47:  # the user half of a 48-bit address space
            raise MemoryError(f"buffer {name!r}: {nbytes} bytes is more than an address space holds")
        self.nbytes = nbytes
        large = self.nbytes >= _HUGEPAGE
        cdef size_t unit = _HUGEPAGE if large else _PAGE
        self.mapped = (max(self.nbytes, 1) + unit - 1) // unit * unit
        self.advice = "off"
        if large and mode == "hugetlb":
            raw = <char *>slide_map_hugetlb(self.mapped)
            if raw != <char *>MAP_FAILED:
                self.data, self.guard, self.advice = raw, 0, "hugetlb"
        if self.data == NULL:
            self._map(large)
            if large and mode != "off":
                self._advise(mode == "require")
            elif large and SLIDE_HAS_THP:
                # Where the kernel gives hugepages to everyone, off must mean off.
                madvise(self.data, self.mapped, MADV_NOHUGEPAGE)
        if large:
            self._place(interleave)
        ASAN_POISON_MEMORY_REGION(<char *>self.data + self.nbytes, self.mapped - self.nbytes)

    cdef _map(self, bint large):
        """Map the memory, if it is large aligned to 2 MiB."""
        cdef size_t head
        cdef size_t total = self.mapped + (_HUGEPAGE if large else 0)
        cdef char *raw = <char *>mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if raw == <char *>MAP_FAILED:
            raise MemoryError(
                f"buffer {self.name!r}: the system refused {self.nbytes:,} bytes "
                f"({strerror(errno).decode(errors='replace')})"
            )
        self.guard = 0
        if large:
            head = (_HUGEPAGE - <uintptr_t>raw % _HUGEPAGE) % _HUGEPAGE
            if head:
                munmap(raw, head)
            raw += head
            # A page that nobody may touch follows. The kernel then never merges the mapping with the next buffer's, and
            # its account of mappings is one of buffers.
            self.guard = _PAGE
            mprotect(raw + self.mapped, _PAGE, PROT_NONE)
            if _HUGEPAGE - head > _PAGE:
                munmap(raw + self.mapped + _PAGE, _HUGEPAGE - head - _PAGE)
        self.data = raw

    cdef _advise(self, bint required):
        """Ask for transparent hugepages."""
        if not SLIDE_HAS_THP:
            self.advice = "unsupported"
        elif madvise(self.data, self.mapped, MADV_HUGEPAGE) != 0:
            self.advice = f"refused: {strerror(errno).decode(errors='replace')}"
        else:
            self.advice = "madvise"
        if required and self.advice != "madvise":
            raise MemoryError(
                f"buffer {self.name!r} needs hugepages, and the kernel's answer is {self.advice!r}; "
                "`slide hugepages status` says what to change, hugepages = \"auto\" does without"
            )

    cdef _place(self, interleave):
        """Name a large mapping, and spread it over the NUMA nodes if that is wanted and there are several."""
        label = f"slide {self.name}".translate(str.maketrans("[]\\`$", "     "))[:79].encode("ascii", "replace")
        slide_name(self.data, self.mapped, label)
        if interleave and len(_NODES) > 1:
            mask = sum(1 << node for node in _NODES if node < 64)
            self.interleaved = slide_interleave(self.data, self.mapped, mask)
        if _LOG:
            with open(_LOG, "a") as log:
                log.write(f"{self.address:x}-{self.address + self.mapped:x} {self.name}\n")

    def __dealloc__(self):
        if self.data != NULL:
            ASAN_UNPOISON_MEMORY_REGION(self.data, self.mapped)
            munmap(self.data, self.mapped + self.guard)

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


# Buffers that no kernel is using; at most so many are kept, none of them larger than the limit.
cdef list _SPARE = []
# Held for a few pointers, never while anything is allocated or freed. Without a GIL there is no other lock.
cdef cython.pymutex _SPARE_LOCK
cdef enum:
    _MOST_SPARE = 16
    _LARGEST_SPARE = 64 << 20


@cython.final
@cython.no_gc_clear
cdef class Scratch:
    """Memory for one kernel call, or for a few with the same arrays; aligned to whole pages.

    Memory of an earlier call is used again where there is some: new mappings cost system calls, page faults, and an
    interrupt of every other core when they go. Nobody else has the memory until this object is gone.

    Parameters
    ----------
    nbytes : int
        Size in bytes, 0 or more.
    zeroed : bool
        Whether the memory must be zero; otherwise its content is undefined.

    Attributes
    ----------
    address : int
        Address of the first byte.

    Raises
    ------
    MemoryError
        The system has no such memory to give.
    """

    def __cinit__(self, int64_t nbytes, *, bint zeroed=False):
        cdef HugeBuffer spare
        cdef Py_ssize_t i
        with _SPARE_LOCK:
            # The last one that was given back is the likeliest to be in a cache.
            for i in range(<Py_ssize_t>len(_SPARE) - 1, -1, -1):
                spare = _SPARE[i]
                if nbytes <= spare.nbytes <= 4 * nbytes + <int64_t>_PAGE:
                    self.buffer = spare
                    del _SPARE[i]
                    break
        if self.buffer is None:
            # Room for somewhat more: batches differ in size. Small or large, it is not worth hugepages.
            self.buffer = HugeBuffer(nbytes + nbytes // 8, name="scratch", hugepages=False)
        self.data = self.buffer.data
        ASAN_UNPOISON_MEMORY_REGION(self.data, nbytes)
        ASAN_POISON_MEMORY_REGION(<char *>self.data + nbytes, self.buffer.nbytes - nbytes)
        if zeroed:
            memset(self.data, 0, nbytes)
        elif SLIDE_FILLS_SCRATCH:
            memset(self.data, 0xFF, nbytes)

    @property
    def address(self):
        return <uintptr_t>self.data

    def __dealloc__(self):
        if _SPARE is not None and self.buffer is not None and self.buffer.nbytes <= _LARGEST_SPARE:
            ASAN_POISON_MEMORY_REGION(self.data, self.buffer.nbytes)
            with _SPARE_LOCK:
                _SPARE.append(self.buffer)
                if len(_SPARE) > _MOST_SPARE:
                    # Freed with this object, when nobody waits for the lock.
                    self.buffer = _SPARE[0]
                    del _SPARE[0]
