"""One thread for BLAS, because the package's own parallel loops call it."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

# Also held while the object below is made, and while the process forks, so that the child has no half-done change.
_LOCK = threading.RLock()


class _OneThread:
    """A context that any number of threads may be in, each of them several times.

    Most BLAS libraries have one setting for the whole process: the first thread that enters remembers it, and the last
    one that leaves restores it. With a BLAS built on OpenMP each thread has its own setting, and restores its own.
    """

    def __init__(self) -> None:
        libraries = ThreadpoolController().select(user_api="blas").lib_controllers
        self._own = [library for library in libraries if getattr(library, "threading_layer", None) == "openmp"]
        self._shared = [library for library in libraries if library not in self._own]
        self._thread = threading.local()
        self._threads_inside = 0
        self._before: list[int | None] = []

    def __enter__(self) -> None:
        depth = getattr(self._thread, "depth", 0)
        self._thread.depth = depth + 1
        if depth:
            return
        self._thread.before = _set_to_one(self._own)
        with _LOCK:
            self._threads_inside += 1
            if self._threads_inside == 1:
                self._before = _set_to_one(self._shared)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.depth -= 1
        if self._thread.depth:
            return
        _put_back(self._own, self._thread.before)
        with _LOCK:
            self._threads_inside -= 1
            if not self._threads_inside:
                _put_back(self._shared, self._before)

    def forget_others(self) -> None:
        """Count only the forking thread: a forked process has none of the other threads that were inside."""
        if self._threads_inside:
            self._threads_inside = int(getattr(self._thread, "depth", 0) > 0)
            if not self._threads_inside:
                _put_back(self._shared, self._before)


def _set_to_one(libraries: Sequence[Any]) -> list[int | None]:
    """Set all libraries to one thread, and return the former numbers of threads."""
    before = [library.get_num_threads() for library in libraries]
    _put_back(libraries, [1] * len(libraries))
    return before


def _put_back(libraries: Sequence[Any], numbers: Sequence[int | None]) -> None:
    """Set the number of threads of each library, unless it is None."""
    for library, number in zip(libraries, numbers, strict=True):
        if number is None:
            continue
        # From 3.8 on threadpoolctl obeys only the thread that set an OpenBLAS first. Here another thread may be the
        # last to leave, so the library is released each time; the lock makes the threads take turns.
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
            # With two objects, each would take the other's one thread for the setting to restore.
            if not _MADE:
                _MADE.append(_OneThread())
    return _MADE[0]


def _after_fork_in_child() -> None:
    for one in _MADE:
        one.forget_others()
    _LOCK.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_after_fork_in_child)
