"""Configurations as nested dictionaries of plain values, as TOML has them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar

from slide.config.checks import ConfigError
from slide.files.fields import shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="DataclassInstance")


def to_dict(config: DataclassInstance) -> dict[str, Any]:
    """Return a configuration as nested dictionaries of plain values; fields that are None are left out."""
    out = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = to_dict(value)
        elif isinstance(value, tuple):
            value = [to_dict(item) for item in value]
        if value is not None:
            out[f.name] = value
    return out


def from_dict(kind: type[C], values: object, *, where: str = "") -> C:
    """Make a configuration of class `kind` from nested dictionaries; fields that they leave out keep their defaults.

    Parameters
    ----------
    where : str
        Path of the section, for messages.

    Raises
    ------
    ConfigError
        A field is unknown or wrong.
    """
    return _changed(kind(), values, where)


def _changed(config: C, values: object, where: str) -> C:
    """Return the configuration with the values of `values`, nested dictionaries, in place of its own."""
    if not isinstance(values, dict):
        raise ConfigError(f"[{where}] must be a section, got {shown(values)}")
    names = [f.name for f in dataclasses.fields(config)]
    changes = {}
    for name, value in values.items():
        path = f"{where}.{name}" if where else name
        if name not in names:
            raise ConfigError(f"unknown setting {shown(path)}; {where or 'the file'} may have: {', '.join(names)}")
        now = getattr(config, name)
        if dataclasses.is_dataclass(now) and not isinstance(now, type):
            value = _changed(now, value, path)
        elif isinstance(now, tuple):
            if not isinstance(value, list):
                raise ConfigError(f"[[{path}]] must be a list of sections, got {shown(value)}")
            value = tuple(from_dict(type(now[0]), item, where=f"{path}[{i}]") for i, item in enumerate(value))
        changes[name] = value
    try:
        return dataclasses.replace(config, **changes)
    except ConfigError as error:
        raise ConfigError(f"[{where}] {error}" if where else str(error)) from None


def differences(one: object, other: object, where: str = "") -> list[tuple[str, object, object]]:
    """Return the settings in which two nested dictionaries differ: a list of (path, value in one, value in other).

    The dictionaries are as `to_dict` returns them, which leaves out values that are None; `where` is the path of both.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        names = list(dict.fromkeys([*one, *other]))
        parts = [(f"{where}.{name}" if where else name, one.get(name), other.get(name)) for name in names]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        parts = [(f"{where}[{i}]", a, b) for i, (a, b) in enumerate(zip(one, other, strict=True))]
    else:
        return [] if one == other else [(where, one, other)]
    return [found for path, a, b in parts for found in differences(a, b, path)]
