"""One thread for BLAS: the package's own loops are the parallel ones, and call BLAS from inside."""

from __future__ import annotations

import os
import threading

from threadpoolctl import ThreadpoolController

# Also while the one object below is made, and while the process forks: its copy then finds nobody halfway.
_LOCK = threading.RLock()


class _OneThread:
    """A context that any number of threads may be in, each several times.

    Most BLAS have one setting for the process: whoever enters first takes note of it, and whoever leaves last puts it
    back. With a BLAS built on OpenMP the setting is the thread's own, and so is what it is put back to.
    """

    def __init__(self):
        libraries = ThreadpoolController().select(user_api="blas").lib_controllers
        self._own = [library for library in libraries if getattr(library, "threading_layer", None) == "openmp"]
        self._shared = [library for library in libraries if library not in self._own]
        self._thread = threading.local()
        self._threads_inside = 0
        self._before: list[int | None] = []

    def __enter__(self):
        depth = getattr(self._thread, "depth", 0)
        self._thread.depth = depth + 1
        if depth:
            return
        self._thread.before = _set_to_one(self._own)
        with _LOCK:
            self._threads_inside += 1
            if self._threads_inside == 1:
                self._before = _set_to_one(self._shared)

    def __exit__(self, *exception):
        self._thread.depth -= 1
        if self._thread.depth:
            return
        _put_back(self._own, self._thread.before)
        with _LOCK:
            self._threads_inside -= 1
            if not self._threads_inside:
                _put_back(self._shared, self._before)

    def forget_others(self):
        """Go on in a forked process, which has none of the threads that were inside but the one that forked."""
        if self._threads_inside:
            self._threads_inside = int(getattr(self._thread, "depth", 0) > 0)
            if not self._threads_inside:
                _put_back(self._shared, self._before)


def _set_to_one(libraries):
    """Return the numbers of threads that there were."""
    before = [library.get_num_threads() for library in libraries]
    _put_back(libraries, [1] * len(libraries))
    return before


def _put_back(libraries, numbers):
    for library, number in zip(libraries, numbers, strict=True):
        if number is None:
            continue
        # From 3.8 on threadpoolctl ignores all threads but the one that sets an OpenBLAS first. Here who leaves last is
        # often another than who entered first; they take turns by a lock.
        release = getattr(library, "clear_controlling_thread", None)
        if release is not None:
            release(force=True)
        library.set_num_threads(number)
        if release is not None:
            release(force=True)


_MADE: list[_OneThread] = []


def one_blas_thread() -> _OneThread:
    """Return a context in which BLAS runs on one thread; what was set before is restored on exit."""
    if not _MADE:
        with _LOCK:
            # Two would each take the other's one thread for what is to be put back.
            if not _MADE:
                _MADE.append(_OneThread())
    return _MADE[0]


def _after_fork_in_child():
    for one in _MADE:
        one.forget_others()
    _LOCK.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_after_fork_in_child)
