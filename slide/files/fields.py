"""JSON files and the plain values in them, each checked before anything is done with it."""

from __future__ import annotations

import json
import math
from pathlib import Path

from slide.files.atomic import open_regular

MOST = 2**53
"""The largest count: what every program that reads JSON holds exactly."""


def read_json(path: Path) -> object:
    """Return what a JSON file says.

    Parameters
    ----------
    path : Path

    Raises
    ------
    OSError
        The file cannot be read, or is no regular file; FileNotFoundError where there is none.
    ValueError
        It is no JSON.
    """
    with open_regular(path) as file:
        try:
            return json.loads(file.read())
        except RecursionError:
            raise ValueError("values nested in one another too deeply") from None


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


MAX_QUOTE = 1000
"""Characters of a value that a message has at most."""


def shown(value):
    """Return a value as messages quote it: its beginning, if it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python converts no number of thousands of digits.
        return "a number of thousands of digits"
    except RecursionError:
        return "values nested in one another"
    return text if len(text) <= MAX_QUOTE else f"{text[:MAX_QUOTE]}..."


def as_json(report: dict) -> str:
    """Return one line of JSON; numbers that are not finite, for which JSON has no word, become null.

    Parameters
    ----------
    report : dict
        Plain values and dictionaries of them.
    """
    return json.dumps(_finite(report), allow_nan=False)


def _finite(value):
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
