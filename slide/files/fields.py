"""Plain values out of a saved JSON file, each checked before anything is done with it."""

from __future__ import annotations

import math

from slide.checks import shown

MOST = 2**53
"""The largest count: what every program that reads JSON holds exactly."""


def read_count(values: dict, name: str, most: int = MOST, *, optional: bool = False) -> int | None:
    """Return a whole number from 0 on.

    Parameters
    ----------
    values : dict
    name : str
    most : int
    optional : bool
        Whether it may be None.

    Raises
    ------
    KeyError, TypeError
        `values` has it not, or is no dict.
    ValueError
        It is something else.
    """
    value = values[name]
    if optional and value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"{name} must be a number from 0 to {most}, got {shown(value)}")
    return value


def read_figure(values: dict, name: str, *, finite: bool = False) -> float:
    """Return a number, which need not be finite; raises as `read_count` does.

    Parameters
    ----------
    values : dict
    name : str
    finite : bool
        Whether it must be.
    """
    value = values[name]
    number = isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MOST)
    if not number or (finite and not math.isfinite(value)):
        raise ValueError(f"{name} must be a {'finite ' if finite else ''}number, got {shown(value)}")
    return float(value)


def read_flag(values: dict, name: str) -> bool:
    """Return True or False; raises as `read_count` does.

    Parameters
    ----------
    values : dict
    name : str
    """
    value = values[name]
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {shown(value)}")
    return value


def read_figures(values: dict, name: str) -> dict[str, float]:
    """Return numbers by name; raises as `read_count` does.

    Parameters
    ----------
    values : dict
    name : str
    """
    figures = values[name]
    if not isinstance(figures, dict):
        raise ValueError(f"{name} must be numbers by name, got {shown(figures)}")
    return {key: read_figure(figures, key) for key in figures}
