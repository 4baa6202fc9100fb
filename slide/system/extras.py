"""Packages that are not needed for training: imported when they are asked for, with advice where they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType


class MissingExtra(ImportError):
    """A package is not installed that something optional needs; the message says how to get it."""


def load_extra(module: str, extra: str, what: str) -> ModuleType:
    """Import a module of an optional package.

    Parameters
    ----------
    module : str
        Such as ``"matplotlib.figure"``.
    extra : str
        The extra of this package that brings it.
    what : str
        What needs it, for the message.

    Raises
    ------
    MissingExtra
        The package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingExtra(
            f"{what} needs {package}, which cannot be imported ({error}): pip install 'slide-xc[{extra}]'"
        ) from None
