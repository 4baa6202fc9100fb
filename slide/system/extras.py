"""Optional packages: imported when they are needed, with advice if they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType


class MissingExtra(ImportError):
    """An optional package is missing; the message says how to install it."""


def load_extra(module: str, extra: str, what: str) -> ModuleType:
    """Import a module of an optional package, such as ``"matplotlib.figure"``.

    Parameters
    ----------
    extra : str
        Extra of this package that installs it.
    what : str
        Feature that needs it, for the message.

    Raises
    ------
    MissingExtra
        The package cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingExtra(
            f"{what} needs {package}, which cannot be imported ({error}): pip install 'slide-xc[{extra}]'"
        ) from None
