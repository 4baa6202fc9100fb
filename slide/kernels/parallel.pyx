"""Threads and the instruction set: what this process has, and what the kernels use.

Every parallel loop of the package names its number of threads; nothing here or elsewhere changes OpenMP's settings.
"""

import os

cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    /* The call makes this the module that loads the runtime: linkers drop libraries nobody calls. */
    static int slide_openmp(void) { return omp_get_max_threads() > 0 ? _OPENMP : 0; }
    #else
    static int slide_openmp(void) { return 0; }
    #endif
    #if defined(_OPENMP) && __GNUC__ >= 9 && !defined(__clang__)
    static void slide_end_threads(void) { omp_pause_resource_all(omp_pause_hard); }
    #else
    /* The runtime of Clang begins anew in a forked process by itself. */
    static void slide_end_threads(void) { }
    #endif
    /* ThreadSanitizer sees a race only between threads there are: it shall have them in the smallest of loops. */
    #ifdef __SANITIZE_THREAD__
    #define SLIDE_ALWAYS_SHARE 1
    #else
    #define SLIDE_ALWAYS_SHARE 0
    #endif
    """
    const bint SLIDE_ALWAYS_SHARE
    int slide_openmp()
    void slide_end_threads()

cdef extern from "isa.h" nogil:
    int slide_isa_supported()

_ISA_NAMES = ("baseline", "avx2", "avx512")


cdef int threads_for(int threads, long long work, long long grain) noexcept nogil:
    """Return how many of `threads` have `grain` units of `work` each, at least one: small loops stay serial.

    A grain takes some twenty microseconds: a shorter loop gains nothing from a second thread, and waits for it where
    the cores are busy.
    """
    cdef long long useful = min((work if SLIDE_ALWAYS_SHARE else work // grain) + 1, <long long>threads)
    return <int>max(useful, 1)


def openmp_version():
    """Return the date of the OpenMP specification that the kernels were built with, as 201511; 0 without OpenMP."""
    return slide_openmp()


def end_threads():
    """End the threads that wait for the calling thread's next parallel loop, which makes new ones.

    Every fork calls it first: the child has a copy of the forking thread alone, and where GCC's OpenMP remembers other
    threads it waits for them forever.
    """
    slide_end_threads()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=end_threads)


def isa():
    """Return the instruction set the row kernels use: ``"baseline"``, ``"avx2"`` or ``"avx512"``.

    The environment variable ``SLIDE_ISA``, read when a kernel is first imported, lowers it.
    """
    return _ISA_NAMES[slide_isa_level()]


def isa_supported():
    """Return the best instruction set this processor has, by the same names."""
    return _ISA_NAMES[slide_isa_supported()]


def cpu_quota(root="/sys/fs/cgroup"):
    """Return the container's CPU quota in cores, or None where there is none.

    Parameters
    ----------
    root : str
        Where the cgroup file system is mounted; version 2 is tried first, then version 1.
    """
    try:
        with open(os.path.join(root, "cpu.max")) as file:
            quota, period = file.read().split()
    except (OSError, ValueError):
        try:
            with open(os.path.join(root, "cpu", "cpu.cfs_quota_us")) as file:
                quota = file.read().strip()
            with open(os.path.join(root, "cpu", "cpu.cfs_period_us")) as file:
                period = file.read().strip()
        except OSError:
            return None
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None


def available_cpus():
    """Return how many cores this process may use: its affinity mask, bounded by the container's quota."""
    if hasattr(os, "sched_getaffinity"):
        cpus = len(os.sched_getaffinity(0))
    else:
        cpus = os.cpu_count() or 1
    quota = cpu_quota()
    if quota is not None:
        cpus = min(cpus, max(1, int(quota + 0.5)))
    return cpus


def resolve_threads(threads=None):
    """Return the number of threads to run on.

    Parameters
    ----------
    threads : int, optional
        1 or more; by default ``available_cpus()``. Always 1 in a build without OpenMP.

    Raises
    ------
    ValueError
        `threads` is not a positive integer.
    """
    if threads is None:
        threads = available_cpus()
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ValueError(f"threads must be a positive integer or None, got {threads!r}")
    return threads if slide_openmp() else 1
