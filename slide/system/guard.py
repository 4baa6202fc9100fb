"""Refuses calls of an object's methods that conflict: one thread may change the object, or any number may read it.

Nothing here waits. A call that conflicts with another thread's is refused before it does anything, and the other call
goes on undisturbed. We cannot know which of the two threads is wrong, and waiting would hide a bug: a read in the
middle of a step silently returns wrong numbers. ::

    @trains
    def fit(self, X, Y): ...        # its thread may use the object meanwhile, as callbacks do; no other thread may

    @changes
    def train_batch(self, ...): ... # nobody may use the object meanwhile, this thread included

    @reads
    def predict(self, X): ...       # any number of readers at once

The object is the first argument. The calls under way are kept here and not in the object, which can be copied and
pickled at any time.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

NOBODY = -1
"""Number that stands for a thread that a forked process does not have."""

SETTLING = threading.RLock()
"""Lock held while the rows of a network catch up, which several of its readers may ask for at once."""

# Reentrant, because a signal handler may take the lock in the thread that holds it.
_LOCK = threading.RLock()


@dataclass(eq=False, slots=True)
class _Call:
    """A call that is under way."""

    name: str
    thread: int
    reads: bool
    trains: bool


_CALLS: dict[int, dict[_Call, None]] = {}
"""Calls under way, in order, by the ``id`` of their object, which stays alive and so unique during the call."""


def reads(function: Callable[P, R]) -> Callable[P, R]:
    """Refuse calls while another thread changes the object, or this thread is in the middle of changing it."""
    return _watched(function, reads=True, trains=False)


def changes(function: Callable[P, R]) -> Callable[P, R]:
    """Refuse calls while another thread uses the object, or this thread is in the middle of changing it."""
    return _watched(function, reads=False, trains=False)


def trains(function: Callable[P, R]) -> Callable[P, R]:
    """Refuse calls while another thread uses the object, or this thread changes or trains it already."""
    return _watched(function, reads=False, trains=True)


def _watched(function: Callable[P, R], reads: bool, trains: bool) -> Callable[P, R]:
    first, name = function.__code__.co_varnames[0], function.__name__

    @functools.wraps(function)
    def watched(*args: P.args, **kwargs: P.kwargs) -> R:
        thing = args[0] if args else kwargs.get(first)
        call = _Call(name, threading.get_ident(), reads, trains)
        calls: dict[_Call, None] = {}
        # Ctrl-C may come between any two lines, and a call that is over must not stay registered.
        try:
            with _LOCK:
                calls = _CALLS.setdefault(id(thing), calls)
                if calls:
                    _check(call, list(calls), type(thing).__name__)
                calls[call] = None
            return function(*args, **kwargs)
        finally:
            calls.pop(call, None)
            if not calls:
                with _LOCK:
                    if not calls and _CALLS.get(id(thing)) is calls:
                        del _CALLS[id(thing)]

    return watched


def _check(call: _Call, others: list[_Call], kind: str) -> None:
    """Raise RuntimeError if a call must not begin while others are under way."""
    for other in others:
        if other.thread != call.thread and not (call.reads and other.reads):
            why = "one at a time may change it"
            if call.reads or other.reads:
                why = "weights would be read in the middle of a step"
            raise RuntimeError(
                f"{call.name}() was called while another thread is in {other.name}() of the same {kind}: {why}. Wait "
                f"until {other.name}() has returned, take turns by a lock, or give each thread a {kind} of its own "
                "(copy.deepcopy, or save and load). A training run's own callbacks may measure and save"
            )
    mine = [other for other in others if not other.reads]
    if mine and (call.trains or not mine[-1].trains):
        raise RuntimeError(
            f"{call.name}() was called during {mine[-1].name}() of the same {kind}, by a callback, a signal handler or "
            f"other code that is executed meanwhile; call it after {mine[-1].name}() has returned"
        )


def _before_fork() -> None:
    # So that no row in the child's copy is in the middle of catching up.
    SETTLING.acquire()
    _LOCK.acquire()


def _after_fork() -> None:
    _LOCK.release()
    SETTLING.release()


def _after_fork_in_child() -> None:
    """Forget readers in threads that the child does not have. An object that such a thread was changing stays blocked,
    because that change will never be completed.
    """
    me = threading.get_ident()
    for calls in _CALLS.values():
        for call in list(calls):
            if call.thread != me and call.reads:
                del calls[call]
            elif call.thread != me:
                call.thread = NOBODY
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
