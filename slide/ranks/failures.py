"""When a rank fails, the whole job ends within seconds and says which rank failed and why.

Without this, the other ranks would wait forever for the failed one. If all ranks fail, for example because of the same
wrong argument, each raises its exception in the ordinary way. If a rank is killed, ``mpiexec`` notices it and ends the
others.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

from slide.ranks.comm import Ranks

T = TypeVar("T")

PATIENCE = 2.0
"""Seconds that a failed rank waits for all others to fail too, before it ends the job."""

_inside = threading.local()


@contextmanager
def aborting(alarm) -> Iterator[None]:
    """End the whole job if the block raises on this rank but not on all others, which would wait for it.

    `alarm` is an mpi4py communicator of all ranks without any other use.
    """
    if alarm.Get_size() == 1 or getattr(_inside, "depth", 0):
        yield
        return
    _inside.depth = 1
    try:
        yield
    except BaseException as error:
        if not _all_fail(alarm):
            traceback.print_exc()
            _abort(alarm, error)
        raise
    finally:
        _inside.depth = 0


def watch(alarm) -> None:
    """From now on, end the whole job if this rank ends with an uncaught exception; `alarm` is as for ``aborting``."""
    if alarm.Get_size() == 1 or isinstance(sys.excepthook, _Hook):
        return
    sys.excepthook = _Hook(alarm, sys.excepthook)


class _Hook:
    """An ``excepthook`` that also ends the job."""

    def __init__(self, alarm, former: Callable[..., object]):
        self._alarm, self._former = alarm, former

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        self._former(kind, error, trace)
        if not _all_fail(self._alarm):
            _abort(self._alarm, error)


def _abort(alarm, error: BaseException) -> None:
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    rank, size = alarm.Get_rank(), alarm.Get_size()
    print(f"slide: rank {rank} of {size} failed, the job ends: {what}", file=sys.stderr, flush=True)
    alarm.Abort(1)


def on_root(ranks: Ranks, call: Callable[[], T]) -> T | None:
    """Call a function on rank 0; return its result there and None on the others, or raise its exception on all."""
    result, error = None, None
    if ranks.rank == 0:
        try:
            result = call()
        except Exception as raised:
            error = raised
    raised_there = ranks.bcast("control", None if error is None else _plain(error))
    if error is not None:
        raise error
    if raised_there is not None:
        raise raised_there
    return result


def _plain(error: Exception) -> Exception:
    """Return an exception of a kind that can be pickled."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror, error.filename)
    kinds = (MemoryError, FloatingPointError, ValueError)
    return next((kind for kind in kinds if isinstance(error, kind)), RuntimeError)(str(error))


def _all_fail(alarm) -> bool:
    """Return whether every rank fails within `PATIENCE` seconds."""
    request, deadline = alarm.Ibarrier(), time.monotonic() + PATIENCE
    while not request.Test():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
