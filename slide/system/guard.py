"""Who uses an object at the moment: one thread that changes it, or any number that read it.

Nothing here waits. A call that would meet another thread's is refused before it does anything, and the other one goes
on undisturbed: of two threads that train one network, or of one that trains and one that predicts, which one is wrong
is for their program to say, and what was read halfway through a step would be wrong without a word. ::

    @trains
    def fit(self, X, Y): ...        # the thread that is in it may do anything else with the object, as callbacks do

    @changes
    def train_batch(self, ...): ... # nobody, this thread included, finds the object halfway

    @reads
    def predict(self, X): ...       # beside all other readers

The object is the first argument. Who uses it is kept here, for as long as it is used, and not in the object, which can
be copied and pickled at any time.
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
"""In the place of a thread that a forked process does not have."""

SETTLING = threading.RLock()
"""Held by whoever lets a network's rows catch up, which several of its readers may want at once."""

# A signal handler may take it in a thread that holds it.
_LOCK = threading.RLock()


@dataclass(eq=False, slots=True)
class _Call:
    """A call that is under way."""

    name: str
    thread: int
    reads: bool
    trains: bool


_CALLS: dict[int, dict[_Call, None]] = {}
"""In order, by the identity of the object, which no other can have as long as a call has it for an argument."""


def reads(function: Callable[P, R]) -> Callable[P, R]:
    """Refuse calls while another thread changes the object, or this one is halfway through changing it."""
    return _watched(function, reads=True, trains=False)


def changes(function: Callable[P, R]) -> Callable[P, R]:
    """Refuse calls while another thread uses the object, or this one is halfway through changing it."""
    return _watched(function, reads=False, trains=False)


def trains(function: Callable[P, R]) -> Callable[P, R]:
    """Refuse calls while another thread uses the object, or this one is in such a run already."""
    return _watched(function, reads=False, trains=True)


def _watched(function: Callable[P, R], reads: bool, trains: bool) -> Callable[P, R]:
    first, name = function.__code__.co_varnames[0], function.__name__

    @functools.wraps(function)
    def watched(*args: P.args, **kwargs: P.kwargs) -> R:
        thing = args[0] if args else kwargs.get(first)
        call = _Call(name, threading.get_ident(), reads, trains)
        calls: dict[_Call, None] = {}
        # Ctrl-C may come between any two lines; a call that is over must not seem under way for ever.
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


def _check(call, others, kind):
    """Raise RuntimeError if a call must not begin while others are under way."""
    for other in others:
        if other.thread != call.thread and not (call.reads and other.reads):
            why = "one at a time may change it"
            if call.reads or other.reads:
                why = "weights would be read halfway through a step"
            raise RuntimeError(
                f"{call.name}() was called while another thread is in {other.name}() of the same {kind}: {why}. Wait "
                "until that has returned, take turns by a lock, or give each thread one of its own (copy.deepcopy, or "
                "save and load); what belongs to a run, such as measuring and saving, its callbacks may do"
            )
    mine = [other for other in others if not other.reads]
    if mine and (call.trains or not mine[-1].trains):
        raise RuntimeError(
            f"{call.name}() was called in the midst of {mine[-1].name}() of the same {kind}, by a callback, a signal "
            "handler or whatever else that has called; call it when that has returned"
        )


def _before_fork():
    # What a forked process has a copy of is then not halfway through catching up.
    SETTLING.acquire()
    _LOCK.acquire()


def _after_fork():
    _LOCK.release()
    SETTLING.release()


def _after_fork_in_child():
    """Forget the readers that this process does not have; what somebody else was changing stays halfway for good."""
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
