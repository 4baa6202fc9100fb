"""What becomes of a job when a rank fails: it ends, within seconds, and says which rank it was and why.

The others would wait for ever for what the failed rank was to send. Where all fail, as they do with the same wrong
argument, the exception is an ordinary one on each. A rank that is killed is noticed by ``mpiexec``, which ends the
rest.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from slide.ranks.comm import Ranks

T = TypeVar("T")

PATIENCE = 2.0
"""Seconds that a rank which has failed waits for all others to fail too, before it ends the job."""

_inside = threading.local()


@contextmanager
def aborting(alarm) -> Iterator[None]:
    """End the whole job if an exception leaves the block on this rank while others wait for it there.

    Parameters
    ----------
    alarm : mpi4py communicator
        Of all ranks, for nothing but this.
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
    """From now on end the whole job if this rank ends with an exception that nobody has caught.

    Parameters
    ----------
    alarm : mpi4py communicator
        As for ``aborting``.
    """
    if alarm.Get_size() == 1 or isinstance(sys.excepthook, _Hook):
        return
    sys.excepthook = _Hook(alarm, sys.excepthook)


class _Hook:
    def __init__(self, alarm, former):
        self._alarm, self._former = alarm, former

    def __call__(self, kind, error, trace):
        self._former(kind, error, trace)
        if not _all_fail(self._alarm):
            _abort(self._alarm, error)


def _abort(alarm, error):
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    rank, size = alarm.Get_rank(), alarm.Get_size()
    print(f"slide: rank {rank} of {size} failed, the job ends: {what}", file=sys.stderr, flush=True)
    alarm.Abort(1)


def on_root(ranks: Ranks, call: Callable[[], T]) -> T | None:
    """Call something on rank 0 and return what it returns there; what it raises is raised on all ranks.

    Parameters
    ----------
    ranks : Ranks
    call : callable
    """
    result, error = None, None
    if ranks.rank == 0:
        try:
            result = call()
        except Exception as raised:
            error = raised
    told = ranks.bcast("control", None if error is None else _plain(error))
    if error is not None:
        raise error
    if told is not None:
        raise told
    return result


def _plain(error):
    """An exception that can be sent."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror, error.filename)
    kinds = (MemoryError, FloatingPointError, ValueError)
    return next((kind for kind in kinds if isinstance(error, kind)), RuntimeError)(str(error))


def _all_fail(alarm):
    """Whether every rank comes here, before patience runs out."""
    request, deadline = alarm.Ibarrier(), time.monotonic() + PATIENCE
    while not request.Test():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
