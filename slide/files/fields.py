"""JSON files and the plain values in them, each of which is checked before it is used.

The readers of values raise KeyError if the field is missing, TypeError if `values` is not a dict, and ValueError if the
value is not what is expected.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Literal, overload

from slide.files.atomic import open_regular

MOST = 2**53
"""Largest count: every program that reads JSON holds whole numbers exactly up to here."""


def read_json(path: Path) -> object:
    """Return the content of a JSON file.

    Raises
    ------
    OSError
        The file cannot be read, or is not a regular file; FileNotFoundError if there is none.
    ValueError
        The content is not JSON.
    """
    with open_regular(path) as file:
        try:
            return json.loads(file.read())
        except RecursionError:
            raise ValueError("values nested in one another too deeply") from None


@overload
def read_count(values: dict, name: str, most: int = ..., *, optional: Literal[False] = ...) -> int: ...
@overload
def read_count(values: dict, name: str, most: int = ..., *, optional: bool) -> int | None: ...
def read_count(values: dict, name: str, most: int = MOST, *, optional: bool = False) -> int | None:
    """Return a whole number from 0 to `most`, or None if it is `optional`."""
    value = values[name]
    if optional and value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"{name} must be a number from 0 to {most}, got {shown(value)}")
    return value


def read_figure(values: dict, name: str, *, finite: bool = False) -> float:
    """Return a number, which may be infinite or NaN unless it must be `finite`."""
    value = values[name]
    number = isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MOST)
    if not number or (finite and not math.isfinite(value)):
        raise ValueError(f"{name} must be a {'finite ' if finite else ''}number, got {shown(value)}")
    return float(value)


def read_flag(values: dict, name: str) -> bool:
    """Return True or False."""
    value = values[name]
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {shown(value)}")
    return value


def read_figures(values: dict, name: str) -> dict[str, float]:
    """Return numbers by name."""
    figures = values[name]
    if not isinstance(figures, dict):
        raise ValueError(f"{name} must be numbers by name, got {shown(figures)}")
    return {key: read_figure(figures, key) for key in figures}


MAX_QUOTE = 1000
"""Largest number of characters of a value in a message."""


def shown(value: object) -> str:
    """Return a value as messages quote it: only its beginning if it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to convert thousands of digits.
        return "a number of thousands of digits"
    except RecursionError:
        return "values nested in one another"
    return text if len(text) <= MAX_QUOTE else f"{text[:MAX_QUOTE]}..."


def as_json(report: dict) -> str:
    """Return plain values, and dictionaries of them, as a line of JSON.

    Numbers that are not finite become null, because JSON has no word for them.
    """
    return json.dumps(_finite(report), allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
