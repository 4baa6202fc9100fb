"""One thread for BLAS: the package's own loops are the parallel ones, and call BLAS from inside."""

from __future__ import annotations

import functools
import threading

from threadpoolctl import ThreadpoolController


class _OneThread(threading.local):
    """A context that a thread may be in several times; what it found is restored when it leaves the outermost.

    To look at the libraries costs a tenth of a millisecond, which only the outermost pays. Each thread does so for
    itself: with some BLAS the setting is the thread's own.
    """

    def __init__(self):
        self._threadpools = ThreadpoolController()
        self._inside = 0
        self._limits = None

    def __enter__(self):
        if not self._inside:
            self._limits = self._threadpools.limit(limits=1, user_api="blas")
        self._inside += 1

    def __exit__(self, *exception):
        self._inside -= 1
        if not self._inside:
            self._limits.restore_original_limits()


@functools.cache
def one_blas_thread() -> _OneThread:
    """Return a context in which BLAS runs on one thread; what was set before is restored on exit."""
    return _OneThread()
