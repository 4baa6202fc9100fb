"""Former names of parameters, which stay valid."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def former_names(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that makes the former names of keyword parameters valid: ``former="present"``.

    A call that gives a parameter under both names raises TypeError.

    Examples
    --------
    >>> @former_names(n_points="n_samples")
    ... def size(n_samples):
    ...     return n_samples
    >>> size(n_points=3)
    3
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def renamed(*args: P.args, **kwargs: P.kwargs) -> R:
            for former, present in names.items():
                if former in kwargs:
                    if present in kwargs:
                        raise TypeError(f"{function.__name__}() got both {present} and {former}, its former name")
                    kwargs[present] = kwargs.pop(former)
            return function(*args, **kwargs)

        return renamed

    return decorate
