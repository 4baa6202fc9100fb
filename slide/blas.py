"""One thread for BLAS: the package's own loops are the parallel ones, and call BLAS from inside."""

from __future__ import annotations

import functools

from threadpoolctl import ThreadpoolController


@functools.cache
def _threadpools() -> ThreadpoolController:
    return ThreadpoolController()


def one_blas_thread():
    """Return a context in which BLAS runs on one thread; what was set before is restored on exit."""
    return _threadpools().limit(limits=1, user_api="blas")
