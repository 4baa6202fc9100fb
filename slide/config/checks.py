"""Checks of a configuration's fields: each refuses a wrong value with a `ConfigError` that says what is expected."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NoReturn

from slide.files.fields import shown


class ConfigError(ValueError):
    """A configuration field is unknown, of the wrong type or out of range. The message names it and what it may be."""


def refuse(config: object, name: str, expected: str) -> NoReturn:
    """Raise ConfigError: field `name` is not what is expected."""
    value = getattr(config, name)
    raise ConfigError(f"{type(config).__name__}.{name} must be {expected}, got {shown(value)}")


def check_integer(config: object, name: str, low: int, high: int, *, optional: bool = False) -> None:
    """Check a field that is a whole number from `low` to `high`, or None if it is optional."""
    value = getattr(config, name)
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        refuse(config, name, f"an integer from {low} to {high}" + (" or left out" if optional else ""))


def check_number(
    config: object,
    name: str,
    low: float,
    high: float,
    *,
    open_low: bool = False,
    open_high: bool = False,
    optional: bool = False,
) -> None:
    """Check a field that is a finite number between two bounds, or None if it is optional; open bounds are excluded."""
    value = getattr(config, name)
    if optional and value is None:
        return
    # Integers are always finite, and may be too large for isfinite.
    whole = isinstance(value, int) and not isinstance(value, bool)
    number = whole or (isinstance(value, float) and math.isfinite(value))
    if not number or value < low or value > high or (open_low and value == low) or (open_high and value == high):
        bounds = f"{'above' if open_low else 'from'} {low:g} {'to below' if open_high else 'to'} {high:g}"
        refuse(config, name, f"a number {bounds}" + (" or left out" if optional else ""))


def check_choice(config: object, name: str, choices: Sequence[str]) -> None:
    """Check a field that has one of a few values."""
    if getattr(config, name) not in choices:
        refuse(config, name, "one of " + ", ".join(repr(choice) for choice in choices))


def check_name(config: object, name: str) -> None:
    """Check a field that is the name of a registered object."""
    value = getattr(config, name)
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_]\w*(-\w+)*", value):
        refuse(config, name, "a name of letters, digits, hyphens and underscores")


def check_boolean(config: object, name: str, *, optional: bool = False) -> None:
    """Check a field that is True or False, or None if it is optional."""
    value = getattr(config, name)
    if not isinstance(value, bool) and not (optional and value is None):
        refuse(config, name, "true or false" + (" or left out" if optional else ""))


def check_section(config: object, name: str, kind: type) -> None:
    """Check a field that is itself a configuration."""
    if not isinstance(getattr(config, name), kind):
        refuse(config, name, f"a {kind.__name__}")
